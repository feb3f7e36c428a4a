"""Compares finished runs, and other systems' top-k lists, on the same users: is a difference more than luck?

    python experiments/compare.py runs/a runs/b                                  # b against a
    python experiments/compare.py runs/a runs/b runs/c --join items.csv          # with slices by the items' columns
    python experiments/compare.py runs/a --top-k "other=other-top-20.csv.gz"     # columns user, item, rank or score

The first run is the reference. Prints the tables and writes comparison.json and comparison.html into --output.
"""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from seqrec import runtime
from seqrec.config import check_at_least, check_fields, check_share
from seqrec.files import JsonObject
from seqrec.pages.html import write_report
from seqrec.report import compared_runs
from seqrec.report.comparison import compare
from seqrec.report.comparison_page import page
from seqrec.report.comparison_text import as_text
from seqrec.report.rank_tables import align


@dataclass(frozen=True)
class Arguments:
    """Compares runs, the first of which is the reference, user by user."""

    runs: Positional[tuple[Path, ...]]
    """Directories of finished runs on one split, or their ranks.parquet; the first is the reference."""
    top_k: tuple[str, ...] = ()
    """NAME=FILE: another system's lists for the same users; CSV, TSV or Parquet of user, item, and rank or score."""
    join: tuple[str, ...] = ()
    """Tables whose columns make slices: FILE with a column user or item; or user=FILE, item=FILE: keys come first."""
    slice_by: tuple[str, ...] = ()
    """Columns of the runs and of --join to report metrics by; by default all."""
    metrics: tuple[str, ...] = ()
    """Metrics to compare, such as ndcg@10; by default all. P-values are corrected for the number of comparisons."""
    ks: tuple[int, ...] = (5, 10, 20)
    """Cut-offs k of recall@k and ndcg@k."""
    level: float = 0.95
    """Confidence level of intervals and tests."""
    n_resamples: int = 10_000
    """Number of resamples of the paired intervals and tests."""
    seed: int = 0
    """Seed of the resamples."""
    output: Path = Path("comparison")
    """Directory for comparison.json and comparison.html."""

    def __post_init__(self):
        check_fields(self)
        check_share(self, "level", zero=False, one=False)
        check_at_least(self, 1, "n_resamples")


def main(arguments: Arguments) -> JsonObject:
    """Prints the comparison, writes its files and returns what comparison.json holds."""
    with compared_runs.local_paths(arguments.runs, arguments.top_k) as paths:
        notes = compared_runs.protocol_notes({name: compared_runs.protocol_of(run) for name, run in paths.runs.items()})
        tables, differences = compared_runs.read_tables(paths), compared_runs.config_differences(paths.runs)
    aligned = align(tables)
    comparison = compare(
        aligned.tables,
        ks=arguments.ks,
        metrics=arguments.metrics,
        slicings=compared_runs.slicings_of(next(iter(aligned.tables.values())), arguments.join, arguments.slice_by),
        level=arguments.level,
        n_resamples=arguments.n_resamples,
        seed=arguments.seed,
    )
    notes += compared_runs.table_notes(tables, aligned.n_dropped)
    comparison |= {"notes": notes, "config_differences": differences}
    print(as_text(comparison))
    write_report(arguments.output / "comparison.json", comparison, page(comparison))
    return comparison


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
