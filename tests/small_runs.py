"""Runs of a model small enough to follow by hand."""

import functools
import json
import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp

from seqrec.checkpoint import open_checkpoints
from seqrec.data.batches import training_batches
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.loop import FitConfig, fit
from seqrec.training import StepMetrics, TrainState, cooldown_within, rate_share, with_cooldown

HISTORIES = [[1 + (user + place) % 7 for place in range(5 + user % 3)] for user in range(24)]
STORE = store_from_sequences(HISTORIES)
BATCHES = training_batches(STORE, leave_last_out(STORE), max_length=6, batch_size=3, seed=0)
PER_EPOCH = BATCHES.steps_per_epoch


def start_state() -> TrainState:
    params = {"w": jnp.zeros(3)}
    return TrainState(jnp.int32(0), params, (), {"w": jnp.ones(3)})


@functools.cache  # so that runs share its program
def step_of(
    *,
    bad_loss: float = jnp.nan,
    bad_loss_at: int = 0,
    bad_norm_at: int = 0,
    bad_weights_at: int = 0,
    bad_batches: tuple[int, ...] = (),
):
    """A step that mixes each batch into the weights, and can go wrong at a 1-based step or over 0-based batches.

    Its gradient's norm is the share of the learning rate that is left, which is on record by the lines.
    """

    def step(state, batch):
        number = state.step + 1
        is_bad = number == bad_loss_at
        for position in bad_batches:
            # A later epoch may have these rows together again, which is another batch.
            same = jnp.all(jnp.asarray(batch.items) == BATCHES.batch(position).items)
            is_bad |= same & (number <= position + 1)
        rate = jnp.float32(1.0) if state.cooldown is None else rate_share(state.step, state.cooldown)
        w = 0.9 * state.params["w"] + rate * jnp.sum(jnp.asarray(batch.items) * jnp.asarray(batch.positions))
        w = jnp.where(number == bad_weights_at, jnp.inf, w)
        metrics = StepMetrics(
            loss=jnp.where(is_bad, bad_loss, 1.0 / number),
            n_targets=jnp.sum(jnp.asarray(batch.next_items) > 0),
            gradient_norm=jnp.where(number == bad_norm_at, jnp.inf, rate),
        )
        averaged = {"w": 0.5 * (state.averaged["w"] + w)}
        return replace(state, step=number, params={"w": w}, averaged=averaged), metrics

    return jax.jit(step)


def signal_at(step, number=signal.SIGINT):
    def at_line(line):
        if line["step"] == step and "loss" in line:
            os.kill(os.getpid(), number)

    return at_line


class Run:
    """Starts the loop on a directory, as often as asked; validations get the given values in turn."""

    def __init__(self, directory, values=(0.5,) * 100):
        self.directory, self.values, self.lines = directory, list(values), []

    def fit(self, *, at_line=None, step=None, validate=None, plateau=False, ndcg_of_queries=lambda: None, **config):
        settings = FitConfig(**{"max_epochs": 3, "log_every_steps": 2, **config})
        with open_checkpoints(self.directory) as checkpoints:

            def record(line):
                self.lines.append(json.loads(json.dumps(line)))
                if at_line is not None:
                    at_line(line)

            state = start_state()
            if plateau:
                state = with_cooldown(
                    state, *cooldown_within(settings.n_steps(PER_EPOCH), decay_share=settings.decay_share)
                )
            return fit(
                state,
                train_step=step or step_of(),
                batches=BATCHES,
                validate=validate or (lambda params: {"ndcg@10": self.values[len(self.validations)], "mrr": 0.0}),
                checkpoints=checkpoints,
                record=record,
                rewind=self.rewind,
                config=settings,
                ndcg_of_queries=ndcg_of_queries,
            )

    def rewind(self, step):
        self.lines = [line for line in self.lines if line["step"] <= step]

    @property
    def validations(self):
        return [line for line in self.lines if "valid" in line]

    @property
    def saved(self):
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())
