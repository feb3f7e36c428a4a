"""Features of events and users are added to the items' vectors, and a state depends on those of the past alone."""

import functools

import chex
import jax
import numpy as np
import pytest
from examples import at_night

from seqrec.data.batches import EventFields, make_queries, training_batches
from seqrec.data.event_features import EventFeatureConfig, features_at, position_features
from seqrec.data.history import History
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.encoders.gru import GRUConfig, gru
from seqrec.encoders.hawk import HawkConfig, hawk
from seqrec.encoders.hstu import HSTUConfig, hstu
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import evaluate, make_eval_step, make_top_step, top_items
from seqrec.event_features import N_WAVES, with_event_features
from seqrec.generation import with_uncached_decoder
from seqrec.heads.softmax import softmax_model
from seqrec.layers import item_vectors
from seqrec.losses.softmax import softmax_loss
from seqrec.params import init_params
from seqrec.recommendation import make_recommend
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import BatchFormat, Encoder, InputError

D_MODEL, N_ITEMS, LENGTH = 8, 20, 6
ENCODERS = {
    "transformer": lambda **sizes: transformer(TransformerConfig(d_model=D_MODEL, n_blocks=1), **sizes),
    "hstu": lambda **sizes: hstu(HSTUConfig(d_model=D_MODEL, n_blocks=1), **sizes),
    "gru": lambda **sizes: gru(GRUConfig(d_model=D_MODEL, d_hidden=12), **sizes),
    "hawk": lambda **sizes: hawk(HawkConfig(d_model=D_MODEL, n_blocks=1), **sizes),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)
# What features add to the items' vectors does not know the encoder, which reads the sum; that each does is seen where
# its states depend on events.
one_encoder = pytest.mark.parametrize("name", at_night(ENCODERS, quick=("transformer",)))
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


@pytest.fixture(scope="module")
def user_file(tmp_path_factory):
    rows = ["user,country,age,tags", *(f"{user},{'se' if user % 3 else ''},{20 + user}," for user in range(0, 12, 2))]
    path = tmp_path_factory.mktemp("users") / "users.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def a_plain_model(name, loss=softmax_loss):
    return softmax_model(ENCODERS[name](n_items=N_ITEMS, max_length=LENGTH), loss)


@functools.cache
def a_model(name, user_file, n_events=9):
    """A store, its split, its features and a model of them, with weights of a trained model's size.

    Kept, since what is compiled of a model serves several tests.
    """
    store = a_store(n_events=n_events)
    split = leave_last_out(store)
    config = EventFeatureConfig(event_features=NAMES, user_features=("country", "age"), user_feature_files=(user_file,))
    features = position_features(config, store, split)
    model = with_event_features(a_plain_model(name), features)
    params = init_params(model.specs, jax.random.key(1))
    return store, split, features, model, jax.tree.map(lambda leaf: leaf * 20 if leaf.ndim == 2 else leaf, params)


def slow_input(params, features, store, place):
    """The vector that the encoder reads at one place of the store, by the formulas."""
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


def test_the_encoder_reads_the_sum_of_the_vectors_of_the_formulas(user_file):
    store, split, features, _, _ = a_model("transformer", user_file)
    read = Encoder(  # whose states are its input
        specs={"item_table": ENCODERS["gru"](n_items=N_ITEMS, max_length=LENGTH).specs["item_table"]},
        encode=lambda params, batch, *, key=None, added: item_vectors(params["item_table"], batch.items, added=added),
        n_items=N_ITEMS,
        d_model=D_MODEL,
        reads=BatchFormat(LENGTH),
    )
    model = with_event_features(softmax_model(read), features)
    params = init_params(model.specs, jax.random.key(0))
    places = np.arange(store.n_events)
    batch = training_batches(store, split, max_length=LENGTH, batch_size=4, seed=0).batch(0)
    batch = batch._replace(
        items=store.items[None], event_features={k: v[None] for k, v in features_at(features, store, places).items()}
    )
    [states] = jax.jit(model.encoder.encode)(params, batch)
    expected = np.stack([slow_input(params, features, store, place) for place in places])
    np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-5)


def test_without_features_the_model_is_returned_as_it_is():
    plain = a_plain_model("transformer")
    assert with_event_features(plain, ()) is plain


