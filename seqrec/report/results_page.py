"""The page of results and the README's table, from the kept figures of finished runs."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from types import MappingProxyType
from typing import Any

from seqrec import runs
from seqrec.config import changed_flags, to_json
from seqrec.files import JsonObject
from seqrec.report.baseline_comparison import format_tested, verdict_on_baselines
from seqrec.report.comparison_text import markdown_table
from seqrec.report.kept_results import ABLATION, data_name, training_config
from seqrec.report.recipe_figures import Published, without_flags
from seqrec.types import InputError

_SHOWN = {"HR@10": "recall@10", "NDCG@10": "ndcg@10", "MRR": "mrr"}
_ABLATION_SHOWN = {"NDCG@10": "ndcg@10", "HR@10": "recall@10"}
_SHOWN_OF_SESSIONS = {"Recall@20": "recall@20", "MRR@20": "mrr@20"}

NO_RECIPE: Mapping[str, Any] = MappingProxyType({})


def command(script: str, config: JsonObject, defaults: Any, *, recipe: Mapping[str, Any] = NO_RECIPE) -> str:
    """The command that repeats a run, now that the script's command line has these defaults.

    `recipe` is what a run kept of the one that it follows, whose values need no flags.
    """
    usual = to_json(defaults)
    if "recipe" in usual:
        config = {"recipe": "none", **config}  # what a run had before there were any
    decided = recipe.get("values", {}) if config.get("recipe") == "auto" else {}
    return shlex.join(["python", script, *changed_flags(config, usual, leave_out=decided)])


def readme(text: str, demo: JsonObject) -> str:
    """The README's text, with the demo run's table between its two marks."""
    return between_marks(text, "demo table", f"```\n{format_tested(demo, name='SASRec')}\n```")


def continuations_page(text: str, runs: dict[str, JsonObject]) -> str:
    """The page's text, with a table between the two marks of each data set.

    `runs` are on splits that hold continuations out, by names such as DATA-MODEL-seed-0; the marks name DATA.
    """
    for data in sorted({name.partition("-")[0] for name in runs}):
        of_data = {name: run for name, run in sorted(runs.items()) if name.partition("-")[0] == data}
        first = next(iter(of_data.values()))
        metrics = [metric for metric in first["continuations"]["iterated"]["intervals"] if metric != "mrr"]
        rows = [
            [
                "" if way == "popularity" else name,
                way,
                *("{:.4f} [{:.4f}, {:.4f}]".format(result[m], *result["intervals"][m]) for m in metrics),
            ]
            for name, run in of_data.items()
            for way, result in run["continuations"].items()
            if way != "popularity" or run is first
        ]
        lines = [f"{first['protocol']['split']}. Items that may be listed: {first['protocol']['candidates']}.", ""]
        lines += markdown_table(["run", "list", *metrics], rows)
        lines += [
            f"- `{name}`: epoch {run['best_epoch']} of {training_config(run)['fit']['max_epochs']}, "
            f"{run['train_seconds'] / 60:.1f} minutes with validations; "
            f"jax {run['versions']['jax']}, {run['versions']['device']}; split `{run['data']['split_hash'][:12]}`"
            for name, run in of_data.items()
        ]
        text = between_marks(text, data, "\n".join(lines))
    return text


def between_marks(text: str, name: str, content: str) -> str:
    """The page's text, with this content between the two marks of that name."""
    before, rest = text.split(f"<!-- {name} -->\n")
    _, after = rest.split(f"<!-- end of {name} -->\n")
    return f"{before}<!-- {name} -->\n{content}\n<!-- end of {name} -->\n{after}"


_HEAD = """\
Written by `python experiments/results.py` from `experiments/results/*.json`. HR@10 is recall@10 of one held-out item.
Minutes are the wall time of training with its validations; of averaged seeds, the longest. A run on a CPU may have
shared the machine with another run, and a run on a GPU shared it with up to 15 others, so an otherwise idle machine
takes at most this time. The devices are given with the commands."""


def page(kept: dict[str, JsonObject], published: Published, *, defaults: Mapping[str, Any]) -> str:
    """The page, in Markdown, from the kept runs by name; runs whose names differ only in `-seed-N` are averaged.

    Runs named DATA-ablation-NAME have a table of their own: the effect of each change relative to DATA-ablation-base.

    `defaults` has the default config of each script by its name. A section is one split, by its hash, under one
    protocol, with the baselines of all its runs: equal names are not enough to stand in one table.
    """
    sections: dict[tuple[str, str, str, str], Settings] = defaultdict(lambda: defaultdict(dict))
    names = {name: data_name(*_source(result)) for name, result in kept.items()}
    of_split = {each["data"]["split_hash"]: names[name] for name, each in kept.items() if _source(each)[1] != "store"}
    for name, result in sorted(kept.items()):
        setting, _, _ = name.partition("-seed-")
        protocol = result["protocol"]
        is_store = _source(result)[1] == "store"  # which others may have read as the file that it was made of
        data = of_split.get(result["data"]["split_hash"], names[name]) if is_store else names[name]
        candidates = "; ".join([protocol["candidates"], *filter(None, [protocol.get("test_users")])])
        section = data, protocol["split"], candidates, result["data"]["split_hash"]
        sections[section][setting][name] = result
    lines = ["# Results", "", _HEAD, "", *without_flags(kept, published, defaults=defaults)]
    titles = Counter(data for data, *_ in sections)
    for (data, split, candidates, split_hash), settings in sections.items():
        title = data if titles[data] == 1 else f"{data}, split {split_hash[:8]}"
        lines += [f"## {title}", "", f"{split}. Candidates: {candidates}. Split hash `{split_hash[:12]}`.", ""]
        changed = {name: settings.pop(name) for name in list(settings) if ABLATION in name}
        if settings:
            lines += [*_table(settings, published.get(data, ())), *_commands(settings, defaults)]
        if changed:
            lines += [f"### What changed the figures on {data}", "", *_ablation(changed), *_commands(changed, defaults)]
    return "\n".join(lines)


