"""What batches hold of events: columns of the store and what follows from times, the same however histories are cut."""

import numpy as np
import pytest

from seqrec.data.batches import EventFields, Share, Windows, make_queries, training_batches
from seqrec.data.event_features import EventFeatureConfig, event_features, features_at
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.types import InputError

SECOND, HOUR = 1_000_000, 3_600_000_000
MONDAY_NOON = 1_704_110_400 * SECOND  # 2024-01-01 12:00 UTC
# The second user's last event is a week and a second later.
SECONDS = [[0, 0, 1, 2, 3, 3600, 3600 + 1801], [30, 32, 34, 35, 604_836]]
DEVICE = np.array([0, 1, -1, 1, 0, 7, 2, 1, 0, 1, 5, 9], np.int32)
SHARE = np.array([0.5, np.nan, 0.1, 0.9, 1.0, 0.2, 0.3, 0.4, 0.6, np.nan, 0.7, 0.8])
LIKED = np.arange(12) % 3 == 0


def a_store(*, times=True):
    offsets = np.cumsum([0, *map(len, SECONDS)])
    columns = {"device": DEVICE, "share": SHARE, "liked": LIKED}
    if times:
        columns["timestamp_us"] = MONDAY_NOON + np.concatenate(SECONDS) * SECOND
    items = np.arange(1, 13)
    store = sequence_store(items, offsets, items, np.arange(2), columns=columns)
    return store, leave_last_out(store)


def values(name, **options):
    """What each event of the store has."""
    store, split = a_store()
    features = event_features(EventFeatureConfig(event_features=(name,), **options), store, split)
    [(feature, read)] = features_at(features, store, np.arange(store.n_events)).items()
    assert feature == f"event {name.partition(':')[0]}"
    assert read.dtype == (np.int32 if features[0].form == "categories" else np.float32)
    assert read.shape == (12, 1)
    return features[0], read[:, 0]


def test_a_gap_is_told_by_its_logarithm():
    feature, gaps = values("gap")
    # 0 s, 1 s, 1 s, 1 s, 3,597 s, 1,801 s; then 2 s, 2 s, 1 s, 604,801 s: buckets of [2^(b-1) - 1, 2^b - 1) seconds.
    assert gaps.tolist() == [0, 1, 2, 2, 2, 12, 11, 0, 2, 2, 2, 20]
    assert feature.size == 32
    _, logs = values("gap:waves")
    # Of events that are trained on: gaps of 0, 1, 1 and 1 s; 2 and 2 s.
    learned = np.log1p([0, 1, 1, 1, 2, 2])
    np.testing.assert_allclose(logs[5], (np.log1p(3597) - learned.mean()) / learned.std(), rtol=1e-5)
    assert np.flatnonzero(np.isnan(logs)).tolist() == [0, 7]


def test_hours_and_weekdays_are_of_utc_and_count_from_midnight_and_monday():
    assert values("hour")[1].tolist() == [13] * 5 + [14] * 2 + [13] * 5
    assert values("weekday")[1].tolist() == [1] * 12
    store, split = a_store()
    later = store._replace(columns={"timestamp_us": store.columns["timestamp_us"] + 13 * HOUR})
    features = event_features(EventFeatureConfig(event_features=("hour", "weekday")), later, split)
    hours_and_weekdays = features_at(features, later, np.array([0]))
    assert [hours_and_weekdays["event hour"].item(), hours_and_weekdays["event weekday"].item()] == [2, 2]


def test_a_session_opens_with_the_first_event_and_after_a_gap_above_the_limit():
    assert values("session")[1].tolist() == [2, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 2]
    assert values("session", session_gap_minutes=30.1)[1].tolist()[6] == 1


def test_categories_are_those_of_the_events_that_are_trained_on():
    # Trained on are all events but each user's last two, so that 7, 2, 5 and 9 are not known; -1 is none.
    feature, devices = values("device")
    assert feature.size == 2
    assert devices.tolist() == [1, 2, 0, 2, 1, 0, 0, 2, 1, 2, 0, 0]
    assert values("liked")[1].tolist() == (1 + LIKED).tolist()


def test_numbers_are_scaled_by_the_events_that_are_trained_on_and_nan_is_not_known():
    _, shares = values("share")
    learned = np.array([0.5, 0.1, 0.9, 1.0, 0.4, 0.6])
    np.testing.assert_allclose(shares, (SHARE - learned.mean()) / learned.std(), rtol=1e-5)
    feature, codes = values("share:buckets")
    # Nine deciles of six numbers: as many buckets and one.
    assert feature.size == 10
    edges = np.quantile(learned, np.arange(1, 10) / 10)
    slow = [0 if np.isnan(share) else 1 + sum(share >= edge for edge in edges) for share in SHARE]
    assert codes.tolist() == slow


