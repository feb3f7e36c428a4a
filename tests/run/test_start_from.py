"""Weights of a trained run in the form of a new one: which rows go where, and what is refused."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import sparse

from seqrec.encoders.gru import GRUConfig, gru
from seqrec.heads.softmax import softmax_model
from seqrec.params import ParamSpec, leaves_by_name
from seqrec.run.start_from import (
    changed_code,
    check_architecture,
    check_item_vectors,
    mean_rows,
    rare_items,
    rows_by_key,
    start_params,
)
from seqrec.run.trained import Trained
from seqrec.types import InputError

ZEROS = jax.nn.initializers.zeros
SPECS = {
    "item_table": ParamSpec((8, 2), ("items", "embed"), ZEROS),
    "layers": [{"kernel": ParamSpec((2, 3), ("embed", "ff"), ZEROS)}],
    "scores": ParamSpec((3, 8), (None, "items"), ZEROS),
}
SAVED = {
    # Items a, b and c in the earlier catalogue; the fifth row lies beyond it.
    "item_table": np.array([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5], [3.0, 3.5], [9.0, 9.5]]),
    "layers.0.kernel": np.arange(6.0).reshape(2, 3),
    "scores": np.arange(15.0).reshape(3, 5),
}
FRESH = jax.tree.map(lambda spec: np.full(spec.shape, -1.0), SPECS)
ROWS = np.array([0, 3, -1, 1, -1])
"""The catalogue is now c, new, a, newer; b is gone."""


def test_rows_follow_their_items_keys():
    earlier = np.array(["a", "b", "c"], object)
    assert rows_by_key(np.array(["c", "new", "a", "newer"], object), earlier).tolist() == ROWS.tolist()
    assert rows_by_key(np.array(["10", "9"], object), np.array([9, 10])).tolist() == [0, 2, 1]


@pytest.mark.parametrize("with_rule", [True, False])
def test_items_keep_their_rows_and_new_ones_start_by_the_rule(with_rule):
    # The item with id 2 follows a twice and b once; that with id 4 has no neighbour, and b and c are rare.
    counts = np.zeros((5, 4), int)
    counts[2, 1:3] = 2, 1
    rule = functools.partial(mean_rows, neighbours=sparse.csr_matrix(counts), rare=np.array([2, 3]))
    carried = start_params(SPECS, FRESH, SAVED, ROWS, new_rows=rule if with_rule else None)
    new, newer = ([4 / 3, 11 / 6], [2.5, 3.0]) if with_rule else ([-1.0, -1.0], [-1.0, -1.0])
    expected = [[0.0, 0.5], [3.0, 3.5], new, [1.0, 1.5], newer, *[[-1.0, -1.0]] * 3]
    np.testing.assert_allclose(carried["item_table"], expected)
    np.testing.assert_array_equal(carried["layers"][0]["kernel"], SAVED["layers.0.kernel"])
    np.testing.assert_array_equal(carried["scores"][:, [0, 1, 3]], SAVED["scores"][:, [0, 3, 1]])
    assert (FRESH["item_table"] == -1.0).all()


def test_rare_items_have_the_fewest_training_events_but_some():
    counts = np.array([0, *range(20, 0, -1), 0])
    rows = np.array([0, *range(1, 20), -1, 20])
    # The last item has none, and the one before it is new; of the 19 others a tenth is 2.
    assert rare_items(counts, rows).tolist() == [19, 18]
    assert rare_items(np.zeros(3, int), np.array([0, 1, 2])).tolist() == [1]


def test_the_same_form_with_other_numbers_of_items_is_taken():
    check_architecture(SPECS, SAVED, run="runs/old")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_table": np.zeros((5, 4))}, r"parameter item_table is \[items, 4\] there and \[items, 2\] here"),
        ({"layers.0.kernel": np.zeros((2, 4))}, r"parameter layers.0.kernel is \[2, 4\] there and \[2, 3\] here"),
        ({"layers.0.kernel": np.zeros(3), "scores": np.zeros(3)}, r"parameter layers.0.kernel is \[3\] there"),
        ({"gate": np.zeros(3)}, r"parameter gate is \[3\] there and missing here"),
        ({"layers.0.kernel": None}, r"parameter layers.0.kernel is missing there and \[2, 3\] here"),
    ],
)
def test_another_architecture_is_refused_by_its_first_parameter(change, message):
    saved = {name: values for name, values in {**SAVED, **change}.items() if values is not None}
    with pytest.raises(InputError, match=f"runs/old has another architecture: {message}") as refusal:
        check_architecture(SPECS, saved, run="runs/old")
    assert "\n" not in str(refusal.value)


def test_a_bundle_whose_item_vectors_are_composed_is_refused_by_what_they_are_made_of():
    model = softmax_model(gru(GRUConfig(d_model=4), n_items=5, max_length=4))
    composing = dataclasses.replace(model, constants={})

    def bundle(**items):
        return Trained("old", Path("old"), True, {}, np.arange(5), {"training": {"items": items}}, {})

    check_item_vectors(model, bundle(item_features=[], ids="table"))
    for own, theirs, message in (
        (
            model,
            bundle(item_features=["genre", "year:buckets"], ids="table"),
            "item vectors made of genre, year:buckets;",
        ),
        (model, bundle(item_features=[], ids="multi-hash"), "item vectors made of --ids multi-hash;"),
        (composing, bundle(item_features=[], ids="table"), "and no parameters that --item-features or --ids adds;"),
    ):
        with pytest.raises(InputError, match=f"old is a bundle, which has a table of .*{message} start from the run"):
            check_item_vectors(own, theirs)


def test_codes_that_most_have_kept_have_not_moved():
    codes = np.array([[1, 2], [1, 0], [3, 0], [3, 0], [3, 0]])
    assert changed_code(codes, codes) is None
    # One of three leaves the third category, and an item gets a further one: the table's rows mean what they did.
    assert changed_code(codes, np.array([[1, 2, 4], [1, 2, 0], [3, 0, 0], [3, 0, 0], [1, 0, 0]])) is None
    assert changed_code(codes, np.array([[1, 2], [1, 0], [2, 0], [2, 0], [3, 0]])) == 3
    assert changed_code(np.array([5, 0]), np.array([4, 1])) == 5


def test_parameters_are_named_as_in_messages():
    assert list(leaves_by_name(SPECS)) == ["item_table", "layers.0.kernel", "scores"]
