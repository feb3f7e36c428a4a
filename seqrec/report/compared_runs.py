"""The runs of a comparison: their names, whether they may be compared, and where the result goes."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from seqrec.config import leaves
from seqrec.data.buckets import working_copy
from seqrec.files import JsonObject, read_object
from seqrec.report.rank_tables import RankTableFile, read_rank_table, read_top_k
from seqrec.report.slices import Slicing, joined_slicings, select_slicings, standard_slicings
from seqrec.runs import START
from seqrec.types import InputError

TESTED_ALIKE = (
    "candidates",
    "ties",
    "fitted_on_validation_items",
    "repeated_targets",
    "n_repeated_targets",
    "test_users",
)
"""Fields of a protocol that bear on what a rank means, beside the split."""


class NamedPaths(NamedTuple):
    """What is compared, by the names under which it is shown."""

    runs: dict[str, Path]
    lists: dict[str, Path]
    """Other systems' top-k lists."""


def named_paths(runs: Sequence[Path], top_k: Sequence[str]) -> NamedPaths:
    """The runs by `run_names`, and the lists of `top_k`, each `NAME=FILE`, by theirs.

    >>> named_paths([Path("runs/a")], ["b=lists/b.csv"])
    NamedPaths(runs={'a': PosixPath('runs/a')}, lists={'b': PosixPath('lists/b.csv')})
    """
    lists: dict[str, Path] = {}
    for argument in top_k:
        name, equals, path = argument.partition("=")
        if not (name and equals and path):
            raise InputError(
                f"--top-k {argument} is not of the form NAME=FILE; write --top-k other={argument or 'FILE'} "
                "(runs go before the flags)"
            )
        if name in lists:
            raise InputError(f"--top-k names {name} twice; give each file a name of its own")
        lists[name] = Path(path)
    if not runs:
        raise InputError("no run is given; name a run's directory, whose users and held-out items are compared")
    if len(runs) + len(lists) < 2:
        raise InputError(f"{runs[0]} alone cannot be compared; name another run, or give --top-k NAME=FILE")
    names = run_names(runs)
    clash = next((name for name in names if name in lists), None)
    if clash is not None:
        raise InputError(f"--top-k {clash}={lists[clash]} has the name of a run; choose another name")
    return NamedPaths(dict(zip(names, runs, strict=True)), lists)


@contextlib.contextmanager
def local_paths(runs: Sequence[Path], top_k: Sequence[str]) -> Iterator[NamedPaths]:
    """`named_paths`, with runs in a bucket as copies that last as long as the block."""
    with contextlib.ExitStack() as copies:
        files = ("config.json", "metrics.json", "ranks.parquet")
        local = [copies.enter_context(working_copy(run, read_only=True, fetch=files)) for run in runs]
        yield named_paths([path for run in local for path in with_ranks(run)], top_k)


def with_ranks(run: Path) -> list[Path]:
    """The run itself, or the directories inside it that hold ranks, such as those of several baselines.

    The weights that a run started from do not stand for the run, as where its training has not ended.
    """
    if not run.is_dir() or (run / "ranks.parquet").is_file():
        return [run]
    inside = sorted(file.parent for file in run.glob("*/ranks.parquet"))
    return [each for each in inside if each.name != START or (each / "config.json").is_file()] or [run]


def read_tables(paths: NamedPaths) -> dict[str, RankTableFile]:
    """The rank table of each run and list, by name; lists are read for the users of the first run."""
    tables = {name: read_rank_table(path) for name, path in paths.runs.items()}
    reference = next(iter(tables.values()))
    return tables | {name: read_top_k(path, reference) for name, path in paths.lists.items()}


def slicings_of(reference: RankTableFile, joins: Sequence[str], slice_by: Sequence[str]) -> list[Slicing]:
    """The standard slicings and those by columns of `joins` (in the form of --join); only those named in `slice_by`."""
    slicings = standard_slicings(reference)
    for file, keys_of in map(parse_join, joins):
        slicings += joined_slicings(reference, file, keys_of=keys_of)
    return select_slicings(slicings, slice_by)


