"""Several models as one: scores are products, so the sum of their scores is the product of states side by side."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from seqrec.heads.softmax import SoftmaxHead
from seqrec.model import Model
from seqrec.params import Params, ParamSpec
from seqrec.types import Batch, Encoder, InputError, States

TABLE, MEMBERS, WEIGHTS = "item_table", "members", "model_weights"


def ensemble(models: Sequence[Model]) -> Model:
    """A model whose scores are the sum of those of others, each by a weight; it has their states side by side.

    Its parameters are those of `ensemble_params`. It is made for trained models and not trained itself.

    >>> import seqrec
    >>> encoders = [seqrec.gru(seqrec.GRUConfig(d_model=d_model), n_items=5, max_length=4) for d_model in (8, 4)]
    >>> models = [seqrec.softmax_model(encoder) for encoder in encoders]
    >>> ensemble(models).d_model
    12

    Raises:
      InputError: a model's scores are no products of states with item vectors, or they read different batches.
    """
    first = models[0]
    for model in models:
        if not isinstance(model.head, SoftmaxHead) or model.encoder.decoder is not None:
            raise InputError(
                f"an ensemble adds up scores that are products with item vectors, and a {type(model.head).__name__} "
                "or a decoder has others; leave this run out"
            )
        if (model.n_items, model.reads) != (first.n_items, first.reads):
            raise InputError(f"the models of an ensemble read the same: one reads {model.reads}, another {first.reads}")
    ends = [0, *itertools.accumulate(model.d_model for model in models)]

    def encode(params: Params, batch: Batch, *, key: Any = None, added: Array | None = None) -> States:
        del key, added
        states = []
        for place, model in enumerate(models):
            member_params = {**params[MEMBERS][place], TABLE: params[TABLE][:, ends[place] : ends[place + 1]]}
            states.append(params[WEIGHTS][place] * model.encoder.encode(member_params, batch).astype(jnp.float32))
        return jnp.concatenate(states, axis=-1)

    n_rows, axes = first.encoder.specs[TABLE].shape[0], first.encoder.specs[TABLE].axes
    specs: Params = {
        TABLE: ParamSpec((n_rows, ends[-1]), axes, jax.nn.initializers.zeros),
        MEMBERS: [_others(model, model.encoder.specs) for model in models],
        WEIGHTS: ParamSpec((len(models),), (None,), jax.nn.initializers.ones),
    }
    causal = all(model.encoder.causal for model in models)
    encoder = Encoder(specs, encode, n_items=first.n_items, d_model=ends[-1], reads=first.reads, causal=causal)
    return Model(specs, encoder, SoftmaxHead(first.n_items))


def ensemble_params(models: Sequence[Model], params: Sequence[Params]) -> Params:
    """The parameters of `ensemble` from the composed ones of its models, which all have a weight of 1."""
    return {
        TABLE: jnp.concatenate([each[TABLE] for each in params], axis=1),
        MEMBERS: [_others(model, each) for model, each in zip(models, params, strict=True)],
        WEIGHTS: np.ones(len(models), np.float32),
    }


def _others(model: Model, params: Params) -> Params:
    """What the model's encoder reads beside the item table."""
    return {name: params[name] for name in model.encoder.specs if name != TABLE}
