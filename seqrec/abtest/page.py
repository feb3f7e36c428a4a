"""An A/B result as an HTML page: verdict and action first, then the checks behind it, then the rest."""

from collections.abc import Mapping
from typing import Any

from seqrec.abtest.effect_plots import Bar, plot_days, plot_relative
from seqrec.abtest.tables import STEPS, sql_text
from seqrec.abtest.trust import p_text
from seqrec.abtest.verdict import signed_percent, unsigned_percent
from seqrec.pages import html

_KINDS = {
    **dict.fromkeys(("ship", "passed", "safe"), "good"),
    **dict.fromkeys(("stop", "blocked", "hold", "failed", "harmed", "unclear", "unknown"), "bad"),
}
"""Whether a decision or a state is good or bad news; others are neither."""
_ABSOLUTE = ("difference", "lower", "upper")
_RELATIVE = ("relative", "relative_lower", "relative_upper")


def page(result: Mapping[str, Any]) -> str:
    """The page of a result, as `analyze` returns it."""
    plan = result["plan"]
    n_users = sum(result["n_users"].values())
    days = f"{result['n_days']} of {plan['n_days']} days"
    parts = [
        html.faint(f"{n_users:,} users analysed, {days} from {plan['start']}; plan {plan['hash']}"),
        *_verdicts(result["verdicts"]),
        html.heading("Can it be trusted?"),
        html.table(
            [],
            [[_state(check["status"]), check["name"], check["finding"]] for check in result["checks"]],
            words=(1, 2),
        ),
    ]
    if result["effects"]:
        parts += [*_primary(result), *_guardrails(result), *_quantiles(result), *_segments(result), *_days(result)]
    parts += [*_offline(result), *_method(result)]
    return html.document(plan["name"], parts)


def _verdicts(verdicts: Mapping[str, Any]) -> list[str]:
    # A blocked experiment is blocked for all its arms, which is said once.
    different = dict.fromkeys(tuple(each.values()) for each in verdicts.values())
    return [
        html.verdict_box(headline, action, title=decision.capitalize(), kind=_KINDS.get(decision, ""))
        for decision, headline, action in different
    ]


def _primary(result: Mapping[str, Any]) -> list[str]:
    plan = result["plan"]
    effects = {arm: effect["primary"] for arm, effect in result["effects"].items()}
    rows = [
        [
            arm,
            _number(each["control"]),
            _number(each["treatment"]),
            _absolute_cell(each),
            _relative_cell(each),
            html.number(each["p_value"], p_text),
            html.number(each["detectable"], unsigned_percent),
        ]
        for arm, each in effects.items()
    ]
    bars = [Bar(arm, *(each[name] for name in _RELATIVE)) for arm, each in effects.items()]
    more_is_better = plan["primary"]["more_is_better"]
    saved = result.get("variance_saved") or 0.0
    better = f"{'more' if more_is_better else 'less'} is better"
    plot = plot_relative(bars, x=f"relative difference; {better}", more_is_better=more_is_better)
    return [
        html.heading(f"Primary metric: {plan['primary']['name']}"),
        html.faint(
            f"Relative difference from {plan['arms'][0]}; {better}."
            + (f" Covariates from before the start removed {100 * saved:.0f}% of the variance." if saved > 0 else "")
        ),
        html.picture(plot, "relative difference of the primary metric with its interval"),
        html.table(["", plan["arms"][0], "arm", "difference", "relative", "p", "detectable"], rows),
    ]


def _guardrails(result: Mapping[str, Any]) -> list[str]:
    parts = []
    for arm, arm_effects in result["effects"].items():
        if not arm_effects["guardrails"]:
            continue
        bars, rows = [], []
        for each in arm_effects["guardrails"]:
            metric, effect = each["metric"], each.get("effect", {})
            sign = 1 if metric["more_is_better"] else -1
            value, *limits = (effect[name] and sign * effect[name] for name in _RELATIVE) if effect else [None] * 3
            lower, upper = limits[::sign]
            bars.append(Bar(metric["name"], value, lower, upper, limit=-metric["margin"]))
            acceptable = f"{unsigned_percent(metric['margin'])} {'less' if sign == 1 else 'more'}"
            state = _state(each["state"])
            rows.append([state, metric["name"], _relative_cell(effect), acceptable, each.get("reason", "")])
        plot = plot_relative(bars, x="relative difference; right is better")
        parts += [
            html.heading(arm, level=3),
            html.picture(plot, f"guardrails of {arm}; right is better"),
            html.table(["", "metric", "relative", "acceptable", ""], rows, words=(4,)),
        ]
    note = html.faint(
        "In the plot right is better for every metric, and a dashed mark is the margin. Safe: the interval excludes a "
        "loss beyond the margin. Unclear: it does not."
    )
    return [html.heading("Guardrails"), note, *parts] if parts else []