def _source(result: JsonObject) -> tuple[str | None, str]:
    """The path and the format of a kept run's data."""
    data = training_config(result)["data"]
    return data["data_path"], data["dataset"]


Settings = dict[str, dict[str, JsonObject]]
"""Setting -> name of the run -> what was kept of it."""


def _figures_shown(results: Iterable[JsonObject], usual: dict[str, str]) -> dict[str, str]:
    """Metric by heading of a table: the usual ones, or those of sessions, which have several queries each."""
    of_sessions = any("mrr@20" in baseline for result in results for baseline in result["baselines"].values())
    return _SHOWN_OF_SESSIONS if of_sessions else usual


def _table(settings: Settings, published: Sequence[tuple[str, float, float, str]]) -> list[str]:
    results = [result for by_seed in settings.values() for result in by_seed.values()]
    # The script of baselines reads times that a training run's store may lack: its figures go before others.
    results.sort(key=lambda result: result["experiment"] == "baselines")
    baselines: JsonObject = {name: baseline for result in results for name, baseline in result["baselines"].items()}
    columns = _figures_shown(results, _SHOWN)

    def trained_row(label: str, runs: Sequence[JsonObject]) -> list[str]:
        label += " (time-aware)" * any(run["protocol"]["time_aware"] for run in runs)
        means = (mean(run["test"][metric] for run in runs) for metric in columns.values())
        epochs, minutes = (str(run["best_epoch"]) for run in runs), max(run["train_seconds"] for run in runs) / 60
        return [label, *map("{:.4f}".format, means), ", ".join(epochs), f"{minutes:.1f}"]

    rows = []
    for setting, by_seed in settings.items():
        runs = {name: result for name, result in by_seed.items() if "test" in result}
        if len(runs) > 1:
            rows.append(trained_row(f"**{setting}, mean of {len(runs)} seeds**", list(runs.values())))
        rows += [trained_row(name, [result]) for name, result in runs.items()]
    others = {name: [baseline[metric] for metric in columns.values()] for name, baseline in baselines.items()}
    others |= {f"published: {model} ({source})": values for model, *values, source in published}
    heads = ["run", *columns, "best epoch", "minutes"]
    for name, values in others.items():
        rows.append([name, *map("{:.4f}".format, values), *[""] * (len(heads) - 1 - len(values))])
    return markdown_table(heads, rows)


def _ablation(settings: Settings) -> list[str]:
    """The flags of each run beyond the base's, and its gain; seeds are averaged and must be among the base's."""
    by_name = {setting.partition(ABLATION)[2]: by_seed for setting, by_seed in settings.items()}
    if "base" not in by_name:
        raise InputError(f"{', '.join(sorted(settings))}: no run is named {ABLATION.strip('-')}-base to compare with")
    seeds = {
        name: {training_config(each)["run"]["seed"]: each for each in runs.values()} for name, runs in by_name.items()
    }
    columns = _figures_shown(seeds["base"].values(), _ABLATION_SHOWN)

    def means_of(runs: list[JsonObject]) -> list[float]:
        of_test = (mean(run["test"][metric] for run in runs) for metric in columns.values())
        return [mean(run["valid"]["ndcg@10"] for run in runs), *of_test]

    rows = []
    for name, of_change in seeds.items():
        shared = sorted(of_change.keys() & seeds["base"].keys())
        if not shared:
            raise InputError(f"{name} shares no seed with the base; run it with one of {sorted(seeds['base'])}")
        variant, base = [of_change[seed] for seed in shared], [seeds["base"][seed] for seed in shared]
        means = means_of(variant)
        flags = _changed_flags(base[0], variant[0]) or "the base itself"
        rows.append((means[1] - means_of(base)[1], [flags, ", ".join(map(str, shared)), *map("{:.4f}".format, means)]))
    rows.sort(key=lambda row: row[0])
    heads = ["change to the base", "seeds", "validation NDCG@10", *columns, f"gain in {next(iter(columns))}"]
    return markdown_table(heads, ([*cells, f"{gain:+.4f}"] for gain, cells in rows))


def _changed_flags(base: JsonObject, run: JsonObject) -> str:
    """The flags by which a run differs from the base, in words of a command line."""
    words = changed_flags(run["config"], base["config"])
    return shlex.join([*([] if run["experiment"] == base["experiment"] else [f"{run['experiment']}.py"]), *words])


def _commands(settings: Settings, defaults: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, result in (item for by_seed in settings.values() for item in by_seed.items()):
        versions, experiment = result["versions"], result["experiment"]
        typed = command(
            f"experiments/{experiment}.py", result["config"], defaults[experiment], recipe=runs.recipe_of(result)
        )
        lines += [
            f"- `{name}`: {_course(result)}"
            f"jax {versions['jax']}, Python {versions['python']}, {versions['device']}; "
            f"data `{result['data']['content_hash'][:12]}`, split `{result['data']['split_hash'][:12]}`",
            f"  `{typed}`",
        ]
    return [*lines, ""]


def _course(result: JsonObject) -> str:
    """The interval of a trained model's headline figure, and why its training stopped."""
    if "test" not in result:
        return ""
    low, high = result["test"]["intervals"]["ndcg@10"]
    text = f"NDCG@10 within [{low:.4f}, {high:.4f}] (95%, bootstrap over users); {result['stopped']}; "
    if "comparisons" in result:
        text += verdict_on_baselines(result["comparisons"], name="it") + "; "
    return text
