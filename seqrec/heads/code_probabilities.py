"""Probabilities of codes, level by level, and of all items of a catalogue, prefix by prefix."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec.layers import dropout, feed_forward, feed_forward_specs, norm, norm_specs
from seqrec.params import Params, ParamSpec
from seqrec.prefix_tree import Level, PrefixTree, candidate_scores
from seqrec.types import InputError, LossSum, Question, Scalar

PREFIXES, CHILDREN = 2048, 4096
"""Prefixes whose next codes are scored at a time, and children that take their scores from there at a time."""


def depth_decoder_specs(n_codes: tuple[int, ...], d_model: int, *, d_ff: int = 0) -> Params:
    """For each level a vector a code and a feed-forward network with its norm."""
    normal = jax.nn.initializers.normal(0.02)
    level = {
        "feed_forward": feed_forward_specs("swiglu", d_model, d_ff or 2 * d_model),
        "norm": norm_specs("rms", d_model),
    }
    return {
        "codes": [ParamSpec((n, d_model), (None, "embed"), normal) for n in n_codes],
        "levels": [level] * len(n_codes),
    }


def code_scores(
    params: Params,
    depth: int,
    states: Float[Array, "*shape d_model"],
    *,
    dropout_rate: Scalar = 0.0,
    key: Array | None = None,
) -> Float[Array, "*shape n_codes"]:
    """The score of each code of a level: a residual network of the states, normalised, times the code's vector."""
    level, keys = params["levels"][depth], (None, None) if key is None else jax.random.split(key)
    added = feed_forward(level["feed_forward"], states, kind="swiglu", dropout_rate=dropout_rate, key=keys[0])
    states = norm(level["norm"], states + dropout(added, rate=dropout_rate, key=keys[1]), kind="rms")
    # In full precision, as scores of items are: else a TPU multiplies in bfloat16 and a GPU in TF32.
    precision = jax.lax.Precision.HIGHEST if key is None else None
    table = params["codes"][depth].astype(states.dtype)
    flat = jnp.matmul(
        states.reshape(-1, states.shape[-1]), table.T, precision=precision, preferred_element_type=jnp.float32
    )
    return flat.reshape(*states.shape[:-1], -1)


def after_code(
    params: Params, depth: int, states: Float[Array, "*shape d_model"], codes: Int[Array, "*shape"]
) -> Float[Array, "*shape d_model"]:
    """The states that the next level reads, once the code of this one is known."""
    # Scaled as item vectors are where an encoder reads them.
    return states + (params["codes"][depth][codes] * math.sqrt(states.shape[-1])).astype(states.dtype)


def code_losses(
    level: Level,
    nodes: Int[Array, "*shape"],
    scores: Float[Array, "*shape n_codes"],
    codes: Int[Array, "*shape"],
    *,
    label_smoothing: Scalar = 0.0,
) -> Float[Array, "*shape"]:
    """Cross-entropy of each code of a level, by a softmax over the codes that may follow its node in the tree.

    The smoothed share of the label is divided evenly among these.
    """
    each = candidate_scores(level, nodes, scores)
    there = each > -jnp.inf
    mean = jnp.sum(jnp.where(there, each, 0.0), axis=-1) / jnp.sum(there, axis=-1)
    # A sum, since the gradient of a gather is slower.
    own = jnp.sum(jnp.where(codes[..., None] == jnp.arange(scores.shape[-1]), scores, 0.0), axis=-1)
    return jax.nn.logsumexp(each, axis=-1) - (1.0 - label_smoothing) * own - label_smoothing * mean


def loss_of_targets(losses: Float[Array, "rows queried"], question: Question) -> LossSum:
    """The sum of the losses of the question's targets, by their weights, and the sum of the weights."""
    is_target = question.targets > 0
    if question.weights is None:
        return jnp.sum(jnp.where(is_target, losses, 0.0)), jnp.sum(is_target)
    weights = jnp.where(is_target, question.weights, 0.0)
    return jnp.sum(jnp.where(is_target, losses, 0.0) * weights), jnp.sum(weights)


def refuse_unwanted(question: Question) -> None:
    """Refuses a question with items that are to become less likely."""
    if question.unwanted is not None:
        raise InputError("a model of semantic ids cannot lower the probability of skipped items; use --skip-weight 0")


