r"""Does this feature help? Trains variations of one model with several seeds and says for each: helps, hurts, or not.

    python experiments/feature_study.py --dry-run         # what would be trained, and what that costs
    python experiments/feature_study.py                   # genres and years of the MovieLens demo, under 10 minutes
    python experiments/feature_study.py --base "plain=--dataset ml-1m --data-path ml-1m.txt.gz --max-epochs 12" \
        --variations "wide=--d-model 128" "calm=--dropout 0.4" --seeds 0 1 2 3 --output runs/width    # any other

Each name is followed by flags of the training script; flags of the base apply to all. Finished trainings are kept under
--output and never repeated; the same command continues a stopped or extended study. study.json and study.html are
written there; docs/studies.md explains them.
"""

from dataclasses import dataclass, field

from scripts import TRAINING
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.config import check_fields
from seqrec.files import JsonObject
from seqrec.pages.html import write_report
from seqrec.report.study_page import as_text, page
from seqrec.study.plan import StudyConfig, make_plan, plan_text
from seqrec.study.run import run_study

DEMO = StudyConfig(
    base="ids alone=--d-model 32 --n-blocks 1 --max-length 50 --max-epochs 5",
    variations=(
        "genres=--item-features attributes",
        "year=--item-features year:buckets",
        "genres and year=--item-features attributes year:buckets",
        "shuffled genres=--item-features attributes --shuffled-features attributes",
    ),
)


@dataclass(frozen=True)
class Config:
    """Trains the variations of a study and says what each of them changes."""

    study: OmitArgPrefixes[StudyConfig] = field(default_factory=lambda: DEMO)

    def __post_init__(self):
        check_fields(self)


def main(config: Config) -> JsonObject | None:
    """Prints the verdicts, writes the study's files and returns what study.json holds; of a dry run only the plan."""
    if config.study.dry_run:
        print(plan_text(make_plan(config.study, TRAINING)))
        return None
    results = run_study(config.study, TRAINING)
    print(f"\n{as_text(results)}")
    write_report(config.study.output / "study.json", results, page(results))
    return results


if __name__ == "__main__":
    runtime.run_script(main, Config)
