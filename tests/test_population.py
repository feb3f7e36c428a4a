"""Members of a population equal single runs, with numbers of their own and compiled once."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec.config import with_traced, with_values
from seqrec.data.batches import training_batches
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.encoders.gru import GRUConfig, gru
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.heads.softmax import softmax_model
from seqrec.losses.config import LossConfig, make_loss
from seqrec.population import keep, make_population_step, member, members
from seqrec.questions import next_item
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step

N_ITEMS = 40
N_STEPS = 30
TRANSFORMER = {
    "model.dropout": [0.0, 0.13, 0.5],
    "model.attention_dropout": [0.2, 0.0, 0.1],
    "loss.temperature": [1.0, 0.5, 2.0],
    "loss.label_smoothing": [0.1, 0.0, 0.2],
    "optimizer.learning_rate": [3e-3, 1e-2, 1e-3],
    "optimizer.weight_decay": [0.5, 0.0, 0.05],
}


class Parts:
    """The configs of encoder, loss and optimizer, by the names of their fields."""

    def __init__(self, model, loss=None, optimizer=None):
        self.model, self.loss = model, loss or LossConfig()
        self.optimizer = optimizer or OptimizerConfig(warmup_steps=5)


@pytest.fixture(scope="module")
def batches():
    random = np.random.default_rng(0)
    store = store_from_sequences(
        [random.integers(1, N_ITEMS + 1, random.integers(4, 12)).tolist() for _ in range(40)], n_items=N_ITEMS
    )
    return training_batches(store, leave_last_out(store), max_length=8, batch_size=8, seed=0)


def model_of(config, ask=next_item):
    make = gru if isinstance(config.model, GRUConfig) else transformer
    encoder = make(config.model, n_items=N_ITEMS, max_length=8)
    return softmax_model(encoder, make_loss(config.loss, counts=np.arange(N_ITEMS + 1)), ask=ask)


def optimizer_of(config, model):
    return make_optimizer(config.optimizer, model.specs, n_steps=N_STEPS)


def step_of(config, ask=next_item):
    model = model_of(config, ask)
    return make_train_step(model, optimizer_of(config, model), seed=3, average_decay=0.9)


def first_state(config):
    model = model_of(config)
    return init_state(model, optimizer_of(config, model), seed=3)


def single_run(config, values, batches):
    """The same run by itself, with its values as constants of its program."""
    for name, value in values.items():
        part, _, field = name.partition(".")
        setattr(config, part, with_values(getattr(config, part), {field: value}))
    state, step = first_state(config), step_of(config)
    for number in range(N_STEPS):
        state, metrics = step(state, batches.batch(number))
    return state, metrics


def population_of(config, scalars, *, ask=next_item, side_by_side=True):
    scalars = {name: jnp.asarray(values, jnp.float32) for name, values in scalars.items()}
    first = members(first_state(config), scalars, n_members=len(next(iter(scalars.values()))))
    return first, make_population_step(
        lambda scalars: step_of(with_traced(config, scalars), ask), side_by_side=side_by_side
    )


@pytest.fixture(scope="module", params=[True, False], ids=["side by side", "in turn"])
def survivors(batches, request):
    """Two of three members after as many steps together as they then made without the third, and the last metrics."""
    chex.clear_trace_counter()
    config = Parts(TransformerConfig(d_model=8, n_blocks=1))
    # The question is made once a trace: once for three members, and once for two.
    options = {"ask": chex.assert_max_traces(next_item, n=2), "side_by_side": request.param}
    population, step = population_of(config, TRANSFORMER, **options)
    for number in range(N_STEPS):
        if number == N_STEPS // 2:
            population = keep(population, [2, 0])
        population, metrics = step(population, batches.batch(number))
    return population, metrics


@pytest.fixture(scope="module")
def one_alone(batches):
    """The run of one of the three members by itself, made once for both ways to train together."""

    @functools.cache
    def run(number):
        config = Parts(TransformerConfig(d_model=8, n_blocks=1))
        return single_run(config, {name: values[number] for name, values in TRANSFORMER.items()}, batches)

    return run


@pytest.mark.parametrize(("place", "before"), [(0, 2), (1, 0)])
def test_each_member_ends_as_the_same_run_alone_whichever_was_dropped(one_alone, survivors, place, before):
    population, metrics = survivors
    expected, last = one_alone(before)
    chex.assert_trees_all_close(member(population, place), expected, atol=1e-5)
    np.testing.assert_allclose(metrics.loss[place], last.loss, rtol=1e-5)
    assert metrics.loss[0] != metrics.loss[1]


def test_other_losses_schedules_and_encoders_take_traced_numbers_too(batches):
    def config():
        return Parts(
            GRUConfig(d_model=8, d_hidden=8),
            LossConfig(loss="bce", n_negatives=4),
            OptimizerConfig(schedule="constant", warmup_steps=0, second_moments="rows", clip_norm=1.0),
        )

    scalars = {
        "model.embedding_dropout": [0.1, 0.4],
        "model.dropout": [0.3, 0.2],
        "loss.temperature": [1.0, 0.7],
        "optimizer.learning_rate": [1e-2, 1e-3],
        "optimizer.weight_decay": [0.1, 0.0],
    }
    population, step = population_of(config(), scalars)
    for number in range(N_STEPS):
        population, _ = step(population, batches.batch(number))
    expected, _ = single_run(config(), {name: values[1] for name, values in scalars.items()}, batches)
    chex.assert_trees_all_close(member(population, 1), expected, atol=1e-5)


def test_random_bits_of_dropout_are_drawn_once_for_all_members(batches):
    # All members share the step, and so the key: only the comparison with each one's rate is repeated.
    population, step = population_of(Parts(TransformerConfig(d_model=8, n_blocks=1)), TRANSFORMER)
    text = str(jax.make_jaxpr(step)(population, batches.batch(0)))
    drawn = [line for line in text.splitlines() if "bitcast_convert_type[new_dtype=uint8]" in line]
    assert drawn
    assert not [line for line in drawn if "u8[3," in line.partition("=")[0]]
