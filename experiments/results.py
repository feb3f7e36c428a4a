"""Keeps the figures of a finished run and writes docs/results.md from all that are kept.

    python experiments/results.py runs/my-run --name ml-1m-modern-seed-0     # keep one, then write the page
    python experiments/results.py                                            # write the page

What is kept is one small JSON file a run under experiments/results/ (figures, config, command, versions, wall time
and the hashes of data and split) and its learning curve under docs/pictures/. Runs whose names differ in the seed
alone are averaged.
"""

import shlex
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from tyro.conf import Positional

from seqrec import runs, runtime
from seqrec.report import figures
from seqrec.types import InputError

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "experiments" / "results"
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
DEMO = "movielens-demo-seed-0"
"""The kept run whose table and picture the README shows."""

PUBLISHED = {
    "ml-1m": (
        ("SASRec, binary cross-entropy, 1 negative", 0.2500, 0.1341, "antklen/sasrec-bert4rec-recsys23"),
        ("GRU4Rec", 0.2811, 0.1648, "quoted by meta-recsys/generative-recommenders"),
        ("gSASRec, 256 negatives", 0.3003, 0.1726, "asash/gSASRec-pytorch"),
        ("SASRec, full softmax", 0.3152, 0.1821, "antklen/sasrec-bert4rec-recsys23"),
        ("SASRec, 3,000 sampled negatives", 0.3159, 0.1857, "antklen/sasrec-bert4rec-recsys23"),
    )
}
"""Per data set: model, HR@10 and NDCG@10 as published under the same protocol, source."""


@dataclass(frozen=True)
class Arguments:
    """Keeps a run's figures and writes the page of results."""

    run: Positional[Path | None] = None
    """Directory of a finished run; without one the page alone is written."""
    name: str = ""
    """Name under which the run is kept, such as ml-1m-modern-seed-0."""


def keep(run: Path, name: str) -> Path:
    """The file under experiments/results/ that now holds the run's figures."""
    if not name:
        raise InputError(f"{run} needs a --name to be kept under, such as --name ml-1m-modern-seed-0")
    if not (run / "metrics.json").exists():
        raise InputError(f"{run} holds no metrics.json; let the run finish first")
    started = runs.read_json(run / "config.json")
    data, command = started["config"]["data"], started["command"]
    if data["data_path"]:
        # Where the file lay is nobody's business; which file it was, the hash says.
        file = Path(data["data_path"]).name
        command = [file if part == data["data_path"] else part for part in command]
        data["data_path"] = file
    if "--output" in command:
        place = command.index("--output")
        command = command[:place] + command[place + 2 :]
    started["config"]["run"]["output"] = None
    target = KEPT / f"{name}.json"
    shutil.copy(run / "learning_curve.png", PAGE.parent / "pictures" / f"{name}.png")
    runs.write_json(target, {**started, "command": shlex.join(command), **runs.read_json(run / "metrics.json")})
    return target


def readme(text: str, kept: dict[str, dict[str, Any]]) -> str:
    """The README's text with the demo's table between its two marks."""
    before, rest = text.split("<!-- demo table -->\n")
    _, after = rest.split("<!-- end of demo table -->\n")
    demo = kept[DEMO]
    table = figures.format_table({"SASRec": demo["test"], **demo["baselines"]})
    return f"{before}<!-- demo table -->\n```\n{table}\n```\n<!-- end of demo table -->\n{after}"


def page(kept: dict[str, dict[str, Any]]) -> str:
    """docs/results.md from the kept runs, by file name."""
    datasets: dict[str, dict[str, dict[str, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for name, result in sorted(kept.items()):
        setting, _, _ = name.partition("-seed-")
        datasets[result["config"]["data"]["dataset"]][setting][name] = result
    lines = ["# Results", "", "Written by `python experiments/results.py` from `experiments/results/*.json`.", ""]
    for dataset, settings in datasets.items():
        lines += _dataset_section(dataset, settings)
    return "\n".join(lines)


def _dataset_section(dataset: str, settings: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    first = next(iter(next(iter(settings.values())).values()))
    lines = [f"## {dataset}", "", f"{first['protocol']['split']}. Candidates: {first['protocol']['candidates']}.", ""]
    lines += ["| run | HR@10 | NDCG@10 | MRR | best epoch | minutes |", "| --- | --- | --- | --- | --- | --- |"]
    for setting, by_seed in settings.items():
        if len(by_seed) > 1:
            lines.append(_row(f"**{setting}, mean of {len(by_seed)} seeds**", list(by_seed.values())))
        lines += [_row(name, [result]) for name, result in by_seed.items()]
    for name, baseline in first["baselines"].items():
        lines.append(
            f"| {name} | {baseline['recall@10']:.4f} | {baseline['ndcg@10']:.4f} | {baseline['mrr']:.4f} | | |"
        )
    for model, hit_rate, ndcg, source in PUBLISHED.get(dataset, ()):
        lines.append(f"| published: {model} ({source}) | {hit_rate:.4f} | {ndcg:.4f} | | | |")
    lines.append("")
    for name, result in (item for by_seed in settings.values() for item in by_seed.items()):
        low, high = result["test"]["intervals"]["ndcg@10"]
        versions = result["versions"]
        lines += [
            f"- `{name}`: NDCG@10 within [{low:.4f}, {high:.4f}] (95%, bootstrap over users); {result['stopped']}; "
            f"jax {versions['jax']}, Python {versions['python']}, {versions['device']}; "
            f"data `{result['data']['content_hash'][:12]}`, split `{result['data']['split_hash'][:12]}`",
            f"  `{result['command']}`",
        ]
    return [*lines, ""]


def _row(label: str, results: list[dict[str, Any]]) -> str:
    means = [mean(result["test"][metric] for result in results) for metric in ("recall@10", "ndcg@10", "mrr")]
    epochs = ", ".join(str(result["best_epoch"]) for result in results)
    minutes = max(result["train_seconds"] for result in results) / 60
    return f"| {label} | {' | '.join(f'{figure:.4f}' for figure in means)} | {epochs} | {minutes:.1f} |"


def main(arguments: Arguments) -> None:
    """Keeps the run, if one is named, and writes the page."""
    if arguments.run is not None:
        print(f"kept     {keep(arguments.run, arguments.name)}")
    kept = {file.stem: runs.read_json(file) for file in KEPT.glob("*.json")}
    PAGE.write_text(page(kept))
    README.write_text(readme(README.read_text(), kept))
    print(f"written  {PAGE}, {README}")


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
