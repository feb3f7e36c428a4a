"""Training that starts from a trained run, on the same data, on data prepared anew, and on a day more."""

import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from bundle.small_bundles import sizes_unchecked
from conftest import TOY_MODEL, toy_histories, train
from scripts import TRAINING

from seqrec.data.append import append_events
from seqrec.data.preparation import StepsConfig, prepare_store
from seqrec.data.sources import read_source
from seqrec.data.split_config import SplitConfig
from seqrec.export import bundle_run
from seqrec.files import read_json
from seqrec.report.kept_results import condense_run
from seqrec.run import experiment
from seqrec.types import InputError


def store_of(directory, name: str, rows: list[tuple[int, int, int]]):
    """The store of the events (user, item, seconds)."""
    file = directory / f"{name}.csv"
    file.write_text("\n".join(["user_id,item_id,timestamp", *(",".join(map(str, row)) for row in rows)]) + "\n")
    source = read_source("events", file, time_unit="s")
    if (directory / name).exists():
        append_events(source, directory / name)
    else:
        prepare_store(source, directory / name, StepsConfig(), SplitConfig())
    return directory / name


def flags(store, *more):
    return ("--dataset", "store", "--data-path", store, *TOY_MODEL, *more)


def ranks(directory) -> dict[int, tuple[int, float]]:
    table = pq.read_table(directory / "ranks.parquet").to_pydict()
    return dict(zip(table["user"], zip(table["item"], table["rank"], strict=True), strict=True))


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """A store whose items are numbered day by day, a run trained on it, and a store of the same events at once."""
    directory = tmp_path_factory.mktemp("days")
    events = [
        (user, item, 100 * place + user)
        for user, history in enumerate(toy_histories(), start=1)
        for place, item in enumerate(history)
    ]
    # On the first day only even items are known; the second brings the others.
    store_of(directory, "by-day", [event for event in events if event[1] % 2 == 0])
    store_of(directory, "by-day", [event for event in events if event[1] % 2 == 1])
    store_of(directory, "at-once", events)
    train(*flags(directory / "by-day", "--max-epochs", "2", "--output", directory / "old"))
    return directory, events


@pytest.fixture(scope="module")
def bundle(days):
    """The bundle of that run."""
    directory, _ = days
    with sizes_unchecked():
        bundle_run(directory / "old", TRAINING, directory / "bundle")
    return directory / "bundle"


class Started(Exception):
    """The first step would be next."""


@pytest.fixture
def start_only(monkeypatch):
    """Stops a run before its first step."""

    def stop(*arguments):
        raise Started

    def start(*flags):
        with monkeypatch.context() as patch:
            patch.setattr(experiment, "train", stop)
            with pytest.raises(Started):
                train(*flags)

    return start


def test_the_same_events_numbered_anew_are_ranked_as_before(days, start_only, tmp_path, capsys):
    directory, _ = days
    tables = [pq.read_table(directory / name / "items.parquet")["key"].to_pylist() for name in ("by-day", "at-once")]
    assert tables[0] != tables[1]
    start_only(*flags(directory / "at-once", "--start-from", directory / "old", "--output", tmp_path / "new"))
    before, after = ranks(directory / "old"), ranks(tmp_path / "new" / "start")
    assert {user: item for user, (item, _) in before.items()} == {user: item for user, (item, _) in after.items()}
    np.testing.assert_allclose([before[u][1] for u in before], [after[u][1] for u in before])
    message = capsys.readouterr().err
    assert "items: 30 kept, 0 new, 0 dropped; optimizer moments are fresh" in message
    assert (
        f"test NDCG@10 {read_json(directory / 'old' / 'metrics.json')['test']['ndcg@10']:.4f} before training"
        in message
    )


def test_a_bundle_is_as_good_a_start_as_its_run(days, bundle, start_only, tmp_path, capsys):
    directory, _ = days
    start_only(*flags(directory / "at-once", "--start-from", bundle, "--output", tmp_path / "new"))
    before, after = ranks(directory / "old"), ranks(tmp_path / "new" / "start")
    np.testing.assert_allclose([before[u][1] for u in before], [after[u][1] for u in before])
    assert f"{bundle}, a bundle; items: 30 kept, 0 new" in capsys.readouterr().err
    record = read_json(tmp_path / "new" / "config.json")["data"]["start_from"]
    assert (record["bundle"], record["item_table"]) == (str(bundle), "float32")
    assert record["content_hash"] == read_json(bundle / "manifest.json")["content_hash"]
    with pytest.raises(InputError, match=r"bundle has another architecture: model.n_heads is 2 there and 4 here"):
        train(*flags(directory / "at-once", "--start-from", bundle, "--n-heads", "4", "--output", tmp_path / "other"))
    shutil.copytree(bundle, tmp_path / "damaged")
    (tmp_path / "damaged" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"weights.safetensors is damaged: its checksum is not"):
        train(*flags(directory / "at-once", "--start-from", tmp_path / "damaged", "--output", tmp_path / "third"))


