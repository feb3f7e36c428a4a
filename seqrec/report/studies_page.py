"""Kept studies of real data -> the tables of docs/studies.md."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrec.files import read_json
from seqrec.report.comparison_text import decimal, metric_label
from seqrec.report.results_page import between_marks, command, condensed_config
from seqrec.types import InputError

MARK = "studies of real data"
_HARD = ("target_events", "history_length")
"""Columns by which users are sliced, of whose slices the first is the hardest to serve."""


def condensed_study(directory: Path) -> dict[str, Any]:
    """What is kept of a finished study: all that study.json holds but curves and where anything lay."""
    found = read_json(directory / "study.json")
    if unfinished := [f"{run['name']}, seed {run['seed']}" for run in found["runs"] if run["state"] != "done"]:
        raise InputError(f"{directory}: {unfinished[0]} is not done; let the study finish first")
    for field in ("runs", "curves"):
        del found[field]
    arms = {name: shlex.join(map(_nameless, shlex.split(flags))) for name, flags in found["arms"].items()}
    kept = ("experiment", "minutes", "level")
    return {**found, "arms": arms, "study": {name: found["study"][name] for name in kept}}


def _nameless(word: str) -> str:
    """The word, without the folders if it is a path."""
    return Path(word).name if "/" in word else word


def condensed_search(directory: Path) -> dict[str, Any]:
    """What is kept of a search by tune.py: its space and its best trial, what all trials cost, and its config."""
    found, started = read_json(directory / "tune.json"), condensed_config(directory)
    trials = found.pop("trials")
    del found["best"]["command"]  # it names where the data lay
    return {
        **found,
        "config": started["config"],
        "n_trials": len(trials),
        "n_pruned": sum(trial["state"] == "pruned" for trial in trials),
        "first": max(trials[0]["curve"]),
        "n_epochs": sum(len(trial["curve"]) for trial in trials),
        "minutes": sum(trial["seconds"] or 0.0 for trial in trials) / 60,
    }


def studies_page(
    text: str,
    kept: Mapping[str, Mapping[str, Any]],
    searches: Mapping[str, Mapping[str, Any]],
    *,
    defaults: Mapping[str, Any],
) -> str:
    """The page's text with a section for each of the kept studies, by name, between its two marks.

    A search that bears the name of a study found the values that are tested there. `defaults` has the config of tune.py
    by the script that is tuned.
    """
    if lone := sorted(searches.keys() - kept.keys()):
        raise InputError(f"search {lone[0]} has no study of that name, which tests what it found; keep one")
    sections = []
    for name in sorted(kept):
        search = _search(searches[name], defaults[searches[name]["script"]]) if name in searches else []
        sections.append("\n".join([*_section(name, kept[name]), *search]))
    return between_marks(text, MARK, "\n".join(sections))


def _search(found: Mapping[str, Any], defaults: Any) -> list[str]:
    """What the search that found a study's values cost, and the command that repeats it."""
    best = found["best"]
    values = ", ".join(f"{name} {value}" for name, value in best["values"].items())
    cost = f"{found['n_epochs']} epochs, {found['minutes']:.1f} minutes of training"
    trials = f"the best of {found['n_trials']}, of which {found['n_pruned']} were pruned"
    return [
        f"A search found the tuned values in {cost}: trial {best['number']}, {trials}, has {values}. Its validation "
        f"NDCG@10 was {decimal(best['ndcg@10'])}, that of the values as given {decimal(found['first'])}.",
        "",
        "```",
        command("experiments/tune.py", found["config"], defaults).replace("tune.py", f"tune.py {found['script']}", 1),
        "```",
        "",
    ]


def _section(name: str, found: Mapping[str, Any]) -> list[str]:
    base, primary, data, versions = found["base"], found["primary"], found["data"], found["versions"]
    label, seeds = metric_label(primary), ", ".join(map(str, found["seeds"]))
    others = "" if len(found["variations"]) == 1 else f", after Holm's correction for {len(found['variations'])}"
    lines = [
        f"### {name}",
        "",
        f"{label} on {found['n_users']:,} users, means of seeds {seeds}; verdicts at "
        f"{100 * found['level']:g}%{others}. {data['split']}.",
        "",
        f"| | {label} | difference | verdict | parameters | training state | step time | minutes a training |",
        "| --- " * 8 + "|",
    ]
    for arm in found["arms"]:
        mean, low, high = found["systems"][arm]["metrics"][primary]
        cost, share = found["costs"][arm], found["costs"][arm]["of_base"]
        cells = [arm if arm != base else f"**{arm}**", f"{decimal(mean)} [{decimal(low)}, {decimal(high)}]"]
        if arm == base:
            cells += ["", ""]
        else:
            each, verdict = found["variations"][arm][primary], found["variations"][arm]["verdict"]
            what = "no difference larger than" if verdict["kind"] == "none" else f"**{verdict['kind']}** by"
            ends = f"[{decimal(each['interval'][0])}, {decimal(each['interval'][1])}]"
            cells += [f"{decimal(each['difference'])} {ends}", f"{what} {decimal(verdict['size'])}"]
        cells += [f"{cost['n_parameters']:,}", f"{cost['state_bytes'] / 1e6:,.1f} MB"]
        cells += [f"{share['step_seconds']:.2f} x" if share["step_seconds"] else "", f"{cost['train_minutes']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_hard_slices(found), "```", *_command(found), "```", ""]
    lines.append(
        f"{found['study']['minutes']:.0f} minutes of training, beside other work; jax {versions['jax']}, "
        f"{versions['device']}; data `{data['content_hash'][:12]}`, split `{data['split_hash'][:12]}`."
    )
    return [*lines, ""]


def _hard_slices(found: Mapping[str, Any]) -> list[str]:
    """A table of the users that are hardest to serve."""
    primary, others = found["primary"], list(found["variations"])
    lines = [f"| users | {found['base']} | {' | '.join(others)} |", "| --- " * (2 + len(others)) + "|"]
    for slicing in found["slices"]:
        first = slicing["slices"][0]
        if slicing["column"] in _HARD and None not in first["runs"][found["base"]][primary]:
            cells = [f"{slicing['name']}: {first['label']} ({first['n_users']:,})"]
            cells.append(decimal(first["runs"][found["base"]][primary][0]))
            for other in others:
                difference, low, high = first["differences"][other][primary]
                cells.append(f"{'+' * (difference > 0)}{decimal(difference)} [{decimal(low)}, {decimal(high)}]")
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _command(found: Mapping[str, Any]) -> list[str]:
    """The command that repeats the study."""
    base, *others = (f'"{name}={flags}"' for name, flags in found["arms"].items())
    experiment = found["study"]["experiment"]
    script = "" if experiment == "sasrec" else f" --experiment {experiment}"
    seeds = " ".join(map(str, found["seeds"]))
    parts = [f"python experiments/feature_study.py{script} --seeds {seeds}", f"    --base {base}", "    --variations"]
    return " \\\n".join([*parts[:-1], parts[-1] + " " + " \\\n        ".join(others)]).split("\n")
