"""What runs without model flags reach on each data set, beside published figures and baselines: as Markdown."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from seqrec import runs
from seqrec.config import leaves, to_json
from seqrec.files import JsonObject
from seqrec.report.baseline_comparison import is_above_all, is_shown
from seqrec.report.comparison_text import markdown_table
from seqrec.report.kept_results import data_name, training_config

Published = Mapping[str, Sequence[tuple[str, float, float, str]]]
"""By data set: model, its first two figures as published under the same protocol, and the source."""

_METRICS = {"HR@10": "recall@10", "NDCG@10": "ndcg@10"}
_METRICS_OF_SESSIONS = {"Recall@20": "recall@20", "MRR@20": "mrr@20"}
_HEADS = ["data", "metric", "without flags", "its model without tables", "best published", "baselines", "minutes"]


def without_flags(kept: Mapping[str, JsonObject], published: Published, *, defaults: Mapping[str, Any]) -> list[str]:
    """The lines of a section with the mean over seeds of the runs whose flags are those of data; [] if there are none.

    `kept` has results by name, of one data set and split under each name before `-seed-`, and `defaults` the default
    config of each script.
    """
    settings: dict[str, list[JsonObject]] = defaultdict(list)
    for name, result in sorted(kept.items()):
        if "test" in result and _follows_its_recipe(result, defaults[result["experiment"]]):
            settings[name.partition("-seed-")[0]].append(result)
    if not settings:
        return []
    rows = [row for of_setting in settings.values() for row in _rows(of_setting, published)]
    return [
        "## Without flags",
        "",
        "`python experiments/sasrec.py` with flags that name the data alone; facts of the data choose all else",
        "([recipes](recipes.md)). Means over the seeds that the commands below name. The column of baselines has their",
        "number in a run, and names those that the model is not above by the paired test, with Holm's correction.",
        "",
        *markdown_table(_HEADS, rows),
    ]


def _follows_its_recipe(result: JsonObject, default: Any) -> bool:
    """Whether a recipe chose all that is not the default, but for the data, the seed and the directory."""
    recipe, usual = runs.recipe_of(result), dict(leaves(to_json(default)))
    changed = {name for name, value in leaves(result["config"]) if usual.get(name) != value}
    model_fields = {name for name in changed if not name.startswith(("training.data.", "training.run."))}
    return bool(recipe) and model_fields <= recipe["values"].keys()


def _rows(results: Sequence[JsonObject], published: Published) -> list[list[str]]:
    """A row for each of the two metrics that are published for such data."""
    data = training_config(results[0])["data"]
    name = data_name(data["data_path"], data["dataset"])
    metrics = _METRICS_OF_SESSIONS if "mrr@20" in results[0]["test"] else _METRICS
    minutes = max(result["train_seconds"] for result in results) / 60
    rows = []
    for place, (label, metric) in enumerate(metrics.items()):
        figure = mean(result["test"][metric] for result in results)
        without_tables = [result["unfused"]["test"][metric] for result in results if "unfused" in result]
        best = max(published.get(name, ()), key=lambda each: float(each[1 + place]), default=None)
        cells = [
            f"{figure:.4f}",
            f"{mean(without_tables):.4f}" if len(without_tables) == len(results) else "",
            f"{best[1 + place]:.4f} ({best[0]})" if best else "",
        ]
        first = [name, f"{_baselines(results)}", f"{minutes:.1f}"] if place == 0 else ["", "", ""]
        rows.append([first[0], label, *cells, *first[1:]])
    return rows


def _baselines(results: Sequence[JsonObject]) -> str:
    """How many baselines the runs test, and which of them a run is not above."""
    compared = [result["comparisons"] for result in results if result.get("comparisons", {}).get("baselines")]
    if not compared:
        return ""
    n = min(len(each["baselines"]) for each in compared)
    if all(map(is_above_all, compared)):
        return f"above all {n}"
    others: dict[str, int] = defaultdict(int)
    for each in compared:
        for baseline, pair in each["baselines"].items():
            if pair["difference"] <= 0 or not is_shown(pair, level=each["level"]):
                others[baseline] += 1
    seeds = "" if len(results) == 1 else f" of {len(results)} seeds"
    return f"of {n} not above " + ", ".join(f"{name}{f' ({n}{seeds})' if seeds else ''}" for name, n in others.items())
