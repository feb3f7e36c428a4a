"""An effect under the plan's stopping rule: its interval, and whether it is significant."""

import math
from typing import NamedTuple

from scipy import stats

from seqrec.abtest.means import Effect, Estimate, effect, relative
from seqrec.abtest.plan import ExperimentPlan, Metric
from seqrec.abtest.sequential import confidence_sequence, obrien_fleming_bounds, pocock_bounds, sequence_multiple


class Judgement(NamedTuple):
    """A treatment compared with the control on one metric; relative figures are NaN where they are undefined."""

    control: float
    treatment: float
    effect: Effect
    """With the intervals of the plan's stopping rule. The p-value is that of the fixed test, or always valid; at a
    planned look it is the look's, to be compared with the look's bound."""
    detectable: float
    """The smallest true relative difference that is detected with the plan's power."""
    shown: int
    """1: a significant increase, -1: a significant decrease, 0: neither."""


def planned_look(plan: ExperimentPlan, *, n_days: int) -> int:
    """How many of the planned looks are due after `n_days`, from 0.

    A look is due at the end of its day; the last one is the planned end.
    """
    return n_days * plan.n_looks // plan.n_days


def look_day(plan: ExperimentPlan, look: int) -> int:
    """The day (from 1) at whose end this look is due."""
    return math.ceil(plan.n_days * look / plan.n_looks)


def judge(control: Estimate, treatment: Estimate, plan: ExperimentPlan, *, look: int) -> Judgement:
    """The comparison under the plan's stopping rule at its look number `look`, from 1.

    With several treatments each is tested at alpha divided by their number (Bonferroni), so that intervals and
    conclusions agree. Relative intervals use the same level.
    """
    alpha = plan.alpha / (len(plan.arms) - 1)
    fixed = effect(control, treatment, alpha=alpha, power=plan.power)
    n_users = control.n_users + treatment.n_users
    p_value = fixed.p_value
    if plan.stopping == "fixed":
        multiple = float(stats.t.isf(alpha / 2, fixed.degrees_of_freedom))
    elif plan.stopping == "always-valid":
        multiple = sequence_multiple(n_users, tuning=plan.expected_users, alpha=alpha)
        p_value = confidence_sequence(
            fixed.difference, fixed.standard_error, n_users, tuning=plan.expected_users, alpha=alpha
        ).p_value
    else:
        bounds = pocock_bounds if plan.stopping == "pocock" else obrien_fleming_bounds
        multiple = float(bounds(plan.n_looks, alpha=alpha)[look - 1])
    reach = multiple * fixed.standard_error
    share, share_error = relative(control, treatment)
    result = fixed._replace(
        lower=fixed.difference - reach,
        upper=fixed.difference + reach,
        p_value=p_value,
        relative_lower=share - multiple * share_error,
        relative_upper=share + multiple * share_error,
        detectable=(multiple + float(stats.norm.isf(1 - plan.power))) * fixed.standard_error,
    )
    detectable = result.detectable / abs(control.value) if control.value else math.nan
    return Judgement(control.value, treatment.value, result, detectable, (result.lower > 0) - (result.upper < 0))


def guardrail_state(judgement: Judgement, metric: Metric) -> str:
    """ "safe": a loss beyond the margin is ruled out; "harmed": such a loss is significant; else "unclear".

    The margin is relative and is compared with the interval of the relative difference (a one-sided non-inferiority
    test at half of alpha). Without a relative interval nothing is ruled out.
    """
    sign = 1 if metric.more_is_better else -1
    worst, best = sorted((sign * judgement.effect.relative_lower, sign * judgement.effect.relative_upper))
    if worst > -metric.margin:
        return "safe"
    return "harmed" if best < -metric.margin else "unclear"
