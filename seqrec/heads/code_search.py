"""The search for the likeliest items of a catalogue, code by code, and ranks by what it finds."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.core import min_dim
from jaxtyping import Array, Bool, Float, Int

from seqrec.metrics.ranks import candidates, count, half_places_lost, own_half_places, take
from seqrec.params import Params
from seqrec.prefix_tree import PrefixTree, allowed_candidates, allowed_nodes, candidate_scores, chosen_children
from seqrec.retrieval import check_k, user_blocks, users_per_block
from seqrec.sharding import map_rows
from seqrec.types import Allow, BestItems, Exclude, TargetRanks, Targets

PARAMS, CODES, TREE, DENSE = "semantic_ids", "item_codes", "prefix_tree", "dense_items"
"""Names of what heads of codes read: their own parameters, the codes of each item id, and the catalogue's tree; and of
the item vectors that a `HybridHead` reads, too."""
BEAM_SCORES = 1 << 20
"""Scores of candidates that a step of the beam has at a time, 4 MB."""

Carry = TypeVar("Carry")
Codes = Int[Array, "users beams"]
Score = Callable[[int, Carry], tuple[Float[Array, "users beams n_codes"], Carry]]
"""From the depth and what is kept of each beam to the score of each code, of which those that may come next count."""
Advance = Callable[[int, Carry, Int[Array, "users beams"], Codes], Carry]
"""From the depth, what is kept, and each new beam's parent and code to what is kept of the new beams."""


def beam_search(
    tree: PrefixTree,
    valid: Bool[Array, "#users n_leaves"] | None,
    start: Carry,
    *,
    n_users: int,
    width: int,
    score: Score[Carry],
    advance: Advance[Carry],
) -> tuple[Int[Array, "users beams"], Float[Array, "users beams"]]:
    """Leaves of the likeliest items that a beam of this width finds, best first, and their log-probabilities.

    It keeps only prefixes of `valid` leaves, by default of all. Where it finds no more, -inf stands beside a leaf
    without an item.
    """
    allowed = [] if valid is None else allowed_nodes(tree, valid)
    nodes, logs, carry = jnp.zeros((n_users, 1), jnp.int32), jnp.zeros((n_users, 1)), start
    for depth, level in enumerate(tree.levels):
        each, carry = score(depth, carry)
        grown = logs[..., None] + jax.nn.log_softmax(candidate_scores(level, nodes, each), axis=-1)
        if valid is not None:
            grown = jnp.where(allowed_candidates(level, nodes, allowed[depth]), grown, -jnp.inf)
        scores = finite(grown).reshape(n_users, -1)
        logs, best = jax.lax.top_k(scores, min_dim(width, scores.shape[1]))
        beams, chosen = best // level.n_candidates, best % level.n_candidates
        nodes, codes = chosen_children(level, jnp.take_along_axis(nodes, beams, axis=1), chosen)
        if depth < len(tree.levels) - 1:
            # A beam that died may stand anywhere, since it scores -inf from here on.
            nodes = jnp.clip(nodes, 0, len(level.codes) - 1)
            carry = advance(depth, carry, beams, codes)
    return jnp.where(logs > -jnp.inf, nodes, tree.n_leaves - 1), logs


def scores_by_leaf(
    leaves: Int[Array, "users beams"], logs: Float[Array, "users beams"], valid: Bool[Array, "users n_leaves"]
) -> Float[Array, "users n_leaves"]:
    """The log-probability of each leaf that a beam found; -inf for the others, and NaN where it found none."""
    scores = jnp.full(valid.shape, -jnp.inf).at[jnp.arange(len(leaves))[:, None], leaves].max(logs)
    # As where a state is NaN, whose target is to rank last, not in the middle of equal ones.
    return jnp.where(jnp.any(logs > -jnp.inf, axis=1, keepdims=True), scores, jnp.nan)


def ranks_of_leaves(
    scores: Float[Array, "users n_leaves"], leaves: Int[Array, "users n_targets"], valid: Bool[Array, "users n_leaves"]
) -> TargetRanks:
    """Ranks of the targets' leaves among the valid ones, as `retrieval.rank_targets` has ties and what has no rank."""
    target_scores = take(scores, leaves, fill=0.0)
    lost = half_places_lost(scores, target_scores, valid, ties="mean")
    ranks = 1.0 + 0.5 * (lost - own_half_places(target_scores, ties="mean"))
    ranked = take(valid, leaves, fill=False)
    return jnp.where(ranked, ranks, jnp.nan), count(valid.astype(jnp.int8))


def listed(
    tree: PrefixTree, leaves: Int[Array, "users beams"], logs: Float[Array, "users beams"], *, k: int
) -> BestItems:
    """The first `k` items of what was found, and their scores, filled up with id 0 and -inf."""
    items = jnp.where(logs > -jnp.inf, tree.items[leaves], 0)
    # Filled up without a comparison of sizes, which an exported program leaves open.
    none = jnp.zeros((len(logs), k), items.dtype), jnp.full((len(logs), k), -jnp.inf)
    ids, best = (
        jax.lax.dynamic_update_slice(row, each[:, :k], (0, 0)) for row, each in zip(none, (items, logs), strict=True)
    )
    return ids, best


