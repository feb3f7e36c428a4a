"""A bundle answers by raw keys what its model answers by ids."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bundle.small_bundles import (
    KEYS,
    MAX_LENGTH,
    a_model,
    answers_of,
    copy_of,
    loaded,
    random_params,
    replace_facts,
    without_sessions,
)
from seqrec.bundle import files
from seqrec.bundle.histories import ragged
from seqrec.bundle.loading import load_bundle
from seqrec.bundle.weights import write_weights
from seqrec.data.history import History
from seqrec.types import InputError

ROOT = Path(__file__).parents[2]
# Not pandas and scipy: pyarrow and jax import them where they are installed.
NOT_OF_SERVING = {
    "duckdb",
    "narwhals",
    "orbax",
    "tyro",
    "optax",
    "flax",
    "chex",
    "tqdm",
    "matplotlib",
    "fsspec",
    "usearch",
}
NOT_IMPORTED = ("seqrec.training", "seqrec.loop", "seqrec.run", "seqrec.model", "seqrec.encoders", "seqrec.losses")


def keys(*ids: int) -> list[str]:
    return [f"track-{item}" for item in ids]


@pytest.mark.parametrize("times", ["none", "history", "query"])
def test_lists_are_those_of_the_model(times):
    random = np.random.default_rng(1)
    rows = [random.integers(1, 31, length).tolist() for length in (1, 4, MAX_LENGTH, 3 * MAX_LENGTH)]
    seconds = [np.cumsum(random.integers(0, 10**5, len(row) + 1)).tolist() for row in rows]
    model = a_model(times=times)
    expected = answers_of(
        model, random_params(model), [History(row, moments) for row, moments in zip(rows, seconds, strict=True)], k=5
    )
    given = None if times == "none" else [moments if times == "query" else moments[:-1] for moments in seconds]
    lists = loaded(times).recommend([keys(*row) for row in rows], 5, times=given)
    for place, (ids, scores) in enumerate(expected):
        assert lists.items[place] == keys(*ids[ids > 0])
        np.testing.assert_allclose(lists.scores[place], scores[ids > 0], rtol=1e-5, atol=1e-5)
    assert lists.n_unknown == [0] * 4
    assert lists.is_popular == [False] * 4


def test_unknown_items_are_skipped_with_their_times_and_counted():
    with_unknown = loaded("query").recommend([["?", *keys(4), "??", *keys(9)]], 5, times=[[0, 10, 20, 30, 40]])
    without = loaded("query").recommend([keys(4, 9)], 5, times=[[10, 30, 40]])
    assert with_unknown.n_unknown == [2]
    assert with_unknown._replace(n_unknown=[0]) == without


def test_a_history_without_a_known_item_gets_the_popular_ones():
    lists = loaded().recommend([[], ["?"], keys(1)], 3, exclude=keys(6))
    assert lists.is_popular == [True, True, False]
    assert lists.items[:2] == [keys(4, 1, 2)] * 2
    assert lists.scores[:2] == [[5, 1, 1]] * 2


def test_one_list_is_for_all_and_one_each_is_for_each():
    histories = [keys(1), keys(2, 3), ["?"]]
    for_all = loaded().recommend(histories, 4, allow=keys(5, 6, 7), exclude=keys(6))
    assert [sorted(row) for row in for_all.items] == [keys(5, 7)] * 3
    for_each = loaded().recommend(histories, 4, allow=[keys(5), keys(8, 3), [*keys(9), "?"]], exclude=[[], [], keys(9)])
    assert for_each.items == [keys(5), keys(8), []]


def test_seen_items_are_left_out_as_the_run_was_tested_unless_a_request_says_otherwise():
    everything = set(KEYS)
    history = keys(*range(1, 11))
    bundle = loaded()
    assert set(bundle.recommend([history], 30).items[0]) == everything - set(history)
    assert set(bundle.recommend([history], 30, mask_seen=False).items[0]) == everything
    assert set(replace_facts(bundle, mask_seen=False).recommend([history], 30).items[0]) == everything


def test_each_of_many_histories_gets_its_own_answer(monkeypatch):
    """However they share calls: by twos and by length, so that nothing returns in the order of asking."""
    random = np.random.default_rng(2)
    items = ragged([random.integers(1, 31, length) for length in random.permutation(20)], np.int32)
    bundle = loaded()
    at_once = bundle.top_ids(items, 4)
    monkeypatch.setattr("seqrec.bundle.calls.MAX_USERS_PER_CALL", 2)
    monkeypatch.setattr("seqrec.bundle.loading.IDS_PER_CALL", 16)
    by_twos = bundle.top_ids(items, 4)
    np.testing.assert_array_equal(by_twos[0], at_once[0])
    np.testing.assert_allclose(by_twos[1], at_once[1], rtol=1e-5, atol=1e-5)


def test_the_product_of_a_state_and_an_items_vector_is_its_score():
    items = ragged([[3, 4], [30], [7, 8, 9, 1, 2, 3, 4, 5]], np.int32)
    ids, scores = loaded().top_ids(items, 30, mask_seen=False)
    products = loaded().states(items) @ loaded().item_vectors().T
    np.testing.assert_allclose(np.take_along_axis(products, ids - 1, axis=1), scores, rtol=1e-5, atol=1e-5)


def test_no_history_has_no_answer():
    assert loaded().recommend([]) == ([], [], [], [])


def test_weights_of_another_model_are_refused(tmp_path):
    bundle = copy_of(tmp_path)
    params = random_params(a_model())
    write_weights(bundle / files.WEIGHTS, {**params, "more": np.zeros(1)}, item_table="float32")
    with pytest.raises(InputError, match=r"weights\.safetensors does not fit the programs; export the run again"):
        load_bundle(bundle, verify=False)


@pytest.mark.parametrize("content", [b"of another time", None])
def test_a_program_that_this_jax_cannot_read_says_how_to_make_it_anew(tmp_path, content):
    bundle = copy_of(tmp_path)
    if content is None:  # as a newer jax writes it: its frame can be read, and its operations cannot
        exported = jax.export.deserialize(bytearray((bundle / files.TOP_K).read_bytes()))
        content = dataclasses.replace(exported, mlir_module_serialized=b"of another time").serialize()
        manifest = json.loads((bundle / files.MANIFEST).read_text())
        (bundle / files.MANIFEST).write_text(json.dumps({**manifest, "jax_version": "99.0"}))
    (bundle / files.TOP_K).write_bytes(content)
    with pytest.raises(InputError, match=r"top_k.stablehlo was made by jax .* cannot read it .*export.py --refresh "):
        load_bundle(bundle, verify=False)


def test_a_bundle_of_before_there_were_sessions_answers_as_ever(tmp_path):
    older = load_bundle(without_sessions(copy_of(tmp_path)))
    assert not older.facts.sessions
    assert older.recommend([keys(3, 4)]) == loaded().recommend([keys(3, 4)])


def test_serving_imports_nothing_of_training():
    loaded()
    program = f"""
import sys
import seqrec
seqrec.load_bundle({loaded().path!r}).recommend([["track-3"]], k=4)
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.split())
    assert not {name.partition(".")[0] for name in modules} & NOT_OF_SERVING
    assert not [name for name in modules if name.startswith(NOT_IMPORTED)]


def test_no_code_is_read_from_a_bundle():
    """What could run code as it reads a file is named nowhere in the room."""
    sources = [file.read_text() for file in (ROOT / "seqrec" / "bundle").glob("*.py")]
    assert not [
        word
        for word in ("pickle", "eval(", "exec(", "marshal", "allow_pickle=True")
        if any(word in source.replace("allow_pickle=False", "") for source in sources)
    ]
