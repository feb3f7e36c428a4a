"""Splits: which events are for training, for validation and for the test."""

import hashlib
import itertools
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from seqrec.data.moments import iso_moment
from seqrec.data.order_statistics import order_statistics
from seqrec.data.ragged import first_places, ranges
from seqrec.data.shards import user_blocks
from seqrec.data.store import SequenceStore
from seqrec.types import InputError

TargetChoice = Literal["first", "last"]


class Split(NamedTuple):
    """User u trains on `items[offsets[u]:train_stop[u]]`; targets are positions in `store.items`."""

    train_stop: Int64[np.ndarray, " n_users"]
    valid: Int64[np.ndarray, " n_users"]
    """Position of each user's validation target; -1 where the user has none."""
    test: Int64[np.ndarray, " n_users"]
    """Position of each user's test target; -1 where the user has none."""
    content_hash: str
    """sha256 over the store's hash and the arrays: equal hashes mean the same evaluation."""
    description: str
    test_start: Int64[np.ndarray, " n_users"] | None = None
    """User u's events from this position on are for the test; those from `train_stop` to it are for validation."""
    asks_every: bool = False
    """Whether every held-out event that has one before it is a target; `valid` and `test` are the last ones."""
    training_counts: Int64[np.ndarray, " n_items_plus_1"] | None = None
    """How often each item id occurs in training, where that is stored with the split."""


def target_positions(store: SequenceStore, split: Split) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """Positions in `store.items` of all targets of validation and of the test.

    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2, 3, 4, 5], [2, 3]])
    >>> [positions.tolist() for positions in target_positions(store, ask_every(store, leave_last_n_out(store, 2)))]
    [[1, 2], [3, 4]]
    """
    if not split.asks_every:
        return split.valid[split.valid >= 0], split.test[split.test >= 0]
    starts, stops = np.asarray(store.offsets[:-1]), np.asarray(store.offsets[1:])
    test_start = stops if split.test_start is None else split.test_start
    valid_first, test_first = np.maximum(split.train_stop, starts + 1), np.maximum(test_start, starts + 1)
    return (
        ranges(valid_first, np.where(split.valid >= 0, test_start - valid_first, 0)),
        ranges(test_first, np.where(split.test >= 0, stops - test_first, 0)),
    )


def ask_every(store: SequenceStore, split: Split) -> Split:
    """The split in which every held-out event that has one before it is a target, with all before it as its history."""
    every = split._replace(asks_every=True, description=f"{split.description}; there, every event is a target")
    return with_content_hash(store, every)


def leave_last_out(store: SequenceStore) -> Split:
    """The last event of each user is for the test, the last but one for validation, the rest for training.

    Users with fewer than three events train on all they have and are not evaluated.

    >>> from seqrec.data.store import store_from_sequences
    >>> split = leave_last_out(store_from_sequences([[1, 2, 3, 4], [2, 3]]))
    >>> split.train_stop.tolist(), split.valid.tolist(), split.test.tolist()
    ([2, 6], [2, -1], [3, -1])
    """
    return leave_last_n_out(store, 1)


def leave_last_n_out(store: SequenceStore, n_out: int, *, target: TargetChoice = "last") -> Split:
    """The last `n_out` events of each user are for the test, as many before them for validation, the rest for training.

    The target is the last or first event of either part: all before it, held out or not, is its history. Users with
    fewer than `2 * n_out + 1` events train on all they have and are not evaluated.

    >>> from seqrec.data.store import store_from_sequences
    >>> split = leave_last_n_out(store_from_sequences([[1, 2, 3, 4, 5], [2, 3, 4]]), 2)
    >>> split.train_stop.tolist(), split.valid.tolist(), split.test.tolist()
    ([1, 8], [2, -1], [4, -1])
    """
    stops, n_needed = np.asarray(store.offsets[1:]), 2 * n_out + 1
    evaluated = _have_enough(np.diff(store.offsets), n_out, "events", "give longer histories")
    if n_out == 1:
        name, tested, validated, trained = "", "last one", "last but one", "the rest"
    else:
        tested = f"first of the last {n_out}" if target == "first" else "last one"
        name, validated, trained = f"{n_out} ", f"one {n_out} before it", f"all but the last {2 * n_out}"
    description = (
        f"leave last {name}out: {np.sum(evaluated):,} users with {n_needed} or more events are tested on the {tested}, "
        f"validated on the {validated} and trained on {trained}; "
        f"{np.sum(~evaluated):,} users with fewer are trained on whole and not evaluated"
    )
    valid_start, test_start = (np.where(evaluated, stops - n_held_out, stops) for n_held_out in (2 * n_out, n_out))
    return _split(store, valid_start, test_start, description, target)


