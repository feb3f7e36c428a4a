"""Sufficient statistics: how many users, and the means and covariances of a few columns over them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from seqrec.types import InputError


class Moments(NamedTuple):
    """One arm's users in a few columns; all that the tests of `means` need to know of them."""

    n_users: int
    mean: Float[np.ndarray, " n_columns"]
    covariance: Float[np.ndarray, "n_columns n_columns"]
    """Over users, with n - 1 in the denominator; zero where there is one user."""


def moments(values: Float[np.ndarray, "n_users n_columns"]) -> Moments:
    """Moments of one row a user.

    >>> found = moments(np.array([[1.0], [3.0]]))
    >>> found.n_users, found.mean.tolist(), found.covariance.tolist()
    (2, [2.0], [[2.0]])
    """
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"row {row}, column {column} is {values[row, column]}; give finite values, 0 where nothing was"
        )
    mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
    return moments_of_sums(len(values), values.sum(axis=0), (values - mean).T @ (values - mean), centre=mean)


def moments_of_sums(
    n_users: int,
    sums: Float[np.ndarray, " n_columns"],
    products: Float[np.ndarray, "n_columns n_columns"],
    *,
    centre: Float[np.ndarray, " n_columns"] | None = None,
) -> Moments:
    """Moments of sums over users, as SQL gives them, of x and of (x - centre)(y - centre); a `centre` near the
    mean keeps the digits that plain sums of squares lose.

    >>> moments_of_sums(2, np.array([4.0]), np.array([[10.0]])).covariance.tolist()  # of 1 and 3
    [[2.0]]
    """
    if n_users < 1:
        raise InputError(f"n_users={n_users} is below 1; an arm without users has no mean")
    mean = sums / n_users
    away = mean - (np.zeros_like(mean) if centre is None else centre)
    covariance = (products - n_users * np.outer(away, away)) / max(n_users - 1, 1)
    if not np.isfinite(covariance).all():
        raise InputError(
            f"the sums of squares of {n_users} users exceed float64 or are NaN; give the metric in a larger unit"
        )
    # Rounding may leave a constant column a variance of -1e-17.
    variances = np.diag(covariance)
    scale = np.abs(np.diag(products)) / max(n_users - 1, 1)
    constant = variances <= 1e-14 * scale
    if (variances < -1e-9 * np.maximum(scale, 1e-300)).any():
        raise InputError(
            f"sum of squares {np.diag(products).tolist()} is below sum^2 / n of {n_users} users; give sums of one table"
        )
    covariance[constant, :] = 0.0
    covariance[:, constant] = 0.0
    return Moments(n_users, mean, covariance)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of both arms' users together (Chan, Golub and LeVeque, 1983).

    >>> merge(moments(np.array([[1.0]])), moments(np.array([[3.0]]))).covariance.tolist()
    [[2.0]]
    """
    n_users = a.n_users + b.n_users
    apart = b.mean - a.mean
    products = (
        (a.n_users - 1) * a.covariance
        + (b.n_users - 1) * b.covariance
        + np.outer(apart, apart) * a.n_users * b.n_users / n_users
    )
    return Moments(n_users, a.mean + apart * b.n_users / n_users, products / max(n_users - 1, 1))