@every_encoder
def test_all_other_weights_start_as_without_features(name, user_file):
    *_, model, _ = a_model(name, user_file)
    with_features, without = (init_params(each.specs, jax.random.key(0)) for each in (model, a_plain_model(name)))
    del with_features["behaviour"]
    jax.tree.map(np.testing.assert_array_equal, with_features, without)


def changed_at(store, place):
    """The store with other features of one event, which is of the same user and item, and with a later time."""
    columns = {name: values.copy() for name, values in store.columns.items()}
    columns["device"][place] = (columns["device"][place] + 2) % 3
    for name in ("share", "share_of_day"):
        columns[name][place] = np.nan_to_num(columns[name][place]) + 0.5
    columns["timestamp_us"][place] += 10**10
    return store._replace(columns=columns)


@every_encoder
def test_a_state_depends_on_the_events_up_to_its_own(name, user_file):
    store, split, features, model, params = a_model(name, user_file)
    options = {"max_length": LENGTH, "batch_size": 12, "seed": 0, "fields": EventFields(features=features)}
    encode = jax.jit(model.encoder.encode)
    # The third event of the first user, whose first six are read and six next ones predicted.
    batch = training_batches(store, split, **options).batch(0)
    states, others = (
        encode(params, training_batches(each, split, **options).batch(0)) for each in (store, changed_at(store, 2))
    )
    moved = np.abs(states - others).max(axis=-1) > 1e-6
    # The gap after the changed event changes too, and that is its successor's own feature.
    [row] = np.flatnonzero((batch.items == store.items[:6]).all(axis=1))
    expected = np.zeros_like(moved)
    expected[row, 2:] = True
    np.testing.assert_array_equal(moved, expected)


@one_encoder
def test_a_query_does_not_depend_on_the_held_out_event(name, user_file):
    store, split, features, model, params = a_model(name, user_file)
    options = {"max_length": LENGTH, "batch_size": 12, "mask_seen": False, "fields": EventFields(features=features)}
    step = make_top_step(model, k=N_ITEMS)
    scores, of_target, of_last = (
        top_items(step, params, make_queries(each, split.test, **options)).scores
        for each in (store, changed_at(store, 8), changed_at(store, 7))
    )
    np.testing.assert_array_equal(scores, of_target)
    assert np.flatnonzero((scores != of_last).any(axis=1)).tolist() == [0]  # so the test can see a change


def each_in_its_own_row(batch):
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


@one_encoder
def test_states_do_not_depend_on_how_histories_are_packed(name, user_file):
    store, split, features, model, params = a_model(name, user_file, n_events=5)
    encode = jax.jit(model.encoder.encode)
    batch = training_batches(
        store, split, max_length=LENGTH, batch_size=12, seed=0, fields=EventFields(features=features)
    ).batch(0)
    alone, segments = each_in_its_own_row(batch)
    assert len(segments) == 12 > len(batch.items)
    packed, separate = np.asarray(encode(params, batch)), np.asarray(encode(params, alone))
    for states, (row, number) in zip(separate, segments, strict=True):
        here = packed[row, batch.segment_ids[row] == number]
        np.testing.assert_allclose(here, states[: len(here)], rtol=1e-4, atol=1e-4)


@one_encoder
def test_recommendations_rank_items_as_queries_do(name, user_file):
    store, split, features, model, params = a_model(name, user_file)
    options = {"max_length": LENGTH, "batch_size": 12, "mask_seen": False, "fields": EventFields(features=features)}
    table = evaluate(make_eval_step(model), params, make_queries(store, split.test, **options))
    recommend = make_recommend(model)
    for user in (0, 5):
        start, stop = store.offsets[user], split.test[user]
        known = features_at(features, store, np.arange(start, stop))
        history = History(store.items[start:stop], event_features=known)
        best = recommend(params, history, N_ITEMS, mask_seen=False)
        assert best.index(store.items[stop]) + 1 == table.rank[user]
        # The same holds for a user of another store, by the same key.
        alone = sequence_store(
            store.items[start:stop],
            np.array([0, stop - start]),
            store.item_keys,
            store.user_keys[[user]],
            columns={column: values[start:stop] for column, values in store.columns.items()},
        )
        jax.tree.map(np.testing.assert_array_equal, known, features_at(features, alone, np.arange(stop - start)))
    with pytest.raises(InputError, match="the model reads 'event device' of events; give event_features with one"):
        recommend(params, [1, 2], 3)