def _have_enough(
    n_own: Int64[np.ndarray, " n_users"], n_out: int, unit: str, remedy: str
) -> Bool[np.ndarray, " n_users"]:
    """Which users have `n_out` for validation, as many for the test, and one before; at least one user has."""
    if n_out < 1:
        raise InputError(f"n_out={n_out} is below 1; hold out at least one of the {unit}")
    if n_own.max(initial=0) < 2 * n_out + 1:
        raise InputError(
            f"no user has {2 * n_out + 1} {unit} (the most are {n_own.max(initial=0)}), so none can be evaluated by "
            f"leaving the last {'one' if n_out == 1 else n_out} out; {remedy}"
        )
    return n_own >= 2 * n_out + 1


def leave_last_sessions_out(store: SequenceStore, n_out: int, *, target: TargetChoice = "last") -> Split:
    """Each user's last `n_out` sessions are for the test, as many before them for validation, the rest for training.

    The first or the last event of either part is ranked, given all that the user did before it. Users with fewer than
    `2 * n_out + 1` sessions train on all they have and are not evaluated.

    >>> from seqrec.data.store import sequence_store
    >>> items, keys, sessions = np.array([1, 2, 1, 2, 2, 1]), np.array([1, 2]), np.array([0, 0, 1, 2, 2, 0])
    >>> store = sequence_store(items, np.array([0, 5, 6]), keys, keys, columns={"session": sessions})
    >>> split = leave_last_sessions_out(store, 1)
    >>> split.train_stop.tolist(), split.valid.tolist(), split.test.tolist()
    ([2, 6], [2, -1], [4, -1])
    """
    if "session" not in store.columns:
        raise InputError(
            "the store holds no column session, which a split by sessions is made of; "
            "prepare it with session_gap_seconds"
        )
    sessions, offsets = np.asarray(store.columns["session"]), np.asarray(store.offsets)
    starts, stops = offsets[:-1], offsets[1:]
    last = np.full(store.n_users, -1, np.int64)
    last[stops > starts] = sessions[stops[stops > starts] - 1]
    n_needed = 2 * n_out + 1
    remedy = "give longer histories or a shorter session_gap_seconds"
    evaluated = _have_enough(last + 1, n_out, "sessions", remedy)
    valid_start, test_start = (
        first_places(sessions, offsets, np.where(evaluated, last - n_before, last + 1))
        for n_before in (n_needed - 2, n_out - 1)
    )
    description = (
        f"leave last {n_out} sessions out: {np.sum(evaluated):,} users with {n_needed} or more sessions are tested on "
        f"the {target} event of the last {n_out}, validated on that of the {n_out} before and trained on the rest; "
        f"{np.sum(~evaluated):,} users with fewer are trained on whole and not evaluated"
    )
    return _split(store, valid_start, test_start, description, target)


