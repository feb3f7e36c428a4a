"""The tree of a catalogue's codes in flat arrays: which code may follow which prefix, asked by many beams at once."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from seqrec.types import InputError

ROWS = 64
"""First axes are multiples of it, so that any mesh divides them."""
SLACK = 1 / 8
"""Share by which a tree has more room than its catalogue needs, for that of tomorrow."""
WORD = 32
"""Bits of a word of `Level.bits`."""


@struct.dataclass
class Level:
    """From the nodes of one depth to their children, which lie side by side, in the order of their codes."""

    starts: Any
    """Int[Array, " n_nodes_and_more"]. Node i has the children starts[i] .. starts[i + 1] - 1."""
    codes: Any
    """UInt[Array, " n_children"]. The code that leads to each child."""
    parents: Any
    """Int[Array, " n_children"]. The node that each is a child of; of an empty child an empty node, the last."""
    bits: Any
    """UInt32[Array, "n_nodes n_words"]. For each node the codes that it has a child for, a bit a code: the form of
    levels where nodes have many children. None where each node's children are few, and are gathered instead."""
    n_codes: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)
    """Most children that a node may have."""

    @property
    def n_nodes(self) -> int:
        """Nodes of the upper depth, with the empty ones."""
        return self.starts.shape[0] - ROWS

    @property
    def n_candidates(self) -> int:
        """Candidates of one node in a step of a beam."""
        return self.width if self.bits is None else self.n_codes


@struct.dataclass
class PrefixTree:
    """The items of a catalogue by their codes; `prefix_tree` makes one.

    Its last level has a leaf for each item: items with equal codes are siblings. Arrays are padded, and their sizes
    with the levels' form are all that a compiled program depends on.
    """

    levels: tuple[Level, ...]
    items: Any
    """Int[Array, " n_leaves"]. Item ids in the order of their codes; 0 for empty leaves."""
    leaves: Any
    """Int[Array, " n_rows"]. The leaf of each item id; -1 where it is not in the catalogue."""

    @property
    def n_leaves(self) -> int:
        """Leaves, with the empty ones."""
        return self.items.shape[0]

    @property
    def n_bytes(self) -> int:
        """Memory of its arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


def prefix_tree(
    codes: Int[np.ndarray, "n_items_plus_1 n_levels"],
    n_codes: tuple[int, ...],
    *,
    items: Int[np.ndarray, " n"] | None = None,
    like: PrefixTree | None = None,
) -> PrefixTree:
    """The tree of the `items`, by default all, whose codes are the rows of their ids; row 0 is padding.

    A tree made `like` another has its sizes, so that programs compiled for one run with the other.

    >>> tree = prefix_tree(np.array([[0, 0], [1, 0], [0, 2], [1, 2]]), (2, 3))
    >>> tree.items[:4].tolist(), tree.leaves[:4].tolist()  # item 2 has the lowest codes
    ([2, 1, 3, 0], [-1, 1, 0, 2])
    >>> tree.levels[1].starts[:3].tolist(), tree.levels[1].codes[:3].tolist()
    ([0, 1, 3], [2, 0, 2])

    Raises:
      InputError: an item has no row of codes, there is none, or they do not fit into the tree that it is to be
        like.
    """
    ids = np.arange(1, len(codes), dtype=np.int32) if items is None else np.unique(items).astype(np.int32)
    if not len(ids) or ids[0] < 1 or ids[-1] >= len(codes):
        bad = f"item {ids[0] if ids[0] < 1 else ids[-1]}" if len(ids) else "no item"
        raise InputError(f"the catalogue holds {bad}; give ids of 1..{len(codes) - 1}, which have codes")
    ids = ids[np.lexsort((ids, *codes[ids].T[::-1]))]
    levels, n_nodes = [], ROWS
    kept = like.levels if like is not None else (None,) * len(n_codes)
    for depth, (parents, node_codes) in enumerate(_children(codes[ids])):
        level = _level(parents, node_codes, n_codes[depth], n_nodes=n_nodes, n_items=len(ids), like=kept[depth])
        levels.append(level)
        n_nodes = len(level.codes)
    leaves = np.full(room(len(codes), 0.0) if like is None else len(like.leaves), -1, np.int32)
    if len(leaves) < len(codes):
        raise InputError(f"codes have {len(codes)} rows, and the tree room for {len(leaves)}; compile for a new tree")
    leaves[ids] = np.arange(len(ids))
    return PrefixTree(tuple(levels), np.pad(ids, (0, n_nodes - len(ids))), leaves)


def _children(codes: Int[np.ndarray, "n n_levels"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Parents and codes of the nodes of each depth from 1 on, of items in the order of their codes."""
    n, n_levels = codes.shape
    node, is_first = np.zeros(n, np.int64), np.zeros(n, bool)
    is_first[0] = True
    for depth in range(n_levels):
        is_first[1:] |= codes[1:, depth] != codes[:-1, depth]
        if depth == n_levels - 1:
            is_first[:] = True
        yield node[is_first].astype(np.int32), codes[is_first, depth]
        node = np.cumsum(is_first) - 1


