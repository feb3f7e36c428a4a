"""Checks that an experiment is valid, independent of its result; a check that fails blocks the verdict."""

import math
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from seqrec.abtest.means import effect, ratio_estimate
from seqrec.abtest.plan import ExperimentPlan
from seqrec.abtest.sample_moments import SampleMoments
from seqrec.abtest.srm import srm_p_value, srm_sequential_p_values
from seqrec.abtest.tables import TrustCounts
from seqrec.files import JsonObject
from seqrec.stats import holm
from seqrec.types import InputError


class Check(NamedTuple):
    """One reason to trust the experiment or not."""

    name: str
    status: Literal["passed", "failed", "noted"]
    """noted: worth knowing, but does not block the verdict."""
    finding: str
    """The counts and p-values behind the status, as a sentence without a full stop."""

    @classmethod
    def of(cls, name: str, finding: str, *, failed: bool | np.bool) -> "Check":
        """A check that either failed or passed."""
        return cls(name, "failed" if failed else "passed", finding)


def trust_checks(logged: TrustCounts, plan: ExperimentPlan, *, n_days: int) -> list[Check]:
    """Checks of users in two arms, sample ratios, exposure, bots, lost and repeated events, and counts of omitted rows.

    All at the plan's `trust_alpha`, adjusted (Holm) within a check that has several tests.
    """
    counts = {row["arm"]: row for row in logged.check_arms}
    by_arm = {
        name: np.array([int(counts[arm][name]) if arm in counts else 0 for arm in plan.arms])
        for name in ("n_assigned", "n_in_two_arms", "n_exposed", "n_bots")
    }
    return [
        _users(plan, by_arm["n_exposed"]),
        _two_arms(plan, by_arm),
        _sample_ratio(plan, "sample ratio, assigned", by_arm["n_assigned"]),
        _daily_sample_ratio(logged.check_days, plan, n_days),
        *_segment_sample_ratio(logged.check_segments, plan),
        _share(plan, "exposure", "exposed", by_arm["n_exposed"], by_arm["n_assigned"]),
        _sample_ratio(plan, "sample ratio, exposed", by_arm["n_exposed"]),
        _share(plan, "bots", "left out as bots", by_arm["n_bots"], by_arm["n_exposed"]),
        *_no_events(logged),
        *_lost_events(logged.lost, plan),
        *_repeated_events(logged, plan),
        *_resent_events(logged, plan),
        *_left_out(logged.check_left_out),
    ]


def balance_check(plan: ExperimentPlan, arms: dict[str, SampleMoments]) -> list[Check]:
    """An A/A test of the primary metric before the start: arms that differ before the start will differ after it."""
    name = "arms before the start"
    if plan.days_before == 0:
        return []
    nothing = [Check(name, "noted", f"{plan.primary.name} has no values in the {plan.days_before} days before")]
    try:
        control, *others = (ratio_estimate(arms[arm], 2, 3) for arm in plan.arms)
    except InputError:
        return nothing
    if all(each.value == 0.0 for each in (control, *others)):
        return nothing
    p_value = holm(np.array([effect(control, other).p_value for other in others])).min()
    failed = p_value < plan.trust_alpha
    words = f"{'differed' if failed else 'did not differ'} in the {plan.days_before} days before"
    return [Check.of(name, f"{plan.primary.name} {words} (p {p_text(p_value)})", failed=failed)]


def variation_check(metric_name: str, arms: dict[str, SampleMoments]) -> list[Check]:
    """Fails where the metric is the same for every user of an arm: a fault in the logs and not an effect."""
    constant = [arm for arm, sample in arms.items() if not sample.covariance[0, 0] > 0.0]
    finding = f"{metric_name} has the same value for every user of {' and '.join(constant)}"
    return [Check("variation", "failed", finding)] if constant else []


def _users(plan: ExperimentPlan, n_exposed: np.ndarray) -> Check:
    empty = [arm for arm, n in zip(plan.arms, n_exposed, strict=True) if n < 2]
    if empty:
        return Check("users", "failed", f"{' and '.join(empty)} has fewer than 2 users; no comparison is possible")
    return Check("users", "passed", f"{_counts(plan, n_exposed)} exposed")