def window_starts(store: SequenceStore, valid_share: float, test_share: float) -> tuple[int, int]:
    """(valid_start, test_start) in microseconds, after which about these shares of all events lie.

    Events of one moment are never parted, so where many share one, the shares are met less closely.

    >>> from seqrec.data.store import sequence_store
    >>> times = {"timestamp_us": np.arange(10) * 10}
    >>> keys = np.array([1])
    >>> window_starts(sequence_store(np.ones(10, int), np.array([0, 10]), keys, keys, columns=times), 0.2, 0.1)
    (70, 90)
    """
    times = _times(store)
    shares = (valid_share + test_share, test_share)
    places = [min(round(len(times) * (1 - share)), len(times) - 1) for share in shares]
    valid_start, test_start = order_statistics(times, places)
    return valid_start, test_start


def temporal(store: SequenceStore, valid_start: int, test_start: int, *, window_target: TargetChoice = "last") -> Split:
    """Events before `valid_start` (microseconds) are for training, those from `test_start` on for the test.

    Events between them are for validation. The moments are the same for all users, as in production: no model sees
    what happened later. A user's target is the first or the last of the user's events in a window, with all events
    before it as the history; a user without a history has no target, and is counted.

    >>> from seqrec.data.store import sequence_store
    >>> times = {"timestamp_us": np.array([10, 20, 30, 31, 15, 30])}
    >>> items, keys = np.array([1, 2, 3, 1, 2, 3]), np.array([1, 2, 3])
    >>> store = sequence_store(items, np.array([0, 4, 6]), keys, keys[:2], columns=times)
    >>> split = temporal(store, 20, 30)
    >>> split.train_stop.tolist(), split.valid.tolist(), split.test.tolist()
    ([1, 5], [1, -1], [3, 5])
    """
    if valid_start >= test_start:
        raise InputError(
            f"validation would begin at {iso_moment(valid_start)}, not before the test at {iso_moment(test_start)}; "
            "name an earlier valid_start, or larger shares"
        )
    times, offsets = _times(store), np.asarray(store.offsets)
    valid_first, test_first = np.empty((2, store.n_users), np.int64)
    for users, (own_times,) in user_blocks(offsets, times):
        own_offsets = offsets[users.start : users.stop + 1]
        for firsts, moment in ((valid_first, valid_start), (test_first, test_start)):
            later = np.flatnonzero(own_times >= moment)
            firsts[users] = own_offsets[1:] - np.diff(np.searchsorted(later, own_offsets - own_offsets[0]))
    bounds = [offsets[:-1], valid_first, test_first, offsets[1:]]
    counts = [int(np.sum(end - start)) for start, end in itertools.pairwise(bounds)]
    for window, count in zip(("training", "validation", "the test"), counts, strict=True):
        if count == 0:
            raise InputError(
                f"no event is left for {window} with windows from {iso_moment(valid_start)} and "
                f"{iso_moment(test_start)}, the events are of {iso_moment(times.min())} to {iso_moment(times.max())}; "
                "name moments between these"
            )
    split = _split(store, valid_first, test_first, "", window_target)
    if part := _part_of_nobody(split):
        raise InputError(
            f"no user has an event in the {part} window and another before it; "
            f"name moments other than {iso_moment(valid_start)} and {iso_moment(test_start)}"
        )
    n_asked = [int(np.sum(targets >= 0)) for targets in (split.valid, split.test)]
    n_there = [int(np.sum(end > start)) for start, end in itertools.pairwise(bounds[1:])]
    return split._replace(
        description=f"temporal: {counts[0]:,} events before {iso_moment(valid_start)} train, {counts[1]:,} before "
        f"{iso_moment(test_start)} validate, {counts[2]:,} from then on test; the {window_target} event of a user in a "
        f"window is the target: {n_asked[0]:,} users are validated on and {n_asked[1]:,} tested "
        f"({n_there[0] - n_asked[0]:,} and {n_there[1] - n_asked[1]:,} have none before it and are not)"
    )


def users_held_out(store: SequenceStore, valid_share: float, test_share: float, *, seed: int) -> Split:
    """About these shares of users validate and test, on their last event; nothing of them is trained on.

    Who is held out depends on the user's key and the seed alone, so that an appended store holds out the same.
    Held-out users with one event are not asked about.
    """
    draws = _draws(store, seed)
    is_test = draws < test_share
    is_valid = ~is_test & (draws < test_share + valid_share)
    return _hold_out(store, is_valid, is_test, name=f"users held out (seed {seed})")


