"""Off-policy evaluation: the value of a new policy from an old one's logs, by IPS, SNIPS and doubly robust estimates.

The logs must hold the probability with which the old policy chose each logged action, and the old policy must have
chosen every action that the new one would choose at least sometimes. Where the effective sample size of the weights is
a small part of n, the estimate is unreliable.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from seqrec.abtest.means import check_share
from seqrec.types import InputError

Rows = Float[np.ndarray, " n"]
"""A value for each row of the logs."""


class PolicyValue(NamedTuple):
    """A policy's mean reward, with a normal interval."""

    value: float
    standard_error: float
    lower: float
    upper: float
    effective_sample_size: float
    """(sum of weights)^2 / sum of squared weights (Kish, 1965): the number of rows of the new policy with the same
    precision."""
    mean_weight: float
    """About 1 if the logged probabilities are right; far from 1, do not trust the logs."""
    share_clipped: float
    """Share of rows whose weight was clipped to the maximum."""


def ips(rewards: Rows, weights: Rows, *, max_weight: float = math.inf, level: float = 0.95) -> PolicyValue:
    """Inverse propensity scoring: the mean of weight times reward (Horvitz and Thompson, 1952). A row's weight is the
    new policy's probability of the logged action divided by the old one's. Unbiased unless clipped by `max_weight`.

    >>> ips(np.array([1.0, 0.0]), np.array([0.5, 1.5])).value
    0.25
    """
    clipped, share = _clip(weights, rewards, max_weight)
    return _with_interval(clipped * rewards, clipped, share, level)


def snips(rewards: Rows, weights: Rows, *, max_weight: float = math.inf, level: float = 0.95) -> PolicyValue:
    """Self-normalised inverse propensity scoring: the weighted mean of rewards (Swaminathan and Joachims, 2015). It is
    slightly biased, less variable, and inside the range of the rewards. The standard error is by the delta method.

    >>> snips(np.array([1.0, 0.0]), np.array([1.0, 3.0])).value
    0.25
    """
    clipped, share = _clip(weights, rewards, max_weight)
    if not clipped.sum() > 0:
        raise InputError(
            "all weights are 0: the new policy chooses none of the logged actions; log a more random policy"
        )
    value = float(np.average(rewards, weights=clipped))
    return _with_interval(value + clipped * (rewards - value) / clipped.mean(), clipped, share, level)


def doubly_robust(
    rewards: Rows,
    weights: Rows,
    predicted_logged: Rows,
    predicted_policy: Rows,
    *,
    max_weight: float = math.inf,
    level: float = 0.95,
) -> PolicyValue:
    """The reward model's value of the policy plus the weighted mean of the model's errors (Dudík, Langford and Li,
    2011): consistent if either the weights or the model are right.

    `predicted_logged` is the predicted reward of the logged action, `predicted_policy` its mean over the new policy's
    actions in the same context. The model must be fitted on other rows.

    >>> doubly_robust(np.array([1.0, 0.0]), np.ones(2), np.array([0.5, 0.5]), np.array([0.75, 0.75])).value
    0.75
    """
    clipped, share = _clip(weights, rewards, max_weight)
    for name, values in (("predicted_logged", predicted_logged), ("predicted_policy", predicted_policy)):
        if values.shape != rewards.shape or not np.isfinite(values).all():
            raise InputError(
                f"{name} has {values.size} values for {rewards.size} rows or some not finite; give one per row"
            )
    return _with_interval(predicted_policy + clipped * (rewards - predicted_logged), clipped, share, level)


def importance_weights(policy_chances: Rows, logged_chances: Rows) -> Rows:
    """The new policy's probability of each logged action divided by the old one's, which must be above 0.

    >>> importance_weights(np.array([0.5]), np.array([0.25])).tolist()
    [2.0]
    """
    if policy_chances.shape != logged_chances.shape:
        raise InputError(
            f"{policy_chances.size} policy chances and {logged_chances.size} logged ones; give one of each per row"
        )
    bad = ~((logged_chances > 0) & (logged_chances <= 1) & (policy_chances >= 0) & (policy_chances <= 1))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"row {row}: chances {policy_chances[row]:g} over {logged_chances[row]:g}; "
            "logged ones must be in (0, 1], the policy's in [0, 1]"
        )
    return policy_chances / logged_chances


def _clip(weights: Rows, rewards: Rows, max_weight: float) -> tuple[Rows, float]:
    if weights.shape != rewards.shape or len(weights) < 2:
        raise InputError(
            f"{rewards.size} rewards and {weights.size} weights; give one of each per row, at least 2 rows"
        )
    if not (np.isfinite(rewards).all() and np.isfinite(weights).all() and (weights >= 0).all()):
        raise InputError("a reward or weight is NaN or infinite, or a weight below 0; correct the logged chances")
    if not max_weight > 0:
        raise InputError(f"max_weight={max_weight} is not above 0; leave it out or give 10 to 100")
    return np.minimum(weights, max_weight), float(np.mean(weights > max_weight))


def _with_interval(terms: Rows, weights: Rows, share_clipped: float, level: float) -> PolicyValue:
    check_share(level=level)
    value, error = float(terms.mean()), float(terms.std(ddof=1)) / math.sqrt(len(terms))
    reach = float(stats.norm.isf((1 - level) / 2)) * error
    squares = float(np.sum(weights**2))
    size = float(weights.sum()) ** 2 / squares if squares else 0.0
    return PolicyValue(value, error, value - reach, value + reach, size, float(weights.mean()), share_clipped)