def _two_arms(plan: ExperimentPlan, by_arm: dict[str, np.ndarray]) -> Check:
    n_two, n_all = int(by_arm["n_in_two_arms"].sum()), int(by_arm["n_in_two_arms"].sum() + by_arm["n_assigned"].sum())
    if n_two > plan.max_two_arm_share * n_all:
        finding = f"{n_two:,} of {n_all:,} users were logged in two arms ({_percent(n_two / n_all)})"
        return Check("users in two arms", "failed", f"{finding}; the assignment is not stable")
    return Check("users in two arms", "noted" if n_two else "passed", f"{n_two:,} of {n_all:,} users, left out")


def _sample_ratio(plan: ExperimentPlan, name: str, n_users: np.ndarray) -> Check:
    p_value = srm_p_value(n_users, plan.shares)
    finding = f"{_counts(plan, n_users)}, planned {_shares(plan)} (p {p_text(p_value)})"
    return Check.of(name, finding, failed=p_value < plan.trust_alpha)


def _daily_sample_ratio(rows: list[JsonObject], plan: ExperimentPlan, n_days: int) -> Check:
    by_day = np.zeros((n_days, len(plan.arms)), int)
    for row in rows:
        by_day[row["day"], plan.arms.index(row["arm"])] += row["n_users"]
    some = by_day[by_day.sum(axis=1) > 0]
    if not len(some):
        return Check("sample ratio by day", "noted", "no user was assigned in the period")
    by_one = holm(np.array([srm_p_value(row, plan.shares) for row in some])).min()
    running = srm_sequential_p_values(np.cumsum(some, axis=0), plan.shares).min()
    finding = f"worst of {len(some)} days p {p_text(by_one)} (Holm), running totals p {p_text(running)} (always valid)"
    return Check.of("sample ratio by day", finding, failed=min(by_one, running) < plan.trust_alpha)


def _segment_sample_ratio(rows: list[JsonObject], plan: ExperimentPlan) -> list[Check]:
    by_value: dict[tuple[str, str], np.ndarray] = {}
    for row in rows:
        counts = by_value.setdefault((row["segment"], row["value"]), np.zeros(len(plan.arms), int))
        counts[plan.arms.index(row["arm"])] += row["n_users"]
    if not by_value:
        return []
    p_values = holm(np.array([srm_p_value(counts, plan.shares) for counts in by_value.values()]))
    p_value, worst = p_values.min(), int(p_values.argmin())
    (segment, value), counts = list(by_value.items())[worst]
    finding = f"worst of {len(by_value)}: {segment} = {value}, {_counts(plan, counts)} (p {p_text(p_value)}, Holm)"
    return [Check.of("sample ratio by segment", finding, failed=p_value < plan.trust_alpha)]


def _share(plan: ExperimentPlan, name: str, verb: str, n_some: np.ndarray, n_all: np.ndarray) -> Check:
    """Tests that the share is the same in every arm, by a chi-square test of independence."""
    table = np.stack([n_some, n_all - n_some])
    table = table[:, n_all > 0]
    p_value = 1.0
    if table.shape[1] > 1 and (table.sum(axis=1) > 0).all():
        p_value = float(stats.chi2_contingency(table, correction=False).pvalue)
    shares = " and ".join(
        f"{_percent(some / of)} of {arm}" for arm, some, of in zip(plan.arms, n_some, n_all, strict=True) if of
    )
    return Check.of(name, f"{verb}: {shares} (p {p_text(p_value)})", failed=p_value < plan.trust_alpha)


def _lost_events(lost: dict[str, SampleMoments], plan: ExperimentPlan) -> list[Check]:
    if not lost:
        return [Check("events lost", "noted", "events have no sequence numbers, so losses cannot be detected")]
    most, p_value, shares = _event_shares(lost, plan)
    failed = p_value < plan.trust_alpha or most > plan.max_lost_share
    return [Check.of("events lost", f"{shares} never arrived (p {p_text(p_value)})", failed=failed)]