def _quantiles(result: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            arm,
            each["quantile"]["name"],
            _number(each["effect"]["control"]),
            _number(each["effect"]["treatment"]),
            _absolute_cell(each["effect"]),
        ]
        for arm, effects in result["effects"].items()
        for each in effects["quantiles"]
    ]
    if not rows:
        return []
    return [
        html.heading("Quantiles"),
        html.faint(
            "Differences with bootstrap intervals over users, to be read at the planned end. They show where in the "
            "distribution an effect lies, and do not decide."
        ),
        html.table(["", "quantile", result["plan"]["arms"][0], "arm", "difference"], rows, words=(1,)),
    ]


def _segments(result: Mapping[str, Any]) -> list[str]:
    if not result["segments"]:
        return []
    parts: list[str] = [
        html.heading("Segments"),
        html.faint(
            "Exploratory: where to look next, not a second verdict. P-values are adjusted for the number of rows "
            "(Benjamini and Hochberg), intervals are not. Only the interaction test shows that segments differ."
        ),
    ]
    plan = result["plan"]
    groups = dict.fromkeys((row["segment"], row["arm"]) for row in result["segments"])
    for segment, arm in groups:
        rows = [row for row in result["segments"] if (row["segment"], row["arm"]) == (segment, arm)]
        effects = [row["effect"] or {} for row in rows]
        bars = [
            Bar(row["value"], *(effect.get(name) for name in _RELATIVE))
            for row, effect in zip(rows, effects, strict=True)
        ]
        plot = plot_relative(bars, x="relative difference", more_is_better=plan["primary"]["more_is_better"])
        lines = [
            [row["value"], f"{row['n_users']:,}", _relative_cell(effect), html.number(row["p_adjusted"], p_text)]
            for row, effect in zip(rows, effects, strict=True)
        ]
        p_interaction = html.number(rows[0]["p_interaction"], p_text)
        parts += [
            html.heading(f"By {f'{segment}, {arm}' if len(plan['arms']) > 2 else segment}", level=3),
            html.faint(f"Do they differ? p {p_interaction} (interaction test, Holm)"),
            html.picture(plot, f"relative difference by {segment}"),
            html.details("the numbers", html.table(["", "users", "relative", "p"], lines, words=(0,))),
        ]
    return parts


def _days(result: Mapping[str, Any]) -> list[str]:
    parts: list[str] = [
        html.heading("Effect to date, by day"),
        html.faint(
            f"Difference in {result['plan']['primary']['name']}. The confidence sequence (band) may be read on any "
            "day, the fixed interval (dashes) only on the planned last day. Totals grow with the days, and so may the "
            "difference."
        ),
    ]
    for arm, days in result["days"].items():
        rows = [
            [day["day"], f"{day['n_users']:,}", _absolute_cell(day), html.number(day["p_value"], p_text)]
            for day in days
        ]
        plot = plot_days(days)
        parts += [
            html.heading(arm, level=3) if len(result["days"]) > 1 else "",
            "" if plot is None else html.picture(plot, f"difference of {arm} to date by day"),
            html.details("the numbers", html.table(["day", "users", "difference [always valid]", "p"], rows)),
        ]
    return parts


