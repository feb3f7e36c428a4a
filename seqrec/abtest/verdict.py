"""The decision that follows from effects and checks, in words. These rules are complete."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from seqrec.abtest.judgement import Judgement
from seqrec.abtest.plan import ExperimentPlan, Metric
from seqrec.abtest.trust import Check


class Verdict(NamedTuple):
    """The decision about one treatment."""

    decision: str
    """blocked, continue, ship, hold, stop or no effect shown."""
    headline: str
    """One sentence."""
    action: str
    """What to do next."""


def blocked_verdict(checks: Sequence[Check]) -> Verdict | None:
    """The verdict if a check failed, else None."""
    failed = [check for check in checks if check.status == "failed"]
    if not failed:
        return None
    reasons = "; ".join(f"{check.name}: {check.finding}" for check in failed)
    return Verdict(
        "blocked",
        f"No verdict: the experiment cannot be trusted ({reasons}).",
        "Find and fix the cause and run the experiment again; the effects below cannot be relied on.",
    )


def decide(
    plan: ExperimentPlan,
    arm: str,
    primary: Judgement,
    guardrails: Mapping[Metric, str],
    *,
    complete: bool,
    due: bool = True,
) -> Verdict:
    """The verdict on one treatment.

    `guardrails` gives the state of each guardrail, from `guardrail_state` or "unknown"; `complete` says that the end is
    reached, `due` that a planned look is due.

    - before the first look that the plan allows: continue
    - a guardrail is harmed, or the primary metric is significantly worse: stop
    - the primary metric is significantly better: ship if all guardrails are safe, else hold
    - otherwise: at the end "no effect shown" with the smallest detectable effect, before the end continue
    """
    gain = primary.shown if plan.primary.more_is_better else -primary.shown
    interval = f"[{signed_percent(primary.effect.relative_lower)}, {signed_percent(primary.effect.relative_upper)}]"
    figures = f"{plan.primary.name} {signed_percent(primary.effect.relative)} {interval}"
    harmed = [metric.name for metric, state in guardrails.items() if state == "harmed"]
    open_ = [metric.name for metric, state in guardrails.items() if state in ("unclear", "unknown")]
    none_shown = f"{figures}; the smallest detectable effect is {unsigned_percent(primary.detectable)}."
    at_risk = " and ".join(open_)
    rules = (
        (
            not complete and (plan.stopping == "fixed" or not due),
            "continue",
            f"Too early to judge {arm}: the plan allows no look yet.",
            "Let it run; a test that is planned for the end has far more false alarms when it is read earlier.",
        ),
        (harmed, "stop", f"{arm} harms {' and '.join(harmed)} beyond the margin ({figures}).", f"Do not ship {arm}."),
        (gain < 0, "stop", f"{arm} is worse: {figures}.", f"Do not ship {arm}."),
        (gain > 0 and not open_, "ship", f"{arm} is better: {figures}, and no guardrail is at risk.", f"Ship {arm}."),
        (
            gain > 0,
            "hold",
            f"{arm} is better ({figures}), but a loss beyond the margin is not ruled out for {at_risk}.",
            "Collect more users, or accept the risk explicitly; do not ship on this result alone.",
        ),
        (not complete, "continue", f"No effect of {arm} shown so far: {none_shown}", "Let it run as planned."),
        (
            True,
            "no effect shown",
            f"No effect of {arm} shown: {none_shown}",
            "Keep the control. A smaller effect may exist: to detect one half as large takes four times the users.",
        ),
    )
    return next(Verdict(*words) for holds, *words in rules if holds)


def signed_percent(share: float) -> str:
    """A relative difference as a percentage with its sign.

    >>> signed_percent(0.0123), signed_percent(-0.5), signed_percent(float("nan"))
    ('+1.23%', '-50.0%', 'unknown')
    """
    if math.isnan(share):
        return "unknown"
    return f"{100 * share:+.2f}%" if abs(share) < 0.1 else f"{100 * share:+.1f}%"


def unsigned_percent(share: float) -> str:
    """A relative size as a percentage.

    >>> unsigned_percent(0.0123)
    '1.23%'
    """
    return signed_percent(abs(share)).lstrip("+")
