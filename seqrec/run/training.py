"""From a config to the training of its model: the first state, and the step."""

from collections.abc import Callable
from typing import NamedTuple

from seqrec.model import Model
from seqrec.row_updates import init_sparse_state, make_sparse_step, reads_rows_alone
from seqrec.run.config import TrainingConfig
from seqrec.training import (
    TrainState,
    TrainStep,
    cooldown_within,
    init_state,
    make_optimizer,
    make_train_step,
    with_cooldown,
)

SPARSE_FROM = 100_000
"""Items from which on `item_updates=auto` updates only the rows that a step reads: there a dense step takes four
times the CPU time, and at a million items 24 times (docs/decisions/sparse-updates.md)."""


class Training(NamedTuple):
    """How a model is trained; nothing is computed before one of these is called."""

    init: Callable[[], TrainState]
    """The state before the first step."""
    make_step: Callable[[], TrainStep]


def make_training(model: Model, config: TrainingConfig, *, n_steps: int) -> Training:
    """The training that the config asks for, of `n_steps` if it is not stopped."""
    optimizer_config, seed = config.optimizer, config.run.seed

    def scheduled(state: TrainState) -> TrainState:
        if optimizer_config.schedule != "plateau":
            return state
        return with_cooldown(state, *cooldown_within(n_steps, decay_share=config.fit.decay_share))

    if updates_rows(model, config):
        sizes = {"n_steps": n_steps, "seed": seed}
        return Training(
            lambda: scheduled(init_sparse_state(model, optimizer_config, **sizes)),
            lambda: make_sparse_step(model, optimizer_config, **sizes),
        )
    optimizer = make_optimizer(optimizer_config, model.specs, n_steps=n_steps)
    return Training(
        lambda: scheduled(init_state(model, optimizer, seed=seed)),
        lambda: make_train_step(
            model,
            optimizer,
            seed=seed,
            average_decay=optimizer_config.average_decay,
            accumulation_steps=optimizer_config.accumulation_steps,
        ),
    )


def updates_rows(model: Model, config: TrainingConfig) -> bool:
    """Whether a step updates only those rows of the item table that it reads."""
    if config.optimizer.item_updates == "auto":
        fits = config.loss.is_sampled and reads_rows_alone(model) and config.optimizer.accumulation_steps == 1
        return fits and model.n_items >= SPARSE_FROM
    return config.optimizer.item_updates == "sparse"