def _no_events(logged: TrustCounts) -> list[Check]:
    """Fails where no analysed user has an event, which would otherwise look like a metric of 0 for every user."""
    if logged.repeated or not sum(row["n_exposed"] - row["n_bots"] for row in logged.check_arms):
        return []
    n_unassigned = sum(int(row["n"]) for row in logged.check_left_out if row["what"] == "events unassigned")
    remedy = f"{n_unassigned:,} are of users without an assignment: compare the ids in both logs"
    return [Check("events", "failed", "no event is of an analysed user" + (f"; {remedy}" if n_unassigned else ""))]


def _repeated_events(logged: TrustCounts, plan: ExperimentPlan) -> list[Check]:
    name = "events repeated"
    if logged.n_dropped:
        return [Check(name, "noted", f"{logged.n_dropped:,} repeated events were dropped")]
    if not logged.repeated:
        return []
    most, p_value, shares = _event_shares(logged.repeated, plan)
    if most == 0.0:
        return [Check(name, "passed", "none")]
    finding = f"{shares} repeat an earlier one (p {p_text(p_value)})"
    if p_value < plan.trust_alpha or most > plan.max_repeated_share:
        return [Check(name, "failed", f"{finding}; count each once with --logs.drop-repeated")]
    return [Check(name, "noted", finding)]


def _resent_events(logged: TrustCounts, plan: ExperimentPlan) -> list[Check]:
    """Notes rows that agree in all but their sequence number, which two devices of one user could log, if rarely."""
    n_events = {arm: sample.mean[1] * sample.n_users for arm, sample in logged.repeated.items()}
    shares = {row["arm"]: int(row["n"]) / n_events[row["arm"]] for row in logged.check_resent}
    if max(shares.values(), default=0.0) <= plan.max_repeated_share:
        return []
    words = " and ".join(f"{_percent(share)} of {arm}'s" for arm, share in shares.items())
    finding = (
        f"{words} agree with an earlier one of the user in all but the sequence number, as where a client numbers anew "
        "what it sends again; each counts"
    )
    return [Check("events sent again", "noted", finding)]


def _event_shares(by_user: dict[str, SampleMoments], plan: ExperimentPlan) -> tuple[float, float, str]:
    """The largest share of an arm's events, the p-value of equal shares (Holm), and the shares in words."""
    by_arm = {arm: ratio_estimate(sample) for arm, sample in by_user.items()}
    testable = {arm: each for arm, each in by_arm.items() if each.n_users > 1}
    control = testable.get(plan.arms[0])
    p_values = [effect(control, testable[arm]).p_value for arm in plan.arms[1:] if control and arm in testable]
    p_value = float(holm(np.array(p_values)).min()) if p_values else math.nan
    shares = " and ".join(f"{_percent(each.value)} of {arm}'s" for arm, each in by_arm.items())
    return max(each.value for each in by_arm.values()), p_value, shares


def _left_out(rows: list[JsonObject]) -> list[Check]:
    words = {
        "users assigned outside": "users were assigned outside the analysed days and are left out",
        "assignments repeated": "assignments repeat an earlier one of the same user and arm; the first counts",
        "events unassigned": "events are of users without an assignment and are left out",
        "exposures unassigned": "exposures are of users without an assignment and are left out",
    }
    return [Check("left out", "noted", f"{int(row['n']):,} {words[row['what']]}") for row in rows if row["n"]]


def p_text(value: float) -> str:
    """A p-value in words.

    >>> p_text(0.0421), p_text(0.00001), p_text(float("nan"))
    ('0.042', '1.0e-05', 'unknown')
    """
    if math.isnan(value):
        return "unknown"
    return f"{value:.1e}" if value < 0.0005 else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _counts(plan: ExperimentPlan, n_users: np.ndarray) -> str:
    return " and ".join(f"{n:,} in {arm}" for arm, n in zip(plan.arms, n_users.tolist(), strict=True))


def _shares(plan: ExperimentPlan) -> str:
    return ":".join(f"{100 * share:g}" for share in plan.shares)
