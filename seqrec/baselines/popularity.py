"""Popularity and personal popularity: the ranks a model has to beat, without a model.

A query is the position of a held-out item in the store; its history is everything its user did before it,
the whole of it. No `[n_queries, n_items]` array is made: a rank is counted in the sorted popularities of the
catalogue and then corrected for the few items of the history.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from seqrec.baselines.numpy_ranks import ranks_of_counts
from seqrec.data.ragged import blocks, distinct, ranges, rows_at
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore, add_counts
from seqrec.data.stored_splits import count_training
from seqrec.types import InputError


def training_counts(store: SequenceStore, split: Split, *, repeats: bool = True) -> Int[np.ndarray, " n_items_plus_1"]:
    """How often each item id occurs in the training part of the histories; entry 0 (padding) is 0.

    Repeats of one user count each time; without `repeats` they count once, which makes these counts of users.

    >>> from seqrec.data.splits import leave_last_out
    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2, 2, 3], [1, 3, 2, 3]])
    >>> training_counts(store, leave_last_out(store)).tolist()
    [0, 2, 1, 1]
    """
    if repeats:
        return count_training(store, split) if split.training_counts is None else split.training_counts
    starts, stops = np.asarray(store.offsets[:-1]), np.asarray(split.train_stop)
    n_ids = store.n_items + 1
    counts = np.zeros(n_ids, np.int64)
    for block in blocks(stops - starts):
        lengths = stops[block] - starts[block]
        items = store.items[ranges(starts[block], lengths)]
        pairs = distinct(np.repeat(np.arange(lengths.size), lengths) * n_ids + items)
        add_counts(counts, pairs % n_ids)
    return counts


def tie_breaks(counts: Int[np.ndarray, " n_items_plus_1"]) -> Float[np.ndarray, " n_items_plus_1"]:
    """Scores that rise with the count and are below 1e-9: popularity, where another score does not decide."""
    scores: Float[np.ndarray, " n_items_plus_1"] = 1e-9 * counts / (counts.max() + 1.0)
    return scores


def recent_counts(store: SequenceStore, split: Split, *, days: float) -> Int[np.ndarray, " n_items_plus_1"]:
    """As `training_counts`, of the last `days` before the newest training event alone: what is popular now.

    Raises:
      InputError: the store holds no times.
    """
    if "timestamp_us" not in store.columns:
        raise InputError("the store holds no timestamp_us, which recent popularity is made of; prepare it with times")
    times = store.columns["timestamp_us"]
    starts = np.asarray(store.offsets[:-1])
    trained = ranges(starts, np.asarray(split.train_stop) - starts)
    moments = times[trained]
    recent = trained[moments > moments.max(initial=np.iinfo(np.int64).min) - days * 86_400_000_000]
    return np.bincount(store.items[recent], minlength=store.n_items + 1)


def popularity_ranks(
    store: SequenceStore,
    target_positions: Int[np.ndarray, " n_queries"],
    counts: Int[np.ndarray, " n_items_plus_1"],
    *,
    mask_seen: bool,
    personal: bool = False,
    report: Callable[[int], None] | None = None,
) -> tuple[Float[np.ndarray, " n_queries"], Int[np.ndarray, " n_queries"]]:
    """Ranks of the items at `target_positions` by `counts`, and the number of candidates of each.

    Candidates are the whole catalogue. With `mask_seen` the distinct items of the query's history leave it,
    except the target, which stays even where it is a repeat. A tie costs half. A user without a target has no
    query: leave the positions of -1 out, and count them.

    `personal` popularity is the item's count in the query's own history first, then `counts`. With `mask_seen` the
    target is the only item left with an own count, so a repeat ranks first: compare models under the same choice.

    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2, 2, 3], [1, 3, 2, 3]])
    >>> counts, tests = np.array([0, 2, 1, 1]), np.array([3, 7])
    >>> [array.tolist() for array in popularity_ranks(store, tests, counts, mask_seen=False)]
    [[2.5, 2.5], [3, 3]]
    >>> [array.tolist() for array in popularity_ranks(store, tests, counts, mask_seen=True)]
    [[1.0, 1.0], [1, 1]]
    >>> [array.tolist() for array in popularity_ranks(store, tests, counts, mask_seen=False, personal=True)]
    [[3.0, 2.5], [3, 3]]
    """
    check_positions(target_positions, store.n_events)
    if counts.shape != (store.n_items + 1,):
        raise InputError(
            f"counts has shape {counts.shape}, the store has {store.n_items} items; "
            f"pass one count per id 0..n_items, as training_counts returns"
        )
    history_starts = store.offsets[rows_at(store.offsets, target_positions)]
    sorted_counts = np.sort(counts[1:])
    ranks = np.empty(target_positions.size, np.float64)
    n_candidates = np.full(target_positions.size, store.n_items, np.int64)
    for block in blocks(target_positions - history_starts):
        positions = target_positions[block]
        targets = np.asarray(store.items[positions])
        target_counts = counts[targets]
        # First the whole catalogue by popularity alone; the target is one of those tied with it.
        n_not_above = np.searchsorted(sorted_counts, target_counts, side="right")
        n_above = store.n_items - n_not_above
        n_tied = n_not_above - np.searchsorted(sorted_counts, target_counts, side="left") - 1
        if mask_seen or personal:
            queries, items, own_counts, target_own_counts = _seen_items(
                store, history_starts[block], positions, targets
            )
            above = counts[items] > target_counts[queries]
            tied = counts[items] == target_counts[queries]
            # Now the unseen items alone …
            n_above -= np.bincount(queries[above], minlength=positions.size)
            n_tied -= np.bincount(queries[tied], minlength=positions.size)
            if personal:
                # … all of which a repeat beats …
                n_above[target_own_counts > 0] = 0
                n_tied[target_own_counts > 0] = 0
            if mask_seen:
                n_candidates[block] -= np.bincount(queries, minlength=positions.size)
            else:
                # … and the seen ones again, by own count first.
                own_above = own_counts > target_own_counts[queries]
                own_tied = own_counts == target_own_counts[queries]
                n_above += np.bincount(queries[own_above | (own_tied & above)], minlength=positions.size)
                n_tied += np.bincount(queries[own_tied & tied], minlength=positions.size)
        ranks[block] = ranks_of_counts(n_above, n_tied)
        if report is not None:
            report(len(positions))
    return ranks, n_candidates


def check_positions(target_positions: Int[np.ndarray, " n_queries"], n_events: int) -> None:
    """Refuses positions that hold no event, such as the -1 of users without a target."""
    if target_positions.size and (target_positions.min() < 0 or target_positions.max() >= n_events):
        raise InputError(
            f"target_positions go from {target_positions.min()} to {target_positions.max()}, "
            f"the store has events 0..{n_events - 1}; drop users without a target: positions[positions >= 0]"
        )


def _seen_items(
    store: SequenceStore, starts: np.ndarray, stops: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Queries, items and counts of the histories' distinct items but the targets, and the targets' counts."""
    positions = ranges(starts, stops - starts)
    queries = np.repeat(np.arange(targets.size), stops - starts)
    n_ids = store.n_items + 1
    pairs, own_counts = np.unique(queries * n_ids + store.items[positions], return_counts=True)
    queries, items = np.divmod(pairs, n_ids)
    is_target = items == targets[queries]
    target_own_counts = np.zeros(targets.size, np.int64)
    target_own_counts[queries[is_target]] = own_counts[is_target]
    return queries[~is_target], items[~is_target], own_counts[~is_target], target_own_counts
