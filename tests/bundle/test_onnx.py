"""A bundle's functions as ONNX answer as the bundle does, and what has no such form is refused before it is written.

Tests that convert are skipped without the packages, which are large.
"""

import importlib.util
import json

import jax
import numpy as np
import pytest

from bundle.small_bundles import N_ITEMS, a_model, loaded, random_params, sizes_unchecked, write
from seqrec.bundle import files, onnx
from seqrec.bundle.files import open_directory
from seqrec.bundle.histories import Histories, make_histories, ragged
from seqrec.bundle.loading import load_bundle
from seqrec.bundle.programs import states
from seqrec.encoders.hawk import HawkConfig, hawk
from seqrec.heads.softmax import softmax_model
from seqrec.repeats import with_repeats
from seqrec.types import InputError

ITEMS = ragged([[3], [7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 8]], np.int32)


@pytest.mark.parametrize("times", ["none", "query"])
def test_the_newest_states_are_those_of_the_programs(times):
    model = a_model(times=times)
    params = random_params(model)
    seconds = ragged([range(n + (times == "query")) for n in ITEMS.lengths], np.int64)
    given = make_histories(ITEMS, max_length=6, times=times, seconds=None if times == "none" else seconds)
    given = Histories(*(None if each is None else jax.numpy.asarray(each) for each in given))
    with sizes_unchecked():
        both = jax.jit(lambda given: (onnx.newest_states(model, params, given), states(model, params, given)))
        np.testing.assert_allclose(*both(given), rtol=1e-6, atol=1e-6)


def test_lists_may_differ_only_where_scores_tie():
    scores = np.array([[3.0, 2.0, 2.0, 1.0]])
    wanted = [np.array([[1, 2, 3, 4]]), scores]
    assert onnx._same_lists([np.array([[1, 3, 2, 4]]), scores + 1e-7], wanted)
    # Behind the last one there may be another of its score.
    assert onnx._same_lists([np.array([[1, 2, 3, 5]]), scores], wanted)
    assert not onnx._same_lists([np.array([[9, 2, 3, 4]]), scores], wanted)
    assert not onnx._same_lists([wanted[0], scores + 1e-3], wanted)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'--onnx needs the package jax2onnx; run pip install "seqrec\[onnx\]"'):
        onnx.check_convertible(a_model(), name="sasrec")


def test_a_head_that_is_more_than_a_product_is_refused_by_name():
    with pytest.raises(InputError, match=r"sasrec has no form in ONNX: its head RepeatHead .*--no-repeat-mixture"):
        onnx.check_convertible(with_repeats(a_model()), name="sasrec")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A bundle with ONNX files."""
    pytest.importorskip("jax2onnx", reason='needs pip install "seqrec[onnx]"')
    pytest.importorskip("onnxruntime", reason='needs pip install "seqrec[onnx]"')
    directory = tmp_path_factory.mktemp("onnx") / "bundle"
    model = a_model()
    write(directory, model, random_params(model), onnx=True)
    return directory


@pytest.mark.parametrize(("n_users", "k"), [(1, 3), (3, N_ITEMS)])
def test_any_number_of_users_gets_the_bundles_lists_of_any_length(converted, n_users, k):
    rows = ITEMS.take(np.arange(n_users))
    given = make_histories(rows, max_length=6, times="none").as_dict()
    lists = {"allow": np.zeros((n_users, 1), np.int32), "exclude": np.tile(np.int32([4, 0, 9]), (n_users, 1))}
    program = (converted / files.ONNX_TOP_K).read_bytes()
    ids, scores = onnx._run(program, {**given, **lists, "k": np.array([k])})
    excluded = ragged([[4, 9]] * n_users, np.int32)
    expected_ids, expected = loaded().top_ids(rows, k, exclude=excluded, mask_seen=False)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_lists_hold_allowed_items_alone(converted):
    given = make_histories(ITEMS, max_length=6, times="none").as_dict()
    allow = np.array([[5, 6], [7, 0], [0, 0]], np.int32)
    program = (converted / files.ONNX_TOP_K).read_bytes()
    ids, scores = onnx._run(program, {**given, "allow": allow, "exclude": allow[:, :1] * 0, "k": np.array([3])})
    assert [sorted(row[row > 0].tolist()) for row in ids] == [[5, 6], [7], []]
    assert np.isneginf(scores[ids == 0]).all()


def test_the_manifest_knows_the_files_and_the_bundle_opens_as_others_do(converted):
    hashes = json.loads((converted / files.MANIFEST).read_text())["files"]
    for name in (files.ONNX_TOP_K, files.ONNX_STATES):
        assert hashes[name] == files.sha256_of(converted / name)
    open_directory(converted)
    assert load_bundle(converted).recommend([["track-3"]], 3) == loaded().recommend([["track-3"]], 3)


def test_answers_that_differ_leave_no_bundle(converted, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "TOLERANCE", 0.0)
    model = a_model()
    with pytest.raises(InputError, match=r"sasrec as ONNX answers otherwise than its bundle .*; leave --onnx out"):
        write(tmp_path / "bundle", model, random_params(model), onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_convert_is_refused_by_name_and_leaves_no_bundle(converted, tmp_path):
    model = softmax_model(hawk(HawkConfig(d_model=8, n_blocks=1), n_items=N_ITEMS, max_length=6))
    with pytest.raises(InputError, match=r"^hawk has no form in ONNX that jax2onnx finds .*; leave --onnx out$"):
        write(tmp_path / "bundle", model, random_params(model), name="hawk", onnx=True)
    assert list(tmp_path.iterdir()) == []
