"""A result as one HTML page that opens offline: verdict and action first, then why to believe it, then the rest."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from seqrec.abtest.pictures import Bar, daily, forest
from seqrec.abtest.style import STYLE
from seqrec.abtest.tables import STEPS, sql_text
from seqrec.abtest.verdict import signed, unsigned

_NOTHING = "\N{EN DASH}"


def page(result: Mapping[str, Any]) -> str:
    """The page of a result, as `analyze` returns it."""
    plan = result["plan"]
    n_users = sum(result["n_users"].values())
    days = f"{result['n_days']} of {plan['n_days']} days"
    parts = [
        f"<h1>{_text(plan['name'])}</h1>",
        f'<p class="faint">{n_users:,} users analysed, {days} from {_text(plan["start"])}; '
        f"plan {_text(plan['hash'])}</p>",
        *_verdicts(result["verdicts"]),
        "<h2>Can it be trusted?</h2>",
        '<div class="checks">',
        _table(
            ["", "", ""],
            [[_status(check["status"]), _text(check["name"]), _text(check["finding"])] for check in result["checks"]],
            words=(2,),
        ),
        "</div>",
    ]
    if result["effects"]:
        parts += _primary(result)
        parts += _guardrails(result)
        parts += _quantiles(result)
        parts += _segments(result)
        parts += _days(result)
    parts += _offline(result)
    parts += _method(result)
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(plan['name'])}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _verdicts(verdicts: Mapping[str, Any]) -> list[str]:
    # A blocked experiment is blocked for all its arms, and says so once.
    different = {tuple(verdict.values()): arm for arm, verdict in verdicts.items()}
    return [
        f'<div class="verdict {decision.split()[0]}"><strong>{_text(decision.capitalize())}</strong>'
        f"<p>{_text(headline)}</p><p>{_text(action)}</p></div>"
        for decision, headline, action in different
    ]


def _primary(result: Mapping[str, Any]) -> list[str]:
    plan = result["plan"]
    effects = {arm: found["primary"] for arm, found in result["effects"].items()}
    rows = [
        [
            _text(arm),
            _number(each["control"]),
            _number(each["treatment"]),
            _interval(each["difference"], each["lower"], each["upper"], write=_number),
            _interval(each["relative"], each["relative_lower"], each["relative_upper"], write=_signed),
            _p(each["p_value"]),
            _NOTHING if each["detectable"] is None else unsigned(each["detectable"]),
        ]
        for arm, each in effects.items()
    ]
    bars = [Bar(arm, each["relative"], each["relative_lower"], each["relative_upper"]) for arm, each in effects.items()]
    good = "more" if plan["primary"]["more_is_better"] else "less"
    saved = result.get("variance_saved") or 0.0
    return [
        f"<h2>Primary metric: {_text(plan['primary']['name'])}</h2>",
        f'<p class="faint">Relative difference from {_text(plan["arms"][0])}; {good} is better.'
        + (f" What was known before the start took {100 * saved:.0f}% of the variance out." if saved > 0 else "")
        + "</p>",
        forest(bars, label="relative difference of the primary metric"),
        _table(["", plan["arms"][0], "arm", "difference", "relative", "p", "could have shown"], rows),
    ]


def _guardrails(result: Mapping[str, Any]) -> list[str]:
    parts = []
    for arm, found in result["effects"].items():
        if not found["guardrails"]:
            continue
        bars, rows = [], []
        for each in found["guardrails"]:
            metric, effect = each["metric"], each.get("effect")
            sign = 1 if metric["more_is_better"] else -1
            ends = [effect[name] for name in ("relative", "relative_lower", "relative_upper")] if effect else [None] * 3
            value, lower, upper = (None if end is None else sign * end for end in ends)
            lower, upper = (lower, upper) if sign == 1 else (upper, lower)
            bars.append(Bar(metric["name"], value, lower, upper, limit=-metric["margin"]))
            rows.append(
                [
                    _status(each["state"]),
                    _text(metric["name"]),
                    _interval(*ends, write=_signed),
                    f"{unsigned(metric['margin'])} {'less' if sign == 1 else 'more'}",
                    _text(each.get("reason", "")),
                ]
            )
        parts += [
            f"<h3>{_text(arm)}</h3>",
            forest(bars, label=f"guardrails of {arm}, right is better"),
            _table(["", "metric", "relative", "acceptable", ""], rows, words=(4,)),
        ]
    head = (
        '<h2>Guardrails</h2><p class="faint">In the picture right is better for all, and a dashed mark is the margin. '
        "Safe: the interval rules a loss beyond it out; unclear: it does not.</p>"
    )
    return [head, *parts] if parts else []


def _quantiles(result: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            _text(arm),
            _text(each["quantile"]["name"]),
            _number(each["effect"]["control"]),
            _number(each["effect"]["treatment"]),
            _interval(*(each["effect"][name] for name in ("difference", "lower", "upper")), write=_number),
        ]
        for arm, found in result["effects"].items()
        for each in found["quantiles"]
    ]
    if not rows:
        return []
    return [
        '<h2>Quantiles</h2><p class="faint">Differences with bootstrap intervals over users, to be read at the planned '
        "end. They show where in the distribution an effect sits, and do not decide.</p>",
        _table(["", "quantile", result["plan"]["arms"][0], "arm", "difference"], rows, words=(1,)),
    ]


def _segments(result: Mapping[str, Any]) -> list[str]:
    if not result["segments"]:
        return []
    parts = [
        '<h2>Segments</h2><p class="faint">Exploratory: where to look next, not a second verdict. '
        "P-values are adjusted for the number of rows (Benjamini and Hochberg), intervals are not. That segments "
        "differ is shown by the interaction test only.</p>"
    ]
    several = len(result["plan"]["arms"]) > 2
    groups = dict.fromkeys((row["segment"], row["arm"]) for row in result["segments"])
    for segment, arm in groups:
        rows = [row for row in result["segments"] if (row["segment"], row["arm"]) == (segment, arm)]
        effects = [row["effect"] or dict.fromkeys(("relative", "relative_lower", "relative_upper")) for row in rows]
        names = ("relative", "relative_lower", "relative_upper")
        bars = [Bar(row["value"], *(each[name] for name in names)) for row, each in zip(rows, effects, strict=True)]
        lines = [
            [
                _text(row["value"]),
                f"{row['n_users']:,}",
                _interval(*(each[name] for name in names), write=_signed),
                _p(row["p_adjusted"]),
            ]
            for row, each in zip(rows, effects, strict=True)
        ]
        title = f"{segment}, {arm}" if several else segment
        parts += [
            f"<h3>By {_text(title)}</h3>",
            f'<p class="faint">Do they differ? p {_p(rows[0]["p_interaction"])} (interaction test, Holm)</p>',
            forest(bars, label=f"relative difference by {segment}"),
            _folded(_table(["", "users", "relative", "p"], lines, words=(0,))),
        ]
    return parts


def _days(result: Mapping[str, Any]) -> list[str]:
    parts = [
        '<h2>Effect to date, by day</h2><p class="faint">Difference in '
        f"{_text(result['plan']['primary']['name'])} with the confidence sequence (band), which may be read on any "
        "day, and the fixed interval (dashes), which may be read on the planned last day only. Totals grow with the "
        "days, and so may the difference.</p>"
    ]
    for arm, days in result["days"].items():
        rows = [
            [
                str(day["day"]),
                f"{day['n_users']:,}",
                _interval(day["difference"], day["lower"], day["upper"], write=_number),
                _p(day["p_value"]),
            ]
            for day in days
        ]
        table = _table(["day", "users", "difference [always valid]", "p"], rows)
        parts += [
            f"<h3>{_text(arm)}</h3>" if len(result["days"]) > 1 else "",
            daily(days, label=f"difference of {arm} to date by day"),
            _folded(table),
        ]
    return parts


def _offline(result: Mapping[str, Any]) -> list[str]:
    head = "<h2>Offline against online</h2>"
    if "offline" not in result:
        return [f'{head}<p class="faint">No offline comparison of these arms was given (--offline).</p>']
    parts = [
        f'{head}<p class="faint">The offline difference of the same recommenders, from rank tables, beside the '
        "relative difference of the primary metric online.</p>"
    ]
    rows = []
    for arm, metrics in result["offline"].items():
        online = result["effects"].get(arm, {}).get("primary", {})
        shown = _interval(
            *(online.get(name) for name in ("relative", "relative_lower", "relative_upper")), write=_signed
        )
        rows += [
            [
                _text(arm),
                _text(metric),
                _interval(*(each[name] for name in ("difference", "lower", "upper")), write=_number),
                shown,
            ]
            for metric, each in metrics.items()
        ]
    parts.append(_table(["", "offline metric", "offline difference", "online, relative"], rows))
    found = result["offline_online"]
    lines = [
        [
            _text(metric),
            str(each["n_experiments"]),
            _interval(*(each[f"sign_{name}"] for name in ("agreement", "lower", "upper")), write=_share),
            _interval(*(each[f"rank_{name}"] for name in ("correlation", "lower", "upper")), write=_number),
        ]
        for metric, each in found["agreements"].items()
    ]
    if lines:
        parts.append(
            '<p class="faint">Over this and past experiments: how often both had one sign, and how alike '
            "their orders are. A chosen sample of experiments, each measured with noise, says less than its number.</p>"
        )
        parts.append(_table(["offline metric", "experiments", "same sign", "rank correlation"], lines))
    else:
        parts.append(
            '<p class="faint">How well offline metrics foretell online ones takes two experiments (--past).</p>'
        )
    if found["n_blocked"]:
        parts.append(f'<p class="faint">Left out, since their verdicts are blocked: {found["n_blocked"]}.</p>')
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
        + f"; power {plan['power']:g} for what could have been seen.",
        f"Rule for looking: {_RULES[plan['stopping']]}"
        + (f"; this is look {result['look']} of {plan['n_looks']}." if result["look"] is not None else "."),
        _ADJUSTMENTS[plan["adjustment"] if plan["days_before"] else "none"].format(days=plan["days_before"]),
        "Left out alike in all arms: users in two arms, users who were never exposed, users with more than "
        f"{plan['max_plays_per_day']:,} plays on a day since their exposure.",
        "Guardrails are tests of non-inferiority of the relative difference against the plan's margin.",
        f"Trust checks are at p < {plan['trust_alpha']:g} each.",
    ]
    predicted = ("user_folds", "cupac_values", "cupac_moments", "cupac_predictions")
    names = [*STEPS, "metric_values", *(predicted if plan["adjustment"] == "cupac" else ())]
    names += ["moments", "segment_moments", "new_users_by_day", "increments_by_day"]
    names += ["user_values"] if plan["quantiles"] else []
    names += ["check_arms", "check_days", "check_segments", "check_logging", "check_repeated", "check_left_out"]
    sql = "".join(
        f"<details><summary>{name}.sql</summary><pre>{_text(sql_text(name))}</pre></details>" for name in names
    )
    lines = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return [f"<h2>Method</h2><ul>{lines}</ul>", f"<h2>SQL</h2>{sql}"]


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = ()) -> str:
    """Heads are escaped here, cells are HTML already; columns in `words` may break their lines."""
    names = list(heads)
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in names) if any(names) else ""
    lines = []
    for row in rows:
        # A narrow page shows a row as lines, each with its column's head.
        cells = [
            f'<td{" class=words" if i in words else ""} data-head="{_text(names[i])}">{cell}</td>'
            for i, cell in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _folded(table: str) -> str:
    return f"<details><summary>the numbers</summary>{table}</details>"


def _status(state: str) -> str:
    return f'<span class="{_text(state)}">{_text(state)}</span>'


def _interval(
    value: float | None, lower: float | None, upper: float | None, *, write: Callable[[float | None], str]
) -> str:
    if value is None:
        return _NOTHING
    return f"{write(value)} <small>[{write(lower)}, {write(upper)}]</small>"


def _signed(share: float | None) -> str:
    return _NOTHING if share is None else signed(share)


def _share(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.0f}%"


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.4g}"


def _p(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.1e}" if value < 0.0005 else f"{value:.3f}"


def _text(value: Any) -> str:
    return html.escape(str(value))