def item_log_probabilities(
    params: Params,
    tree: PrefixTree,
    states: Float[Array, "users d_model"],
    *,
    at_least: Float[Array, " users"] | None = None,
) -> Float[Array, "users n_leaves"]:
    """Log-probability of each item of a catalogue, in the order of its leaves; -inf for empty leaves.

    Given `at_least`, a prefix that is less likely than that is not followed, and its items are -inf: a prefix is at
    least as likely as any of its items.
    """
    lowest = jnp.full(len(states), -jnp.inf) if at_least is None else at_least
    logs = jnp.full((len(states), tree.levels[0].n_nodes), -jnp.inf).at[:, 0].set(0.0)
    for depth in range(len(tree.levels)):
        logs = _children_log_probabilities(params, tree, depth, states, logs, lowest)
    return logs


def _children_log_probabilities(
    params: Params,
    tree: PrefixTree,
    depth: int,
    states: Float[Array, "users d_model"],
    logs: Float[Array, "users n_nodes"],
    at_least: Float[Array, " users"],
) -> Float[Array, "users n_children"]:
    """From the log-probabilities of the nodes of one depth to those of all of their children.

    A node's only child is as likely as the node. Of the pairs of a user and a node only those that are followed and
    have more children are worked on, block after block; how many blocks there are depends on the data, their sizes do
    not.
    """
    level, n_nodes, n_children = tree.levels[depth], logs.shape[1], tree.levels[depth].codes.shape[0]
    n_below = jnp.diff(level.starts[: n_nodes + 1])
    followed = ~(logs < at_least[:, None]) & (logs != -jnp.inf)
    is_scored = followed & (n_below > 1)
    is_child = is_scored[:, level.parents]
    nodes = jnp.flatnonzero(is_scored, size=is_scored.size + PREFIXES, fill_value=0)
    children = jnp.flatnonzero(is_child, size=is_child.size + 2 * CHILDREN, fill_value=0)
    place = jnp.cumsum(is_scored.ravel(), dtype=jnp.int32).reshape(is_scored.shape) - 1
    n_scored = jnp.sum(is_scored, dtype=jnp.int32)
    n_each = n_below[nodes % n_nodes] * (jnp.arange(len(nodes)) < n_scored)
    ends = jnp.cumsum(n_each, dtype=jnp.int32)

    def follow(block: Array, child_logs: Array) -> Array:
        start = block * PREFIXES
        users, prefix_nodes = jnp.divmod(jax.lax.dynamic_slice(nodes, (start,), (PREFIXES,)), n_nodes)
        prefixes = _after_prefix(params, tree, depth, states[users], prefix_nodes)
        scores = code_scores(params, depth, prefixes)
        all_next = jax.nn.logsumexp(candidate_scores(level, prefix_nodes, scores), axis=-1)
        scores += (logs[users, prefix_nodes] - all_next)[:, None]

        def pick(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            first, child_logs = carry
            users, child_nodes = jnp.divmod(jax.lax.dynamic_slice(children, (first,), (CHILDREN,)), n_children)
            rows = jnp.clip(place[users, level.parents[child_nodes]] - start, 0, PREFIXES - 1)
            # What lies behind this block's children is overwritten by the blocks that they belong to.
            picked = scores[rows, level.codes[child_nodes].astype(jnp.int32)]
            return first + CHILDREN, jax.lax.dynamic_update_slice(child_logs, picked, (first,))

        first, end = jnp.where(start > 0, ends[start - 1], 0), ends[start + PREFIXES - 1]
        return jax.lax.while_loop(lambda carry: carry[0] < end, pick, (first, child_logs))[1]

    n_blocks = -(-n_scored // PREFIXES)
    child_logs = jax.lax.fori_loop(0, n_blocks, follow, jnp.zeros(children.shape))
    places = jnp.cumsum(is_child.ravel(), dtype=jnp.int32).reshape(is_child.shape) - 1
    of_parents = jnp.where(followed, logs, -jnp.inf)[:, level.parents]
    return jnp.where(is_child, child_logs[places], of_parents)


def _after_prefix(
    params: Params, tree: PrefixTree, depth: int, states: Float[Array, "n d_model"], nodes: Int[Array, " n"]
) -> Float[Array, "n d_model"]:
    """The states after all codes of each node's prefix."""
    for above in reversed(range(depth)):
        states = after_code(params, above, states, tree.levels[above].codes[nodes].astype(jnp.int32))
        nodes = tree.levels[above].parents[nodes]
    return states
