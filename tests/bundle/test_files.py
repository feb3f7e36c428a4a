"""The files of a bundle are all there and as they were written, or one line says which is not."""

import json
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bundle.small_bundles import KEYS, copy_of, kept
from seqrec.bundle import files
from seqrec.bundle.files import Vocabulary, open_directory, read_vocabulary, write_vocabulary
from seqrec.bundle.loading import load_bundle
from seqrec.data.buckets import working_copy
from seqrec.data.store import store_from_sequences, write_store
from seqrec.types import InputError


def rewrite(bundle, **changes):
    """Changes the manifest."""
    manifest = json.loads((bundle / files.MANIFEST).read_text())
    (bundle / files.MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_a_bundle_has_these_files_and_no_code():
    names = {file.name for file in kept().iterdir()}
    assert names == {*files.NEEDED, *files.SESSION_PROGRAMS, files.MANIFEST}
    assert {name.rpartition(".")[2] for name in names} == {"safetensors", "parquet", "json", "stablehlo", "md"}


@pytest.mark.parametrize("name", files.NEEDED)
def test_a_changed_byte_in_any_file_is_found(name, tmp_path):
    bundle = copy_of(tmp_path)
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(
        InputError, match=f"{name} is damaged: its checksum is not [0-9a-f]{{64}}; export the run again"
    ):
        load_bundle(bundle)


def test_a_missing_file_is_named(tmp_path):
    bundle = copy_of(tmp_path)
    (bundle / files.TOP_K).unlink()
    with pytest.raises(InputError, match=r"lacks the file top_k\.stablehlo; export the run again"):
        open_directory(bundle, verify=False)


@pytest.mark.parametrize(("version", "remedy"), [(0, "export the run again"), (2, "install a newer seqrec")])
def test_another_version_of_the_format_is_refused(version, remedy, tmp_path):
    bundle = copy_of(tmp_path)
    rewrite(bundle, bundle_version=version)
    with pytest.raises(InputError, match=f"is a bundle of version {version}, .* reads version 1; {remedy}"):
        load_bundle(bundle)


def test_a_file_outside_the_bundle_is_not_read(tmp_path):
    bundle = copy_of(tmp_path)
    hashes = json.loads((bundle / files.MANIFEST).read_text())["files"]
    (tmp_path / "secret").write_text("")
    rewrite(bundle, files={**hashes, "../secret": files.sha256_of(tmp_path / "secret")})
    with pytest.raises(InputError, match=r"lacks the file \.\./secret"):
        open_directory(bundle)


@pytest.mark.parametrize("changes", [{"times": "never"}, {"n_items": 0}, {"mask_seen": 1}, {"item_table": "pickle"}])
def test_facts_that_cannot_be_are_refused(changes, tmp_path):
    bundle = copy_of(tmp_path)
    rewrite(bundle, **changes)
    with pytest.raises(InputError, match="has values that no export writes"):
        open_directory(bundle)


def test_a_store_is_no_bundle(tmp_path):
    write_store(tmp_path / "store", store_from_sequences([[1, 2, 3]]))
    with pytest.raises(InputError, match="is not the manifest of a bundle; name the directory that"):
        load_bundle(tmp_path / "store")


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path):
    bundle = copy_of(tmp_path)
    write_vocabulary(bundle / files.ITEMS, Vocabulary(KEYS[:29], np.ones(29, np.int64)))
    with pytest.raises(InputError, match=r"manifest.json says 30 items, items.parquet has 29; export the run again"):
        load_bundle(bundle, verify=False)


def test_two_items_of_one_key_are_refused(tmp_path):
    write_vocabulary(tmp_path / "items.parquet", Vocabulary(np.array([7, 7]), np.ones(2, np.int64)))
    with pytest.raises(InputError, match="has a key twice"):
        read_vocabulary(tmp_path / "items.parquet")


def test_titles_and_attributes_travel(tmp_path):
    given = Vocabulary(np.array([7, 9]), np.array([1, 2]), np.array(["Heat", ""], object), pa.array([["Crime"], []]))
    write_vocabulary(tmp_path / "items.parquet", given)
    vocabulary = read_vocabulary(tmp_path / "items.parquet")
    assert [vocabulary.keys.tolist(), vocabulary.n_events.tolist(), vocabulary.titles.tolist()] == [
        [7, 9],
        [1, 2],
        ["Heat", ""],
    ]
    assert vocabulary.attributes.to_pylist() == [["Crime"], []]
    assert pq.read_schema(tmp_path / "items.parquet").names == ["key", "n_events", "title", "attributes"]


def test_a_bundle_in_a_bucket_answers_as_the_local_one(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(type(memory), "store", {})
    monkeypatch.setattr(type(memory), "pseudo_dirs", [""])
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with working_copy(tmp_path.__class__("memory://b/bundle")) as copy:
        for file in kept().iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    directory, facts = open_directory("memory://b/bundle")
    assert directory.is_relative_to(tmp_path / "cache")
    assert facts == open_directory(kept())[1]
