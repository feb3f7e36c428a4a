"""semantic_ids.py writes codes that are read again, and a report beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
import semantic_ids

from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.store import store_from_sequences, write_store
from seqrec.runtime import parse
from seqrec.semantic_ids.files import read_semantic_ids
from seqrec.types import InputError

FLAGS = ("--feature-files", "audio.npy", "--n-codes", "4", "--n-levels", "2", "--kmeans-iterations", "3")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of two kinds of items, whose histories keep to one kind, and a vector for each item."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    sequences = [(rng.integers(1, 11, 8) + 10 * (user % 2)).tolist() for user in range(30)]
    store = write_store("store", store_from_sequences(sequences, n_items=20))
    np.save("audio.npy", rng.normal(size=(20, 3)) + 9.0 * (np.arange(20)[:, None] >= 10))
    return store


def run(*flags):
    return semantic_ids.main(parse(semantic_ids.Config, ["store", *flags]))


def read(name):
    return json.loads(Path("semantic-ids", name).read_text())


def test_codes_lie_beside_the_store_and_their_report_says_what_they_are_worth(store, capsys):
    report = run("--item-features", "audio", *FLAGS)
    ids = read_semantic_ids("semantic-ids", store.item_keys)
    assert ids.n_codes[:2] == (4, 4)
    assert len(np.unique(ids.codes[1:], axis=0)) == 20
    # No first code holds items of both kinds, and no history does, so neighbours share prefixes more than by chance.
    assert report["sessions"][0]["lift"] > 1.0
    assert report["validation"][0]["lift"] > 1.0
    assert read("report.json") == json.loads(json.dumps(report))
    assert "Semantic ids by residual-kmeans" in Path("semantic-ids/report.html").read_text()
    manifest = read("manifest.json")
    assert manifest["data_hash"] == store.content_hash
    assert {"method", "config", "seed", "vectors_hash", "versions"} <= manifest.keys()
    assert "no two items share all their codes" in capsys.readouterr().out

    theirs = {str(key): row for key, row in zip(store.item_keys.tolist(), ids.codes[1:].tolist(), strict=True)}
    Path("theirs.json").write_text(json.dumps(theirs))
    from_file = run("--from-file", "theirs.json", "--output", "theirs")
    np.testing.assert_array_equal(read_semantic_ids("theirs", store.item_keys).codes, ids.codes)
    assert from_file["errors"] is None
    assert from_file["sessions"] == report["sessions"]


def test_bad_input_is_one_line_and_leaves_nothing(store, tmp_path):
    np.save("broken.npy", np.full((20, 3), np.nan))
    np.save("equal.npy", np.ones((20, 3)))
    refused = [
        ((), "no item vectors are named"),
        (("--item-features", "broken", "--feature-files", "broken.npy"), "not finite"),
        (("--item-features", "equal", "--feature-files", "equal.npy"), "all item vectors are equal or missing"),
        (("--item-features", "audio", "--from-file", "codes.json"), r"item_features=\('audio',\) is about making them"),
        (("--from-file", "codes.json", "--equal-codes", "balanced"), "equal_codes=balanced is about making them"),
        (("--item-features", "audio", "--feature-files", "audio.npy"), "20 items are fewer than n_codes=256"),
        (("--item-features", "audio", *FLAGS, "--method", "kmeans"), "kmeans"),
    ]
    for flags, words in refused:
        with pytest.raises(InputError, match=words) as caught:
            run(*flags)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "semantic-ids").exists()


def test_codes_of_a_runs_store_are_made_of_its_split(store, tmp_path):
    for data, expected in (
        ({"split": {"split": "users"}}, SplitConfig(split="users")),
        ({}, SplitConfig()),
    ):
        started = {
            "experiment": "sasrec",
            "config": {"training": {"data": data}},
            "versions": {},
            "command": ["a", "b"],
        }
        (tmp_path / "config.json").write_text(json.dumps(started))
        run("--item-features", "audio", *FLAGS)
        assert read("manifest.json")["split_hash"] == split_store(store, expected).content_hash
    run("--item-features", "audio", *FLAGS, "--split", "users")  # flags come first
    assert read("manifest.json")["split_hash"] == split_store(store, SplitConfig(split="users")).content_hash


def test_what_is_no_directory_of_codes_is_left_alone(store, tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name in ("manifest.json", "codes.parquet", "weights.safetensors"):  # a bundle has codes too
        (bundle / name).write_text("{}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").write_text("")
    for name in ("bundle", "mine"):
        with pytest.raises(InputError, match=f"{name} is there and is not a directory of semantic ids"):
            run("--item-features", "audio", *FLAGS, "--output", name)
    assert (bundle / "weights.safetensors").read_text() == "{}"


def test_a_store_may_be_the_working_directory(store, tmp_path, monkeypatch):
    keys = store.item_keys
    monkeypatch.chdir(tmp_path / "store")
    flags = ["--item-features", "audio", *FLAGS, "--feature-files", "../audio.npy"]
    semantic_ids.main(parse(semantic_ids.Config, [".", *flags]))
    assert len(read_semantic_ids(tmp_path / "semantic-ids", keys).codes) == 21
