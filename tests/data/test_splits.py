import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.splits import (
    Split,
    check_no_leakage,
    leave_last_n_out,
    leave_last_out,
    leave_last_sessions_out,
    target_positions,
    temporal,
    users_held_out,
    window_starts,
)
from seqrec.data.store import sequence_store, store_from_sequences
from seqrec.types import InputError

HISTORIES = [[5, 1, 2, 4], [3], [2, 3], [1, 5, 3]]


def test_the_last_event_is_for_the_test_and_the_one_before_for_validation():
    store = store_from_sequences(HISTORIES)
    split = leave_last_out(store)
    for user, history in enumerate(HISTORIES):
        trained = store.items[store.offsets[user] : split.train_stop[user]].tolist()
        if len(history) >= 3:
            assert trained == history[:-2]
            assert store.items[split.valid[user]] == history[-2]
            assert store.items[split.test[user]] == history[-1]
        else:
            assert trained == history
            assert split.valid[user] == split.test[user] == -1


def test_arrays_are_int64():
    split = leave_last_out(store_from_sequences(HISTORIES))
    assert {split.train_stop.dtype, split.valid.dtype, split.test.dtype} == {np.dtype(np.int64)}


def test_the_description_counts_who_is_evaluated_and_who_is_not():
    description = leave_last_out(store_from_sequences(HISTORIES)).description
    assert "2 users with 3 or more events" in description
    assert "2 users with fewer" in description


def test_equal_histories_have_equal_hashes_and_any_change_of_order_another():
    first = leave_last_out(store_from_sequences(HISTORIES))
    again = leave_last_out(store_from_sequences([list(history) for history in HISTORIES]))
    other = leave_last_out(store_from_sequences([[5, 1, 4, 2], *HISTORIES[1:]]))
    assert first.content_hash == again.content_hash != other.content_hash


def test_nobody_with_three_events_is_refused():
    with pytest.raises(InputError, match=r"no user has 3 events \(the most are 2\)"):
        leave_last_out(store_from_sequences([[1, 2], [2]]))


def test_no_user_at_all_is_refused():
    with pytest.raises(InputError, match="no user has 3 events"):
        leave_last_out(store_from_sequences([], n_items=4))


histories_strategy = st.lists(st.lists(st.integers(0, 12), max_size=9), min_size=1, max_size=8)


def timed_store(times, items=None):
    """A store of users with these times, each in order, and of items that are of no matter."""
    lengths = [len(history) for history in times]
    flat = np.array([time for history in times for time in sorted(history)], np.int64)
    return sequence_store(
        np.arange(len(flat)) % 3 + 1 if items is None else np.array(items),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_keys=np.array([1, 2, 3]),
        user_keys=np.arange(len(times)) + 100,
        columns={"timestamp_us": flat},
    )


def test_leaving_one_out_is_leave_last_out():
    store = store_from_sequences(HISTORIES)
    assert leave_last_n_out(store, 1).content_hash == leave_last_out(store).content_hash


@given(histories_strategy, st.integers(1, 3), st.sampled_from(["first", "last"]))
def test_the_last_n_are_for_the_test_and_the_n_before_for_validation(times, n_out, target):
    store = timed_store(times)
    if all(len(history) < 2 * n_out + 1 for history in times):
        with pytest.raises(InputError, match=f"no user has {2 * n_out + 1} events"):
            leave_last_n_out(store, n_out, target=target)
        return
    split = leave_last_n_out(store, n_out, target=target)
    for user, history in enumerate(times):
        places = list(range(store.offsets[user], store.offsets[user + 1]))
        if len(history) < 2 * n_out + 1:
            assert (split.train_stop[user], split.valid[user], split.test[user]) == (store.offsets[user + 1], -1, -1)
        else:
            assert split.train_stop[user] == places[-2 * n_out]
            held_out = places[-2 * n_out : -n_out], places[-n_out:]
            targets = [part[0 if target == "first" else -1] for part in held_out]
            assert [split.valid[user], split.test[user]] == targets
    check_no_leakage(store, split, is_temporal=False)