def marked_users_held_out(store: SequenceStore, valid_share: float, *, seed: int | None) -> Split:
    """Users whose column `part` is 1 test, on their last event; a share of the others validates.

    As by `users_held_out`, none of them is trained on, and the seed and the user's key alone say who validates; without
    a seed the last of the others in the store's order do.

    >>> from seqrec.data.store import sequence_store
    >>> parts = {"part": np.array([0, 0, 1, 1])}
    >>> store = sequence_store(np.array([1, 2, 2, 1]), np.array([0, 2, 4]), np.arange(2), np.arange(2), columns=parts)
    >>> marked_users_held_out(store, 0.999, seed=0).test.tolist()
    [-1, 3]
    """
    if "part" not in store.columns:
        raise InputError(
            "the store holds no column part, which says who is tested; prepare it from sessions in two files, "
            "or split by users"
        )
    starts, stops = np.asarray(store.offsets[:-1]), np.asarray(store.offsets[1:])
    parts = np.asarray(store.columns["part"])
    is_test = np.zeros(store.n_users, bool)
    is_test[stops > starts] = parts[starts[stops > starts]] == 1
    if seed is None:
        others = np.cumsum(~is_test)
        is_valid, chosen = ~is_test & (others > (1 - valid_share) * others[-1]), "on the newest of the others"
    else:
        is_valid, chosen = ~is_test & (_draws(store, seed) < valid_share), f"by seed {seed}"
    return _hold_out(store, is_valid, is_test, name=f"users held out as the data marks them (validation {chosen})")


def _draws(store: SequenceStore, seed: int) -> Float64[np.ndarray, " n_users"]:
    """For each user a draw from [0, 1) that depends on the user's key and the seed alone."""
    keys = itertools.chain.from_iterable(batch.to_pylist() for batch in store.user_table.batches("key"))
    texts = (f"{seed} {type(key).__name__} {key}" for key in keys)
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.fromiter((int.from_bytes(digest, "little") / 2**64 for digest in digests), np.float64, store.n_users)


def _hold_out(
    store: SequenceStore, is_valid: Bool[np.ndarray, " n_users"], is_test: Bool[np.ndarray, " n_users"], *, name: str
) -> Split:
    starts, stops = np.asarray(store.offsets[:-1]), np.asarray(store.offsets[1:])
    description = (
        f"{name}: {np.sum(is_valid):,} users validate and {np.sum(is_test):,} test, on their "
        f"last event where they have two; the other {np.sum(~is_valid & ~is_test):,} are trained on whole"
    )
    split = _split(store, np.where(is_test | is_valid, starts, stops), np.where(is_test, starts, stops), description)
    if part := _part_of_nobody(split):
        raise InputError(
            f"no user of two or more events is held out for {part} out of {store.n_users:,}; give a larger "
            f"{part.removesuffix('ation')}_share or more users"
        )
    return split


