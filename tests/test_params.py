"""One table of specs decides what parameters are, and adding a row to it changes no other."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec.params import ParamSpec, count_params, decay_mask, init_params

normal = jax.nn.initializers.normal(0.02)
zeros = jax.nn.initializers.zeros


def some_specs():
    return {
        "table": ParamSpec((5, 3), ("items", "embed"), normal),
        "blocks": [{"weight": ParamSpec((3, 4), ("embed", "ff"), normal)} for _ in range(2)],
        "bias": ParamSpec((3,), ("embed",), zeros, decay=False),
    }


def test_parameters_have_the_structure_and_shapes_of_their_specs():
    params = init_params(some_specs(), jax.random.key(0))
    chex.assert_tree_all_finite(params)
    assert jax.tree.structure(params) == jax.tree.structure(some_specs())
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda spec: spec.shape, some_specs())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_a_new_parameter_leaves_the_others_at_their_start():
    key = jax.random.key(3)
    before = init_params(some_specs(), key)
    after = init_params(some_specs() | {"a_first": ParamSpec((2,), ("embed",), normal)}, key)
    del after["a_first"]
    chex.assert_trees_all_equal(before, after)


def test_parameters_of_one_shape_start_apart():
    one, two = (block["weight"] for block in init_params(some_specs(), jax.random.key(0))["blocks"])
    assert not np.any(np.asarray(one) == np.asarray(two))


def test_another_key_gives_another_start():
    one, two = (init_params(some_specs(), jax.random.key(seed))["table"] for seed in (0, 1))
    assert not np.any(np.asarray(one) == np.asarray(two))


def test_decay_is_what_each_spec_says():
    assert decay_mask(some_specs()) == {"table": True, "blocks": [{"weight": True}] * 2, "bias": False}


def test_parameters_are_counted_one_by_one():
    assert count_params(some_specs()) == 5 * 3 + 2 * 3 * 4 + 3


def test_an_axis_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5, 3\) and axes \('items',\) differ in length"):
        ParamSpec((5, 3), ("items",), normal)
