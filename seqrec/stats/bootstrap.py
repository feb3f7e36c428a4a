"""Percentile bootstrap over users: how far a mean metric would move if other users had been sampled."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from seqrec.types import InputError

Values = Real[Any, "n_rows *n_metrics"] | Bool[Any, "n_rows *n_metrics"]
"""One row a user (or a query), and one column a metric; a single metric needs no column axis."""

N_RESAMPLES = 1000

# Resample counts are drawn for as many resamples at a time as fit in this many cells (8 bytes each).
_CELLS_PER_BLOCK = 1 << 22


def bootstrap_intervals(
    values: Values,
    *,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    users: Int[np.ndarray, " n_rows"] | None = None,
    report: Callable[[int], None] = lambda n_resamples: None,
) -> tuple[Float[np.ndarray, "*n_metrics"], Float[np.ndarray, "*n_metrics"]]:
    """Lower and upper end of each metric's interval: quantiles of its mean over users drawn with replacement.

    `values` has the shape [n_rows] or [n_rows, n_metrics] and may be a NumPy or a jax array; the ends have the shape
    [] or [n_metrics]. Each row is one user's, or `users` names the user of each row: then all rows of a user are drawn
    together, because they are not independent, and the mean is over the drawn rows (a ratio of two sums over users).

    The percentile method (Efron and Tibshirani, 1993, ch. 13); it is too narrow for very few users, and over one user
    it has no width. All metrics share their resamples. The result depends on `seed` and on the set of rows, not on
    their order. A metric with a NaN has a NaN interval. Where n users have d distinct rows, time grows with
    n log n + d * n_resamples, and memory is a few copies of `values` and a block of resample counts. `report` is told
    after each block how many resamples it had.

    >>> lower, upper = bootstrap_intervals(np.array([[0.25, 0.0], [0.25, 1.0]]))
    >>> lower.tolist(), upper.tolist()
    ([0.25, 0.0], [0.25, 1.0])
    >>> lower, upper = bootstrap_intervals(np.array([0.0, 1.0]))
    >>> float(lower), float(upper)
    (0.0, 1.0)

    Raises:
      InputError: there are no users, `values` has another number of axes, `users` another length, or an option is out
        of range.
    """
    table = as_columns(values, "values")
    if not len(table):
        raise InputError("values has 0 users; an interval needs at least one")
    if users is not None and users.shape != (len(table),):
        raise InputError(f"users has shape {users.shape} for {len(table)} rows of values; name one user a row")
    if not 0.0 < level < 1.0:
        raise InputError(f"level={level} is outside (0, 1); for a 95% interval pass level=0.95")
    if n_resamples < 1:
        raise InputError(f"n_resamples={n_resamples} is below 1; 1000 is a common choice")
    sums, n_each = _sums_of_users(table, users)
    n_users = len(sums)
    # Users with equal rows are interchangeable: drawing how often each distinct row comes up is the same
    # experiment, and ranks make few distinct rows (a million users with geometric ranks of mean 300: 2,613).
    distinct, n_rows = np.unique(np.column_stack([sums, n_each]), axis=0, return_counts=True)
    rows, n_each = distinct[:, :-1], distinct[:, -1]
    # Deviations from one mean, so that a metric with equal values has exactly that mean in every resample.
    centre = rows[0] / n_each[0]
    deviations = rows - n_each[:, None] * centre
    rng = np.random.default_rng(seed)
    means = np.empty((n_resamples, table.shape[1]))
    n_per_block = max(1, _CELLS_PER_BLOCK // len(rows))
    for start in range(0, n_resamples, n_per_block):
        stop = min(start + n_per_block, n_resamples)
        counts = rng.multinomial(n_users, n_rows / n_users, size=stop - start).astype(np.float64)
        means[start:stop] = centre + counts @ deviations / (counts @ n_each)[:, None]
        report(stop - start)
    tail = (1.0 - level) / 2.0
    lower, upper = np.quantile(means, [tail, 1.0 - tail], axis=0)
    shape = values.shape[1:]
    return lower.reshape(shape), upper.reshape(shape)


def as_columns(values: Values, name: str) -> Float[np.ndarray, "n_rows n_columns"]:
    """`values` in float64, with a column axis.

    >>> as_columns(np.array([1, 2]), "values").tolist()
    [[1.0], [2.0]]
    """
    if len(values.shape) not in (1, 2):
        raise InputError(f"{name} has shape {values.shape}; give [n_users] or [n_users, n_metrics]")
    array = np.asarray(values, np.float64)
    return array[:, None] if array.ndim == 1 else array


def _sums_of_users(
    values: Float[np.ndarray, "n_rows n_metrics"], users: Int[np.ndarray, " n_rows"] | None
) -> tuple[Float[np.ndarray, "n_users n_metrics"], Float[np.ndarray, " n_users"]]:
    """Each user's sum of rows, and number of rows."""
    if users is None:
        return values, np.ones(len(values))
    _, row = np.unique(users, return_inverse=True)
    n_each = np.bincount(row)
    sums = [np.bincount(row, column, minlength=len(n_each)) for column in values.T]
    return np.stack(sums, axis=1), n_each.astype(np.float64)
