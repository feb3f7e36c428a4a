"""Times a training step of generative models against one of a softmax over all items, of the same encoder.

    python benchmarks/semantic_training.py --json semantic_training.json

Rounds of all alternate: read the ratios of CPU seconds, which hold between machines and while others work on one.
"""

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from semantic_generation import SETTLING_SECONDS
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.config import check_at_least, check_fields, to_json
from seqrec.encoders.code_tokens import code_tokens
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import write_json
from seqrec.generative import with_semantic_ids, with_token_decoder
from seqrec.heads.softmax import softmax_model
from seqrec.model import Model
from seqrec.questions import first_of_continuation, next_item
from seqrec.semantic_ids.codes import semantic_ids
from seqrec.sharding import MeshConfig
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import Batch


@dataclass(frozen=True)
class Config:
    """Times training steps on drawn histories and random codes."""

    n_items: int = 12_101
    """Items of the catalogue that the softmax is compared on."""
    n_items_large: int = 1_000_000
    """Items of a second catalogue, for codes alone; 0 leaves it out."""
    n_codes: int = 256
    """Codes of a level."""
    n_levels: int = 4
    """Levels of codes."""
    n_rows: int = 15
    """Rows of a batch, all filled; those of 128 histories of Beauty fill 15."""
    max_length: int = 50
    """Items of a row."""
    flat: bool = True
    """Time flat tokens too: a position for each code of an item, and a decoder of as many blocks."""
    n_rounds: int = 15
    """Timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""
    model: OmitArgPrefixes[TransformerConfig] = field(default_factory=TransformerConfig)

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_items", "n_codes", "n_levels", "n_rows", "max_length", "n_rounds")


def main(config: Config) -> dict[str, Any]:
    """Prints a line for each model and returns all figures."""
    runtime.start(MeshConfig())
    sizes = (config.n_codes,) * config.n_levels
    steps: dict[str, list[Any]] = {}

    def drawn_codes(n_items: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, config.n_codes, (n_items + 1, config.n_levels))

    def models(n_items: int) -> tuple[Model, Model, Model]:
        plain = softmax_model(transformer(config.model, n_items=n_items, max_length=config.max_length))
        ids = semantic_ids(drawn_codes(n_items), sizes)
        kinds: dict[str, Any] = {"dropout": config.model.dropout, "label_smoothing": 0.1}
        return plain, with_semantic_ids(plain, ids, item_vectors=False, **kinds), with_semantic_ids(plain, ids, **kinds)

    plain, alone, both = models(config.n_items)
    named = {"softmax": plain, "codes": alone, "codes and ids": both}
    if config.flat:
        for name, causal in (("flat tokens", True), ("flat tokens, bidirectional", False)):
            flat_config = dataclasses.replace(config.model, causal=causal)
            shape = {"n_items": config.n_items, "max_length": config.max_length}
            encoder = code_tokens(flat_config, n_levels=config.n_levels, **shape)
            inner = softmax_model(encoder, ask=next_item if causal else first_of_continuation)
            ids = semantic_ids(drawn_codes(config.n_items), sizes)
            named[name] = with_token_decoder(inner, ids, flat_config, item_vectors=False, label_smoothing=0.1)
    if config.n_items_large:
        named["codes of the large catalogue"] = models(config.n_items_large)[1]
    for name, model in named.items():
        optimizer = make_optimizer(OptimizerConfig(), model.specs, n_steps=1000)
        step = make_train_step(model, optimizer, seed=0, average_decay=0.99)
        shape = (config.n_rows, config.max_length + 1)
        items = np.asarray(jax.random.randint(jax.random.key(1), shape, 1, model.n_items + 1))
        places = np.broadcast_to(np.arange(config.max_length), items[:, 1:].shape)
        steps[name] = [
            step,
            init_state(model, optimizer, seed=0),
            Batch(items[:, :-1], items[:, 1:], places * 0 + 1, places),
        ]
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(config.n_rounds + 1):  # the first compiles
        for name, (step, state, batch) in steps.items():
            time.sleep(SETTLING_SECONDS)
            started = time.process_time()
            steps[name][1], _ = jax.block_until_ready(step(state, batch))
            seconds[name].append(1e3 * (time.process_time() - started))
    ms = {name: float(np.median(each[1:])) for name, each in seconds.items()}
    to_softmax = {name: float(np.median(np.divide(each[1:], seconds["softmax"][1:]))) for name, each in seconds.items()}
    for name, value in ms.items():
        print(f"{name:30}{value:10.1f} ms of CPU a step{to_softmax[name]:8.3f} of the softmax's")
    result = {"cpu_ms": ms, "to_softmax": to_softmax, "config": to_json(config), "versions": runtime.versions()}
    if config.n_items_large:
        pairs = np.divide(seconds["codes of the large catalogue"][1:], seconds["codes"][1:])
        result["large_to_small"] = float(np.median(pairs))
        print(f"{config.n_items_large:,} items take {result['large_to_small']:.3f} of the time of {config.n_items:,}")
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
