"""The results of a study from its finished runs, as one dict of JSON values."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, median, stdev
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from seqrec.files import JsonObject
from seqrec.report.comparison import compared_metrics
from seqrec.report.comparison_text import difference_ends
from seqrec.report.rank_tables import RankTableFile, align
from seqrec.report.slices import Slicing, standard_slicings
from seqrec.stats.seeds_and_users import (
    Contrast,
    compare_over_seeds_and_users,
    contrast_over_seeds_and_users,
    seed_user_summary,
)
from seqrec.types import InputError

PRIMARY = "ndcg@10"
"""The metric of the verdicts, which are adjusted for the number of variations."""


class StudyRun(NamedTuple):
    """One finished training of the base or of a variation."""

    name: str
    seed: int
    ranks: RankTableFile
    results: JsonObject
    """What metrics.json holds."""
    lines: list[JsonObject]
    """What metrics.jsonl holds."""


class ComparedRuns(NamedTuple):
    """The runs that are compared: each system with each seed."""

    names: list[str]
    """The base first."""
    seeds: list[int]


def compared_runs(names: Sequence[str], seeds: Sequence[int], runs: Sequence[StudyRun]) -> ComparedRuns:
    """The seeds that all systems have; without one, the systems that share a seed with the base.

    Raises:
      InputError: the base, or every variation, has no finished run.
    """
    done = {(run.name, run.seed) for run in runs}
    whole = [seed for seed in seeds if all((name, seed) in done for name in names)]
    if whole:
        return ComparedRuns(list(names), whole)
    base = names[0]
    # A variation that failed, or did not fit into the time, must not hide the others.
    shared = {seed: [name for name in names if (name, seed) in done] for seed in seeds if (base, seed) in done}
    most = max(shared.values(), key=len, default=[])
    if len(most) < 2:
        missing = f"no variation has finished a seed that {base} has" if shared else f"{base} has no finished run"
        raise InputError(f"{missing}, so nothing can be compared; give the study more time or mend what failed")
    return ComparedRuns(most, [seed for seed, run_names in shared.items() if set(most) <= set(run_names)])


def study_figures(
    names: Sequence[str],
    seeds: Sequence[int],
    runs: Sequence[StudyRun],
    *,
    placebos: Mapping[str, str] | None = None,
    level: float = 0.95,
) -> JsonObject:
    """Results of the variations `names`, of which the first is the base, from their finished runs.

    `systems`: per system the runs' `values` of the primary metric, their standard deviation over seeds, and the mean
    of every metric as [mean, lower, upper]. `variations`: per variation and metric its `difference` from the base,
    as `contrast_over_seeds_and_users` has it; for the primary metric also `p_holm` and the `verdict`. `placebos` has,
    for each variation that is named with its placebo, its difference from that in the primary metric. `slices` have the
    form of `slice_figures`, `costs` and `curves` are by system. NaN, which JSON lacks, is None.
    """
    compared = compared_runs(names, seeds, runs)
    runs_of = {(run.name, run.seed): run for run in runs if run.name in compared.names and run.seed in compared.seeds}
    aligned = align({f"{run.name} (seed {run.seed})": run.ranks for run in runs_of.values()})
    tables = dict(zip(runs_of, aligned.tables.values(), strict=True))
    base = tables[compared.names[0], compared.seeds[0]]
    by_run = {place: compared_metrics(table.rank) for place, table in tables.items()}
    metrics = list(by_run[compared.names[0], compared.seeds[0]])

    values: dict[str, Float[np.ndarray, "n_systems n_seeds n_users"]] = {
        metric: np.array([[by_run[name, seed][metric] for seed in compared.seeds] for name in compared.names])
        for metric in metrics
    }
    means, variations = _contrasts(compared.names, values, level=level)
    for name, by_metric in variations.items():
        variations[name] = {**by_metric, "verdict": verdict(by_metric[PRIMARY], level=level)}
    run_means = values[PRIMARY].mean(axis=2)
    return {
        "base": compared.names[0],
        "seeds": compared.seeds,
        "n_users": base.n_users,
        "metrics": metrics,
        "primary": PRIMARY,
        "level": level,
        "systems": {
            name: {
                "values": run_means[row].tolist(),
                "seeds_sd": stdev(run_means[row].tolist()) if len(compared.seeds) > 1 else None,
                "metrics": means[name],
            }
            for row, name in enumerate(compared.names)
        },
        "variations": variations,
        "placebos": _against_placebos(compared.names, values[PRIMARY], placebos or {}, level=level),
        "slices": [_slices(slicing, compared.names, values, level=level) for slicing in standard_slicings(base)],
        "costs": _costs(compared.names[0], runs),
        "curves": _curves(runs),
        "notes": _notes(names, compared, runs, aligned.n_dropped),
    }


def _contrasts(
    names: Sequence[str], values: dict[str, np.ndarray], *, level: float
) -> tuple[dict[str, dict[str, list]], dict[str, JsonObject]]:
    """[mean, lower, upper] by system and metric, and each variation's differences from the base by metric."""
    means: dict[str, dict[str, list]] = {name: {} for name in names}
    differences: dict[str, JsonObject] = {name: {} for name in names[1:]}
    for metric, each in values.items():
        summary = seed_user_summary(each)
        for name, weights in zip(names, np.eye(len(names)), strict=True):
            estimate = contrast_over_seeds_and_users(summary, weights, level=level)
            means[name][metric] = [_number(end) for end in (estimate.estimate, estimate.lower, estimate.upper)]
        comparisons = compare_over_seeds_and_users(summary, level=level)
        for name, (contrast, adjusted) in zip(names[1:], comparisons, strict=True):
            differences[name][metric] = _as_json(contrast)
            if metric == PRIMARY:
                differences[name][metric]["p_holm"] = _number(adjusted)
    return means, differences


