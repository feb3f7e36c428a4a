"""A model card in the form that model hubs read: YAML front matter, then Markdown, from a run's files alone."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqrec import runs
from seqrec.bundle.files import Facts
from seqrec.config import leaves
from seqrec.files import JsonObject, read_object
from seqrec.metrics import metric_values
from seqrec.report.baseline_comparison import is_above_all, verdict_on_baselines
from seqrec.report.comparison_text import difference_ends, interval_text, markdown_table, metric_label
from seqrec.report.rank_tables import read_rank_table
from seqrec.report.slices import slice_figures, standard_slicings

SLICED_BY = "ndcg@10"


def model_card(run: Path, record: JsonObject, facts: Facts, *, onnx: bool = False) -> str:
    """The text of README.md; `record` is the bundle's config.json.

    A run that has not been tested has a card without figures.

    Raises:
      InputError: its files of JSON lack what is shown of them.
    """
    with runs.reading_records(run):
        return _text(run, record, facts, onnx=onnx)


def _text(run: Path, record: JsonObject, facts: Facts, *, onnx: bool) -> str:
    tested = read_object(run / "metrics.json") if (run / "metrics.json").is_file() else None
    data, training = record["data"], record["config"]["training"]
    dataset = training["data"]["dataset"]
    name = f"{record['experiment']} on {dataset}"
    parts = [
        _front_matter(name, record, tested),
        f"# {name}",
        _what_it_is(record, mask_seen=facts.mask_seen, item_table=facts.item_table),
        "## Use",
        _USE + _ONNX * onnx,
        *([] if facts.recall is None else [_searches(facts.recall)]),
        "## Data and split",
        _facts(
            {
                "Data": f"{dataset}: {data['n_users']:,} users, {data['n_items']:,} items, {data['n_events']:,} events",
                "Content hash of the data": f"`{data.get('content_hash', 'unknown')}`",
                "Split": data["split"],
                "Hash of the split": f"`{data.get('split_hash', 'unknown')}`",
            }
        ),
        "## Test figures",
        *(["The run has not been tested."] if tested is None else _figures(run, tested)),
        *([] if tested is None else ["## Costs", _costs(record, tested)]),
        "## Intended use and limits",
        _limits(record, tested),
        "## Config",
        _config(record),
    ]
    return "\n\n".join(parts) + "\n"


_USE = """\
```python
import seqrec

bundle = seqrec.load_bundle("path/of/this/directory")
bundle.recommend([["an item key", "a newer one"]], k=20)
```

This needs `pip install "seqrec[serve]"` alone. With `seqrec[run,serve]`, `python experiments/recommend.py` writes lists
for all users of a file."""
_ONNX = """

