"""What is known of events and users joins the items' vectors, and a state knows that of the past alone."""

import chex
import jax
import numpy as np
import pytest

from seqrec.behaviour import N_WAVES, with_behaviour
from seqrec.data.batches import make_queries, training_batches
from seqrec.data.behaviour import BehaviourConfig, features_at, position_features
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.encoders.gru import GRUConfig, gru
from seqrec.encoders.hawk import HawkConfig, hawk
from seqrec.encoders.hstu import HSTUConfig, hstu
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import evaluate, make_eval_step, make_top_step, top_items
from seqrec.generation import recomputed
from seqrec.layers import item_vectors
from seqrec.losses.softmax import softmax_loss
from seqrec.objectives import next_item
from seqrec.params import init_params
from seqrec.retrieval import make_recommend
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import Encoder, InputError

D_MODEL, N_ITEMS, LENGTH = 8, 20, 6
ENCODERS = {
    "transformer": lambda **sizes: transformer(TransformerConfig(d_model=D_MODEL, n_blocks=1), **sizes),
    "hstu": lambda **sizes: hstu(HSTUConfig(d_model=D_MODEL, n_blocks=1), **sizes),
    "gru": lambda **sizes: gru(GRUConfig(d_model=D_MODEL, d_hidden=12), **sizes),
    "hawk": lambda **sizes: hawk(HawkConfig(d_model=D_MODEL, n_blocks=1), **sizes),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)
NAMES = ("device", "share", "gap", "share_of_day:waves")


def a_store(n_users=12, n_events=9, n_items=N_ITEMS, seed=0):
    random = np.random.default_rng(seed)
    n = n_users * n_events
    columns = {
        "device": random.integers(-1, 3, n).astype(np.int32),
        "share": np.where(random.random(n) < 0.2, np.nan, random.random(n)),
        "share_of_day": np.where(random.random(n) < 0.2, np.nan, random.random(n)),
        "timestamp_us": np.cumsum(random.integers(0, 10**9, n)),
    }
    items = random.integers(1, n_items + 1, n)
    offsets = np.arange(0, n + 1, n_events)
    return sequence_store(items, offsets, np.arange(1, n_items + 1), np.arange(n_users), columns=columns)


@pytest.fixture
def user_file(write):
    rows = ["user,country,age,tags", *(f"{user},{'se' if user % 3 else ''},{20 + user}," for user in range(0, 12, 2))]
    return write("\n".join(rows) + "\n", "users.csv")


def a_model(name, user_file, store=None):
    """The store, its split, its features and an encoder of them, with weights of a trained model's size."""
    store = store or a_store()
    split = leave_last_out(store)
    config = BehaviourConfig(event_features=NAMES, user_features=("country", "age"), user_feature_files=(user_file,))
    features = position_features(config, store, split)
    encoder = with_behaviour(ENCODERS[name](n_items=N_ITEMS, max_length=LENGTH), features)
    params = init_params(encoder.specs, jax.random.key(1))
    return store, split, features, encoder, jax.tree.map(lambda leaf: leaf * 20 if leaf.ndim == 2 else leaf, params)


