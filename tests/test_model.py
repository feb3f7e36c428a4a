"""A model as one value: what its loss adds up, what wrappers refuse, and that steps of all models name no feature."""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of

import seqrec
from seqrec.data.event_features import PositionFeature
from seqrec.data.features import Feature
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.event_features import with_event_features
from seqrec.heads.softmax import softmax_model
from seqrec.items import ItemConfig, with_items
from seqrec.model import composed_params, loss_keys
from seqrec.params import init_params
from seqrec.questions import masked_item, next_item
from seqrec.repeats import with_repeats
from seqrec.side_tasks import labels_of, side_task_losses, with_side_tasks
from seqrec.types import InputError

N_ITEMS, LENGTH = 12, 10
SMALL = TransformerConfig(d_model=8, n_blocks=1, dropout=0.3)
RATES = {"skip": np.log([0.5, 0.5]), "gap": np.log([0.4, 0.3, 0.2, 0.1])}
WEIGHTS = {"skip": 0.5, "gap": 2.0}
DEVICE = PositionFeature("device", "categories", 3, read=lambda store, places: places)
GENRE = Feature(
    "genre", np.arange(N_ITEMS + 1, dtype=np.int32)[:, None] % 3, np.arange(N_ITEMS + 1) % 3 > 0, ("a", "b")
)
PLACES = np.arange(2 * LENGTH).reshape(2, LENGTH)
BATCH = rows_of([[5, 9, 5, 5], [9, 5, 12]], [[1, 2, 3, 1, 2]])._replace(
    next_skips=jnp.asarray(PLACES % 3 == 0),
    next_gaps=jnp.asarray(1 + PLACES % 4),
    event_features={"device": jnp.asarray(PLACES[..., None] % 4)},
)


def a_model(*wrappers, causal=True, ask=next_item):
    encoder = transformer(dataclasses.replace(SMALL, causal=causal), n_items=N_ITEMS, max_length=LENGTH)
    model = softmax_model(encoder, ask=ask)
    for wrap in wrappers:
        model = wrap(model)
    return model


items = functools.partial(
    with_items, config=ItemConfig(item_features=("genre",)), features=[GENRE], counts=np.ones(N_ITEMS + 1, int)
)
events = functools.partial(with_event_features, features=[DEVICE])
tasks = functools.partial(with_side_tasks, weights=WEIGHTS, log_rates=RATES)


def test_the_loss_is_the_sum_of_the_head_s_and_the_weighted_losses_of_side_tasks():
    model = a_model(tasks)
    params = init_params(model.specs, jax.random.key(0))
    keys = loss_keys(jax.random.key(1))
    total, count = jax.jit(functools.partial(model.loss, constants=model.step_constants, batch=BATCH, keys=keys))(
        params
    )

    @jax.jit
    def parts(params):
        states = model.encoder.encode(params, BATCH, key=keys[0])
        of_head = model.head.loss(params, states, next_item(BATCH), key=keys[1])
        return of_head, side_task_losses(params, states, BATCH.next_items, labels_of(BATCH))

    (of_head, n_targets), losses = parts(params)
    known = np.asarray(BATCH.next_items) > 0
    expected = of_head + sum(WEIGHTS[name] * np.sum(np.asarray(losses[name])[known]) for name in WEIGHTS)
    assert int(count) == int(n_targets) == np.sum(known & ~np.asarray(BATCH.next_skips))
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_each_part_of_the_loss_has_a_key_of_its_own():
    seen = {}

    def encode(params, batch, *, key=None, added=None):
        seen["encoder"] = key
        return jnp.zeros((*batch.items.shape, 8))

    def catalogue_loss(hidden, item_table, targets, *, n_items, key, **others):
        seen["head"] = key
        return jnp.zeros(()), jnp.sum(targets > 0)

    def ask(batch, *, key):
        seen["question"] = key
        return next_item(batch)

    def compose(params, constants, *, key=None):
        seen["composition"] = key
        return params

    encoder = dataclasses.replace(a_model().encoder, encode=encode)
    model = dataclasses.replace(softmax_model(encoder, catalogue_loss, ask=ask), compose=compose)
    model.loss({"item_table": jnp.zeros((64, 8))}, model.step_constants, BATCH, keys=loss_keys(jax.random.key(1)))
    bits = {name: tuple(jax.random.key_data(key).tolist()) for name, key in seen.items()}
    assert bits.keys() == {"encoder", "head", "question", "composition"}
    assert len(set(bits.values())) == 4


