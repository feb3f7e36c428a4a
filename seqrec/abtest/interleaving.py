"""Interleaving: two rankers in one list, which takes fewer users than an A/B test to find the preferred one."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from seqrec.types import InputError


class Preference(NamedTuple):
    """Which ranker users preferred when both were merged into one list."""

    preference: float
    """Share of users with more clicks on the items of b; ties count half. Above .5 means that b is preferred."""
    p_value: float
    """Of the two-sided exact sign test over users, without ties."""
    n_a: int
    """Users with more clicks on the items of a."""
    n_b: int
    n_tied: int


def team_draft(
    a: Sequence[Hashable], b: Sequence[Hashable], *, length: int, random: np.random.Generator
) -> tuple[list[Hashable], list[int]]:
    """A list of `length` items and the ranker of each, 0 for a and 1 for b (Radlinski, Kurup and Joachims, 2008,
    alg. 2).

    In each round both rankers, in random order, add their best item that is not in the list yet. A ranker without
    further items loses its turn to the other.

    >>> items, teams = team_draft([1, 2, 3], [2, 1, 4], length=4, random=np.random.default_rng(0))
    >>> sorted(items), sorted(teams)
    ([1, 2, 3, 4], [0, 0, 1, 1])
    """
    if length < 1:
        raise InputError(f"length={length} is below 1; give the number of positions in the list")
    lists = (list(dict.fromkeys(a)), list(dict.fromkeys(b)))
    places = [0, 0]
    items: list[Hashable] = []
    teams: list[int] = []
    shown: set[Hashable] = set()
    while len(items) < length:
        before = len(items)
        first = int(random.integers(2))
        for team in (first, 1 - first):
            ranked = lists[team]
            while places[team] < len(ranked) and ranked[places[team]] in shown:
                places[team] += 1
            if places[team] < len(ranked) and len(items) < length:
                items.append(ranked[places[team]])
                shown.add(ranked[places[team]])
                teams.append(team)
        if len(items) == before:
            break
    return items, teams


def interleaving_preference(
    clicks_a: Int[np.ndarray, " n_users"] | Float[np.ndarray, " n_users"],
    clicks_b: Int[np.ndarray, " n_users"] | Float[np.ndarray, " n_users"],
) -> Preference:
    """The preference from each user's clicks (or plays) on the items of either ranker, over all lists of the user.

    The unit is the user, so that one very active user does not decide (Chapelle, Joachims, Radlinski and Yue, 2012,
    § 4).

    >>> interleaving_preference(np.array([0, 0, 0, 2, 1]), np.array([1, 1, 1, 0, 1]))
    Preference(preference=0.7, p_value=0.625, n_a=1, n_b=3, n_tied=1)
    """
    if clicks_a.shape != clicks_b.shape or not len(clicks_a):
        raise InputError(
            f"clicks of {len(clicks_a)} and {len(clicks_b)} users; give both for the same users, at least one"
        )
    if not (np.isfinite(clicks_a).all() and np.isfinite(clicks_b).all()):
        raise InputError("a user's clicks are NaN or infinite; give 0 where nothing was clicked")
    n_a, n_b = int(np.sum(clicks_a > clicks_b)), int(np.sum(clicks_b > clicks_a))
    n_tied = len(clicks_a) - n_a - n_b
    p_value = float(stats.binomtest(n_b, n_a + n_b).pvalue) if n_a + n_b else 1.0
    return Preference((n_b + 0.5 * n_tied) / len(clicks_a), p_value, n_a, n_b, n_tied)