def slow_input(params, features, store, place):
    """The vector that is read at one place of the store, as the formulas say."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    total = params["item_table"][store.items[place]]
    for feature in features:
        own = params["behaviour"][feature.name]
        [value] = feature.read(store, np.array([place]))
        if feature.form == "categories":
            codes = [code for code in value if code]
            total = total + (np.mean([own["table"][code] for code in codes], axis=0) if codes else own["table"][0])
        elif np.isnan(value).any():
            total = total + own["unknown"]
        elif feature.form == "numbers":
            total = total + value @ own["projection"]
        else:
            angles = [value[0] * own["frequencies"][wave] + own["phases"][wave] for wave in range(N_WAVES)]
            total = total + np.array([angles[0], *map(np.sin, angles[1:])]) @ own["projection"]
    return total * np.sqrt(D_MODEL)


def test_what_is_read_is_the_sum_of_its_formulas(user_file):
    store, split, features, _, _ = a_model("transformer", user_file)
    read = Encoder(  # whose states are its input
        specs={"item_table": ENCODERS["gru"](n_items=N_ITEMS, max_length=LENGTH).specs["item_table"]},
        encode=lambda params, batch, *, key=None, added: item_vectors(params["item_table"], batch.items, added=added),
        n_items=N_ITEMS,
        max_length=LENGTH,
    )
    encoder = with_behaviour(read, features)
    params = init_params(encoder.specs, jax.random.key(0))
    places = np.arange(store.n_events)
    batch = training_batches(store, split, max_length=LENGTH, batch_size=4, seed=0).batch(0)
    batch = batch._replace(
        items=store.items[None], event_features={k: v[None] for k, v in features_at(features, store, places).items()}
    )
    [found] = jax.jit(encoder.encode)(params, batch)
    expected = np.stack([slow_input(params, features, store, place) for place in places])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_features_the_encoder_is_the_one_without():
    plain = ENCODERS["transformer"](n_items=N_ITEMS, max_length=LENGTH)
    assert with_behaviour(plain, ()) is plain


@every_encoder
def test_the_other_weights_start_as_they_do_without(name, user_file):
    *_, encoder, _ = a_model(name, user_file)
    plain = ENCODERS[name](n_items=N_ITEMS, max_length=LENGTH)
    with_features, without = (init_params(each.specs, jax.random.key(0)) for each in (encoder, plain))
    del with_features["behaviour"]
    jax.tree.map(np.testing.assert_array_equal, with_features, without)


def changed_at(store, place):
    """The store in which all that is known of one event but its item and user is another, and its time later."""
    columns = {name: values.copy() for name, values in store.columns.items()}
    columns["device"][place] = (columns["device"][place] + 2) % 3
    for name in ("share", "share_of_day"):
        columns[name][place] = np.nan_to_num(columns[name][place]) + 0.5
    columns["timestamp_us"][place] += 10**10
    return store._replace(columns=columns)


@every_encoder
def test_a_state_knows_the_events_up_to_its_own(name, user_file):
    store, split, features, encoder, params = a_model(name, user_file)
    options = {"max_length": LENGTH, "batch_size": 12, "seed": 0, "features": features}
    encode = jax.jit(encoder.encode)
    # The third event of the first user, whose first six are read and six next ones predicted.
    batch = training_batches(store, split, **options).batch(0)
    states, others = (
        encode(params, training_batches(each, split, **options).batch(0)) for each in (store, changed_at(store, 2))
    )
    moved = np.abs(states - others).max(axis=-1) > 1e-6
    # The gap after the changed event is another too, and that is its successor's own feature.
    [row] = np.flatnonzero((batch.items == store.items[:6]).all(axis=1))
    expected = np.zeros_like(moved)
    expected[row, 2:] = True
    np.testing.assert_array_equal(moved, expected)


@every_encoder
def test_a_query_knows_nothing_of_the_event_that_it_asks_for(name, user_file):
    store, split, features, encoder, params = a_model(name, user_file)
    options = {"max_length": LENGTH, "batch_size": 12, "mask_seen": False, "features": features}
    step = make_top_step(encoder, k=N_ITEMS)
    scores, of_target, of_last = (
        top_items(step, params, make_queries(each, split.test, **options)).scores
        for each in (store, changed_at(store, 8), changed_at(store, 7))
    )
    np.testing.assert_array_equal(scores, of_target)
    assert np.flatnonzero((scores != of_last).any(axis=1)).tolist() == [0]  # so the test can see a change


def each_in_a_row_of_its_own(batch):
    """The same histories, one a row and first in it."""
    segments = [(row, number) for row, ids in enumerate(batch.segment_ids) for number in range(1, ids.max() + 1)]

    def deal(field):
        rows = np.zeros((len(segments), *field.shape[1:]), field.dtype)
        for target, (row, number) in zip(rows, segments, strict=True):
            own = field[row, batch.segment_ids[row] == number]
            target[: len(own)] = own
        return rows

    dealt = jax.tree.map(deal, batch)
    return dealt._replace(segment_ids=(dealt.segment_ids > 0).astype(np.int32)), segments


@every_encoder
def test_what_shares_a_row_and_where_it_stands_changes_no_state(name, user_file):
    store, split, features, encoder, params = a_model(name, user_file, a_store(n_events=5))
    encode = jax.jit(encoder.encode)
    batch = training_batches(store, split, max_length=LENGTH, batch_size=12, seed=0, features=features).batch(0)
    alone, segments = each_in_a_row_of_its_own(batch)
    assert len(segments) == 12 > len(batch.items)
    packed, found = np.asarray(encode(params, batch)), np.asarray(encode(params, alone))
    for states, (row, number) in zip(found, segments, strict=True):
        here = packed[row, batch.segment_ids[row] == number]
        np.testing.assert_allclose(here, states[: len(here)], rtol=1e-4, atol=1e-4)


@every_encoder
def test_recommending_to_a_history_is_what_a_query_does(name, user_file):
    store, split, features, encoder, params = a_model(name, user_file)
    options = {"max_length": LENGTH, "batch_size": 12, "mask_seen": False, "features": features}
    table = evaluate(make_eval_step(encoder), params, make_queries(store, split.test, **options))
    recommend = make_recommend(encoder)
    for user in (0, 5):
        start, stop = store.offsets[user], split.test[user]
        known = features_at(features, store, np.arange(start, stop))
        best = recommend(params, store.items[start:stop], N_ITEMS, mask_seen=False, event_features=known)
        assert best.index(store.items[stop]) + 1 == table.rank[user]
        # As well for one who is in another store, by the same key.
        alone = sequence_store(
            store.items[start:stop],
            np.array([0, stop - start]),
            store.item_keys,
            store.user_keys[[user]],
            columns={column: values[start:stop] for column, values in store.columns.items()},
        )
        jax.tree.map(np.testing.assert_array_equal, known, features_at(features, alone, np.arange(stop - start)))
    with pytest.raises(InputError, match="the encoder reads 'event device' of events; give event_features with one"):
        recommend(params, [1, 2], 3)


@every_encoder
def test_one_trace_serves_a_training_and_its_steps_lower_for_every_platform(name, user_file):
    store, split, features, encoder, _ = a_model(name, user_file)
    optimizer = make_optimizer(OptimizerConfig(), encoder.specs, n_steps=10)
    chex.clear_trace_counter()
    loss = chex.assert_max_traces(softmax_loss, n=1)
    step = make_train_step(encoder, next_item, loss, optimizer, seed=0, average_decay=0.9)
    batches = training_batches(store, split, max_length=LENGTH, batch_size=4, seed=0, features=features)
    state = init_state(encoder, optimizer, seed=0)
    before = jax.tree.map(np.asarray, state.params["behaviour"])
    for number in range(3):
        state, metrics = step(state, batches.batch(number))
    assert np.isfinite(metrics.loss)
    # Every weight has been moved, and none by what is not known.
    moved = jax.tree.map(lambda a, b: bool(np.isfinite(b).all() and np.any(a != b)), before, state.params["behaviour"])
    assert all(jax.tree.leaves(moved))
    step = make_train_step(encoder, next_item, softmax_loss, optimizer, seed=0, average_decay=0.9)
    [queries] = make_queries(
        store, split.test, max_length=LENGTH, batch_size=12, mask_seen=True, features=features
    ).batches()
    for program, *given in ((step, state, batches.batch(0)), (make_eval_step(encoder), state.params, queries)):
        assert jax.export.export(program, platforms=("tpu", "cuda"))(*given).platforms == ("tpu", "cuda")


def test_what_cannot_read_features_says_so(user_file):
    store, split, features, encoder, params = a_model("transformer", user_file)
    batch = training_batches(store, split, max_length=LENGTH, batch_size=4, seed=0).batch(0)
    with pytest.raises(InputError, match="the batch does not hold 'event device'"):
        encoder.encode(params, batch)
    with pytest.raises(InputError, match="an encoder of 'event device' cannot go on from items alone"):
        recomputed(encoder)
    both = with_behaviour(
        transformer(TransformerConfig(d_model=D_MODEL, causal=False), n_items=N_ITEMS, max_length=LENGTH), features
    )
    batch = training_batches(store, split, max_length=LENGTH, batch_size=4, seed=0, features=features).batch(0)
    with pytest.raises(InputError, match="a bidirectional encoder sees the events of what it is to restore"):
        jax.jit(both.encode)(init_params(both.specs, jax.random.key(0)), batch)


def mean_ndcg(*, event_features=(), shuffled=(), n_users=150, n_events=22):
    """NDCG@10 on a circle of items, where the next one is one step on after a play and seven after a skip."""
    random = np.random.default_rng(0)
    played = random.random((n_users, n_events)) < 0.5
    steps = np.where(played, 1, 7)[:, :-1]
    starts = random.integers(N_ITEMS, size=(n_users, 1))
    items = 1 + np.concatenate([starts, starts + np.cumsum(steps, axis=1)], axis=1) % N_ITEMS
    store = sequence_store(
        items.ravel(),
        np.arange(0, items.size + 1, n_events),
        np.arange(1, N_ITEMS + 1),
        np.arange(n_users),
        columns={"played": played.ravel()},
    )
    split = leave_last_out(store)
    config = BehaviourConfig(event_features=event_features, shuffled_event_features=shuffled)
    features = position_features(config, store, split)
    plain = transformer(TransformerConfig(d_model=16, n_blocks=1, dropout=0.1), n_items=N_ITEMS, max_length=n_events)
    encoder = with_behaviour(plain, features)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_steps=10), encoder.specs, n_steps=150)
    step = make_train_step(encoder, next_item, softmax_loss, optimizer, seed=0, average_decay=0.9)
    batches = training_batches(store, split, max_length=n_events, batch_size=50, seed=0, features=features)
    state = init_state(encoder, optimizer, seed=0)
    for number in range(150):
        state, _ = step(state, batches.batch(number))
    options = {"max_length": n_events, "batch_size": 50, "mask_seen": False, "features": features}
    ranks = evaluate(make_eval_step(encoder), state.averaged, make_queries(store, split.test, **options)).rank
    return float(np.mean(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)))


def test_a_feature_that_determines_the_next_item_is_learned_and_its_shuffle_tells_nothing():
    # Without it two items are as likely: one rank is 1 and the other 2, each half of the time.
    blind = (1 + 1 / np.log2(3)) / 2
    assert mean_ndcg(event_features=("played",)) > 0.97
    assert abs(mean_ndcg() - blind) < 0.05
    assert abs(mean_ndcg(event_features=("played",), shuffled=("played",)) - blind) < 0.05
