"""A catalogue's prefix tree in arrays, against a trie of plain dictionaries."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec.prefix_tree import allowed_candidates, allowed_nodes, candidate_scores, chosen_children, prefix_tree
from seqrec.types import InputError

N_ITEMS, N_CODES = 300, (6, 70, 9)


def drawn_codes(seed):
    """Nodes of one level with half of the codes, of the next with a few; the first two items have equal codes."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, N_CODES, (N_ITEMS + 1, 3))
    codes[2] = codes[1]
    return codes


CODES = drawn_codes(0)
TREE = jax.tree.map(jnp.asarray, prefix_tree(CODES, N_CODES))


def trie_of(codes):
    """The codes that follow each prefix, in their order."""
    trie = {}
    for row in codes[1:].tolist():
        for depth in range(len(row)):
            trie.setdefault(tuple(row[:depth]), set()).add(row[depth])
    return {prefix: sorted(following) for prefix, following in trie.items()}


def walked(tree):
    """Each prefix of a tree with its node, and the children that a beam at this node is offered."""
    nodes = [((), 0)]
    for level in tree.levels:
        at = jnp.array([[node for _, node in nodes]])
        scores, children, codes = (np.asarray(each)[0] for each in offered(level, at))
        following = []
        for (prefix, _), *own in zip(nodes, scores, children, codes, strict=True):
            there = own[0] > -np.inf
            yield prefix, own[2][there].tolist()
            following += [((*prefix, code), child) for code, child in zip(own[2][there], own[1][there], strict=True)]
        nodes = following
    for prefix, leaf in nodes:
        yield prefix, int(tree.items[leaf])


@jax.jit
def offered(level, nodes, allowed=None):
    """Scores of all candidates of the nodes, the children that they are, and their codes."""
    scores = candidate_scores(level, nodes, jnp.zeros((*nodes.shape, level.n_codes)))
    if allowed is not None:
        scores = jnp.where(allowed_candidates(level, nodes, allowed), scores, -jnp.inf)
    places = jnp.broadcast_to(jnp.arange(level.n_candidates), scores.shape).reshape(1, -1)
    chosen = chosen_children(level, jnp.repeat(nodes, level.n_candidates, axis=1), places)
    return scores, *(each.reshape(scores.shape) for each in chosen)


def test_both_forms_of_a_level_are_in_use():
    assert {level.bits is None for level in TREE.levels} == {True, False}


def test_a_beam_is_offered_what_a_trie_of_dictionaries_offers_and_ends_at_the_items():
    trie, items = trie_of(CODES), []
    for prefix, children in walked(TREE):
        if len(prefix) < len(N_CODES):
            # Items with equal codes are leaves of their own.
            assert sorted(set(children)) == trie.pop(prefix)
        else:
            assert tuple(CODES[children]) == prefix
            items.append(children)
    assert not trie
    assert sorted(items) == list(range(1, N_ITEMS + 1))


def test_a_node_is_allowed_where_an_item_below_it_is():
    allowed = np.random.default_rng(1).random((2, N_ITEMS + 1)) < 0.03
    leaves = np.zeros((2, TREE.n_leaves), bool)
    leaves[:, TREE.leaves[1 : N_ITEMS + 1]] = allowed[:, 1:]
    below = [np.zeros((2, len(level.codes)), bool) for level in TREE.levels]
    for item in range(1, N_ITEMS + 1):
        node = TREE.leaves[item]
        for depth in reversed(range(3)):
            below[depth][:, node] |= allowed[:, item]
            node = TREE.levels[depth].parents[node]
    for is_allowed, expected in zip(jax.jit(allowed_nodes)(TREE, leaves), below, strict=True):
        np.testing.assert_array_equal(is_allowed, expected)


@pytest.mark.parametrize("depth", [1, 2])
def test_only_allowed_children_are_offered(depth):
    level, nodes = TREE.levels[depth], jnp.arange(6)[None]
    allowed = jnp.arange(level.codes.shape[0])[None] % 3 == 0
    (everything, children, _), (some, _, _) = offered(level, nodes), offered(level, nodes, allowed)
    np.testing.assert_array_equal(some == 0, (everything == 0) & (children % 3 == 0))


def test_another_catalogue_swaps_arrays_and_no_program():
    @jax.jit
    @chex.assert_max_traces(1)
    def first_items(tree):
        return tree.items[: len(tree.leaves)]

    chex.clear_trace_counter()
    today = prefix_tree(CODES, N_CODES, items=np.array([7, 3, 99]), like=TREE)
    assert first_items(TREE).shape == first_items(today).shape
    assert sorted(today.items[today.items > 0].tolist()) == [3, 7, 99]
    assert np.flatnonzero(today.leaves >= 0).tolist() == [3, 7, 99]
    fresh = prefix_tree(drawn_codes(2), N_CODES, like=TREE)
    assert jax.tree.structure(fresh) == jax.tree.structure(TREE)


def test_a_catalogue_may_grow_by_an_eighth_at_the_root_too():
    each = np.arange(113)[:, None] % [256, 1]  # every item has a first code of its own
    tree = prefix_tree(each[:101], (256, 1))
    grown = prefix_tree(each, (256, 1), like=tree)
    assert tree.levels[0].bits is None  # where the root's children are gathered
    assert sorted(grown.items[grown.items > 0].tolist()) == list(range(1, 113))


def test_what_does_not_fit_or_is_no_catalogue_is_refused_in_a_line():
    with pytest.raises(InputError, match=r"no item; give ids of 1\.\.300"):
        prefix_tree(CODES, N_CODES, items=np.array([], int))
    with pytest.raises(InputError, match="item 301"):
        prefix_tree(CODES, N_CODES, items=np.array([5, 301]))
    alike = np.array([[0, 0, 0]] + [[1, 2, code % 9] for code in range(N_ITEMS)])
    with pytest.raises(InputError, match="after one, does not fit a tree with room for"):
        prefix_tree(alike, N_CODES, like=TREE)
    each = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1]])
    dense = prefix_tree(each, (2, 2))  # where a bit stands for a code, and so for one item
    with pytest.raises(InputError, match="1 items share all their codes with another, and the tree has no place"):
        prefix_tree(each[[0, 1, 1, 3, 4]], (2, 2), like=dense)


def test_a_million_items_take_at_most_100_megabytes():
    codes = np.random.default_rng(0).integers(0, 256, (50_001, 3))
    assert prefix_tree(codes, (256,) * 3).n_bytes <= 100 * 50_000