@one_encoder
def test_training_traces_once_and_the_steps_lower_for_every_platform(name, user_file):
    store, split, features, model, _ = a_model(name, user_file)
    optimizer = make_optimizer(OptimizerConfig(), model.specs, n_steps=10)
    chex.clear_trace_counter()
    counted = with_event_features(a_plain_model(name, chex.assert_max_traces(softmax_loss, n=1)), features)
    step = make_train_step(counted, optimizer, seed=0, average_decay=0.9)
    batches = training_batches(
        store, split, max_length=LENGTH, batch_size=4, seed=0, fields=EventFields(features=features)
    )
    state = init_state(model, optimizer, seed=0)
    before = jax.tree.map(np.asarray, state.params["behaviour"])
    for number in range(3):
        state, metrics = step(state, batches.batch(number))
    assert np.isfinite(metrics.loss)
    # Every weight has moved, and unknown values have made none NaN.
    moved = jax.tree.map(lambda a, b: bool(np.isfinite(b).all() and np.any(a != b)), before, state.params["behaviour"])
    assert all(jax.tree.leaves(moved))
    step = make_train_step(model, optimizer, seed=0, average_decay=0.9)
    [queries] = make_queries(
        store, split.test, max_length=LENGTH, batch_size=12, mask_seen=True, fields=EventFields(features=features)
    ).batches()
    for program, *given in ((step, state, batches.batch(0)), (make_eval_step(model), state.params, queries)):
        assert jax.export.export(program, platforms=("tpu", "cuda"))(*given).platforms == ("tpu", "cuda")


def test_what_cannot_read_features_is_refused(user_file):
    store, split, features, model, params = a_model("transformer", user_file)
    batch = training_batches(store, split, max_length=LENGTH, batch_size=4, seed=0).batch(0)
    with pytest.raises(InputError, match="the batch does not hold 'event device'"):
        model.encoder.encode(params, batch)
    with pytest.raises(InputError, match="a model that reads 'event device' cannot continue from item ids alone"):
        with_uncached_decoder(model)
    with pytest.raises(InputError, match="the model reads 'event device' already; add all event features at once"):
        with_event_features(model, features)
    bidirectional = transformer(TransformerConfig(d_model=D_MODEL, causal=False), n_items=N_ITEMS, max_length=LENGTH)
    with pytest.raises(InputError, match="'event device' needs a causal encoder, whose states know no later event"):
        with_event_features(softmax_model(bidirectional), features)


def test_a_decoder_that_reads_no_features_is_dropped(user_file):
    _, _, features, *_ = a_model("transformer", user_file)
    model = with_uncached_decoder(a_plain_model("transformer"))
    assert model.decoder is not None
    assert with_event_features(model, features).decoder is None


def mean_ndcg(*, event_features, shuffled=(), n_users=150, n_events=16):
    """NDCG@10 on a circle of items, where the next one is one step further after a play and seven after a skip."""
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
    config = EventFeatureConfig(event_features=event_features, shuffled_event_features=shuffled)
    features = position_features(config, store, split)
    plain = transformer(TransformerConfig(d_model=16, n_blocks=1, dropout=0.1), n_items=N_ITEMS, max_length=n_events)
    model = with_event_features(softmax_model(plain), features)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_steps=10), model.specs, n_steps=100)
    step = make_train_step(model, optimizer, seed=0, average_decay=0.9)
    batches = training_batches(
        store, split, max_length=n_events, batch_size=50, seed=0, fields=EventFields(features=features)
    )
    state = init_state(model, optimizer, seed=0)
    for number in range(100):
        state, _ = step(state, batches.batch(number))
    options = {"max_length": n_events, "batch_size": 50, "mask_seen": False, "fields": EventFields(features=features)}
    ranks = evaluate(make_eval_step(model), state.averaged, make_queries(store, split.test, **options)).rank
    return float(np.mean(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)))


def test_a_feature_that_determines_the_next_item_is_learned_and_its_shuffle_is_not():
    assert mean_ndcg(event_features=("played",)) > 0.97
    # Who does not know it finds two items equally likely: one has rank 1 and the other 2, each half of the time.
    blind = (1 + 1 / np.log2(3)) / 2
    assert abs(mean_ndcg(event_features=("played",), shuffled=("played",)) - blind) < 0.05
