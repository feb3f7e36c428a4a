"""Repeated looks: confidence sequences, which hold at every look, and bounds for a planned number of looks."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from seqrec.abtest.means import Estimate, check_share, effect, relative
from seqrec.types import InputError

# Grid points of the density of the statistic between looks.
_N_GRID = 401

# Where the search for a bound starts; a test at alpha = .99 has its bound at .0125.
_LEAST_BOUND = 1e-3

# Error spent on one side by an information fraction t, of `tail` in all.
_SPENT: dict[str, Callable[[float, float], float]] = {
    "obrien-fleming": lambda t, tail: 2 * float(stats.norm.sf(stats.norm.isf(tail / 2) / math.sqrt(t))),
    "pocock": lambda t, tail: tail * math.log(1 + (math.e - 1) * t),
}


class SequentialInterval(NamedTuple):
    """An estimate with the interval of a confidence sequence; NaN where the estimate has none."""

    value: float
    standard_error: float
    lower: float
    upper: float
    p_value: float
    """Always valid: without an effect, the probability that it ever falls to alpha or below is at most alpha."""


def mixture_rho(tuning: float | int, *, alpha: float = 0.05) -> float:
    """The width of the normal mixture that makes a confidence sequence tightest near `tuning` users (Waudby-Smith,
    Arbour, Sinha, Kennedy and Ramdas, 2021, eq. 161).

    >>> round(mixture_rho(1000.0), 5)  # sqrt((5.9915 + log(6.9915)) / 1000)
    0.08909
    """
    check_share(alpha=alpha)
    if not 0 < tuning < math.inf:
        raise InputError(
            f"tuning={tuning} is not above 0 and finite; give the number of users at which you expect to decide"
        )
    return math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / tuning)


def sequence_multiple(n_users: int, *, tuning: float | int, alpha: float = 0.05) -> float:
    """Half-width of a confidence sequence at `n_users` in standard errors (the same paper, eq. 9), where a fixed test
    has 1.96: with t = n rho^2, sqrt(2 (t + 1) / t * log(sqrt(t + 1) / alpha)).

    >>> round(sequence_multiple(1000, tuning=1000.0), 2)
    3.04
    """
    if n_users < 1:
        raise InputError(f"n_users={n_users} is below 1; a confidence sequence starts with the first user")
    t = n_users * mixture_rho(tuning, alpha=alpha) ** 2
    return math.sqrt(2 * (t + 1) / t * math.log(math.sqrt(t + 1) / alpha))


def confidence_sequence(
    value: float, standard_error: float, n_users: int, *, tuning: float | int, alpha: float = 0.05
) -> SequentialInterval:
    """The interval of an asymptotic confidence sequence at this look. With probability 1 - alpha it holds at all looks
    at once, however they are chosen.

    `n_users` counts the users of both arms. The guarantee is asymptotic and assumes users who arrive one after another,
    each with a complete outcome. Where outcomes keep growing, as plays to date do, looks are more correlated and false
    alarms rarer. Choose `tuning` before seeing the data.

    >>> result = confidence_sequence(0.5, 0.1, 1000, tuning=1000.0)
    >>> round(result.lower, 3), round(result.upper, 3)  # 3.04 standard errors
    (0.196, 0.804)
    """
    multiple = sequence_multiple(n_users, tuning=tuning, alpha=alpha)
    reach = multiple * standard_error
    if math.isnan(value) or math.isnan(standard_error):
        p_value = math.nan
    elif standard_error == 0.0:
        p_value = 1.0 if value == 0.0 else 0.0
    else:
        # Solves sequence_multiple(alpha) = |z| for alpha, with rho fixed by the planned alpha.
        t = n_users * mixture_rho(tuning, alpha=alpha) ** 2
        z = value / standard_error
        p_value = min(1.0, math.sqrt(t + 1) * math.exp(-0.5 * z * z * t / (t + 1)))
    return SequentialInterval(value, standard_error, value - reach, value + reach, p_value)


def sequential_effect(
    control: Estimate, treatment: Estimate, *, tuning: float | int, alpha: float = 0.05
) -> SequentialInterval:
    """The confidence sequence of the difference, treatment minus control.

    >>> sequential_effect(Estimate(2.0, 0.5, 500), Estimate(4.0, 0.5, 500), tuning=1000.0).standard_error
    1.0
    """
    result = effect(control, treatment, alpha=alpha)
    n_users = control.n_users + treatment.n_users
    return confidence_sequence(result.difference, result.standard_error, n_users, tuning=tuning, alpha=alpha)


def sequential_relative(
    control: Estimate, treatment: Estimate, *, tuning: float | int, alpha: float = 0.05
) -> SequentialInterval:
    """The confidence sequence of the relative difference, which GrowthBook calls its sequential t-test."""
    value, error = relative(control, treatment)
    return confidence_sequence(value, error, control.n_users + treatment.n_users, tuning=tuning, alpha=alpha)


def crossing_probability(bounds: Sequence[float], information: Sequence[float] | None = None) -> float:
    """The probability that |z| exceeds its bound at any of the looks when there is no effect.

    `information` is each look's fraction of the last look's information, by default k / K; for independent users, it is
    their share. By integration over the density of the sum so far (Armitage, McPherson and Rowe, 1969).

    >>> round(crossing_probability([1.959964] * 5), 3)  # five looks at a test of 5%
    0.142
    """
    times = [k / len(bounds) for k in range(1, len(bounds) + 1)] if information is None else list(information)
    if len(times) != len(bounds) or not bounds:
        raise InputError(f"{len(bounds)} bounds and {len(times)} looks; give one of each per look, at least one")
    if not all(late > early for early, late in zip([0.0, *times], times, strict=False)):
        raise InputError(f"information {times} does not rise from above 0; sort the looks by time")
    if any(not bound > 0 for bound in bounds):
        raise InputError(f"bounds {list(bounds)} must be above 0; give those of |z|")
    grid, density, stopped = None, None, 0.0
    time_before = 0.0
    for bound, time in zip(bounds, times, strict=True):
        step = math.sqrt(time - time_before)
        # In units of the sum; a bound of 8 standard errors is practically infinite.
        half = min(bound, 8.0) * math.sqrt(time)
        points = np.linspace(-half, half, _N_GRID)
        if grid is None or density is None:
            stopped += 2 * stats.norm.sf(bound)
            density = np.exp(-0.5 * (points / step) ** 2) / (step * math.sqrt(2 * math.pi))
        else:
            weighted = density * _simpson_weights(grid)
            passing = stats.norm.sf((bound * math.sqrt(time) - grid) / step)
            stopped += 2 * float(weighted @ passing)
            steps = (points[:, None] - grid[None, :]) / step
            density = np.exp(-0.5 * steps * steps) @ weighted / (step * math.sqrt(2 * math.pi))
        grid, time_before = points, time
    return float(stopped)


def _simpson_weights(points: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    weights = np.full(len(points), 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    return weights * (points[1] - points[0]) / 3.0


def pocock_bounds(n_looks: int, *, alpha: float = 0.05) -> Float[np.ndarray, " n_looks"]:
    """The constant bound on |z| for evenly spaced looks (Pocock, 1977).

    >>> pocock_bounds(2).round(3).tolist()
    [2.178, 2.178]
    """
    return _bounds(n_looks, 0.0, alpha)


def obrien_fleming_bounds(n_looks: int, *, alpha: float = 0.05) -> Float[np.ndarray, " n_looks"]:
    """Bounds on |z| that fall as sqrt(K / k): strict early, close to the fixed test's at the end (O'Brien and Fleming,
    1979).

    >>> obrien_fleming_bounds(2).round(3).tolist()
    [2.797, 1.977]
    """
    return _bounds(n_looks, 0.5, alpha)


def spending_bounds(
    information: Sequence[float], *, alpha: float = 0.05, shape: str = "obrien-fleming"
) -> Float[np.ndarray, " n_looks"]:
    """Two-sided bounds on |z| for looks that need not be evenly spaced: the error spent by each look is a fixed
    function of the information fraction, which is 1 at the planned end (Lan and DeMets, 1983).

    Each side spends alpha / 2, as in published tables of two-sided bounds (Reboussin, DeMets, Kim and Lan, 2000).

    >>> spending_bounds([0.5, 1.0]).round(4).tolist()
    [2.9626, 1.9686]
    """
    check_share(alpha=alpha)
    if shape not in _SPENT:
        raise InputError(f"shape={shape!r} is not one of {', '.join(_SPENT)}; choose one of them")
    if not all(0.0 < time <= 1.0 for time in information):
        raise InputError(f"information {list(information)} is not in (0, 1], where 1 is the planned end; rescale it")
    bounds: list[float] = []
    for look, time in enumerate(information, start=1):
        times, target = list(information[:look]), 2 * _SPENT[shape](time, alpha / 2)

        def excess(bound, times=times, target=target):
            return crossing_probability([*bounds, bound], times) - target

        # Eight standard errors mean that stopping at this look is impossible.
        bounds.append(8.0 if excess(8.0) > 0 else float(optimize.brentq(excess, _LEAST_BOUND, 8.0, xtol=1e-7)))
    return np.array(bounds)


def _bounds(n_looks: int, exponent: float, alpha: float) -> Float[np.ndarray, " n_looks"]:
    """Bounds that fall as (K / k)^exponent."""
    check_share(alpha=alpha)
    if not 1 <= n_looks <= 100:
        raise InputError(f"n_looks={n_looks} is outside 1..100; for a look at any time use a confidence sequence")
    shape = (n_looks / np.arange(1, n_looks + 1)) ** exponent
    scale = optimize.brentq(lambda c: crossing_probability(list(c * shape)) - alpha, _LEAST_BOUND, 8.0, xtol=1e-7)
    return scale * shape
