"""Logs and a plan -> the result: verdicts, checks, effects, segments and days, as one dict for JSON."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np

from seqrec.abtest.aggregates import Aggregates, aggregate
from seqrec.abtest.judgement import Judgement, guardrail_state, judge
from seqrec.abtest.means import Effect, Estimate, cuped_estimates, effect, interaction_p_value, ratio_estimate
from seqrec.abtest.plan import ExperimentPlan, Metric, Quantile
from seqrec.abtest.quantiles import quantile_difference
from seqrec.abtest.sample_moments import SampleMoments
from seqrec.abtest.sequential import sequential_effect
from seqrec.abtest.trust import Check, balance_check, trust_checks, variation_check
from seqrec.abtest.verdict import blocked_verdict, decide
from seqrec.files import JsonObject
from seqrec.stats import benjamini_hochberg, holm
from seqrec.types import InputError


def analyze(connection: duckdb.DuckDBPyConnection, plan: ExperimentPlan, *, n_days: int | None = None) -> JsonObject:
    """The result of loaded logs (`load_logs`): `aggregate`, then `conclude`."""
    return conclude(aggregate(connection, plan, n_days=n_days), plan)


def conclude(sums: Aggregates, plan: ExperimentPlan) -> JsonObject:
    """The result that follows from the sums (a pure function); undefined figures are None."""
    complete = sums.n_days == plan.n_days
    due = plan.stopping == "always-valid" or sums.look > 0
    checks = trust_checks(sums.trust, plan, n_days=sums.n_days)
    arms = sums.primary
    fields = {**vars(plan), "start": plan.start.isoformat(), "hash": plan.content_hash}
    del fields["guardrails"]  # they stand with their effects
    result: JsonObject = {
        "plan": fields,
        "n_days": sums.n_days,
        "complete": complete,
        "look": sums.look if plan.n_looks > 1 else None,
        "n_users": {arm: arms[arm].n_users if arm in arms else 0 for arm in plan.arms},
        "effects": {},
        "segments": [],
        "days": {},
    }
    if all(arm in arms and arms[arm].n_users > 1 for arm in plan.arms):
        if sums.trust.repeated:
            checks += variation_check(plan.primary.name, arms)
        checks += balance_check(plan, sums.before)
        checks += _effects(sums, plan, result)
    result["checks"] = [check._asdict() for check in checks]
    result["verdicts"] = {}
    for arm in plan.arms[1:]:
        verdict = blocked_verdict(checks)
        if verdict is None:
            effects = result["effects"][arm]
            states = {each["metric"]: each["state"] for each in effects["guardrails"]}
            verdict = decide(plan, arm, effects["primary"], states, complete=complete, due=due)
        result["verdicts"][arm] = verdict._asdict()
    return _json_ready(result)


def _effects(sums: Aggregates, plan: ExperimentPlan, result: JsonObject) -> list[Check]:
    """Adds effects, segments and days to the result; a primary metric that cannot be computed is a failed check."""
    look = max(sums.look, 1)
    try:
        estimates, saved = _estimates(sums.primary, plan)
    except InputError as error:
        return [Check("primary metric", "failed", f"{plan.primary.name} cannot be computed: {error}")]
    result["variance_saved"] = saved
    control = estimates[plan.arms[0]]
    level = 1.0 - plan.alpha / (len(plan.arms) - 1)
    effects: dict[str, JsonObject] = {}
    for arm in plan.arms[1:]:
        quantiles: list[JsonObject] = []
        for of, values in zip(plan.quantiles, sums.quantiles, strict=True):
            difference = quantile_difference(values[plan.arms[0]], values[arm], quantile=of.quantile, level=level)
            quantiles.append({"quantile": of, "effect": difference})
        effects[arm] = {
            "primary": judge(control, estimates[arm], plan, look=look),
            "guardrails": [],
            "quantiles": quantiles,
        }
        result["days"][arm] = _daily(sums.days, plan, arm)
    result |= {"effects": effects, "segments": _segments(sums.segments, plan)}
    for metric, arms in zip(plan.guardrails, sums.guardrails, strict=True):
        try:
            guarded, _ = _estimates(arms, plan)
        except InputError as error:
            for each in effects.values():
                each["guardrails"].append({"metric": metric, "state": "unknown", "reason": str(error)})
            continue
        for arm, each in effects.items():
            judgement = judge(guarded[plan.arms[0]], guarded[arm], plan, look=look)
            state = guardrail_state(judgement, metric)
            each["guardrails"].append({"metric": metric, "state": state, "effect": judgement})
    return []


def _estimates(arms: dict[str, SampleMoments], plan: ExperimentPlan) -> tuple[dict[str, Estimate], float]:
    """Each arm's estimate, adjusted for covariates if the plan says so, and the share of variance that this removes."""
    if not plan.is_adjusted:
        return {arm: ratio_estimate(sample) for arm, sample in arms.items()}, 0.0
    estimates, saved = cuped_estimates(list(arms.values()), [2, 3], numerator=0, denominator=1)
    return dict(zip(arms, estimates, strict=True)), saved


