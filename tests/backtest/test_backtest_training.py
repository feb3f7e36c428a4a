"""A training of any length by one program, and where new items start."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqrec.backtest.periods import Period
from seqrec.backtest.training import Length, optimizer_of_any_length, warm_params
from seqrec.data.splits import Split
from seqrec.data.store import store_from_sequences
from seqrec.params import ParamSpec
from seqrec.training import OptimizerConfig, make_optimizer

SPECS = {"w": ParamSpec((3,), ("embed",), jax.nn.initializers.ones)}
START = {"w": jnp.array([1.0, -2.0, 0.5])}


@pytest.mark.parametrize("schedule", ["cosine", "constant", "plateau"])
@pytest.mark.parametrize(("n_steps", "warmup_steps"), [(7, 3), (4, 0), (2, 5)])
def test_one_optimizer_takes_the_steps_of_each_length(schedule, n_steps, warmup_steps):
    config = OptimizerConfig(
        learning_rate=0.1, schedule=schedule, warmup_steps=warmup_steps, weight_decay=0.3, clip_norm=1.0
    )
    usual, other = make_optimizer(config, SPECS, n_steps=n_steps), optimizer_of_any_length(config, SPECS)
    length = Length(jnp.int32(n_steps), jnp.int32(min(warmup_steps, n_steps)), jnp.float32(0.1))
    states = [usual.init(START), other.init(START)._replace(length=length)]
    params = [START, START]
    for step in range(n_steps + 1):
        for place, optimizer in enumerate((usual, other)):
            gradients = {"w": jnp.cos(step + params[place]["w"])}
            updates, states[place] = optimizer.update(gradients, states[place], params[place])
            params[place] = optax.apply_updates(params[place], updates)
        np.testing.assert_allclose(params[1]["w"], params[0]["w"], rtol=1e-5)
    assert (params[0]["w"] != START["w"]).all()


def test_a_new_item_starts_as_the_mean_of_its_neighbours_and_one_to_come_stays():
    # Item 3 is new in this period, between 1 and 2; item 4 has yet to come.
    store = store_from_sequences([[1, 2], [1, 3, 2], [2, 1, 1]], n_items=4)
    split = Split(np.array([2, 5, 8]), *np.full((2, 3), -1), "", "")
    known = np.array([False, True, True, True, False])
    period = Period(0, 1, split, known, None, 0)
    table = np.arange(10.0).reshape(5, 2)
    specs = {"item_table": ParamSpec((5, 2), ("items", "embed"), jax.nn.initializers.zeros)}
    fresh, saved = {"item_table": np.full((5, 2), -1.0)}, {"item_table": table}
    options = {"specs": specs, "known_then": np.array([False, True, True, False, False])}
    started = warm_params(saved, fresh, store, period, **options)["item_table"]
    np.testing.assert_array_equal(started[[0, 1, 2, 4]], table[[0, 1, 2, 4]])
    np.testing.assert_array_equal(started[3], (table[1] + table[2]) / 2)
    shared = warm_params(saved, fresh, store, period, **options, has_rows_of_its_own=False)["item_table"]
    np.testing.assert_array_equal(shared[3], [-1.0, -1.0])