def test_a_run_whose_store_is_gone_still_knows_its_items(days, start_only, tmp_path):
    directory, _ = days
    shutil.copytree(directory / "old", tmp_path / "old")
    config = tmp_path / "old" / "config.json"
    config.write_text(config.read_text().replace(str(directory / "by-day"), str(tmp_path / "gone")))
    begin = flags(directory / "at-once", "--start-from", tmp_path / "old")
    start_only(*begin, "--output", tmp_path / "new")
    assert ranks(tmp_path / "new" / "start").keys() == ranks(directory / "old").keys()
    (tmp_path / "old" / "items.parquet").unlink()  # as of a run of an earlier version
    with pytest.raises(InputError, match=r"old: its items cannot be told \(.*gone does not exist"):
        train(*begin, "--output", tmp_path / "other")


def test_a_store_that_has_grown_keeps_its_items_and_goes_on_from_its_own_checkpoint(days, tmp_path):
    directory, _ = days
    for name in ("by-day", "old"):
        shutil.copytree(directory / name, tmp_path / name)
    config = tmp_path / "old" / "config.json"
    config.write_text(config.read_text().replace(str(directory), str(tmp_path)))
    store_of(tmp_path, "by-day", [(user, 31 + user % 2, 10_000 + user) for user in range(1, 21)])
    begin = flags(tmp_path / "by-day", "--start-from", tmp_path / "old", "--output", tmp_path / "new")
    results = train(*begin, "--max-epochs", "1")
    record = results["start_from"]
    assert [record[f"n_items_{kind}"] for kind in ("kept", "new", "dropped")] == [30, 2, 0]
    assert (record["run"], record["optimizer"]) == (str(tmp_path / "old"), "fresh")
    assert re.fullmatch("[0-9a-f]{64}", record["weights_hash"])
    assert record == read_json(tmp_path / "new" / "config.json")["data"]["start_from"]
    kept = condense_run(tmp_path / "new")
    assert kept["start_from"] == kept["data"]["start_from"] == {**record, "run": "old"}
    assert str(tmp_path) not in str(kept)
    shutil.rmtree(tmp_path / "old")
    resumed = train(*begin, "--max-epochs", "1", "--resume")
    assert resumed["start_from"] == record
    assert resumed["test"] == results["test"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--d-model", "32"), r"another architecture: parameter blocks.0.attention.out is \[16, 16\] there"),
        (("--n-heads", "4"), "another architecture: model.n_heads is 2 there and 4 here"),
        (("--start-from", "absent"), "absent"),
    ],
)
def test_what_cannot_be_started_from_gets_one_line(days, tmp_path, monkeypatch, change, message):
    directory, _ = days
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as refusal:
        train(*flags(directory / "by-day", "--start-from", directory / "old", "--output", tmp_path / "new", *change))
    assert "\n" not in str(refusal.value)


def test_a_catalogue_without_any_of_the_items_is_refused(days, tmp_path):
    directory, events = days
    other = store_of(tmp_path, "other", [(user, 1000 + item, moment) for user, item, moment in events])
    with pytest.raises(InputError, match="has items such as 2, and none of this data's, such as 10"):
        train(*flags(other, "--start-from", directory / "old", "--output", tmp_path / "new"))


def test_a_model_of_item_features_starts_where_codes_mean_the_same(ratings, start_only, tmp_path):
    data = ("--dataset", "movielens", "--data-path", ratings, *TOY_MODEL, "--item-features", "year:buckets")
    train(*data, "--max-epochs", "1", "--output", tmp_path / "old")
    start_only(*data, "--start-from", tmp_path / "old", "--output", tmp_path / "new")
    assert ranks(tmp_path / "old") == ranks(tmp_path / "new" / "start")
    with pytest.raises(InputError, match="code 1 another meaning since"):
        train(*data, "--start-from", tmp_path / "old", "--output", tmp_path / "placebo", "--shuffled-features", "year")