def _level(
    parents: np.ndarray, codes: np.ndarray, n_codes: int, *, n_nodes: int, n_items: int, like: Level | None
) -> Level:
    n, counts = len(codes), np.bincount(parents, minlength=n_nodes)
    most = int(counts.max())
    repeats = np.count_nonzero((np.diff(parents) == 0) & (np.diff(codes.astype(np.int64)) == 0))
    if like is None:
        size = room(n + 1, SLACK)
        width = min(size - 1, -(-int(most * (1 + SLACK)) // 8) * 8)
        # A row of bits costs the same whatever it holds; gathers cost for each child that there may be.
        has_bits = 2 * width > n_codes and not repeats and n_nodes * n_codes <= 8 * 32 * max(n_items, 4096)
    else:
        size, width, has_bits = len(like.codes), like.width, like.bits is not None
        if n >= size or most > width or n_codes != like.n_codes:
            raise InputError(
                f"a catalogue of {n:,} prefixes, {most} after one, does not fit a tree with room for {size - 1:,}, "
                f"{width} after one; make a tree of its own, and compile again"
            )
        if has_bits and repeats:  # one bit a code finds one child
            raise InputError(
                f"{repeats:,} items share all their codes with another, and the tree has no place for such items; give "
                "each item its own codes, or make a tree of its own, and compile again"
            )
    starts = np.full(n_nodes + ROWS, n, np.int32)
    starts[: n_nodes + 1] = np.concatenate([[0], np.cumsum(counts)])
    bits = None
    if has_bits:
        bits = np.zeros((n_nodes, -(-n_codes // WORD)), np.uint32)
        np.bitwise_or.at(bits, (parents, codes // WORD), np.uint32(1) << (codes % WORD).astype(np.uint32))
    smallest = np.uint8 if n_codes <= 256 else np.uint16 if n_codes <= 2**16 else np.int32
    return Level(
        starts,
        np.pad(codes.astype(smallest), (0, size - n)),
        np.pad(parents, (0, size - n), constant_values=n_nodes - 1),
        bits,
        n_codes,
        n_codes if has_bits else width,
    )


def room(n: int, slack: float) -> int:
    """`n` and a share `slack` more, rounded up to a multiple of `ROWS`."""
    return -(-int(n * (1 + slack)) // ROWS) * ROWS


def allowed_nodes(tree: PrefixTree, leaves: Bool[Array, "users n_leaves"]) -> list[Bool[Array, "users n_nodes"]]:
    """Which nodes of each depth from 1 on have an allowed leaf below them."""
    allowed = [leaves]
    for level in tree.levels[:0:-1]:
        # The children of a node lie side by side, so a running count answers for all of them.
        counts = jnp.pad(jnp.cumsum(allowed[0], axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
        at = counts[:, level.starts]
        allowed.insert(0, (at[:, 1:] > at[:, :-1])[:, : level.n_nodes])
    return allowed


def nodes_above(tree: PrefixTree, leaves: Int[Array, "*shape"]) -> list[Int[Array, "*shape"]]:
    """The node that each leaf is below, of each depth from the root on; that of the first leaf where there is none."""
    nodes = [jnp.maximum(leaves, 0)]
    for level in reversed(tree.levels):
        nodes.insert(0, level.parents[nodes[0]])
    return nodes[:-1]


def candidate_scores(
    level: Level, nodes: Int[Array, "*shape"], scores: Float[Array, "*shape n_codes"]
) -> Float[Array, "*shape n_candidates"]:
    """The score of each candidate of the nodes, of which `scores` has one a code; -inf where there is no such child."""
    children, there = _candidates(level, nodes)
    if level.bits is None:
        codes = level.codes.at[children].get(mode="clip").astype(jnp.int32)
        scores = jnp.take_along_axis(scores, codes, axis=-1)
    return jnp.where(there, scores, -jnp.inf)


def allowed_candidates(
    level: Level, nodes: Int[Array, "users beams"], allowed: Bool[Array, "#users n_children"]
) -> Bool[Array, "users beams n_candidates"]:
    """Which candidates of the nodes are allowed children."""
    children, there = _candidates(level, nodes)
    allowed = jnp.broadcast_to(allowed, (len(nodes), allowed.shape[1]))
    flat = jnp.clip(children, 0, allowed.shape[1] - 1).reshape(len(nodes), -1)
    return there & jnp.take_along_axis(allowed, flat, axis=1).reshape(there.shape)


def _candidates(
    level: Level, nodes: Int[Array, "*shape"]
) -> tuple[Int[Array, "*shape n_candidates"], Bool[Array, "*shape n_candidates"]]:
    """The child that each candidate of the nodes is, and whether there is one."""
    first, end = level.starts[nodes][..., None], level.starts[nodes + 1][..., None]
    if level.bits is None:
        children = first + jnp.arange(level.width)
        return children, children < end
    each = (level.bits[nodes][..., None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    there = each.reshape(*nodes.shape, -1)[..., : level.n_codes] > 0
    return first + jnp.cumsum(there, axis=-1, dtype=jnp.int32) - 1, there


def chosen_children(
    level: Level, nodes: Int[Array, "users beams"], candidates: Int[Array, "users beams"]
) -> tuple[Int[Array, "users beams"], Int[Array, "users beams"]]:
    """The children that these candidates, one a node, are, and the codes that lead to them."""
    if level.bits is None:
        children = level.starts[nodes] + candidates
        return children, level.codes.at[children].get(mode="clip").astype(jnp.int32)
    words = level.bits[nodes]
    below = jnp.clip(candidates[..., None] - WORD * jnp.arange(words.shape[-1]), 0, WORD)
    # A shift by all bits of a word is undefined.
    mask = jnp.where(below == WORD, ~jnp.uint32(0), (jnp.uint32(1) << (below % WORD).astype(jnp.uint32)) - 1)
    before = jnp.sum(jax.lax.population_count(words & mask), axis=-1, dtype=jnp.int32)
    return level.starts[nodes] + before, candidates
