"""Damaged files of a store and of a run: refused in one line or of no effect, never a traceback or other figures.

`SEQREC_DAMAGE_EXAMPLES=2000 pytest -m slow tests/experiments/test_damage.py` tries more.
"""

import contextlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import evaluate_checkpoint
import numpy as np
import pytest
import results as results_script
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from seqrec.bundle.card import model_card
from seqrec.bundle.files import Facts
from seqrec.data.append import append_events
from seqrec.data.event_tables import Columns
from seqrec.data.preparation import StepsConfig, prepare_store
from seqrec.data.sources import read_source
from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.store import SequenceStore, open_store, read_preparation
from seqrec.report.compared_runs import config_differences, protocol_notes, protocol_of
from seqrec.report.kept_results import condense_config, keep, read_results
from seqrec.report.results_page import page
from seqrec.runs import reading_records
from seqrec.types import InputError

N_EXAMPLES = int(os.environ.get("SEQREC_DAMAGE_EXAMPLES", "300"))
JSON_NAMES = ("metadata", "metrics", "_METADATA", "_sharding", "_CHECKPOINT_METADATA", "process_0")
FACTS = Facts("sasrec", 30, 8, 16, "none", True, "int8", "0.10")
OTHER_VALUES = (None, True, 0, -1, 1.5, 10**30, float("inf"), float("nan"), "", "x", [], [1], {}, {"a": 1})


def examples(n: int, **options: Any) -> settings:
    return settings(
        max_examples=n,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # one damage each: there is nothing to shrink
        **options,
    )


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """The path to each value in a tree of JSON."""
    paths = [path] if path else []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        paths += places(value, (*path, key))
    return paths


def change_json(draw: Any, content: Any) -> str:
    """The JSON with one value removed or of another type."""
    *parents, last = draw(st.sampled_from(places(content)), label="place")
    inside = content
    for key in parents:
        inside = inside[key]
    if draw(st.booleans(), label="removed"):
        del inside[last]
    else:
        inside[last] = draw(st.sampled_from(OTHER_VALUES), label="value")
    return json.dumps(content)


def damage(draw: Any, files: list[Path]) -> None:
    """Spoils one of the files in one of the ways in which files are spoilt."""
    file = draw(st.sampled_from(files), label="file")
    content = bytearray(file.read_bytes())
    ways = ["delete", "empty"]
    if content:
        ways += ["cut", "flip", "zero"]
        if file.suffix == ".json" or file.name in JSON_NAMES:
            ways += ["change", "replace"]
    way = draw(st.sampled_from(ways), label="way")
    place = draw(st.integers(0, max(0, len(content) - 1)), label="at")
    if way == "delete":
        file.unlink()
    elif way == "change":
        file.write_text(change_json(draw, json.loads(content)))
    elif way == "replace":
        file.write_text(json.dumps(draw(st.sampled_from(OTHER_VALUES), label="content")))
    else:
        if way == "flip":
            content[place] ^= 1 << draw(st.integers(0, 7), label="bit")
        elif way == "zero":
            content[place : place + 16] = bytes(len(content[place : place + 16]))
        file.write_bytes({"empty": b"", "cut": content[:place]}.get(way, content))


