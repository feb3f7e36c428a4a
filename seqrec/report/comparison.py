"""Differences between runs from their rank tables, as one dict of JSON values."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from seqrec.files import JsonObject
from seqrec.metrics import metric_values
from seqrec.report.rank_tables import RankTableFile
from seqrec.report.slices import Slicing, mean_figures, slice_figures
from seqrec.stats import bootstrap_intervals, holm, paired_comparison
from seqrec.types import InputError


def compared_metrics(
    ranks: Float[np.ndarray, " n_users"], *, ks: Sequence[int] = (5, 10, 20), list_length: int | None = None
) -> dict[str, Float[np.ndarray, " n_users"]]:
    """Each user's value of every metric that ranks known down to `list_length` determine.

    With a `list_length` only cut-offs up to it are kept, or that length if there is none, and the MRR is cut off there.

    >>> list(compared_metrics(np.array([1.0, 7.0]), ks=(5, 10), list_length=5))
    ['recall@5', 'ndcg@5', 'mrr@5']
    >>> compared_metrics(np.array([2.0, 7.0]), ks=(5, 10), list_length=5)["mrr@5"].tolist()
    [0.5, 0.0]
    """
    if list_length is None:
        values = metric_values(ranks, ks=ks)
    else:
        ks = [k for k in ks if k <= list_length] or [list_length]
        # A metric without a cut-off needs ranks beyond the lists.
        values = metric_values(ranks, ks=ks, without_k=())
        values |= metric_values(ranks, ks=(list_length,), at_k=("mrr",), without_k=())
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def select_metrics(names: Sequence[str], selected: Sequence[str]) -> list[str]:
    """Those of `names` that are `selected`, in the order of `names`; all if none is selected."""
    for name in selected:
        if name not in names:
            raise InputError(f"metric {name!r} is not among {', '.join(names)}; choose from these, or set other ks")
    return [name for name in names if not selected or name in selected]


def compare(
    tables: Mapping[str, RankTableFile],
    *,
    ks: Sequence[int] = (5, 10, 20),
    metrics: Sequence[str] = (),
    slicings: Sequence[Slicing] = (),
    level: float = 0.95,
    power: float = 0.8,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> JsonObject:
    """What comparison.json holds, from aligned tables; the first is the reference of the comparisons.

    `runs`: per run and metric [mean, lower, upper]. `comparisons`: per other run and metric the paired
    `difference` from the reference, its interval, `p` of the sign-flip test, `p_holm` adjusted for all pairs of
    a run and a metric in this dict, and the `detectable` difference. `slices`: see `slice_figures`. NaN, which
    JSON lacks, is None.
    """
    lengths = [table.list_length for table in tables.values() if table.list_length is not None]
    list_length = min(lengths, default=None)
    values = {name: compared_metrics(table.rank, ks=ks, list_length=list_length) for name, table in tables.items()}
    names = select_metrics(list(next(iter(values.values()))), metrics)
    values = {run: {name: each[name] for name in names} for run, each in values.items()}
    arrays = {run: np.stack(list(each.values()), axis=1) for run, each in values.items()}
    reference, *others = tables
    pairs = [
        paired_comparison(arrays[reference], arrays[run], level=level, power=power, n_resamples=n_resamples, seed=seed)
        for run in others
    ]
    adjusted = holm(np.array([each.p_value for each in pairs]))
    comparisons = {
        run: {
            name: {
                "difference": _number(each.difference[i]),
                "interval": [_number(each.lower[i]), _number(each.upper[i])],
                "p": _number(each.p_value[i]),
                "p_holm": _number(adjusted[row, i]),
                "detectable": _number(each.detectable[i]),
            }
            for i, name in enumerate(names)
        }
        for row, (run, each) in enumerate(zip(others, pairs, strict=True))
    }
    return {
        "reference": reference,
        "n_users": len(arrays[reference]),
        "metrics": names,
        "list_length": list_length,
        "level": level,
        "power": power,
        "n_resamples": n_resamples,
        "seed": seed,
        "runs": {
            run: mean_figures(names, array, bootstrap_intervals(array, level=level, seed=seed))
            for run, array in arrays.items()
        },
        "comparisons": comparisons,
        "slices": [slice_figures(slicing, values, level=level, seed=seed) for slicing in slicings],
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
