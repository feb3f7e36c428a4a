"""Bundles of models that write codes: their answers, and catalogues that change while programs stay."""

import dataclasses
import shutil
from pathlib import Path
from typing import NamedTuple

import generative
import jax
import numpy as np
import pytest
from bundle.small_bundles import answers_of, sizes_unchecked

from seqrec import load_bundle, runtime
from seqrec.bundle import files
from seqrec.bundle.catalogue import Changes, replace_catalogue
from seqrec.bundle.loading import Bundle
from seqrec.bundle.programs import check_servable
from seqrec.bundle.writing import Description, write_bundle
from seqrec.config import to_json
from seqrec.data.history import History
from seqrec.data.store import sequence_store
from seqrec.export import served_model
from seqrec.model import Model, composed_params
from seqrec.params import Params, init_params
from seqrec.run.data import make_task
from seqrec.semantic_ids.codes import semantic_ids
from seqrec.semantic_ids.files import write_codes
from seqrec.types import InputError

N_ITEMS, K, WIDTH = 30, 16, 16
CODES = np.array([[0, 0], *([item % 6, item // 6] for item in range(N_ITEMS))])
SIZES = (8, 8)
KEYS = 100 + np.arange(1, 1 + N_ITEMS)
HISTORIES = [[3], [7, 8, 9], list(range(1, 21))]


class Case(NamedTuple):
    """A model, its composed parameters, and their bundle."""

    model: Model
    params: Params
    directory: Path
    bundle: Bundle


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return case_in(tmp_path_factory.mktemp("generative"))


def case_in(directory, *more_flags):
    write_codes(directory / files.CODES, semantic_ids(CODES, SIZES), KEYS)
    flags = ["--d-model", "8", "--n-blocks", "1", "--max-length", "8", "--no-mask-seen", "--beam-width", str(WIDTH)]
    config = runtime.parse(generative.Config, [*flags, *more_flags, "--semantic-ids", str(directory / files.CODES)])
    times = {"timestamp_us": np.arange(N_ITEMS, dtype=np.int64)}
    store = sequence_store(
        np.arange(1, 1 + N_ITEMS, dtype=np.int32),
        np.array([0, N_ITEMS]),
        item_keys=KEYS,
        user_keys=np.array([1]),
        columns=times,
    )
    model = generative.build(config, make_task(config.training.data, store, seed=0))
    check_servable(model)
    params = jax.tree.map(lambda leaf: 5 * leaf, init_params(model.specs, jax.random.key(1)))
    record = {"experiment": "generative", "config": to_json(config)}
    served = served_model({"generative": generative}, record, N_ITEMS, codes=directory / files.CODES)
    description = Description("generative", record, lambda facts: "a card\n", (directory / files.CODES,))
    vocabulary = files.Vocabulary(KEYS, np.arange(N_ITEMS, 0, -1))
    with sizes_unchecked():
        write_bundle(directory / "bundle", served, params, vocabulary, description, mask_seen=False)
    return Case(model, composed_params(model, params), directory / "bundle", load_bundle(directory / "bundle"))


def keys(rows):
    return [[int(KEYS[item - 1]) for item in row] for row in rows]


def check_answers(actual, expected):
    for place, (ids, scores) in enumerate(expected):
        assert actual.items[place] == keys([ids[ids > 0]])[0]
        np.testing.assert_allclose(actual.scores[place], scores[ids > 0], rtol=1e-6, atol=1e-6)


def test_a_bundle_answers_as_its_run(case):
    expected = answers_of(case.model, case.params, [History(row) for row in HISTORIES], k=K)
    check_answers(case.bundle.recommend(keys(HISTORIES), K, mask_seen=True), expected)


def test_allowed_items_are_the_only_candidates_and_none_left_is_an_empty_list(case):
    (allow,) = keys([[25]])
    assert case.bundle.recommend(keys(HISTORIES), K, allow=allow, mask_seen=True).items == [allow] * 3
    # Each allows items that are known, and may not list them: nothing is left, which is no mistake of the request.
    own = [row[:1] for row in keys(HISTORIES)]
    assert case.bundle.recommend(keys(HISTORIES), K, allow=own, mask_seen=True).items == [[]] * 3
    with pytest.raises(InputError, match=r"allow leaves history 0 no item that .* may list; name some, or leave"):
        case.bundle.recommend(keys(HISTORIES), K, allow=[7])


def test_scores_are_no_products_so_other_searches_and_item_vectors_are_refused(case):
    with pytest.raises(InputError, match="the model writes codes of items, whose scores are no products"):
        load_bundle(case.directory, search="int8")
    with pytest.raises(InputError, match="the model writes codes of items, whose scores are no products"):
        case.bundle.item_vectors()


def test_another_catalogue_changes_arrays_alone_and_has_place_for_new_items(case, tmp_path):
    """Of today are the items 21 to 30, and two new ones with codes that nobody had."""
    directory = Path(shutil.copytree(case.directory, tmp_path / "bundle"))
    codes = np.concatenate([CODES[:1], CODES[21:], [[6, 0], [0, 6]]])
    write_codes(tmp_path / "today.parquet", semantic_ids(codes, SIZES), np.append(KEYS[20:], [7, 8]))
    assert replace_catalogue(directory, tmp_path / "today.parquet") == Changes(12, 2, 20)
    for name in (files.TOP_K, files.STATES, files.WEIGHTS, *files.SESSION_PROGRAMS):
        assert (directory / name).read_bytes() == (case.directory / name).read_bytes()
    # What was compiled for the other catalogue answers for this one.
    today = dataclasses.replace(load_bundle(directory), programs=case.bundle.programs)
    answers = today.recommend(keys(HISTORIES), K, mask_seen=True)
    assert [set(row) for row in answers.items] == [{*KEYS[20:].tolist(), 7, 8}] * 3
    # Probabilities are those among the items of today.
    np.testing.assert_allclose([np.exp(row).sum() for row in answers.scores], 1.0, rtol=1e-5)
    # A history of nothing that is known gets the most popular items of today; a new item is known.
    assert today.recommend([["nobody"]], 2).items == [[121, 122]]
    assert today.request([[7]]).n_unknown.tolist() == [0]
    with pytest.raises(InputError, match="allow leaves history 0 no item that"):
        today.request([[7]], allow=[101])


def test_a_catalogue_of_other_codebooks_or_too_many_items_is_refused_and_nothing_changes(case, tmp_path):
    directory = Path(shutil.copytree(case.directory, tmp_path / "bundle"))

    def refused(codes, sizes, item_keys, match):
        write_codes(tmp_path / "codes.parquet", semantic_ids(codes, sizes), item_keys)
        with pytest.raises(InputError, match=match):
            replace_catalogue(directory, tmp_path / "codes.parquet")

    refused((CODES + 1) % 6, SIZES, KEYS, "30 of 30 known items have another first code")
    refused(np.pad(CODES, ((0, 0), (0, 1))), (8, 8, 1), KEYS, "a number a level, and the model writes")
    twins = np.concatenate([CODES, CODES[1:2]])
    refused(twins, SIZES, np.append(KEYS, 7), r"codes\.parquet: 1 items share all their codes with another")
    refused(CODES, SIZES, KEYS + 1000, "codes of none of the bundle's own items")
    n_more = 200
    many = np.concatenate([CODES, np.tile(CODES[1:], (7, 1))[:n_more]])
    refused(many, SIZES, np.append(KEYS, 1000 + np.arange(n_more)), "has room for .*; train and export again")
    assert files.open_directory(directory)[1] == case.bundle.facts


def test_a_model_that_scores_item_vectors_has_no_place_for_new_items(tmp_path):
    """Whose rows of the item table would be padding."""
    directory = case_in(tmp_path, "--dense-weight", "1").directory
    more = np.concatenate([CODES, [[6, 0]]])
    write_codes(tmp_path / "more.parquet", semantic_ids(more, SIZES), np.append(KEYS, 7))
    with pytest.raises(InputError, match="has room for 30; train and export again"):
        replace_catalogue(directory, tmp_path / "more.parquet")