`top_k.onnx` and `states.onnx` are the same functions for ONNX runtimes. They take and return item ids: item i is row
i - 1 of `items.parquet`."""


def _searches(recall: JsonObject) -> str:
    rows = [(f'`search="{name}"`', f"{recall[name]:.4f}") for name in ("int8", "ann") if name in recall]
    return (
        "Where the catalogue is too large to score all of it, `load_bundle(path, search=...)` ranks some hundred "
        f"candidates by their exact scores. Of the {recall['k']} best items of exact search it finds, as a mean over "
        f"{recall['n_users']:,} test users:\n\n" + _table(("search", f"recall@{recall['k']}"), rows)
    )


def _front_matter(name: str, record: JsonObject, tested: JsonObject | None) -> str:
    # JSON is YAML, so whatever a name holds is quoted as it must be.
    lines = ["---", "library_name: seqrec", f"tags: {json.dumps(['recommender-systems', 'jax', record['experiment']])}"]
    if tested is not None:
        metrics = [{"type": metric, "value": tested["test"][metric]} for metric in tested["test"]["intervals"]]
        result = {
            "task": {"type": "sequential-recommendation"},
            "dataset": {
                "name": record["config"]["training"]["data"]["dataset"],
                "type": "events",
                "revision": record["data"].get("content_hash", "unknown"),
            },
            "metrics": metrics,
        }
        lines.append(f"model-index: {json.dumps([{'name': name, 'results': [result]}])}")
    return "\n".join([*lines, "---"])


def _what_it_is(record: JsonObject, *, mask_seen: bool, item_table: str) -> str:
    data = record["config"]["training"]["data"]
    times = {"none": "", "history": " and their times", "query": ", their times and the time of the query"}
    seen = "are never listed" if mask_seen else "may be listed again"
    table = "" if item_table == "float32" else f" The item table is stored in {item_table}."
    if weights := record.get("fusion", {}).get("tables"):
        table += f" Item-to-item tables ({', '.join(weights)}), fitted on the training part, raise its scores."
    n_items, decoder = f"{record['data']['n_items']:,}", record["config"].get("decoder", {})
    how = f"Ranks all {n_items} items by how likely each comes next in a user's history."
    if decoder.get("lists") == "beam":
        width = decoder["beam_width"]
        how = f"Generates the codes of a user's next item, by a beam of {width} over its {n_items} items."
    return (
        f"{how} It reads "
        f"the latest {data['max_length']} items{times[data['times']]}. Items that the user has seen {seen} unless a "
        f"request says otherwise. {_origin(record)}{table}"
    )


def _origin(record: JsonObject) -> str:
    script = f"`experiments/{record['experiment']}.py` of seqrec"
    if members := record["config"].get("members"):
        names = ", ".join(each["experiment"] for each in members.values())
        return f"One model of {len(members)} ({names}), by {script}."
    return f"Trained by {script}."


def _figures(run: Path, tested: JsonObject) -> list[str]:
    columns = {"model": tested["test"], **tested["baselines"]}
    rows = [
        (metric, *("{:.4f} [{:.4f}, {:.4f}]".format(c[metric], *c["intervals"][metric]) for c in columns.values()))
        for metric in tested["test"]["intervals"]
    ]
    protocol = tested["protocol"]
    text = f"{tested['test']['n_users']:,} users; {protocol['candidates']}; in brackets {protocol['intervals']}."
    if "test_users" in protocol:
        text += f" The test asked {protocol['test_users']}, so these figures compare with none of all users."
    if protocol["time_aware"]:
        text += (
            " **Time-aware**: the model read the time of the predicted event, so these figures compare with no others."
        )
    if "unfused" in tested:
        base, label = tested["unfused"], metric_label(SLICED_BY)
        text += (
            f" The model without its tables has {label} {base['test'][SLICED_BY]:.4f}; they raise it by "
            f"{interval_text(difference_ends(base))}."
        )
    for name, each in tested.get("members", {}).items():
        below = interval_text(difference_ends(tested["member_comparisons"]["baselines"][name]))
        text += f" Its member {name} alone has {metric_label(SLICED_BY)} {each[SLICED_BY]:.4f}, below it by {below}."
    parts = [_table(("metric", *columns), rows), text]
    if (run / "ranks.parquet").is_file() and "n_queries" not in tested["test"]:
        parts += ["### Slices", _slices(run)]
    if (run / runs.LEARNING_CURVE).is_file():
        parts += ["### Learning curve", f"![Training loss and validation NDCG@10 by epoch]({runs.LEARNING_CURVE})"]
    return parts


def _slices(run: Path) -> str:
    ranks = read_rank_table(run)
    values = {"model": {SLICED_BY: np.asarray(metric_values(ranks.rank, ks=(10,))[SLICED_BY], np.float64)}}
    rows = [
        (
            slicing["name"],
            each["label"],
            f"{each['n_users']:,}",
            "{:.4f} [{:.4f}, {:.4f}]".format(*each["runs"]["model"][SLICED_BY]),
        )
        for slicing in (slice_figures(slicing, values) for slicing in standard_slicings(ranks))
        for each in slicing["slices"]
    ]
    return _table(("by", "slice", "users", SLICED_BY), rows)


def _costs(record: JsonObject, tested: JsonObject) -> str:
    cost, versions = tested["cost"], record["trained_with"]
    known = ", ".join(f"{each} {versions[each]}" for each in ("seqrec", "jax", "python") if each in versions)
    if members := cost.get("members"):
        times = (f"{each['seconds_relative']:.1f} times that of {name} alone" for name, each in members.items())
        spent = {"Time to rank": ", ".join(times)}
    else:
        minutes = tested["train_seconds"] / 60
        spent = {
            "Memory of parameters and optimizer": f"{cost['state_bytes'] / 1e6:,.1f} MB",
            "Training": f"{minutes:.1f} minutes, validations included; best epoch {tested['best_epoch']}",
        }
    return _facts(
        {
            "Parameters": f"{cost['n_parameters']:,}",
            **spent,
            "Device": versions.get("device", "unknown"),
            "Versions": known,
        }
    )


def _limits(record: JsonObject, tested: JsonObject | None) -> str:
    lines = [
        "- Meant to propose next items from its own catalogue to users whose history it is given. "
        + (
            "New items have no place in it until it is trained and exported again."
            if "semantic_ids" not in record["config"]
            else "New items can be listed by their codes, once `export.py --refresh` has a `--catalogue` with them."
        ),
        "- It repeats what its log favours: popular items, and whatever earlier recommendations led users to. No part "
        "of it was tested for fairness to users or to makers of items.",
        "- Its figures rank logged events of the past. They do not say what users do when shown its lists; an online "
        "experiment does.",
    ]
    if tested is not None:
        gains = [tested["test"]["ndcg@10"] - each["ndcg@10"] for each in tested["baselines"].values()]
        if "comparisons" in tested:
            if not is_above_all(tested["comparisons"]):
                lines.append(f"- **{verdict_on_baselines(tested['comparisons'], name='The model')}.**")
        elif min(gains) <= 0:  # a run from before there were comparisons
            lines.append("- **On its own test it is not above the best baseline by NDCG@10.**")
    if record["data"]["n_users"] < 1000:
        lines.append(f"- Trained on {record['data']['n_users']:,} users alone: its intervals are wide.")
    return "\n".join(lines)


def _config(record: JsonObject) -> str:
    words: Iterable[tuple[str, Any]] = leaves(record["config"])
    lines = [f"{name.removeprefix('training.')} = {json.dumps(value)}" for name, value in words]
    return "<details><summary>All settings</summary>\n\n```\n" + "\n".join(lines) + "\n```\n\n</details>"


def _facts(facts: JsonObject) -> str:
    """A list: in a table of names and values the head would be an empty row."""
    return "\n".join(f"- **{name}**: {value}" for name, value in facts.items())


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = ([str(cell).replace("|", "&#124;") for cell in line] for line in (heads, *rows))
    return "\n".join(markdown_table(next(cells), cells)[:-1])