def _against_placebos(
    names: Sequence[str], values: np.ndarray, placebos: Mapping[str, str], *, level: float
) -> dict[str, JsonObject]:
    summary, ones = seed_user_summary(values), dict(zip(names, np.eye(len(names)), strict=True))
    return {
        feature: {
            "placebo": placebo,
            **_as_json(contrast_over_seeds_and_users(summary, ones[feature] - ones[placebo], level=level)),
        }
        for feature, placebo in placebos.items()
        if feature in ones and placebo in ones
    }


def _as_json(contrast: Contrast) -> JsonObject:
    return {
        "difference": contrast.estimate,
        "interval": [_number(contrast.lower), _number(contrast.upper)],
        "p": _number(contrast.p_value),
        "users_error": _number(math.sqrt(contrast.users_variance)),
        "seeds_error": _number(math.sqrt(contrast.seeds_variance)),
        "degrees_of_freedom": _number(contrast.degrees_of_freedom),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def verdict(difference: JsonObject, *, level: float) -> JsonObject:
    """`kind` is helps, hurts or none (no difference shown); `size` is the difference, or a bound on it.

    A difference is shown if its p-value, adjusted for all variations, is at most 1 - level. If not, the end of its
    interval that is farther from 0 bounds it.

    >>> difference = {"difference": 0.02, "interval": [0.01, 0.03], "p_holm": 0.002}
    >>> verdict(difference, level=0.95)
    {'kind': 'helps', 'size': 0.02}
    >>> verdict(difference | {"interval": [-0.01, 0.05], "p_holm": 0.3}, level=0.95)
    {'kind': 'none', 'size': 0.05}
    """
    if difference["p_holm"] is None:
        return {"kind": "none", "size": None}
    if difference["p_holm"] <= 1.0 - level:
        return {"kind": "helps" if difference["difference"] > 0 else "hurts", "size": abs(difference["difference"])}
    return {"kind": "none", "size": max(abs(end) for end in difference["interval"])}


def _slices(slicing: Slicing, names: Sequence[str], values: dict[str, np.ndarray], *, level: float) -> JsonObject:
    slices = []
    for place, label in enumerate(slicing.labels):
        rows = slicing.slice_of_user == place
        means, differences = _contrasts(names, {PRIMARY: values[PRIMARY][:, :, rows]}, level=level)
        gains = {name: {PRIMARY: difference_ends(each[PRIMARY])} for name, each in differences.items()}
        slices.append({"label": label, "n_users": int(rows.sum()), "runs": means, "differences": gains})
    return {"name": slicing.name, "column": slicing.column, "slices": slices}


def _costs(base: str, runs: Sequence[StudyRun]) -> dict[str, JsonObject]:
    """By system: `cost` of metrics.json, seconds per step and minutes of training, and their ratio to the base."""
    costs: dict[str, JsonObject] = {}
    for name in dict.fromkeys(run.name for run in runs):
        arm_runs = [run for run in runs if run.name == name]
        # The first interval of a run holds the compilation.
        steps = [
            line["step_seconds"] for run in arm_runs for line in [line for line in run.lines if "loss" in line][1:]
        ]
        costs[name] = {
            **arm_runs[0].results["cost"],
            "step_seconds": median(steps) if steps else None,
            "train_minutes": mean(run.results["train_seconds"] for run in arm_runs) / 60,
            "best_epochs": [run.results["best_epoch"] for run in arm_runs],
        }
    for cost in costs.values():
        cost["of_base"] = {
            each: cost[each] / costs[base][each] if cost[each] and costs[base][each] else None
            for each in ("n_parameters", "state_bytes", "step_seconds")
        }
    return costs


def _curves(runs: Sequence[StudyRun]) -> dict[str, dict[str, list]]:
    """By system and seed, the primary metric on validation after each epoch."""
    curves: dict[str, dict[str, list]] = {}
    for run in runs:
        valid = [line["valid"][PRIMARY] for line in run.lines if "valid" in line]
        curves.setdefault(run.name, {})[str(run.seed)] = valid
    return curves


def _notes(
    names: Sequence[str], compared: ComparedRuns, runs: Sequence[StudyRun], n_dropped: dict[str, int]
) -> list[str]:
    """What to know before trusting the verdicts, in sentences."""
    notes = []
    if len(compared.seeds) == 1:
        notes.append(
            f"Only seed {compared.seeds[0]} was compared, so what other seeds would change is not known: the verdicts "
            "are about these very runs on other users, not about the variations."
        )
    left_out = [name for name in names if name not in compared.names]
    if left_out:
        notes.append(f"Not compared, because runs are missing: {', '.join(left_out)}.")
    n_unused = sum(run.seed not in compared.seeds for run in runs)
    if n_unused:
        notes.append(f"{n_unused} finished runs are of seeds that not all variations have; they are not compared.")
    if any(n_dropped.values()):
        notes.append("Users who are not in all runs are left out.")
    return notes
