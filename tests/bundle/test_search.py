"""Searches that rank candidates answer as exact search does, but for items that they do not find."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bundle.small_bundles import a_model, random_params, sizes_unchecked, write
from seqrec.bundle import files, search
from seqrec.bundle.files import open_directory
from seqrec.bundle.histories import ragged
from seqrec.bundle.loading import load_bundle
from seqrec.bundle.search import Searcher, int8_candidates, int8_table, open_index, open_searcher
from seqrec.bundle.weights import StoredRows, quantise_rows
from seqrec.bundle.writing import HeldOut
from seqrec.params import init_params
from seqrec.repeats import with_repeats
from seqrec.types import InputError

pytest.importorskip("usearch")

N_ITEMS = 600
KEYS = np.arange(1, N_ITEMS + 1)
RANDOM = np.random.default_rng(0)
HISTORIES = RANDOM.integers(1, N_ITEMS + 1, (9, 5)).tolist()
APPROXIMATE = ("int8", "ann")


def nothing_excluded(n_users: int):
    return ragged([[]] * n_users, np.int32)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A bundle with an index, of more items than are ranked exactly."""
    directory = tmp_path_factory.mktemp("large") / "bundle"
    model = a_model(N_ITEMS)
    held_out = HeldOut(ragged(HISTORIES, np.int32))
    write(
        directory,
        model,
        random_params(model),
        keys=KEYS,
        counts=np.ones(N_ITEMS, int),
        index=True,
        held_out=held_out,
        card=lambda facts: f"{facts.recall}\n",
    )
    return directory


@pytest.fixture(scope="module")
def bundles(large):
    return {name: load_bundle(large, search=name) for name in ("exact", *APPROXIMATE)}


REQUESTS = {
    "plain": {},
    "many excluded": {"exclude": list(range(1, 300)), "mask_seen": False},
    "some allowed": {"allow": [[*range(1, 20 + n), 3, "?"] for n in range(len(HISTORIES) + 1)], "exclude": [7, 8]},
}


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("name", APPROXIMATE)
def test_requests_are_answered_as_by_exact_search(name, request_name, bundles):
    """Of a catalogue this small both find all of the best; the last history has no item that is known."""
    histories = [*HISTORIES, ["?"]]
    approximate, exact = (bundles[each].recommend(histories, 6, **REQUESTS[request_name]) for each in (name, "exact"))
    assert approximate.items == exact.items
    for row, expected in zip(approximate.scores, exact.scores, strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)
    assert approximate[2:] == exact[2:]


@pytest.mark.parametrize("name", APPROXIMATE)
def test_lists_may_be_as_long_as_the_catalogue(name, bundles):
    [listed] = bundles[name].recommend(HISTORIES[:1], N_ITEMS).items
    assert set(listed) == set(KEYS.tolist()) - set(HISTORIES[0])


