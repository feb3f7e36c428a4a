"""Figures of a backtest from its rank tables: quality by period, and how the ways to refresh differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Shaped

from seqrec.files import JsonObject
from seqrec.metrics import metric_values
from seqrec.report.figures import figures
from seqrec.stats.bootstrap import bootstrap_intervals

NEVER, WARM, ANEW = "never", "warm", "anew"
ARMS = (WARM, ANEW, NEVER)
"""Ways to refresh a model: from yesterday's weights, from random ones, or not at all."""
PAIRS = ((WARM, ANEW), (WARM, NEVER), (ANEW, NEVER))
"""What is compared: the first less the second."""
METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")

Ranks = Mapping[str, tuple[Shaped[np.ndarray, " queries"], Float[np.ndarray, " queries"]]]
"""For each arm the users' keys and the ranks of the same queries."""


def backtest_figures(periods: Sequence[Mapping[str, Any]], tables: Sequence[Mapping[str, Path] | None]) -> JsonObject:
    """`quality` by period and arm, `overall` and `differences` over all refreshed periods, and `costs` in total.

    `tables` has the rank table of each arm, or None of a period without targets. The first period is that in which all
    arms are the same; it is in no mean.
    """
    ranks: list[Ranks | None] = [
        None if files is None else {arm: _read(file) for arm, file in files.items()} for files in tables
    ]
    refreshed = [each for each in ranks[1:] if each is not None]
    pooled = {arm: tuple(map(np.concatenate, zip(*(each[arm] for each in refreshed), strict=True))) for arm in ARMS}
    users = np.unique(pooled[WARM][0], return_inverse=True)[1]
    values = {arm: _values(pooled[arm][1]) for arm in ARMS}
    costs: dict[str, JsonObject] = {
        arm: {
            name: sum(period["costs"][arm].get(name, 0) for period in periods[1:])
            for name in ("n_steps", "seconds", "cpu_seconds")
        }
        for arm in ARMS
    }
    for arm in ARMS:
        costs[arm]["share_of_anew"] = costs[arm]["cpu_seconds"] / (costs[ANEW]["cpu_seconds"] or 1.0)
    return {
        "quality": [
            None if each is None else {arm: _figures(each[arm][1], _numbered(each[arm][0])) for arm in ARMS}
            for each in ranks
        ],
        "overall": {arm: _figures(pooled[arm][1], users) for arm in ARMS},
        "differences": {
            f"{one} - {other}": {
                metric: difference(values[one][metric], values[other][metric], users=users) for metric in METRICS
            }
            for one, other in PAIRS
        },
        "costs": costs,
    }


def difference(
    one: Float[np.ndarray, " queries"], other: Float[np.ndarray, " queries"], *, users: Int[np.ndarray, " queries"]
) -> list[float]:
    """[mean, lower, upper] of one less the other over queries; a user's queries are drawn together.

    >>> difference(np.array([1.0, 0.5]), np.array([0.5, 0.0]), users=np.array([0, 1]))
    [0.5, 0.5, 0.5]
    """
    lower, upper = bootstrap_intervals(one - other, users=users)
    return [float(np.mean(one - other)), float(lower), float(upper)]


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(file, columns=["user", "rank"])
    return table["user"].to_numpy(), table["rank"].to_numpy()


def _numbered(users: Shaped[np.ndarray, " queries"]) -> Int[np.ndarray, " queries"]:
    return np.unique(users, return_inverse=True)[1]


def _values(ranks: Float[np.ndarray, " queries"]) -> dict[str, np.ndarray]:
    values = metric_values(ranks, ks=(10, 20), at_k=("recall", "ndcg"), without_k=())
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def _figures(ranks: Float[np.ndarray, " queries"], users: Int[np.ndarray, " queries"]) -> JsonObject:
    of_users = figures(ranks, users=users, ks=(10, 20))
    return {name: [of_users[name], *of_users["intervals"][name]] for name in METRICS} | {"n_users": of_users["n_users"]}
