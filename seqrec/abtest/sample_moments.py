"""Sufficient statistics of an arm: the number of users, and the means and covariances of a few columns over users."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from seqrec.types import InputError


class SampleMoments(NamedTuple):
    """Size, means and covariances of a sample of users; all that the tests in `means` need."""

    n_users: int
    mean: Float[np.ndarray, " n_columns"]
    covariance: Float[np.ndarray, "n_columns n_columns"]
    """Over users, with denominator n - 1; zero for a single user."""


def sample_moments(values: Float[np.ndarray, "n_users n_columns"]) -> SampleMoments:
    """Sample moments of values with one row per user.

    >>> sample = sample_moments(np.array([[1.0], [3.0]]))
    >>> sample.n_users, sample.mean.tolist(), sample.covariance.tolist()
    (2, [2.0], [[2.0]])
    """
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"row {row}, column {column} is {values[row, column]}; give finite values, 0 for users without events"
        )
    values = np.asarray(values, np.float64)
    mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
    # Squares of values above 1e154 are infinite, which `sample_moments_of_sums` refuses.
    with np.errstate(over="ignore", invalid="ignore"):
        products = (values - mean).T @ (values - mean)
    return sample_moments_of_sums(len(values), values.sum(axis=0), products, centre=mean)


def sample_moments_of_sums(
    n_users: int,
    sums: Float[np.ndarray, " n_columns"],
    products: Float[np.ndarray, "n_columns n_columns"],
    *,
    centre: Float[np.ndarray, " n_columns"] | None = None,
) -> SampleMoments:
    """Sample moments from sums over users, as SQL computes them: sums of x, and of (x - centre)(y - centre). A `centre`
    near the mean keeps digits that plain sums of squares lose.

    >>> sample_moments_of_sums(2, np.array([4.0]), np.array([[10.0]])).covariance.tolist()  # of 1 and 3
    [[2.0]]
    """
    if n_users < 1:
        raise InputError(f"n_users={n_users} is below 1; an arm without users has no mean")
    if not (np.isfinite(sums).all() and np.isfinite(products).all()):
        raise InputError(
            f"sums over {n_users} users, {np.asarray(sums).tolist()}, or their squares are NaN or infinite; "
            "look for NaN, or for values above 1e150, among the users"
        )
    mean = sums / n_users
    offset = mean - (np.zeros_like(mean) if centre is None else centre)
    covariance = (products - n_users * np.outer(offset, offset)) / max(n_users - 1, 1)
    # Rounding may give a constant column a variance such as -1e-17.
    variances = np.diag(covariance)
    scale = np.abs(np.diag(products)) / max(n_users - 1, 1)
    constant = variances <= 1e-14 * scale
    if (variances < -1e-9 * np.maximum(scale, 1e-300)).any():
        raise InputError(
            f"sum of squares {np.diag(products).tolist()} is below sum^2 / n of {n_users} users; give sums of one table"
        )
    covariance[constant, :] = 0.0
    covariance[:, constant] = 0.0
    return SampleMoments(n_users, mean, covariance)
