"""Figures with intervals from ranks, as JSON and as a printed table, and the rank table as a file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from seqrec.baselines.popularity import training_counts
from seqrec.data.ragged import distinct
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.evaluation import RankTable
from seqrec.files import JsonObject, replacing
from seqrec.metrics import metric_values
from seqrec.stats.bootstrap import bootstrap_intervals


def figures(
    ranks: Float[np.ndarray, "queries *n_targets"],
    *,
    users: Int[np.ndarray, " queries"],
    ks: Sequence[int] = (5, 10, 20),
    where: Bool[np.ndarray, "queries n_targets"] | None = None,
    report: Callable[[int], None] = lambda n_resamples: None,
) -> JsonObject:
    """Mean of each metric over queries, `n_users`, and `intervals`: the 95% bootstrap interval of each mean over users.

    If some users have several queries, there are also `n_queries` and MRR@k, the metric of sessions that are queried
    after each of their events (Hidasi et al. 2016, section 4). `report` is told of the `N_RESAMPLES` that are done.
    """
    n_users = len(distinct(users))
    several = users if n_users < len(users) else None
    at_k = ("recall", "ndcg") if several is None else ("recall", "ndcg", "mrr")
    by_metric = metric_values(ranks, ks=ks, at_k=at_k, where=where)
    values = {name: np.asarray(value, np.float64) for name, value in by_metric.items()}
    lower, upper = bootstrap_intervals(np.stack(list(values.values()), axis=1), users=several, report=report)
    return {
        **{name: float(value.mean()) for name, value in values.items()},
        "n_users": n_users,
        **({} if several is None else {"n_queries": len(ranks)}),
        "intervals": {name: [float(lower[i]), float(upper[i])] for i, name in enumerate(values)},
    }


def side_task_figures(
    losses: Mapping[str, Float[np.ndarray, " queries"]],
    base_rate: Mapping[str, Float[np.ndarray, " queries"]],
    *,
    users: Int[np.ndarray, " queries"],
) -> JsonObject:
    """For each side task: its mean loss in nats, that of the labels' base rates, and the gain's 95% interval."""
    lower, upper = bootstrap_intervals(np.stack([base_rate[name] - losses[name] for name in losses], 1), users=users)
    return {
        name: {
            "nats": float(each.mean()),
            "base_rate_nats": float(base_rate[name].mean()),
            "gain_interval": [float(lower[i]), float(upper[i])],
        }
        for i, (name, each) in enumerate(losses.items())
    }


def format_side_tasks(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each side task."""
    return "\n".join(
        "{:12s}{nats:.4f} nats, {base_rate_nats:.4f} from the labels' base rates; "
        "gain [{gain_interval[0]:.4f}, {gain_interval[1]:.4f}]".format(f"{name} task", **each)
        for name, each in tasks.items()
    )


def format_table(columns: dict[str, JsonObject], *, title: str = "test") -> str:
    """One line for each metric, one column for each model; each figure with its interval."""
    metrics = list(next(iter(columns.values()))["intervals"])
    width = max(26, *(len(name) + 3 for name in columns))
    label_width = max(10, len(title) + 1)
    lines = [title.ljust(label_width) + "".join(name.rjust(width) for name in columns)]
    for metric in metrics:
        cells = ("{:.4f} [{:.4f}, {:.4f}]".format(c[metric], *c["intervals"][metric]) for c in columns.values())
        lines.append(metric.ljust(label_width) + "".join(cell.rjust(width) for cell in cells))
    return "\n".join(lines)


def format_example(store: SequenceStore, history: Sequence[int], recommended: Sequence[int], user: int) -> str:
    """The latest items of a user's history and the recommended items, by title where the store has titles."""

    def name(item: int) -> str:
        title = "" if store.titles is None else store.titles[item - 1]
        return title or f"item {store.item_keys[item - 1]}"

    def lines(items: Sequence[int]) -> str:
        return "\n".join(f"    {place:2d}. {name(item)}" for place, item in enumerate(items, start=1))

    return f"user {store.user_keys[user]}, latest last\n{lines(history[-5:])}\n  recommended\n{lines(recommended)}"


class UserColumns(NamedTuple):
    """What a table of ranks says of the user of each query."""

    key: np.ndarray
    n_events: Int[np.ndarray, " queries"]
    """In training."""


def write_ranks(
    file: Path,
    ranks: RankTable,
    store: SequenceStore,
    split: Split,
    *,
    counts: Int[np.ndarray, " n_items_plus_1"] | None = None,
    users: UserColumns | None = None,
) -> None:
    """Writes one row for each query: the keys of user and target, the rank, and columns to slice metrics by.

    `counts` are the `training_counts` of the split, where they are known already. `history_length` counts the events
    before the target, `user_events` the training events of the user, and `target_events` the training events of the
    target: 0 is a cold target. `users` are given where the store has not all of them.
    """
    if users is None:
        users = UserColumns(store.user_keys[ranks.user], (split.train_stop - store.offsets[:-1])[ranks.user])
    columns = {
        "user": pa.array(users.key),
        "item": pa.array(store.item_keys[ranks.target - 1]),
        "rank": ranks.rank,
        "n_candidates": ranks.n_candidates,
        "history_length": ranks.history_length,
        "user_events": users.n_events,
        "target_events": (training_counts(store, split) if counts is None else counts)[ranks.target],
    }
    with replacing(file) as partial:
        pq.write_table(pa.table(columns), partial)