@pytest.mark.parametrize("name", APPROXIMATE)
def test_states_and_item_vectors_need_no_table_in_memory(name, bundles):
    items = ragged(HISTORIES, np.int32)
    assert "item_table" not in bundles[name].params
    np.testing.assert_allclose(bundles[name].states(items), bundles["exact"].states(items), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(bundles[name].item_vectors(), bundles["exact"].item_vectors())


def test_recall_is_measured_at_the_export_and_on_the_card(large):
    _, facts = open_directory(large)
    assert facts.recall.keys() == {"k", "n_users", "int8", "ann"}
    assert (facts.recall["k"], facts.recall["n_users"]) == (20, len(HISTORIES))
    assert min(facts.recall["int8"], facts.recall["ann"]) > 0.95
    assert (large / files.CARD).read_text() == f"{facts.recall}\n"


def test_candidates_are_the_best_by_int8_rows():
    """Of several blocks, whose last is filled up with rows that are no items and would score best."""
    table = RANDOM.normal(size=(301, 4)).astype(np.float32) - 3
    states = -np.abs(RANDOM.normal(size=(2, 4))).astype(np.float32) @ np.diag([-1, -1, -1, -1]).astype(np.float32)
    rows = StoredRows(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "ROWS_PER_PRODUCT", 64)
        blocks = int8_table(rows, 300)
    assert blocks.rows.shape == (5, 64, 4)
    int8, scale = quantise_rows(table[1:])
    scores = states @ (int8 * scale[:, None]).T
    assert scores.max() < 0  # filling rows have the score 0
    candidates = np.asarray(int8_candidates(blocks, jnp.asarray(states), n=40, n_items=300))
    np.testing.assert_array_equal(candidates, 1 + np.argsort(-scores, axis=1)[:, :40])


def test_rows_that_are_stored_as_int8_are_scored_as_they_are():
    int8, scale = quantise_rows(RANDOM.normal(size=(71, 4)).astype(np.float32))
    table = int8_table(StoredRows(int8, scale), 70)
    np.testing.assert_array_equal(np.asarray(table.rows).reshape(-1, 4)[:70], int8[1:])
    np.testing.assert_array_equal(np.asarray(table.scale).reshape(-1)[:70], scale[1:])


@pytest.fixture
def searcher(monkeypatch):
    """One that finds items 3, 3 and 5 of 9, whose scores are their ids."""
    monkeypatch.setattr(search, "MIN_CANDIDATES", 1)
    rows = StoredRows(np.arange(10, dtype=np.float32)[:, None])
    return Searcher(rows, 9, lambda states, n: np.array([[3, 0, 3, 5]] * len(states)))


def test_where_too_few_candidates_are_found_all_items_are_ranked(searcher):
    state = np.ones((1, 1), np.float32)
    assert searcher.best(state, 2, allow=None, exclude=nothing_excluded(1))[0].tolist() == [[5, 3]]
    assert searcher.best(state, 2, allow=None, exclude=ragged([[2, 5, 9]], np.int32))[0].tolist() == [[8, 7]]


def test_of_tied_items_the_lower_id_comes_first_and_nan_is_never_listed(searcher):
    ids, scores = searcher.best(np.array([[0], [np.nan]], np.float32), 2, allow=None, exclude=nothing_excluded(2))
    assert ids.tolist() == [[3, 5], [0, 0]]
    assert scores.tolist() == [[0, 0], [-np.inf, -np.inf]]


def test_a_repeat_mixture_is_refused_by_name(tmp_path):
    model = with_repeats(a_model())
    params = init_params(model.specs, jax.random.key(0))
    message = "the model is a repeat mixture, whose scores are no products of one state .*; search exactly, or train"
    for name in APPROXIMATE:
        with pytest.raises(InputError, match=f"b with search='{name}': {message}"):
            open_searcher(tmp_path, 30, params, name, path="b")
    with pytest.raises(InputError, match=f"an index: {message}"):
        write(tmp_path / "b", model, params, index=True)
    assert not (tmp_path / "b").exists()


def test_an_unknown_search_is_refused(large):
    with (
        sizes_unchecked(),
        pytest.raises(InputError, match="search='fast' is none of exact, int8, ann; use one of these"),
    ):
        load_bundle(large, search="fast")


def test_a_bundle_without_index_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match=r"b has no index; write one by experiments/export.py RUN --index, or search"):
        open_index(tmp_path / files.INDEX, 30, path="b")


def test_what_is_no_index_of_the_items_is_refused(large, tmp_path):
    damaged = tmp_path / files.INDEX
    for content in (b"", b"none", (large / files.INDEX).read_bytes()[:5000]):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match=r"index\.usearch is no index of .*; export the run again"):
            open_index(damaged, N_ITEMS, path="b")
    with pytest.raises(InputError, match="is no index of the 30 items of b; export the run again with --index"):
        open_index(large / files.INDEX, 30, path="b")


def test_without_usearch_one_line_says_what_to_install(large, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(ImportError, match=r'usearch.* is missing; run pip install "seqrec\[ann\]"'):
        load_bundle(large, search="ann")


def test_an_older_export_whose_states_need_the_whole_table_is_refused(large, tmp_path):
    (tmp_path / "b").mkdir()
    for file in large.iterdir():
        (tmp_path / "b" / file.name).write_bytes(file.read_bytes())
    params = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), a_model(N_ITEMS).specs)
    older = jax.export.export(jax.jit(lambda params, histories: histories))(params, jnp.zeros(1))
    (tmp_path / "b" / files.STATES).write_bytes(bytes(older.serialize()))
    with pytest.raises(InputError, match=r"states.* is of an older export and needs the whole .*export.py --refresh "):
        load_bundle(tmp_path / "b", search="int8", verify=False)