@given(histories_strategy, st.integers(1, 11), st.integers(1, 6), st.sampled_from(["first", "last"]))
def test_a_temporal_split_is_by_moments_alone(times, valid_start, width, window_target):
    store, test_start = timed_store(times), valid_start + width
    flat = [time for history in times for time in history]
    parts = [
        [time < valid_start for time in flat],
        [valid_start <= time < test_start for time in flat],
        [time >= test_start for time in flat],
    ]
    expected = {"valid": [], "test": []}
    for user, history in enumerate(times):
        history, start = sorted(history), store.offsets[user]
        windows = {"valid": (valid_start, test_start), "test": (test_start, 99)}
        for name, (low, high) in windows.items():
            places = [place for place, time in enumerate(history) if low <= time < high]
            target = places[0 if window_target == "first" else -1] if places else 0
            # The first event of all has no history to ask with.
            expected[name].append(start + target if target > 0 else -1)
    if not all(map(any, parts)) or any(max(positions) < 0 for positions in expected.values()):
        with pytest.raises(InputError, match=r"no event is left for|no events to|no user has an event in the"):
            temporal(store, valid_start, test_start, window_target=window_target)
        return
    split = temporal(store, valid_start, test_start, window_target=window_target)
    assert split.valid.tolist() == expected["valid"]
    assert split.test.tolist() == expected["test"]
    trained = [
        time
        for u, _ in enumerate(times)
        for time in store.columns["timestamp_us"][store.offsets[u] : split.train_stop[u]]
    ]
    assert sorted(trained) == sorted(time for time in flat if time < valid_start)
    check_no_leakage(store, split, is_temporal=True)


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=9), min_size=1, max_size=6),
    st.integers(1, 2),
    st.sampled_from(["first", "last"]),
)
def test_the_last_sessions_are_for_the_test_and_those_before_for_validation(pauses, n_out, target):
    # A user's sessions rise by one after each pause; here a pause is a draw of 0.
    sessions = [
        [sum(pause == 0 for pause in history[1 : place + 1]) for place in range(len(history))] for history in pauses
    ]
    store = timed_store(pauses)
    store = sequence_store(
        store.items,
        store.offsets,
        store.item_keys,
        store.user_keys,
        columns={"session": np.array([number for history in sessions for number in history], np.int32)},
    )
    n_sessions = [history[-1] + 1 if history else 0 for history in sessions]
    if max(n_sessions) < 2 * n_out + 1:
        with pytest.raises(
            InputError, match=rf"no user has {2 * n_out + 1} sessions \(the most are {max(n_sessions)}\)"
        ):
            leave_last_sessions_out(store, n_out, target=target)
        return
    split = leave_last_sessions_out(store, n_out, target=target)
    for user, history in enumerate(sessions):
        start, stop = store.offsets[user], store.offsets[user + 1]
        if n_sessions[user] < 2 * n_out + 1:
            assert (split.train_stop[user], split.valid[user], split.test[user]) == (stop, -1, -1)
            continue
        parts = [
            [start + place for place, number in enumerate(history) if low <= number - n_sessions[user] < high]
            for low, high in ((-99, -2 * n_out), (-2 * n_out, -n_out), (-n_out, 0))
        ]
        assert split.train_stop[user] == parts[0][-1] + 1
        place = 0 if target == "first" else -1
        assert (split.valid[user], split.test[user]) == (parts[1][place], parts[2][place])
    check_no_leakage(store, split, is_temporal=False)
    config = SplitConfig(split="sessions", n_out=n_out, window_target=target)
    assert split_store(store, config).content_hash == split.content_hash


def test_a_store_without_sessions_has_no_split_by_them():
    with pytest.raises(InputError, match=r"no column session, .* prepare it with session_gap_seconds"):
        split_store(store_from_sequences(HISTORIES), SplitConfig(split="sessions"))


