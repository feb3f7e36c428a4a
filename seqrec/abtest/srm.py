"""Sample ratio mismatch: a test that the arms received their planned shares of users. If not, no result is valid."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats

from seqrec.types import InputError


def srm_p_value(n_users: Sequence[int] | Int[np.ndarray, " n_arms"], shares: Sequence[float | int]) -> float:
    """P-value of Pearson's chi-square test of the arms' counts against their planned shares (Fabijan et al., 2019).

    Shares need not add up to 1. Without users the p-value is 1.

    >>> f"{srm_p_value([821_588, 815_482], [0.5, 0.5]):.1e}"
    '1.8e-06'
    """
    counts, expected = _check(n_users, shares)
    if counts.sum() == 0:
        return 1.0
    expected = expected * counts.sum()
    return float(stats.chi2.sf(np.sum((counts - expected) ** 2 / expected), len(counts) - 1))


def srm_sequential_p_values(
    n_users: Int[np.ndarray, "n_looks n_arms"], shares: Sequence[float | int], *, concentration: float = 10_000.0
) -> Float[np.ndarray, " n_looks"]:
    """Always-valid p-values at each look, from running totals. One may look after every user and stop at the first
    p-value that is at most alpha: at most that share of experiments raise a false alarm.

    The reciprocal of the largest Bayes factor so far of a Dirichlet-multinomial against the planned shares (Lindon and
    Malek, 2022, eq. 8). The larger `concentration` (in users), the closer the alternative is to the planned shares.

    >>> srm_sequential_p_values(np.array([[50, 50], [100, 100], [2000, 200]]), [0.5, 0.5]).round(3).tolist()
    [1.0, 1.0, 0.0]
    """
    if not 0.0 < concentration < np.inf:
        raise InputError(f"concentration={concentration} is not above 0 and finite; 10000 is a common choice")
    log_factors = []
    before = None
    for row in n_users:
        counts, expected = _check(row, shares)
        if before is not None and (counts < before).any():
            raise InputError(f"running totals fall from {before.tolist()} to {counts.tolist()}; sort the looks by time")
        before = counts
        prior = concentration * expected
        log_factors.append(
            float(
                special.gammaln(concentration)
                - special.gammaln(concentration + counts.sum())
                + np.sum(special.gammaln(prior + counts) - special.gammaln(prior))
                - np.sum(special.xlogy(counts, expected))
            )
        )
    return np.exp(-np.maximum.accumulate(np.maximum(log_factors, 0.0))) if log_factors else np.empty(0)


def _check(
    n_users: Sequence[int] | Int[np.ndarray, " n_arms"], shares: Sequence[float | int]
) -> tuple[Float[np.ndarray, " n_arms"], Float[np.ndarray, " n_arms"]]:
    counts, expected = np.asarray(n_users, float), np.asarray(shares, float)
    if counts.shape != expected.shape or len(counts) < 2:
        raise InputError(f"{counts.size} counts and {expected.size} shares; give one of each for at least two arms")
    if not (counts >= 0).all():
        raise InputError(f"counts of users are {counts.tolist()}; give whole numbers from 0")
    if not (np.isfinite(expected) & (expected > 0)).all():
        raise InputError(f"shares are {expected.tolist()}; each must be above 0; leave out arms without users")
    return counts, expected / expected.sum()
