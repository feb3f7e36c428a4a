"""From figures to a decision, in words; the rules are these and no others."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from seqrec.abtest.judgement import Judged
from seqrec.abtest.plan import Metric, Plan
from seqrec.abtest.trust import Check


class Verdict(NamedTuple):
    """What to do about one treatment."""

    decision: str
    """blocked, continue, ship, hold, stop or no effect shown."""
    headline: str
    """One sentence."""
    action: str
    """What to do next."""


def blocked(checks: Sequence[Check]) -> Verdict | None:
    """The verdict where a check failed, None where none did."""
    failed = [check for check in checks if check.status == "failed"]
    if not failed:
        return None
    reasons = "; ".join(f"{check.name}: {check.finding}" for check in failed)
    return Verdict(
        "blocked",
        f"No verdict: the experiment cannot be trusted ({reasons}).",
        "Find the cause, mend it and run the experiment again; do not read the effects below as effects.",
    )


def decide(
    plan: Plan, arm: str, primary: Judged, guardrails: Mapping[Metric, str], *, complete: bool, due: bool = True
) -> Verdict:
    """One treatment's verdict.

    `guardrails` gives each one's state, of `guardrail_state` or "unknown"; `complete` says that the planned end is
    reached, `due` that a planned look is.

    - before a look that the plan allows: continue
    - a guardrail is harmed, or the primary metric is shown to be worse: stop
    - the primary metric is shown to be better: ship if all guardrails are safe, else hold
    - neither: at the end "no effect shown" with what could have been seen, before it continue
    """
    gain = primary.shown if plan.primary.more_is_better else -primary.shown
    ends = f"[{signed(primary.effect.relative_lower)}, {signed(primary.effect.relative_upper)}]"
    figures = f"{plan.primary.name} {signed(primary.effect.relative)} {ends}"
    harmed = [metric.name for metric, state in guardrails.items() if state == "harmed"]
    open_ = [metric.name for metric, state in guardrails.items() if state in ("unclear", "unknown")]
    may_stop = complete or (plan.stopping != "fixed" and due)
    if not may_stop:
        return Verdict(
            "continue",
            f"Too early to judge {arm}: the plan allows no look yet.",
            "Let it run; a test that was planned for the end is wrong far more often when it is read before.",
        )
    if harmed:
        return Verdict("stop", f"{arm} harms {_and(harmed)} beyond the margin ({figures}).", f"Do not ship {arm}.")
    if gain < 0:
        return Verdict("stop", f"{arm} is worse: {figures}.", f"Do not ship {arm}.")
    if gain > 0:
        if not open_:
            return Verdict("ship", f"{arm} is better: {figures}, and no guardrail is at risk.", f"Ship {arm}.")
        return Verdict(
            "hold",
            f"{arm} is better ({figures}), but a loss beyond the margin is not ruled out on {_and(open_)}.",
            "Collect more users, or accept that risk openly; do not ship by this result alone.",
        )
    could = f"the smallest effect that could have been seen is {unsigned(primary.detectable)}"
    if not complete:
        return Verdict("continue", f"No effect of {arm} shown so far: {figures}; {could}.", "Let it run as planned.")
    return Verdict(
        "no effect shown",
        f"No effect of {arm} shown: {figures}; {could}.",
        "Keep the control. A smaller effect may exist: to see one half as large takes four times the users.",
    )


def signed(share: float) -> str:
    """A relative difference as a percentage with its sign.

    >>> signed(0.0123), signed(-0.5), signed(float("nan"))
    ('+1.23%', '-50.0%', 'unknown')
    """
    if math.isnan(share):
        return "unknown"
    return f"{100 * share:+.2f}%" if abs(share) < 0.1 else f"{100 * share:+.1f}%"


def unsigned(share: float) -> str:
    """A relative size as a percentage.

    >>> unsigned(0.0123)
    '1.23%'
    """
    return signed(abs(share)).lstrip("+")


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)