class SearchSizes(NamedTuple):
    """Sizes of a head and of its search, by which users are divided into blocks."""

    n_items: int
    d_model: int
    width: int
    """Beams of a user."""
    has_leaf_scores: bool = True
    """Whether there is a number for each user and leaf, as where candidates are limited."""


def rank_leaves(
    score: Callable[[Params, Any, Array, Array], Float[Array, "users n_leaves"]],
    params: Params,
    queries: Any,
    targets: Targets,
    sizes: SearchSizes,
    *,
    exclude: Exclude,
    allow: Allow,
) -> TargetRanks:
    """Ranks by `score(params, queries, targets, valid)`, as `retrieval.rank_targets` has lists and what has no rank.

    `targets` have a row a user, and `valid` are the user's candidates among the leaves.
    """

    def rank(users: Any, params: Params) -> TargetRanks:
        queries, targets, exclude, allow = users
        leaves = leaves_of(params[TREE], targets)
        valid = candidate_leaves(params[TREE], exclude, allow, leaves)
        return ranks_of_leaves(score(params, queries, targets, valid), leaves, valid)

    rows = targets if targets.ndim == 2 else targets[:, None]
    ranks, n_candidates = _by_users(rank, params, (queries, rows), sizes, exclude=exclude, allow=allow)
    return ranks.reshape(targets.shape), n_candidates


def top_k_leaves(
    search: Callable[[Params, Any, Array | None], tuple[Array, Array]],
    params: Params,
    queries: Any,
    sizes: SearchSizes,
    *,
    k: int,
    exclude: Exclude,
    allow: Allow,
) -> BestItems:
    """The `k` best items of the leaves and scores that `search(params, queries, valid)` finds, best first.

    `valid` are the user's candidates among the leaves; None where all items are.
    """
    check_k(k, sizes.n_items)
    is_limited = exclude is not None or allow is not None
    sizes = sizes._replace(has_leaf_scores=sizes.has_leaf_scores or is_limited)

    def top(users: Any, params: Params) -> BestItems:
        queries, none, exclude, allow = users
        valid = candidate_leaves(params[TREE], exclude, allow, none) if is_limited else None
        return listed(params[TREE], *search(params, queries, valid), k=k)

    none = jnp.zeros((len(jax.tree.leaves(queries)[0]), 0), jnp.int32)
    return _by_users(top, params, (queries, none), sizes, exclude=exclude, allow=allow)


def _by_users(
    function: Callable[[Any, Params], Any],
    params: Params,
    rows: tuple[Any, Int[Array, "users n_targets"]],
    sizes: SearchSizes,
    *,
    exclude: Exclude,
    allow: Allow,
) -> Any:
    """`function((*rows, exclude, allow), params)` for blocks of users, each device over its own."""
    read, n_users = {name: params[name] for name in (PARAMS, CODES, TREE, DENSE) if name in params}, len(rows[1])
    if allow is not None:
        allow = jnp.broadcast_to(allow, (n_users, allow.shape[1]))
    exclude = jnp.zeros((n_users, 0), jnp.int32) if exclude is None else exclude
    local = functools.partial(user_blocks, function, block=users_at_once(n_users, read[TREE], sizes))
    return map_rows(local, (*rows, exclude, allow), read)


def users_at_once(n_users: int, tree: PrefixTree, sizes: SearchSizes) -> int:
    """How many users are searched for at a time: fewer the wider beams are, and the more leaves have scores."""
    block = users_per_block(n_users, tree.n_leaves, d_model=sizes.d_model) if sizes.has_leaf_scores else n_users
    if block == 1:  # also where a program leaves k open, and with it the width
        return 1
    return min(block, max(1, BEAM_SCORES // (sizes.width * max(level.n_candidates for level in tree.levels))))


def finite(scores: Array) -> Array:
    """The scores, with -inf for NaN, which a list never holds."""
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)


def leaves_of(tree: PrefixTree, items: Int[Array, "users n"]) -> Int[Array, "users n"]:
    """The leaves of item ids; -1 for 0 and for what is not in the catalogue."""
    return tree.leaves.at[items].get(mode="fill", fill_value=-1)


def candidate_leaves(
    tree: PrefixTree, exclude: Array, allow: Array | None, targets: Int[Array, "users n_targets"]
) -> Bool[Array, "users n_leaves"]:
    """Which leaves are each user's candidates; `targets` are leaves, and stay candidates where they are allowed."""
    valid = jnp.broadcast_to(tree.items > 0, (len(exclude), tree.n_leaves))
    if allow is not None:
        users, columns = jnp.arange(len(allow))[:, None], leaves_of(tree, allow)
        columns = jnp.where(columns < 0, tree.n_leaves, columns)
        valid &= jnp.zeros_like(valid).at[users, columns].set(True, mode="drop")
    return candidates(valid, leaves_of(tree, exclude), targets)
