"""The tables of docs/studies.md, from kept studies of real data."""

from collections.abc import Mapping
from typing import Any

from seqrec.report.comparison_text import decimal, difference_ends, interval_text, markdown_table, metric_label
from seqrec.report.placebos import placebo_sentences
from seqrec.report.results_page import between_marks, command
from seqrec.report.study_page import correction
from seqrec.types import InputError

MARK = "studies of real data"
_HARD = ("target_events", "history_length")
"""Columns of slicings whose first slice has the users that are hardest to serve."""


def studies_page(
    text: str,
    kept: Mapping[str, Mapping[str, Any]],
    searches: Mapping[str, Mapping[str, Any]],
    *,
    defaults: Mapping[str, Any],
) -> str:
    """The page's text with a section for each kept study between its two marks, in the order of their names.

    A search with the name of a study found the values that are tested in that study. `defaults` has the config of
    tune.py for each training script.
    """
    if without_study := sorted(searches.keys() - kept.keys()):
        raise InputError(
            f"search {without_study[0]} has no study of that name, which would test what it found; keep one"
        )
    sections = []
    for name in sorted(kept):
        search = _search(searches[name], defaults[searches[name]["script"]]) if name in searches else []
        sections.append("\n".join([*_section(name, kept[name]), *search]))
    return between_marks(text, MARK, "\n".join(sections))


def _search(search: Mapping[str, Any], defaults: Any) -> list[str]:
    """The cost of the search that found a study's values, and the command that repeats it."""
    best = search["best"]
    values = ", ".join(f"{name} {value}" for name, value in best["values"].items())
    cost = f"{search['n_epochs']} epochs, {search['minutes']:.1f} minutes of training"
    trials = f"the best of {search['n_trials']}, of which {search['n_pruned']} were pruned"
    return [
        f"A search found the tuned values in {cost}: trial {best['number']}, {trials}, has {values}. Its validation "
        f"NDCG@10 was {decimal(best['ndcg@10'])}, that of the values as given {decimal(search['first'])}.",
        "",
        "```",
        command("experiments/tune.py", search["config"], defaults).replace("tune.py", f"tune.py {search['script']}", 1),
        "```",
        "",
    ]


def _section(name: str, study: Mapping[str, Any]) -> list[str]:
    base, primary, data, versions = study["base"], study["primary"], study["data"], study["versions"]
    label, seeds = metric_label(primary), ", ".join(map(str, study["seeds"]))
    others = "" if len(study["variations"]) == 1 else f", after Holm's correction for {len(study['variations'])}"
    rows = []
    for arm in study["arms"]:
        cost, seconds = study["costs"][arm], study["costs"][arm]["of_base"]["step_seconds"]
        cells = [arm if arm != base else f"**{arm}**", interval_text(study["systems"][arm]["metrics"][primary])]
        if arm == base:
            cells += ["", ""]
        else:
            each, verdict = study["variations"][arm][primary], study["variations"][arm]["verdict"]
            what = "no difference larger than" if verdict["kind"] == "none" else f"**{verdict['kind']}** by"
            corrected = f" ({change})" if (change := correction(arm, study)) else ""
            cells += [interval_text(difference_ends(each)), f"{what} {decimal(verdict['size'])}{corrected}"]
        cells += [f"{cost['n_parameters']:,}", f"{cost['state_bytes'] / 1e6:,.1f} MB"]
        rows.append([*cells, f"{seconds:.2f} x" if seconds else "", f"{cost['train_minutes']:.1f}"])
    heads = ["", label, "difference", "verdict", "parameters", "training state", "step time", "minutes per training"]
    sentences = [f"- {each}" for each in placebo_sentences(study)]
    return [
        f"### {name}",
        "",
        f"{label} on {study['n_users']:,} users, means of seeds {seeds}; verdicts at "
        f"{100 * study['level']:g}%{others}. {data['split']}.",
        "",
        *markdown_table(heads, rows),
        *([*sentences, ""] if sentences else []),
        *_hard_slices(study),
        "```",
        *_command(study),
        "```",
        "",
        f"{study['study']['minutes']:.0f} minutes of training, with other work on the machine; jax {versions['jax']}, "
        f"{versions['device']}; data `{data['content_hash'][:12]}`, split `{data['split_hash'][:12]}`.",
        "",
    ]


def _hard_slices(study: Mapping[str, Any]) -> list[str]:
    """A table of the slices that are hardest to serve."""
    primary, base, others = study["primary"], study["base"], list(study["variations"])
    rows = []
    for slicing in study["slices"]:
        first = slicing["slices"][0]
        if slicing["column"] in _HARD and None not in first["runs"][base][primary]:
            users = f"{slicing['name']}: {first['label']} ({first['n_users']:,})"
            gains = (first["differences"][other][primary] for other in others)
            texts = ("+" * (ends[0] > 0) + interval_text(ends) for ends in gains)
            rows.append([users, decimal(first["runs"][base][primary][0]), *texts])
    return markdown_table(["users", base, *others], rows)


def _command(study: Mapping[str, Any]) -> list[str]:
    """The command that repeats the study."""
    base, *others = (f'"{name}={flags}"' for name, flags in study["arms"].items())
    experiment = study["study"]["experiment"]
    script = "" if experiment == "sasrec" else f" --experiment {experiment}"
    seeds = " ".join(map(str, study["seeds"]))
    parts = [f"python experiments/feature_study.py{script} --seeds {seeds}", f"    --base {base}", "    --variations"]
    return " \\\n".join([*parts[:-1], parts[-1] + " " + " \\\n        ".join(others)]).split("\n")