def files_under(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def refusal(error: InputError) -> str:
    assert "\n" not in str(error), str(error)
    return str(error)


@pytest.fixture(scope="session")
def grown_store(tmp_path_factory) -> tuple[Path, list[SequenceStore], Path]:
    """A store with a column of numbers, one of text and one append; what it held before and after; events to append."""
    directory = tmp_path_factory.mktemp("grown")
    header = "user,item,at,rating,device"
    days = {
        "first": ["a,x,1,4,tv", "a,y,2,3,car", "a,z,3,5,tv", "b,x,1,1,tv", "b,z,5,2,car", "b,y,6,3,tv"],
        "second": ["a,new,4,5,bike", "c,x,7,2,tv", "b,x,2,2,car"],
        "third": ["c,y,8,1,tv", "d,x,9,3,car"],
    }
    for name, rows in days.items():
        (directory / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    stores = []
    for name in ("first", "second"):
        source = day_source(directory / f"{name}.csv", directory / "store" if stores else None)
        if stores:
            append_events(source, directory / "store")
        else:
            prepare_store(source, directory / "store", StepsConfig(session_gap_seconds=2.0), SplitConfig())
        stores.append(open_store(directory / "store", verify=True))
    return directory / "store", stores, directory / "third.csv"


def day_source(path: Path, store: Path | None) -> Any:
    known = read_preparation(store).get("categories", {}) if store else {}
    return read_source(
        "events",
        path,
        columns=Columns("user", "item", "at"),
        time_unit="s",
        extra=("rating",),
        categories={"device": known.get("device", ())},
    )


def assert_same_content(ours: SequenceStore, theirs: SequenceStore) -> None:
    for name in ("items", "offsets", "item_keys", "user_keys"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.columns.keys() == theirs.columns.keys()
    for name in ours.columns:
        np.testing.assert_array_equal(ours.columns[name], theirs.columns[name], err_msg=name)


def damaged_store_is_refused_or_the_same(draw, grown_store, directory) -> None:
    original, stores, next_day = grown_store
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(original, directory / "store")
    damage(draw, files_under(directory / "store"))
    for store in stores:
        try:
            opened = open_store(directory / "store", as_of=store.content_hash, verify=True)
            read_preparation(directory / "store", as_of=store.content_hash)
            split = split_store(opened, SplitConfig())
        except InputError as error:
            refusal(error)
        else:
            assert_same_content(opened, store)
            in_memory = store._replace(directory=None)  # so that nothing is kept beside the original
            assert split.content_hash == split_store(in_memory, SplitConfig()).content_hash
    try:
        grown = append_events(day_source(next_day, directory / "store"), directory / "store").store
    except InputError as error:
        refusal(error)
    else:
        assert grown.n_users >= stores[-1].n_users


@examples(12, derandomize=True)
@given(st.data())
def test_a_damaged_store_is_refused_or_opens_as_it_was(grown_store, tmp_path, data):
    damaged_store_is_refused_or_the_same(data.draw, grown_store, tmp_path / "copy")


@pytest.mark.slow
@examples(N_EXAMPLES)
@given(st.data())
def test_many_damaged_stores_are_refused_or_open_as_they_were(grown_store, tmp_path, data):
    damaged_store_is_refused_or_the_same(data.draw, grown_store, tmp_path / "copy")


def damaged_run_is_refused_or_the_same(draw, finished, directory, caplog) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(finished.directory, directory)
    damage(draw, files_under(directory / "checkpoints") + files_under(directory / "store"))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="seqrec"):
        try:
            results = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(directory))
        except InputError as error:
            refusal(error)
        else:
            # Another checkpoint may have other figures, and says so.
            if "validation chose step" not in caplog.text:
                assert results == {name: finished.results[name] for name in results}


@examples(4, derandomize=True)
@given(st.data())
def test_a_damaged_run_is_refused_or_has_its_figures(finished, tmp_path, caplog, data):
    damaged_run_is_refused_or_the_same(data.draw, finished, tmp_path / "run", caplog)


@pytest.mark.slow
@examples(N_EXAMPLES)
@given(st.data())
def test_many_damaged_runs_are_refused_or_have_their_figures(finished, tmp_path, caplog, data):
    damaged_run_is_refused_or_the_same(data.draw, finished, tmp_path / "run", caplog)


def damaged_records_are_refused_or_shown(draw, finished, directory, *readers) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(finished.directory, directory / "run")
    damage(draw, [directory / "run" / "config.json", directory / "run" / "metrics.json"])
    for reader in readers:
        try:
            reader(directory / "run")
        except InputError as error:
            refusal(error)


def keep_and_show(run: Path) -> None:
    """Keeps the run; what cannot be shown is not kept."""
    kept = run.parent / "kept"

    def show() -> str:
        return page(read_results(kept), {}, defaults=results_script.DEFAULTS)

    try:
        keep(run, kept, "toy-seed-0", show=show)
    except InputError:
        assert not files_under(kept)
        raise
    show()


def write_card(run: Path) -> None:
    with reading_records(run):
        started = condense_config(run)
    record = {"experiment": "sasrec", "config": started["config"], "trained_with": started["versions"]}
    sizes = dict.fromkeys(("n_users", "n_items", "n_events", "split"), 1)
    model_card(run, {**record, "data": {**started.get("data", {}), **sizes}}, FACTS)


def compare_with_itself(run: Path) -> None:
    protocol_notes({"one": protocol_of(run), "other": protocol_of(run)})
    config_differences({"one": run, "other": run})


@examples(40, derandomize=True)
@given(st.data())
def test_a_run_whose_records_are_damaged_is_refused_or_shown(finished, tmp_path, data):
    readers = (keep_and_show, write_card, compare_with_itself)
    damaged_records_are_refused_or_shown(data.draw, finished, tmp_path / "copy", *readers)


def evaluate(run: Path) -> None:
    with contextlib.suppress(SystemExit):  # says whether its figures are those that training left
        evaluate_checkpoint.compare(evaluate_checkpoint.Arguments(run))


@pytest.mark.slow
@examples(N_EXAMPLES)
@given(st.data())
def test_many_runs_whose_records_are_damaged_are_refused_or_shown(finished, tmp_path, data):
    readers = (keep_and_show, write_card, compare_with_itself, evaluate)
    damaged_records_are_refused_or_shown(data.draw, finished, tmp_path / "copy", *readers)