def test_windows_hold_the_shares_asked_for_and_never_part_a_moment():
    store = timed_store([list(range(60)), [5] * 40])
    times = store.columns["timestamp_us"]
    valid_start, test_start = window_starts(store, 0.2, 0.1)
    assert np.mean(times >= test_start) == pytest.approx(0.1)
    assert np.mean((times >= valid_start) & (times < test_start)) == pytest.approx(0.2)
    # A fifth of the events for training would end among the 41 of moment 5, all of which go to validation.
    assert window_starts(store, 0.7, 0.1) == (5, test_start)


def test_held_out_users_are_not_trained_on_and_an_appended_store_holds_out_the_same():
    times = [[1, 2, 3]] * 400
    few, many = timed_store(times[:300]), timed_store(times)
    small, large = (users_held_out(store, 0.2, 0.1, seed=7) for store in (few, many))
    np.testing.assert_array_equal(small.test >= 0, (large.test >= 0)[:300])
    assert np.mean(large.test >= 0) == pytest.approx(0.1, abs=0.05)
    assert np.mean(large.valid >= 0) == pytest.approx(0.2, abs=0.06)
    held = (large.test >= 0) | (large.valid >= 0)
    np.testing.assert_array_equal(large.train_stop, np.where(held, many.offsets[:-1], many.offsets[1:]))
    np.testing.assert_array_equal(large.test[large.test >= 0], many.offsets[1:][large.test >= 0] - 1)
    assert users_held_out(few, 0.2, 0.1, seed=8).content_hash != small.content_hash
    check_no_leakage(few, small, is_temporal=False)


