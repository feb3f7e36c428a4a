"""How well offline metrics foretell online ones, from past experiments that have both."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from seqrec.abtest.means import check_share
from seqrec.types import InputError


class Agreement(NamedTuple):
    """Of past experiments' offline and online effects."""

    n_experiments: int
    n_signed: int
    """Experiments whose effects are both other than 0."""
    sign_agreement: float
    """Share of those with one sign."""
    sign_lower: float
    sign_upper: float
    """Ends of Wilson's interval (1927)."""
    rank_correlation: float
    """Spearman's, NaN where either side is constant."""
    rank_lower: float
    rank_upper: float
    """Ends of its interval by Fisher's transform with Bonett and Wright's variance (2000); NaN below 4
    experiments and at a correlation of 1."""


def offline_online(
    offline: Float[np.ndarray, " n_experiments"], online: Float[np.ndarray, " n_experiments"], *, level: float = 0.95
) -> Agreement:
    """One row an experiment: the offline metric's difference and the online one's, of treatment less control.

    Online effects are noisy, which draws the correlation towards 0; experiments that were run because they looked
    good offline are a chosen sample, which does too. So this says what an offline win has been worth, not more.

    >>> found = offline_online(np.array([1.0, 2.0, 3.0, -1.0]), np.array([0.1, 0.3, 0.2, 0.1]))
    >>> found.sign_agreement, round(found.rank_correlation, 2)
    (0.75, 0.74)
    """
    check_share(level=level)
    if offline.shape != online.shape or len(offline) < 2:
        raise InputError(
            f"{len(offline)} offline and {len(online)} online effects; give one of each for 2 experiments or more"
        )
    if not (np.isfinite(offline).all() and np.isfinite(online).all()):
        row = int(np.argmax(~(np.isfinite(offline) & np.isfinite(online))))
        raise InputError(
            f"experiment {row} has effects {offline[row]} and {online[row]}; leave out what was not measured"
        )
    signed = (offline != 0) & (online != 0)
    n_signed = int(signed.sum())
    n_agree = int(np.sum(np.sign(offline[signed]) == np.sign(online[signed])))
    if n_signed:
        interval = stats.binomtest(n_agree, n_signed).proportion_ci(level, method="wilson")
        share, low, high = n_agree / n_signed, float(interval.low), float(interval.high)
    else:
        share, low, high = np.nan, np.nan, np.nan
    n = len(offline)
    rank, rank_low, rank_high = np.nan, np.nan, np.nan
    if np.ptp(offline) > 0 and np.ptp(online) > 0:
        rank = float(stats.spearmanr(offline, online).statistic)
        if n > 3 and abs(rank) < 1:
            reach = stats.norm.isf((1 - level) / 2) * np.sqrt((1 + rank**2 / 2) / (n - 3))
            rank_low, rank_high = (float(np.tanh(np.arctanh(rank) + side * reach)) for side in (-1, 1))
    return Agreement(n, n_signed, share, low, high, rank, rank_low, rank_high)