def _split(
    store: SequenceStore,
    valid_start: Int64[np.ndarray, " n_users"],
    test_start: Int64[np.ndarray, " n_users"],
    description: str,
    target: TargetChoice = "last",
) -> Split:
    """The split at these places of each user's events; the target of a part is its first or last event.

    A part that is empty, or whose target has no event before it, has no target.
    """
    starts, stops = np.asarray(store.offsets[:-1]), np.asarray(store.offsets[1:])

    def targets(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        position = begin if target == "first" else end - 1
        return np.where((begin < end) & (position > starts), position, -1)

    valid, test = targets(valid_start, test_start), targets(test_start, stops)
    return with_content_hash(store, Split(valid_start, valid, test, "", description, test_start))


def _part_of_nobody(split: Split) -> str | None:
    """The part, validation or test, in which nobody has a target; None if both have targets."""
    parts = (("validation", split.valid), ("test", split.test))
    return next((part for part, targets in parts if not np.any(targets >= 0)), None)


def check_no_leakage(store: SequenceStore, split: Split, *, is_temporal: bool) -> None:
    """Checks that no held-out event is trained on and, in a temporal split, none later than a target.

    Raises:
      InputError: the first user whose events leak, and why.
    """
    starts, stops, train_stop = np.asarray(store.offsets[:-1]), np.asarray(store.offsets[1:]), split.train_stop
    parts = {"validation": split.valid, "test": split.test}
    is_trained = {
        part: (targets >= 0) & ((targets < train_stop) | (targets >= stops)) for part, targets in parts.items()
    }
    not_held_out = (
        "of user {key} is not among the held-out events {train_stop} to {last} ({n:,} users); "
        "let train_stop end before every target"
    )
    leaks = {
        "user {key} would train up to event {train_stop}, the user's own are {first} to {last}; "
        "split the store that the split was made for": (train_stop < starts) | (train_stop > stops),
        "the validation event {valid} " + not_held_out: is_trained["validation"],
        "the test event {test} " + not_held_out: is_trained["test"],
        "user {key} is validated on event {valid}, not before the test event {test}; validate on earlier events": (
            (split.valid >= 0) & (split.test >= 0) & (split.valid >= split.test)
        ),
    }
    for message, is_leak in leaks.items():
        if np.any(is_leak):
            user = int(np.argmax(is_leak))
            places = {"first": starts[user], "last": stops[user] - 1, "train_stop": train_stop[user]}
            places |= {"key": store.user_keys[user], "valid": split.valid[user], "test": split.test[user]}
            raise InputError(f"leakage: {message.format(**places, n=int(is_leak.sum()))}")
    if not is_temporal:
        return
    # The newest and the oldest event of each part, of which training has its users' last ones.
    ends = {"training": np.where(train_stop > starts, train_stop - 1, -1), **parts}
    newest, oldest = (dict.fromkeys(ends, extreme) for extreme in (np.iinfo(np.int64).min, np.iinfo(np.int64).max))
    for users, (own_times,) in user_blocks(np.asarray(store.offsets), _times(store)):
        first, own_stops = starts[users.start], stops[users] - starts[users.start]
        backwards = own_times[1:] < own_times[:-1]
        backwards[own_stops[(own_stops > 0) & (own_stops < len(own_times))] - 1] = False
        if np.any(backwards):
            raise InputError(
                f"leakage: event {first + int(np.argmax(backwards)) + 1} is earlier than the one before "
                "it of the same user; prepare the data again, which sorts it"
            )
        for part, events in ends.items():
            times = own_times[events[users][events[users] >= 0] - first]
            newest[part] = times.max(initial=newest[part])
            oldest[part] = times.min(initial=oldest[part])
    for earlier, later in itertools.combinations(ends, 2):
        if (last := newest[earlier]) >= (first := oldest[later]):
            raise InputError(
                f"leakage: {earlier} goes up to {iso_moment(last)}, a {later} event is of {iso_moment(first)}; "
                f"leave nothing to {earlier} from the first {later} event's moment on"
            )


def _times(store: SequenceStore) -> Any:
    if "timestamp_us" not in store.columns:
        raise InputError(
            "the store holds no timestamp_us, which a temporal split is made of; prepare it from data with times"
        )
    if store.n_events == 0:
        raise InputError("the store holds no events to split by time; prepare it from a log that does")
    return store.columns["timestamp_us"]


def with_content_hash(store: SequenceStore, split: Split) -> Split:
    """The split with its hash, of the store's content hash as it is now and of who is asked what."""
    targets = target_positions(store, split) if split.asks_every else (split.valid, split.test)
    digest = hashlib.sha256(f"seqrec split 1\n{store.content_hash}\n".encode())
    for array in (split.train_stop, *targets):
        digest.update(np.ascontiguousarray(array, dtype="<i8").data)
    return split._replace(content_hash=digest.hexdigest())
