"""An effect under the plan's rule for looking: its interval, and whether it is shown."""

import math
from typing import NamedTuple

from scipy import stats

from seqrec.abtest.means import Effect, Estimate, effect, relative
from seqrec.abtest.plan import Metric, Plan
from seqrec.abtest.sequential import confidence_sequence, obrien_fleming_bounds, pocock_bounds, sequence_multiple


class Judged(NamedTuple):
    """A treatment against the control on one metric; NaN where a relative figure has no sense."""

    control: float
    treatment: float
    effect: Effect
    """With the intervals of the plan's rule. Its p-value is the fixed test's, or always valid; at a planned look that
    of the look, to be read with its bound."""
    detectable: float
    """The smallest true relative difference that could have been seen with the plan's power."""
    shown: int
    """1: a rise is shown, -1: a fall is shown, 0: neither."""


def planned_look(plan: Plan, *, n_days: int) -> int:
    """How many of the planned looks are due after `n_days`, from 0.

    A look is due at the end of its day; the last one is the planned end.
    """
    return n_days * plan.n_looks // plan.n_days


def look_day(plan: Plan, look: int) -> int:
    """The day (from 1) at whose end this look is due."""
    return math.ceil(plan.n_days * look / plan.n_looks)


def judge(control: Estimate, treatment: Estimate, plan: Plan, *, look: int) -> Judged:
    """Under the plan's rule at its look number `look`, 1 or more.

    With several treatments each is tested at alpha over their number (Bonferroni), so that intervals and
    conclusions agree. Relative figures are scaled likewise.
    """
    alpha = plan.alpha / (len(plan.arms) - 1)
    found = effect(control, treatment, alpha=alpha, power=plan.power)
    n_users = control.n_users + treatment.n_users
    p_value = found.p_value
    if plan.stopping == "fixed":
        multiple = float(stats.t.isf(alpha / 2, found.degrees_of_freedom))
    elif plan.stopping == "always-valid":
        multiple = sequence_multiple(n_users, tuning=plan.expected_users, alpha=alpha)
        p_value = confidence_sequence(
            found.difference, found.standard_error, n_users, tuning=plan.expected_users, alpha=alpha
        ).p_value
    else:
        bounds = pocock_bounds if plan.stopping == "pocock" else obrien_fleming_bounds
        multiple = float(bounds(plan.n_looks, alpha=alpha)[look - 1])
    reach = multiple * found.standard_error
    share, share_error = relative(control, treatment)
    ruled = found._replace(
        lower=found.difference - reach,
        upper=found.difference + reach,
        p_value=p_value,
        relative_lower=share - multiple * share_error,
        relative_upper=share + multiple * share_error,
        detectable=(multiple + float(stats.norm.isf(1 - plan.power))) * found.standard_error,
    )
    could = ruled.detectable / abs(control.value) if control.value else math.nan
    return Judged(control.value, treatment.value, ruled, could, (ruled.lower > 0) - (ruled.upper < 0))


def guardrail_state(found: Judged, metric: Metric) -> str:
    """ "safe": a loss beyond the margin is ruled out; "harmed": one is shown; else "unclear".

    The margin is relative, and the interval of the relative difference is held against it (non-inferiority at half of
    alpha, one-sided). Without a relative interval nothing is ruled out.
    """
    sign = 1 if metric.more_is_better else -1
    worst, best = sorted((sign * found.effect.relative_lower, sign * found.effect.relative_upper))
    if worst > -metric.margin:
        return "safe"
    return "harmed" if best < -metric.margin else "unclear"
