"""A bundle is written whole or not at all, and its compiled part is made anew without changing its answers."""

import json
import shutil

import numpy as np
import pytest

from bundle.small_bundles import (
    a_model,
    copy_of,
    kept,
    random_params,
    sizes_unchecked,
    without_sessions,
    write,
)
from seqrec.bundle import files
from seqrec.bundle.files import open_directory
from seqrec.bundle.loading import load_bundle
from seqrec.bundle.weights import read_weights
from seqrec.bundle.writing import refresh_bundle
from seqrec.data.store import store_from_sequences, write_store
from seqrec.types import InputError

HISTORY = [["track-3", "track-5"]]


def refresh(bundle, model):
    with sizes_unchecked():
        refresh_bundle(bundle, lambda config, facts: model)


def test_equal_models_make_equal_bundles_byte_for_byte(tmp_path):
    model = a_model()
    write(tmp_path / "again", model, random_params(model))
    assert open_directory(tmp_path / "again")[1].content_hash == open_directory(kept())[1].content_hash


def test_a_refreshed_bundle_answers_as_before_and_says_which_jax_made_it(tmp_path):
    bundle = without_sessions(copy_of(tmp_path))  # which the older bundle does not have yet
    before = load_bundle(bundle).recommend(HISTORY)
    manifest = json.loads((bundle / files.MANIFEST).read_text())
    (bundle / files.TOP_K).write_bytes(b"of another time")
    hashes = {**manifest["files"], files.TOP_K: files.sha256_of(bundle / files.TOP_K)}
    (bundle / files.MANIFEST).write_text(json.dumps({**manifest, "jax_version": "0.1", "files": hashes}))
    refresh(bundle, a_model())
    assert load_bundle(bundle).recommend(HISTORY) == before
    # All of a new bundle is there, to the byte.
    assert open_directory(bundle)[1] == open_directory(kept())[1]


def test_a_model_that_cannot_read_event_by_event_is_refreshed_without_sessions(tmp_path):
    bundle = copy_of(tmp_path, times="query")
    before = open_directory(bundle)[1]
    assert not before.sessions
    refresh(bundle, a_model(times="query"))
    assert open_directory(bundle)[1] == before


def test_a_refresh_that_would_change_answers_is_refused_and_changes_nothing(tmp_path):
    bundle = copy_of(tmp_path)
    manifest = (bundle / files.MANIFEST).read_text()
    probes = json.loads((bundle / files.PROBES).read_text())
    probes["answers"][1].reverse()
    (bundle / files.PROBES).write_text(json.dumps(probes))
    content = json.loads(manifest)
    content["files"][files.PROBES] = files.sha256_of(bundle / files.PROBES)
    content["jax_version"] = "0.1"
    (bundle / files.MANIFEST).write_text(json.dumps(content))
    programs = (bundle / files.TOP_K).read_bytes()
    with pytest.raises(InputError, match=r"probe 1 is answered by .*; the bundle is left as it was: use jax 0\.1,"):
        refresh(bundle, a_model())
    assert (bundle / files.TOP_K).read_bytes() == programs
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("item_table", ["bfloat16", "int8"])
def test_a_rounded_table_answers_as_the_same_table_in_float32(item_table, tmp_path):
    model = a_model()
    write(tmp_path / "rounded", model, random_params(model), item_table=item_table)
    rounded = load_bundle(tmp_path / "rounded")
    write(tmp_path / "plain", model, read_weights(tmp_path / "rounded" / files.WEIGHTS))
    assert rounded.recommend(HISTORY) == load_bundle(tmp_path / "plain").recommend(HISTORY)
    sizes = [(tmp_path / name / files.WEIGHTS).stat().st_size for name in ("rounded", "plain")]
    assert sizes[0] < sizes[1]


def test_stores_and_bundles_and_others_with_a_manifest_do_not_replace_each_other(tmp_path):
    store = write_store(tmp_path / "store", store_from_sequences([[1, 2, 3]]))
    shutil.copytree(kept(), tmp_path / "bundle")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    model = a_model()
    for name in ("store", "site"):
        with pytest.raises(InputError, match=f"{name} is there and is not a bundle; choose another directory"):
            write(tmp_path / name, model, random_params(model))
    for name in ("bundle", "site"):
        with pytest.raises(InputError, match=f"{name} is there and is not a sequence store; choose another directory"):
            write_store(tmp_path / name, store)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_probes_are_no_users_histories_and_reach_beyond_what_the_model_reads():
    probes = json.loads((kept() / files.PROBES).read_text())
    lengths = [len(items) for items in probes["items"]]
    assert min(lengths) == 1
    assert max(lengths) == 12
    assert np.asarray(probes["answers"]).shape == (8, 20)