def _offline(result: Mapping[str, Any]) -> list[str]:
    head = html.heading("Offline against online")
    if "offline" not in result:
        return [head, html.faint("No offline comparison of these arms was given (--offline).")]
    rows = [
        [
            arm,
            metric,
            _absolute_cell(each),
            _relative_cell(result["effects"].get(arm, {}).get("primary", {})),
        ]
        for arm, metrics in result["offline"].items()
        for metric, each in metrics.items()
    ]
    agreement = result["offline_online"]
    lines = [
        [
            metric,
            each["n_experiments"],
            html.interval_cell([each[f"sign_{name}"] for name in ("agreement", "lower", "upper")], "{:.0%}".format),
            html.interval_cell([each[f"rank_{name}"] for name in ("correlation", "lower", "upper")], _number),
        ]
        for metric, each in agreement["agreements"].items()
    ]
    parts: list[str] = [
        head,
        html.faint(
            "The offline difference of the same recommenders, from rank tables, and the relative difference of the "
            "primary metric online."
        ),
        html.table(["", "offline metric", "offline difference", "online, relative"], rows),
    ]
    if lines:
        parts += [
            html.faint(
                "Over this and past experiments: how often both differences had the same sign, and the correlation of "
                "their orders. The experiments are a selected sample and each is measured with noise, so the "
                "agreement is less certain than these numbers look."
            ),
            html.table(["offline metric", "experiments", "same sign", "rank correlation"], lines),
        ]
    else:
        words = "It takes at least two experiments (--past) to say how well offline metrics predict online ones."
        parts.append(html.faint(words))
    if agreement["n_blocked"]:
        parts.append(html.faint(f"Left out because their verdicts are blocked: {agreement['n_blocked']}."))
    return parts


_ADJUSTMENTS = {
    "none": "No covariates.",
    "cuped": "Covariates: the same metric in the {days} days before the start (CUPED, Deng et al., 2013).",
    "cupac": "Covariate: what a regression on all measures in the {days} days before the start predicts, fitted on one "
    "half of the users and used in the other (CUPAC, Li et al., 2020).",
}

_RULES = {
    "fixed": "one look, at the planned end",
    "pocock": "planned looks with one bound (Pocock, 1977)",
    "obrien-fleming": "planned looks with bounds that fall (O'Brien and Fleming, 1979)",
    "always-valid": "a confidence sequence (Waudby-Smith et al., 2021), which may be read at any time",
}


def _method(result: Mapping[str, Any]) -> list[str]:
    plan = result["plan"]
    n_arms = len(plan["arms"]) - 1
    sentences = [
        f"The unit is {plan['unit']}, called user here and user_id in the SQL: each is one row, and ratios have the "
        f"delta method's variance. alpha {plan['alpha']:g}"
        + (f", shared by {n_arms} treatments (Bonferroni)" if n_arms > 1 else "")
        + f"; power {plan['power']:g} for detectable effects.",
        f"Rule for looking: {_RULES[plan['stopping']]}"
        + (f"; this is look {result['look']} of {plan['n_looks']}." if result["look"] is not None else "."),
        _ADJUSTMENTS[plan["adjustment"] if plan["days_before"] else "none"].format(days=plan["days_before"]),
        "Left out of all arms by the same rules: users in two arms, users who were never exposed, users with more than "
        f"{plan['max_plays_per_day']:,} plays on any day since their exposure.",
        "Guardrails are tests of non-inferiority of the relative difference against the plan's margin.",
        f"Trust checks are at p < {plan['trust_alpha']:g} each.",
    ]
    predicted = ("user_folds", "cupac_values", "cupac_moments", "cupac_predictions")
    names = [*STEPS, "metric_values", *(predicted if plan["adjustment"] == "cupac" else ())]
    names += ["moments", "segment_moments", "new_users_by_day", "increments_by_day"]
    names += ["user_values"] if plan["quantiles"] else []
    names += ["check_arms", "check_days", "check_segments", "check_logging", "check_repeated", "check_resent"]
    names += ["check_left_out"]
    sql = (html.details(f"{name}.sql", html.Html(f"<pre>{html.text(sql_text(name))}</pre>")) for name in names)
    return [html.heading("Method"), html.bullets(sentences), html.heading("SQL"), *sql]


def _state(state: str) -> str:
    return html.bold(state, _KINDS.get(state, "faint"))


def _absolute_cell(effect: Mapping[str, Any]) -> str:
    return html.interval_cell([effect.get(name) for name in _ABSOLUTE], _number)


def _relative_cell(effect: Mapping[str, Any]) -> str:
    return html.interval_cell([effect.get(name) for name in _RELATIVE], signed_percent)


def _number(value: float | None) -> str:
    return html.number(value, "{:.4g}".format)