@pytest.mark.parametrize(
    "config",
    [
        SplitConfig(n_out=2, window_target="every"),
        SplitConfig(split="users", valid_share=0.3, test_share=0.3, window_target="every"),
        SplitConfig(split="marked-users", valid_share=0.3, window_target="every"),
        SplitConfig(split="temporal", valid_share=0.3, test_share=0.3, window_target="every"),
        SplitConfig(split="sessions", window_target="every"),
    ],
    ids=lambda config: config.split,
)
def test_every_held_out_event_with_one_before_it_is_asked_about(config):
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 9, 60))])
    users = np.repeat(np.arange(60), np.diff(offsets))
    places = np.arange(offsets[-1]) - offsets[users]
    columns = {"timestamp_us": places * 1000 + users, "session": places // 2, "part": (users % 3 == 0).astype(np.int64)}
    store = sequence_store(np.ones(offsets[-1], int), offsets, np.array([1]), np.arange(60), columns=columns)
    split = split_store(store, config)
    last = split_store(store, dataclasses.replace(config, window_target="last"))
    valid, test = target_positions(store, split)
    is_trained = np.arange(store.n_events) < split.train_stop[users]
    assert set(valid) | set(test) == set(np.flatnonzero(~is_trained & (places > 0)))
    assert not set(valid) & set(test)
    # Among them are those that are asked about when it is the last one alone, and each is on its own side.
    for mine, alone in zip((valid, test), target_positions(store, last), strict=True):
        assert set(alone) <= set(mine)
    for user in np.intersect1d(users[valid], users[test]):
        assert valid[users[valid] == user].max() < test[users[test] == user].min()
    assert split.content_hash != last.content_hash


def test_the_data_may_say_who_is_tested():
    parts = {"part": np.repeat([0, 1], [30, 10])}
    histories = [[1, 2]] * 20
    plain = store_from_sequences(histories)
    store = sequence_store(plain.items, plain.offsets, plain.item_keys, plain.user_keys, columns=parts)
    split = split_store(store, SplitConfig(split="marked-users", valid_share=0.3))
    assert np.flatnonzero(split.test >= 0).tolist() == list(range(15, 20))
    assert np.all(split.valid[15:] == -1)
    assert np.any(split.valid[:15] >= 0)
    newest = split_store(store, SplitConfig(split="marked-users", valid_share=0.2, valid_newest=True))
    assert np.flatnonzero(newest.valid >= 0).tolist() == [12, 13, 14]
    np.testing.assert_array_equal(newest.test, split.test)
    with pytest.raises(InputError, match="no column part"):
        split_store(plain, SplitConfig(split="marked-users"))
    with pytest.raises(ValueError, match="valid_newest is for split=marked-users, not users; leave it out"):
        SplitConfig(split="users", valid_newest=True)


def test_a_store_without_times_has_no_temporal_split():
    with pytest.raises(InputError, match="holds no timestamp_us"):
        split_store(store_from_sequences(HISTORIES), SplitConfig(split="temporal"))


def test_moments_are_utc():
    day = 24 * 3600 * 1_000_000
    store = timed_store([[0, day, 2 * day - 1, 2 * day]])
    config = SplitConfig(split="temporal", valid_start="1970-01-02", test_start="1970-01-03T00:00:00Z")
    split = split_store(store, config)
    assert (split.train_stop.tolist(), split.valid.tolist(), split.test.tolist()) == ([1], [2], [3])
    assert "before 1970-01-02T00:00:00Z train" in split.description


LEAKS = {
    "trained test event": ({"train_stop": [4, 8]}, False, r"the validation event 2 of user 100 is not among .* 4 to 3"),
    "trained test event alone": (
        {"train_stop": [4, 6], "valid": [-1, -1]},
        False,
        r"the test event 3 of user 100 .*\(1 users\)",
    ),
    "another user's event": ({"test": [5, 7]}, False, "the test event 5 of user 100"),
    "another user's training": ({"train_stop": [5, 6]}, False, "user 100 would train up to event 5"),
    "validated after the test": ({"valid": [3, 6]}, False, "user 100 is validated on event 3, not before"),
    "later than a test event": ({}, True, r"training goes up to 1970-01-01T00:00:00.000021Z, a validation event is of"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_found_and_named(leak):
    # The second user's training, at 20 and 21, is later than the first's test, at 4.
    store = timed_store([[1, 2, 3, 4], [20, 21, 22, 23]])
    split = leave_last_out(store)
    check_no_leakage(store, split, is_temporal=False)
    changes, is_temporal, message = LEAKS[leak]
    changed = split._replace(**{name: np.array(values) for name, values in changes.items()})
    with pytest.raises(InputError, match=f"leakage: .*{message}") as caught:
        check_no_leakage(store, changed, is_temporal=is_temporal)
    assert "\n" not in str(caught.value)


def test_validation_later_than_a_test_event_is_a_leak_in_time():
    store = timed_store([[1, 5, 9], [2, 3, 6]])
    split = Split(np.array([1, 4]), np.array([2, -1]), np.array([-1, 5]), "", "")
    with pytest.raises(InputError, match=r"leakage: validation goes up to .*9Z, a test event is of .*6Z"):
        check_no_leakage(store, split, is_temporal=True)


def test_events_out_of_order_are_a_leak_in_time():
    store = sequence_store(
        np.array([1, 1, 1, 1]),
        np.array([0, 3, 4]),
        np.array([1]),
        np.array([1, 2]),
        columns={"timestamp_us": np.array([5, 9, 8, 1])},
    )
    split = Split(np.array([1, 4]), np.array([1, -1]), np.array([2, -1]), "", "")
    with pytest.raises(InputError, match="event 2 is earlier than the one before it"):
        check_no_leakage(store, split, is_temporal=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_out": 0}, "n_out=0 is below 1"),
        ({"valid_share": 0.0}, r"valid_share=0.0 is not a share in \(0, 1\)"),
        ({"valid_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"valid_start": "2020-01-01"}, "give both or neither"),
        ({"valid_start": "2020-01-02", "test_start": "2020-01-01"}, "is not before"),
        ({"valid_start": "yesterday", "test_start": "2020-01-01"}, "'yesterday' is not an ISO date"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused_early(fields, message):
    with pytest.raises(ValueError, match=message):
        SplitConfig(**fields)
