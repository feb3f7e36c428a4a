"""What a search found: its trials, the best of them as a command line, and which fields mattered."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqrec import runtime
from seqrec.config import flag_name, to_json, values_of, with_values
from seqrec.files import JsonObject
from seqrec.pages.html import write_report
from seqrec.report.kept_results import data_name
from seqrec.report.results_page import command
from seqrec.report.tuning_page import page
from seqrec.runs import script_path
from seqrec.tuning.search import Search, exclusive_access, import_optuna

_FEWEST_TRIALS = 8
"""With fewer trials, no importances are given."""


def findings(search: Search, config: Any, *, script: str, defaults: Any) -> JsonObject:
    """What `tune.json` holds: the trials and the best of them, with the command that trains it.

    `script` is the path of the script that the config is for, `defaults` its config where no flag is given.
    """
    trials = [_plain(trial) for trial in search.journal.get_trials(deepcopy=False) if trial.user_attrs.get("values")]
    finished = [trial for trial in trials if trial["curve"] and trial["state"] in ("complete", "pruned")]
    content = {
        "script": Path(script).stem,
        "dataset": config.training.data.dataset,
        "name": data_name(config.training.data.data_path, config.training.data.dataset),
        "space": {flag_name(name): str(of) for name, of in search.space.items()},
        "base": _by_flag(values_of(config, search.space)),
        "max_epochs": config.training.fit.max_epochs,
        "seed": search.seed,
        "tune": to_json(search.config),
        "trials": [{**trial, "values": _by_flag(trial["values"])} for trial in trials],
        "importances": _importances(search, finished),
        "versions": runtime.versions() | {"optuna": import_optuna().__version__},
        "best": None,
    }
    if finished:
        best = max(finished, key=lambda trial: max(trial["curve"]))
        best_config = with_values(config, {**best["values"], "training.run.output": None, "training.run.resume": False})
        content["best"] = {
            "number": best["number"],
            "ndcg@10": max(best["curve"]),
            "epoch": 1 + best["curve"].index(max(best["curve"])),
            "values": _by_flag(best["values"]),
            "command": command(script_path(script), to_json(best_config), defaults),
        }
    return content


def _by_flag(values: JsonObject) -> JsonObject:
    return {flag_name(name): value for name, value in values.items()}


def _plain(trial: Any) -> JsonObject:
    return {
        "number": trial.number,
        "state": {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "under way"),
        "values": trial.user_attrs["values"],
        "curve": [trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)],
        "seconds": trial.user_attrs.get("seconds"),
    }


def _importances(search: Search, finished: Sequence[JsonObject]) -> dict[str, float]:
    """Share of each field in what distinguishes the best quarter of the trials (PED-ANOVA: Watanabe et al. 2023).

    Pruned trials count by the best epoch that they reached. With too few trials the result is empty.
    """
    optuna = import_optuna()
    if len(finished) < _FEWEST_TRIALS or len(search.space) < 2:
        return {}
    by_number = {trial.number: trial for trial in search.journal.get_trials(deepcopy=False)}
    rated = optuna.create_study(direction="maximize")
    for trial in finished:
        sampled = by_number[trial["number"]]
        rated.add_trial(
            optuna.trial.create_trial(
                params=sampled.params, distributions=sampled.distributions, value=max(trial["curve"])
            )
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return _by_flag(optuna.importance.get_param_importances(rated, evaluator=evaluator))


def write_findings(search: Search, config: Any, *, script: str, defaults: Any) -> JsonObject:
    """Writes `tune.json` and `tune.html` into the search's directory, prints the best config, and returns the content.

    Without a finished trial, nothing is written.
    """
    content = findings(search, config, script=script, defaults=defaults)
    if best := content["best"]:
        values = "\n".join(f"  {name:20} {value}" for name, value in best["values"].items())
        print(f"\nbest of {len(content['trials'])} trials: {best['number']}, validation NDCG@10 {best['ndcg@10']:.4f}")
        print(values)
        with exclusive_access(search.directory):
            write_report(search.directory / "tune.json", content, page(content))
        print(f"train and test it with\n  {best['command']}")
    return content