def parse_join(argument: str) -> tuple[Path, Literal["user", "item"] | None]:
    """File and kind of keys of a --join, which is FILE, user=FILE or item=FILE.

    >>> parse_join("item=movies.csv")
    (PosixPath('movies.csv'), 'item')
    """
    kind, equals, path = argument.partition("=")
    return (Path(path), kind) if equals and kind in ("user", "item") else (Path(argument), None)  # type: ignore[return-value]


def run_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart: directory names where these differ.

    >>> run_names([Path("runs/a"), Path("runs/b/ranks.parquet")])
    ['a', 'b']
    >>> run_names([Path("x/final"), Path("y/final")])
    ['x/final', 'y/final']
    """
    # Resolved, so that "." and ".." have names.
    places = [(path.parent if path.name == "ranks.parquet" else path).resolve() for path in map(Path, paths)]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise InputError(f"{place} is named twice; compare different runs")
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            break
    return names


def protocol_notes(protocols: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What to know before trusting the comparison, in sentences; {} is the protocol of what has none.

    Raises:
      InputError: two runs are on different splits.
    """
    with_protocol = {run: protocol for run, protocol in protocols.items() if protocol.get("split_hash")}
    first = next(iter(with_protocol), "")
    notes = []
    for run, theirs in list(with_protocol.items())[1:]:
        ours = with_protocol[first]
        if theirs["split_hash"] != ours["split_hash"]:
            raise InputError(
                f"{first} and {run} are on different splits (split_hash {str(ours['split_hash'])[:12]} and "
                f"{str(theirs['split_hash'])[:12]}); compare runs on one split of the same data"
            )
        for name in TESTED_ALIKE:
            one, other = ours.get(name), theirs.get(name)
            if one != other:
                notes.append(f"{first} and {run} were not tested alike: {name} is {one!r} and {other!r}.")
    notes += [
        f"{run} is time-aware: it read the time of each target."
        for run, protocol in with_protocol.items()
        if protocol.get("time_aware")
    ]
    if without_protocol := [run for run in protocols if run not in with_protocol]:
        names = " and ".join(without_protocol)
        notes.append(f"No metrics.json says how {names} was tested; users and held-out items are the same.")
    return notes


def protocol_of(path: Path) -> JsonObject:
    """The protocol in the metrics.json next to a run's ranks; {} if there is none."""
    file = (path if path.is_dir() else path.parent) / "metrics.json"
    return read_object(file, protocol=dict)["protocol"] if file.is_file() else {}


def config_differences(paths: Mapping[str, Path]) -> dict[str, JsonObject]:
    """Dotted name of each field of the runs' configs that differs -> its value by run; None where a run lacks it."""
    configs = {}
    for run, path in paths.items():
        file = (path if path.is_dir() else path.parent) / "config.json"
        if file.is_file():
            configs[run] = dict(leaves(read_object(file, config=dict)["config"]))
    names = dict.fromkeys(name for config in configs.values() for name in config)
    by_name = {name: {run: config.get(name) for run, config in configs.items()} for name in names}
    # The directories of a run and of its data, and who else is told of it, do not change its result.
    ignored = ("run.output", "run.resume", "data.data_path", "track")
    return {
        name: values
        for name, values in by_name.items()
        if name.removeprefix("training.") not in ignored
        and any(value != next(iter(values.values())) for value in values.values())
    }


def table_notes(tables: Mapping[str, RankTableFile], n_dropped: Mapping[str, int]) -> list[str]:
    """Sentences on the users that are missing from a table."""
    notes = []
    for name, table in tables.items():
        n, length = n_dropped.get(name, 0), table.list_length
        sentences = {
            f"{n:,} users of {name} are left out: not every run has them.": n,
            f"{table.n_without_list:,} users have no list of {name}; there it scores 0.": table.n_without_list,
            f"Lists of {name} for {table.n_unknown:,} users outside the test set are ignored.": table.n_unknown,
            f"{name} has lists of up to {length} items, so no cut-off beyond {length} is compared.": length is not None,
        }
        notes += [sentence for sentence, is_due in sentences.items() if is_due]
    return notes
