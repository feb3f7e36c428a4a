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
from seqrec.files import JsonObject
from seqrec.report.compared_runs import (
    config_differences,
    local_paths,
    protocol_notes,
    protocol_of,
    read_tables,
    slicings_of,
    table_notes,
    write_comparison,
)
from seqrec.report.comparison import compare
from seqrec.report.comparison_page import page
from seqrec.report.comparison_text import as_text
from seqrec.report.rank_tables import align


@dataclass(frozen=True)
class Arguments:
    """Compares runs, the first of which is the reference, user by user."""

    runs: Positional[tuple[Path, ...]]
    """Directories of finished runs on one split, or their ranks.parquet."""
    top_k: tuple[str, ...] = ()
    """NAME=FILE: another system's lists for the same users; CSV, TSV or Parquet of user, item, and rank or score."""
    join: tuple[str, ...] = ()
    """Files with a column user, or a column item, and columns to slice by; or user=FILE, item=FILE: keys come first."""
    slice_by: tuple[str, ...] = ()
    """Columns to slice by; by default all that there are."""
    metrics: tuple[str, ...] = ()
    """Metrics to compare, such as ndcg@10; fewer are adjusted for less. By default all."""
    ks: tuple[int, ...] = (5, 10, 20)
    """Cut-offs."""
    level: float = 0.95
    """Level of intervals and tests."""
    n_resamples: int = 10_000
    """Resamples of the paired intervals and tests."""
    seed: int = 0
    """Seed of the resamples."""
    output: Path = Path("comparison")
    """Directory for comparison.json and comparison.html."""


def main(arguments: Arguments) -> JsonObject:
    """Prints the comparison, writes its files and returns what comparison.json holds."""
    with local_paths(arguments.runs, arguments.top_k) as paths:
        notes = protocol_notes({name: protocol_of(run) for name, run in paths.runs.items()})
        tables, differences = read_tables(paths), config_differences(paths.runs)
    aligned = align(tables)
    comparison = compare(
        aligned.tables,
        ks=arguments.ks,
        metrics=arguments.metrics,
        slicings=slicings_of(next(iter(aligned.tables.values())), arguments.join, arguments.slice_by),
        level=arguments.level,
        n_resamples=arguments.n_resamples,
        seed=arguments.seed,
    )
    comparison |= {"notes": notes + table_notes(tables, aligned.n_dropped), "config_differences": differences}
    json_file, html_file = write_comparison(arguments.output, comparison, page(comparison))
    print(f"{as_text(comparison)}\n\nnumbers  {json_file}\npage     {html_file}")
    return comparison


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
