"""A plan survives its file, is written once, and refuses what cannot be planned."""

from datetime import date

import pytest

from seqrec.abtest.plan import ExperimentPlan, Metric, metric_of, quantile_of, read_plan, write_plan
from seqrec.types import InputError


def plan_with(**fields) -> ExperimentPlan:
    return ExperimentPlan(
        **{"name": "p", "start": date(2026, 3, 2), "n_days": 14, "primary": Metric("plays"), **fields}
    )


def test_a_plan_reads_as_it_was_written_whatever_its_names(tmp_path):
    hostile = """x"; DROP TABLE events; --\\ 'y' \n\t\x7f é"""
    plan = plan_with(
        name=hostile,
        arms=("control", hostile),
        segments=(hostile,),
        guardrails=(metric_of("-skips/plays:0.02"), metric_of("likes:0.1")),
        quantiles=(quantile_of("plays@0.9"),),
        unit=f"unit {hostile}",
        adjustment="cupac",
        stopping="obrien-fleming",
        n_looks=2,
    )
    write_plan(plan, tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml") == plan
    assert read_plan(tmp_path / "plan.toml").content_hash == plan.content_hash


def test_a_plan_is_written_once(tmp_path):
    write_plan(plan_with(), tmp_path / "plan.toml")
    with pytest.raises(InputError, match="written once"):
        write_plan(plan_with(alpha=0.1), tmp_path / "plan.toml")


def test_another_margin_is_another_plan():
    changed = [plan_with(guardrails=(metric_of(f"likes:{margin}"),)).content_hash for margin in (0.01, 0.02)]
    assert changed[0] != changed[1]


def test_what_the_expected_users_could_show():
    # Two arms of 50,000 with s = 1: 2.8 sqrt(2 / 50,000).
    assert plan_with().detectable(1.0) == pytest.approx((1.95996 + 0.84162) * (2 / 50_000) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"arms": ("a",), "shares": (1.0,)}, "name two or more"),
        ({"arms": ("a", "a")}, "each once"),
        ({"shares": (0.5, 0.4)}, "add up to 0.9"),
        ({"shares": (1.0, 0.0)}, "above 0"),
        ({"n_looks": 3}, "n_looks=3 does not fit"),
        ({"alpha": 5.0}, "alpha=5.0"),
        ({"guardrails": (Metric("likes"),)}, "no margin"),
        ({"n_days": 0}, "n_days=0"),
        ({"segments": ("a", "a")}, "twice"),
        ({"segments": ("arm",)}, "segment 'arm' is a column of the logs"),
        ({"unit": ""}, "unit '' cannot be"),
        ({"unit": "arm"}, "unit 'arm' cannot be"),
        ({"adjustment": "cupac", "days_before": 0}, "needs days_before above 0"),
    ],
)
def test_what_cannot_be_planned_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        plan_with(**fields)


@pytest.mark.parametrize(
    "text", ["", "plays; DROP TABLE x", "plays/", "plays/users/x", "listens", "plays:x", "plays/plays"]
)
def test_a_metric_is_made_of_measures_only(text):
    with pytest.raises(InputError):
        metric_of(text)


@pytest.mark.parametrize("text", ["plays", "plays@", "plays@1", "plays@nan", "listens@0.5", "plays@0.5;"])
def test_a_quantile_is_of_a_measure_and_inside_0_and_1(text):
    with pytest.raises(InputError):
        quantile_of(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("n_days = 14", "n_days = 14.5"), "n_days=14.5 is not a whole number"),
        (("n_days = 14", "n_days = true"), "n_days=True is not a whole number"),
        (("power = 0.8", "power = nan"), "power=nan is not a finite number"),
        (("power = 0.8", f"power = 1{'0' * 400}"), "power=1.* is not a finite number"),
        (("power = 0.8", f"power = {'9' * 5000}"), "is not TOML"),
        (('stopping = "fixed"', 'stopping = "sometimes"'), "stopping='sometimes' is not one of fixed, pocock"),
        (('adjustment = "cuped"', 'adjustment = "magic"'), "adjustment='magic' is not one of none, cuped"),
        (("n_days = 14", "n_dayz = 14"), "n_dayz is an unknown field; those of the config are name, start, n_days"),
        (("n_days = 14", ""), "n_days is missing"),
        (("start = 2026-03-02", "start = 2026-03-02T01:00:00"), "without a time"),
        (("start = 2026-03-02", "start = '2026-03-02'"), "start='2026-03-02' is not a date"),
        (('arms = ["control", "treatment"]', "arms = [1, 2]"), r"arms\[0\]=1 is not a text"),
        (('arms = ["control", "treatment"]', "arms = 5"), "arms=5 is not a list"),
        (('arms = ["control", "treatment"]', 'arms = "ct"'), "arms='ct' is not a list"),
        (("more_is_better = true", "more_is_better = 1"), "primary.more_is_better=1 is not true or false"),
        (("[primary]", "[[primary]]"), "primary is .*; give its fields by their names"),
        (("[primary]", f"x = {'[' * 5000}\n[primary]"), "is not TOML"),
        (("[primary]", "[primary"), "is not TOML"),
        (('numerator = "plays"', 'numerator = "1); DROP TABLE events; --"'), "is not one of"),
    ],
)
def test_a_file_that_holds_no_plan_is_refused_with_its_name(tmp_path, change, words):
    file = tmp_path / "plan.toml"
    write_plan(plan_with(), file)
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(InputError, match=words) as error:
        read_plan(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