def test_composed_parameters_are_those_that_encoder_and_head_read():
    plain = a_model()
    params = init_params(plain.specs, jax.random.key(0))
    assert composed_params(plain, params) is params
    model = a_model(items)
    params = init_params(model.specs, jax.random.key(0))
    made = composed_params(model, params)
    assert "items" not in made
    own = params["items"]
    codes = GENRE.values[:, 0]
    # Each item is the sum of its own vector and its genre's; that of no genre is the first.
    expected = own["ids"]["table"][1 : N_ITEMS + 1] + own["feature genre"]["table"][codes[1:]]
    np.testing.assert_allclose(made["item_table"][1 : N_ITEMS + 1], expected, rtol=1e-6)
    others = {name: leaf for name, leaf in params.items() if name != "items"}
    jax.tree.map(np.testing.assert_array_equal, {name: made[name] for name in others}, others)


ORDERS = {
    "items and event features": (items, events),
    "items and repeats": (items, with_repeats),
    "event features and repeats": (events, with_repeats),
    "event features and side tasks": (events, tasks),
    "repeats and side tasks": (with_repeats, tasks),
}


@pytest.mark.parametrize("wrappers", ORDERS.values(), ids=ORDERS)
def test_wrappers_give_the_same_model_in_either_order(wrappers):
    one, other = a_model(*wrappers), a_model(*reversed(wrappers))
    params = init_params(one.specs, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, init_params(other.specs, jax.random.key(0)))
    keys = loss_keys(jax.random.key(1))

    def outputs(model):
        states = model.encoder.encode(composed_of(model, params), BATCH)
        return states, model.loss(params, model.step_constants, BATCH, keys=keys)

    jax.tree.map(
        np.testing.assert_array_equal, *(jax.jit(functools.partial(outputs, model))() for model in (one, other))
    )


def composed_of(model, params):
    return model.compose(params, model.constants)


WRAPPERS = {
    "a repeat mixture needs a causal encoder": with_repeats,
    "side tasks need a causal encoder": tasks,
    "'device' needs a causal encoder": events,
}


@pytest.mark.parametrize(("message", "wrap"), WRAPPERS.items(), ids=WRAPPERS)
def test_wrappers_whose_states_must_not_know_later_events_refuse_a_bidirectional_encoder(message, wrap):
    bidirectional = a_model(causal=False, ask=masked_item)
    with pytest.raises(InputError, match=message):
        wrap(bidirectional)


def test_item_features_suit_a_bidirectional_encoder():
    assert "items" in a_model(items, causal=False, ask=masked_item).specs


def test_a_repeat_mixture_refuses_a_head_that_is_no_softmax():
    class Other:
        """Some other head."""

        def loss(self, params, states, question, *, key): ...
        def queries(self, params, states, batch, last): ...
        def rank(self, params, queries, targets, *, exclude=None, allow=None): ...
        def top_k(self, params, queries, *, k, exclude=None, allow=None): ...

    with pytest.raises(InputError, match="a repeat mixture needs a softmax head, not a Other; leave one out"):
        with_repeats(dataclasses.replace(a_model(), head=Other()))


@pytest.mark.parametrize("feature", ["repeats", "side_tasks", "event_features"])
@pytest.mark.parametrize("module", ["training", "evaluation", "retrieval", "generation"])
def test_what_serves_all_models_names_no_feature(module, feature):
    package = Path(seqrec.__file__).parent
    assert re.search(rf"\b{feature}\b", (package / f"{feature}.py").read_text())  # so the word would be found
    assert not re.search(rf"\b{feature}\b", (package / f"{module}.py").read_text())