def test_shuffled_features_are_as_frequent_and_tell_nothing_new_twice():
    plain, shuffled = values("share")[1], values("share", shuffled_event_features=("share",))[1]
    assert plain.tolist() != shuffled.tolist()
    np.testing.assert_array_equal(np.sort(plain), np.sort(shuffled))
    np.testing.assert_array_equal(shuffled, values("share", shuffled_event_features=("share",))[1])


FEATURES = EventFeatureConfig(event_features=("device", "share", "gap", "session"))


@pytest.mark.parametrize("windows", [Windows(), Windows(whole=True), Windows(whole=True, random=True)])
@pytest.mark.parametrize("max_length", [2, 3, 10])
def test_a_batch_holds_what_is_known_of_each_event_wherever_it_stands(max_length, windows):
    store, split = a_store()
    features = event_features(FEATURES, store, split)
    batches = training_batches(
        store,
        split,
        max_length=max_length,
        batch_size=2,
        seed=0,
        windows=windows,
        fields=EventFields(features=features),
    )
    for step in range(4):
        check_batch(batches.batch(step), features, store)


def test_a_query_holds_what_is_known_of_its_history_and_nothing_of_its_target():
    store, split = a_store()
    features = event_features(FEATURES, store, split)
    options = {"max_length": 4, "batch_size": 2, "mask_seen": True, "fields": EventFields(features=features)}
    [queries] = make_queries(store, split.test, **options).batches()
    check_batch(queries.batch, features, store)
    assert not np.isin(queries.batch.items, queries.targets[queries.targets > 0]).any()


def check_batch(batch, features, store):
    # Items are numbered by their places, so that an item tells its event.
    places = batch.items[batch.items > 0] - 1
    assert set(batch.event_features) == {feature.name for feature in features}
    for name, expected in features_at(features, store, places).items():
        field = batch.event_features[name]
        np.testing.assert_array_equal(field[batch.items > 0], expected)
        assert not field[batch.items == 0].any()


def test_processes_share_the_features_of_a_batch():
    store, split = a_store()
    fields = EventFields(features=event_features(FEATURES, store, split))
    options = {"max_length": 3, "batch_size": 2, "seed": 0, "fields": fields}
    whole = training_batches(store, split, **options, share=Share(2)).batch(0)
    parts = [training_batches(store, split, **options, share=Share(2, i, 2)).batch(0) for i in (0, 1)]
    for name, field in whole.event_features.items():
        np.testing.assert_array_equal(field, np.concatenate([part.event_features[name] for part in parts]))


def test_without_features_a_batch_is_as_it_was():
    store, split = a_store()
    batch = training_batches(store, split, max_length=3, batch_size=2, seed=0).batch(0)
    assert batch.event_features is None
    assert event_features(EventFeatureConfig(), store, split) == ()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "devise",
            "'devise' is neither a column of the store's events (device, liked, share, timestamp_us) nor one of",
        ),
        ("share:vector", "'vector' is not one of categories, number, buckets, waves; write share:number"),
        ("hour:number", "hour:number is computed from times and has only categories; write hour"),
    ],
)
def test_a_feature_that_cannot_be_read_is_refused(name, complaint):
    with pytest.raises(InputError) as refusal:
        event_features(EventFeatureConfig(event_features=(name,)), *a_store())
    assert complaint in str(refusal.value)


def test_a_feature_without_its_data_is_refused():
    for name in ("gap", "hour:categories"):
        with pytest.raises(
            InputError, match="computed from times, but the store has no timestamp_us; prepare it with times"
        ):
            event_features(EventFeatureConfig(event_features=(name,)), *a_store(times=False))
    store, split = a_store()
    store = store._replace(columns={"share": np.full(12, np.nan), "loud": np.where(LIKED, np.inf, 0.0)})
    for name in ("share", "share:buckets"):
        with pytest.raises(InputError, match="no training event has a share; leave the event feature out"):
            event_features(EventFeatureConfig(event_features=(name,)), store, split)
    with pytest.raises(InputError, match="event loud holds a number that is infinite"):
        event_features(EventFeatureConfig(event_features=("loud",)), store, split)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"event_features": ("gap", "gap:waves")}, "event_features has a name twice: gap gap:waves"),
        ({"shuffled_event_features": ("gap",)}, "shuffled_event_features names gap, which is not in event_features"),
        ({"session_gap_minutes": 0.0}, "session_gap_minutes=0.0 is not above 0"),
    ],
)
def test_a_config_that_names_nothing_to_read_is_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        EventFeatureConfig(**options)
