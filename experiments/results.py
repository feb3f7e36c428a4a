"""Keeps the figures of a finished run and writes docs/results.md and the README's table from all that are kept.

    python experiments/results.py runs/my-run --name ml-1m-modern-seed-0     # keep one, then write
    python experiments/results.py                                            # write

What is kept is one small JSON file a run under experiments/results/ (figures, config, versions, wall time and the
hashes of data and split) and its learning curve under docs/pictures/.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import baselines
from scripts import TRAINING
from tyro.conf import Positional

from seqrec import runs, runtime
from seqrec.report.results_page import condensed, page, readme
from seqrec.types import InputError

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "experiments" / "results"
DEMO = "movielens-demo-seed-0"
"""The kept run whose table and picture the README shows."""

PUBLISHED = {
    "ml-1m": (
        ("SASRec, binary cross-entropy, 1 negative", 0.2500, 0.1341, "antklen/sasrec-bert4rec-recsys23"),
        ("GRU4Rec", 0.2811, 0.1648, "quoted by meta-recsys/generative-recommenders"),
        ("gSASRec, 256 negatives", 0.3003, 0.1726, "asash/gSASRec-pytorch"),
        ("SASRec, full softmax", 0.3152, 0.1821, "antklen/sasrec-bert4rec-recsys23"),
        ("SASRec, 3,000 sampled negatives", 0.3159, 0.1857, "antklen/sasrec-bert4rec-recsys23"),
    ),
    "Beauty": (
        ("GRU4Rec", 0.0283, 0.0137, "RUCAIBox/CIKM2020-S3Rec"),
        ("BERT4Rec", 0.0347, 0.0170, "RUCAIBox/CIKM2020-S3Rec"),
        ("SASRec", 0.0605, 0.0318, "RUCAIBox/CIKM2020-S3Rec"),
        ("S3-Rec", 0.0647, 0.0327, "RUCAIBox/CIKM2020-S3Rec"),
        ("TIGER", 0.0648, 0.0384, "quoted by the authors of eSASRec"),
        ("HSTU", 0.0788, 0.0439, "quoted by the authors of eSASRec"),
        ("SASRec, sampled softmax", 0.0921, 0.0531, "the authors of eSASRec, who drop 52 users with a cold target"),
        ("eSASRec", 0.0928, 0.0523, "its authors"),
    ),
    "LastFM": (
        ("GRU4Rec", 0.0367, 0.0187, "RUCAIBox/CIKM2020-S3Rec"),
        ("BERT4Rec", 0.0633, 0.0337, "RUCAIBox/CIKM2020-S3Rec"),
        ("SASRec", 0.0688, 0.0390, "RUCAIBox/CIKM2020-S3Rec"),
        ("S3-Rec", 0.0743, 0.0427, "RUCAIBox/CIKM2020-S3Rec"),
    ),
}
"""Per data set, named as its file is: model, HR@10 and NDCG@10 as published under the same protocol, source."""


DEFAULTS = {name: script.Config() for name, script in {**TRAINING, "baselines": baselines}.items()}


@dataclass(frozen=True)
class Arguments:
    """Keeps a run's figures and writes the page of results."""

    run: Positional[Path | None] = None
    """Directory of a finished run; without one the page alone is written."""
    name: str = ""
    """Name under which the run is kept, such as ml-1m-modern-seed-0."""


def written() -> dict[Path, str]:
    """The page of results and the README as the kept runs make them."""
    kept = {file.stem: runs.read_json(file) for file in KEPT.glob("*.json")}
    return {
        ROOT / "docs" / "results.md": page(kept, PUBLISHED, defaults=DEFAULTS),
        ROOT / "README.md": readme((ROOT / "README.md").read_text(), kept[DEMO]),
    }


def main(arguments: Arguments) -> None:
    """Keeps the run, if one is named, and writes the pages."""
    if arguments.run is not None:
        if not arguments.name:
            raise InputError(f"{arguments.run} needs a --name to be kept under, such as --name ml-1m-modern-seed-0")
        runs.write_json(KEPT / f"{arguments.name}.json", condensed(arguments.run))
        if (curve := arguments.run / "learning_curve.png").exists():
            shutil.copy(curve, ROOT / "docs" / "pictures" / f"{arguments.name}.png")
    for file, text in written().items():
        file.write_text(text)
        print(f"written  {file}")


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
