"""Every encoder in every form, at toy size, for the tests that all of them must pass."""

import functools

import jax
import numpy as np
from packed_rows import LENGTH

from seqrec.encoders.gru import GRUConfig, gru
from seqrec.encoders.hawk import HawkConfig, hawk
from seqrec.encoders.hstu import HSTUConfig, hstu
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.params import init_params

N_ITEMS = 30
SIZES = {"d_model": 8, "n_blocks": 1, "n_heads": 2, "dropout": 0.0}
DEEP = SIZES | {"n_blocks": 2}

# Of the Transformer every kind of norm, its place, positions and feed-forward, and every pair of these kinds; two
# blocks, which take twice as long to compile, once for each way of stacking them.
TRANSFORMERS = {
    "rms, first, rotary, swiglu": {"n_blocks": 2},
    "layer, after, learned, swiglu": {"norm": "layer", "norm_first": False, "positions": "learned", "n_blocks": 2},
    "rms, after, learned, gelu": {"norm_first": False, "positions": "learned", "feed_forward": "gelu"},
    "layer, first, rotary, gelu": {"norm": "layer", "feed_forward": "gelu"},
    "rms, after, rotary, relu": {"norm_first": False, "feed_forward": "relu"},
    "layer, first, learned, relu": {"norm": "layer", "positions": "learned", "feed_forward": "relu"},
    "gated": {"gated": True},
    "bidirectional": {"causal": False},
    "bidirectional, learned": {"causal": False, "positions": "learned", "norm": "layer", "feed_forward": "gelu"},
}
ENCODERS = {
    **{
        f"transformer: {name}": (transformer, TransformerConfig(**SIZES | options))
        for name, options in TRANSFORMERS.items()
    },
    "transformer: times of the history": (functools.partial(transformer, times="history"), TransformerConfig(**SIZES)),
    "gru": (gru, GRUConfig(d_model=8, d_hidden=12, embedding_dropout=0.0, dropout=0.0)),
    "gru of two layers": (
        gru,
        GRUConfig(d_model=8, d_hidden=12, n_layers=2, embedding_dropout=0.0, dropout=0.0),
    ),
    "encoder-decoder": (seq2seq, Seq2SeqConfig(TransformerConfig(causal=False, **DEEP))),
    "encoder-decoder, learned, gated": (
        seq2seq,
        Seq2SeqConfig(TransformerConfig(causal=False, gated=True, positions="learned", **SIZES), n_decoder_blocks=1),
    ),
    "hawk": (hawk, HawkConfig(d_model=8, d_recurrent=12, dropout=0.0)),
    "hstu": (hstu, HSTUConfig(**DEEP)),
    "hstu without positions": (
        hstu,
        HSTUConfig(**SIZES, learned_positions=False, relative_positions=False),
    ),
    "hstu with times of the history": (functools.partial(hstu, times="history"), HSTUConfig(**SIZES)),
    "hstu with the query's time": (functools.partial(hstu, times="query"), HSTUConfig(**SIZES)),
}

VARIANTS = (
    "transformer: rms, after, learned, gelu",
    "transformer: layer, first, learned, relu",
    "transformer: bidirectional, learned",
    "gru of two layers",
    "encoder-decoder, learned, gated",
    "hstu without positions",
)
"""Of these, each part stands in another encoder as well: they are tried at night alone."""


@functools.cache
def an_encoder(name: str):
    """With weights of a trained model's size: at the start, blocks hardly change what passes through them."""
    make, config = ENCODERS[name]
    encoder = make(config, n_items=N_ITEMS, max_length=LENGTH)
    params = init_params(encoder.specs, jax.random.key(1))
    scale = 3 if name.startswith("gru") else 20
    random = np.random.default_rng(2)

    def grown(leaf):
        return leaf * scale if leaf.ndim == 2 else leaf + 0.3 * random.normal(size=leaf.shape).astype(np.float32)

    return encoder, jax.tree.map(grown, params)