def _segments(segments: dict[tuple[str, str], dict[str, SampleMoments]], plan: ExperimentPlan) -> list[JsonObject]:
    """The primary effect by segment: fixed intervals, p-values adjusted (Benjamini and Hochberg) over all values of
    all segments, and for each segment a test that its effects differ (Holm over segments)."""
    rows: list[JsonObject] = []
    for (segment, value), arms in segments.items():
        for arm in plan.arms[1:]:
            pair = {name: arms[name] for name in (plan.arms[0], arm) if name in arms}
            try:
                estimates, _ = _estimates(pair, plan)
                of_pair = effect(estimates[plan.arms[0]], estimates[arm], alpha=plan.alpha)
            except (InputError, KeyError):
                of_pair = None
            n_users = sum(each.n_users for each in pair.values())
            rows.append({"segment": segment, "value": value, "arm": arm, "n_users": n_users, "effect": of_pair})
    adjusted = benjamini_hochberg(np.array([row["effect"].p_value if row["effect"] else math.nan for row in rows]))
    effects: dict[tuple[str, str], list[Effect]] = {}
    for row, p_value in zip(rows, adjusted, strict=True):
        row["p_adjusted"] = float(p_value)
        effects.setdefault((row["segment"], row["arm"]), []).extend([row["effect"]] if row["effect"] else [])
    interactions = [
        interaction_p_value(
            np.array([each.difference for each in of_group]), np.array([each.standard_error for each in of_group])
        )
        for of_group in effects.values()
    ]
    by_group = dict(zip(effects, holm(np.array(interactions, float)), strict=True))
    for row in rows:
        row["p_interaction"] = float(by_group[row["segment"], row["arm"]])
    return rows


def _daily(by_day: dict[str, list[SampleMoments | None]], plan: ExperimentPlan, arm: str) -> list[JsonObject]:
    """The effect to date at the end of each day, with its confidence sequence."""
    names = ("difference", "lower", "upper", "fixed_lower", "fixed_upper", "p_value")
    alpha = plan.alpha / (len(plan.arms) - 1)
    rows = []
    for day, (control, treatment) in enumerate(zip(by_day[plan.arms[0]], by_day[arm], strict=True), start=1):
        samples = {name: each for name, each in (("control", control), ("treatment", treatment)) if each}
        figures: Sequence[float] = [math.nan] * len(names)
        # Too few users so far, or a denominator of 0.
        with contextlib.suppress(InputError, KeyError):
            estimates, _ = _estimates(samples, plan)
            pair = estimates["control"], estimates["treatment"]
            sequential = sequential_effect(*pair, tuning=plan.expected_users, alpha=alpha)
            fixed = effect(*pair, alpha=alpha)
            figures = (sequential.value, *sequential[2:4], fixed.lower, fixed.upper, sequential.p_value)
        n_users = sum(each.n_users for each in samples.values())
        rows.append({"day": day, "n_users": n_users, **dict(zip(names, figures, strict=True))})
    return rows


def _json_ready(value: Any) -> Any:
    """Named tuples as dicts, and None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Metric | Quantile):
        return {"name": value.name, **vars(value)}
    if isinstance(value, Judgement):
        # One level; the smallest detectable effect is the relative one.
        fields = {**value.effect._asdict(), **value._asdict()}
        return {name: _json_ready(each) for name, each in fields.items() if name != "effect"}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _json_ready(each) for name, each in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _json_ready(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
