"""A head that writes the next item's code level by level, and so needs no vector for each item of the catalogue."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.core import max_dim, min_dim
from jaxtyping import Array, Bool, Float, Int

from seqrec.config import check_at_least, check_fields
from seqrec.heads.code_probabilities import (
    after_code,
    code_log_probabilities,
    code_losses,
    code_scores,
    item_log_probabilities,
    loss_of_targets,
    refuse_unwanted,
)
from seqrec.heads.code_search import (
    beam_search,
    by_users,
    candidate_leaves,
    finite,
    leaves_of,
    listed,
    ranks_of_leaves,
    scores_by_leaf,
)
from seqrec.params import Params
from seqrec.types import (
    Allow,
    Batch,
    BestItems,
    Exclude,
    InputError,
    LossSum,
    Question,
    Scalar,
    States,
    TargetRanks,
    Targets,
)

PARAMS, CODES, TREE, DENSE = "semantic_ids", "item_codes", "prefix_tree", "dense_items"
"""Names of what the head reads: its own parameters, the codes of each item id, and the catalogue's tree; and of the
item vectors that a `HybridHead` reads, too."""


@dataclass(frozen=True)
class DepthDecoderConfig:
    """How items are written as codes, and how the best are searched for."""

    level_d_ff: int = 0
    """Width of the feed-forward layer that scores the codes of a level; 0 means 2 x d-model."""
    lists: Literal["beam", "exact"] = "beam"
    """How the best items are found. beam: among the likeliest prefixes of each level. exact: among all items."""
    beam_width: int = 50
    """Prefixes that a beam keeps at each level; never fewer than the items that are asked for."""
    ranks: Literal["exact", "beam"] = "exact"
    """How targets are ranked. exact: among all items. beam: by the beam's list, in the mean of the places behind it
    where they are not on it, which is faster; figures of both differ."""
    dense_weight: float = 0.0
    """Weight of a softmax over item vectors beside the codes, in the loss and in scores, which are then sums of both
    log-probabilities: for items whose features say more than their codes. 0 leaves it out."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 0, "dense_weight")
        if self.dense_weight and "beam" in self.ranks:
            raise InputError("--ranks beam knows no item vectors; use exact ranks with --dense-weight")
        check_at_least(self, 0, "level_d_ff")
        check_at_least(self, 1, "beam_width")


@dataclass(frozen=True, eq=False)
class DepthDecoder:
    """A `types.Head` and `types.NextItemHead`: the next item's probability is the product of those of its codes.

    p(item | state) = p(c1 | state) p(c2 | state, c1) …, each a softmax over the codes of a level (Rajput et al. 2023,
    section 3.2, with a state in place of a decoder's sequence). Items with equal codes have the same probability, that
    of these codes, and tie. Its queries are plain states, [queries, d_model]; scores are log-probabilities.
    """

    n_items: int
    config: DepthDecoderConfig = DepthDecoderConfig()
    dropout: Scalar = 0.0
    label_smoothing: Scalar = 0.0
    """Share of the label that all codes of a level divide evenly."""

    def loss(self, params: Params, states: States, question: Question, *, key: Array) -> LossSum:
        """The sum over levels of the cross-entropy of each target's code, given those before it.

        Raises:
          InputError: the question has unwanted items.
        """
        refuse_unwanted(question)
        if question.positions is not None:
            states = jnp.take_along_axis(states, question.positions[..., None], axis=1)
        decoder, targets = params[PARAMS], question.targets
        codes = params[CODES][targets].astype(jnp.int32)
        losses = jnp.zeros(targets.shape)
        for depth in range(codes.shape[-1]):
            scores = code_scores(decoder, depth, states, dropout_rate=self.dropout, key=jax.random.fold_in(key, depth))
            losses += code_losses(scores, codes[..., depth], label_smoothing=self.label_smoothing)
            states = after_code(decoder, depth, states, codes[..., depth])
        return loss_of_targets(losses, question)

    def queries(
        self, params: Params, states: States, batch: Batch, last: Int[Array, " queries"]
    ) -> Float[Array, "queries d_model"]:
        """The states at the positions `last` of the flattened batch."""
        del params, batch
        return states.reshape(-1, states.shape[-1])[last].astype(jnp.float32)

    def rank(
        self, params: Params, queries: Array, targets: Targets, *, exclude: Exclude = None, allow: Allow = None
    ) -> TargetRanks:
        """Ranks by the items' log-probabilities, as `retrieval.rank_targets` has ties, lists and what has no rank.

        Only prefixes that are as likely as the target are followed: a prefix is at least as likely as its items.
        """

        def rank(users: Any, params: Params) -> tuple[Array, Array]:
            states, each, exclude, allow = users
            tree = params[TREE]
            leaves = leaves_of(tree, each)
            valid = candidate_leaves(tree, exclude, allow, leaves)
            if self.config.ranks == "exact":
                scores = item_log_probabilities(
                    params[PARAMS], tree, states, at_least=self._lowest(params, states, each)
                )
            else:
                beam_leaves, best = self.beam(params, states, valid, width=self.config.beam_width)
                scores = scores_by_leaf(beam_leaves, best, valid)
            return ranks_of_leaves(scores, leaves, valid)

        each = targets if targets.ndim == 2 else targets[:, None]
        ranks, n_candidates = self.by_users(rank, params, queries, each, exclude, allow)
        return ranks.reshape(targets.shape), n_candidates

    def top_k(
        self, params: Params, queries: Array, *, k: int, exclude: Exclude = None, allow: Allow = None
    ) -> BestItems:
        """Ids of the `k` likeliest candidates that the search finds, and their log-probabilities, best first.

        A beam is at least `k` wide and keeps no prefix without a candidate below it, so that it finds `k` items
        wherever there are as many; where fewer are left, the list ends in id 0 with score -inf.
        """
        is_limited = exclude is not None or allow is not None

        def top(users: Any, params: Params) -> tuple[Array, Array]:
            states, none, exclude, allow = users
            tree = params[TREE]
            valid = candidate_leaves(tree, exclude, allow, none) if is_limited else None
            if self.config.lists == "exact":
                scores = item_log_probabilities(params[PARAMS], tree, states)
                scores = finite(scores if valid is None else jnp.where(valid, scores, -jnp.inf))
                best, leaves = jax.lax.top_k(scores, min_dim(k, tree.n_leaves))
            else:
                leaves, best = self.beam(params, states, valid, width=max_dim(k, self.config.beam_width))
            return listed(tree, leaves, best, k=k)

        if not 1 <= k <= self.n_items:
            raise InputError(f"k={k} is not in 1..n_items={self.n_items}; ask for at most as many items as there are")
        return self.by_users(top, params, queries, jnp.zeros((len(queries), 0), jnp.int32), exclude, allow)

    def top_k_log_probabilities(self, params: Params, states: Array, *, k: int, exclude: Exclude = None) -> BestItems:
        """As `top_k`, whose scores are log-probabilities."""
        return self.top_k(params, states, k=k, exclude=exclude)

    def draw(
        self,
        params: Params,
        states: Float[Array, "queries d_model"],
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        exclude: Exclude = None,
        key: Array,
    ) -> tuple[Int[Array, " queries"], Float[Array, " queries"]]:
        """As `retrieval.draw_items`, among all items or the `top_k` best that `top_k` finds."""
        ids, logs = self.top_k(params, states, k=top_k or self.n_items, exclude=exclude)
        chosen = jnp.argmax(logs / temperature + jax.random.gumbel(key, logs.shape), axis=1)[:, None]
        item, log_probability = (jnp.take_along_axis(each, chosen, axis=1)[:, 0] for each in (ids, logs))
        return item, log_probability

    def by_users(
        self,
        function: Callable[[Any, Params], Any],
        params: Params,
        states: Array,
        targets: Array,
        exclude: Exclude,
        allow: Allow,
    ) -> Any:
        """`function((states, targets, exclude, allow), params)` for blocks of users, each device over its own."""
        head_params = {name: params[name] for name in (PARAMS, CODES, TREE, DENSE) if name in params}
        sizes = {"d_model": states.shape[-1], "width": self.config.beam_width}
        return by_users(function, head_params, head_params[TREE], states, targets, exclude, allow, **sizes)

    def _lowest(self, params: Params, states: Array, targets: Array) -> Float[Array, " users"]:
        """A log-probability that no target of a user falls short of; infinite for users without a target."""
        total = log_probabilities_of(params, states, targets)
        # Other shapes round otherwise: none that may tie with a target is left out for that.
        return jnp.min(jnp.where(targets > 0, total - 1e-3 * (1 - total), jnp.inf), axis=1)

    def beam(
        self, params: Params, states: Array, valid: Bool[Array, "#users n_leaves"] | None, *, width: int
    ) -> tuple[Int[Array, "users beams"], Float[Array, "users beams"]]:
        """Leaves of the likeliest items that a beam of this width finds, best first, and their log-probabilities."""
        decoder = params[PARAMS]

        def score(depth: int, states: Array) -> tuple[Array, Array]:
            return code_log_probabilities(decoder, depth, states), states

        def advance(depth: int, states: Array, beams: Array, codes: Array) -> Array:
            return after_code(decoder, depth, jnp.take_along_axis(states, beams[..., None], axis=1), codes)

        start, options = states[:, None], {"n_users": len(states), "width": width}
        return beam_search(params[TREE], valid, start, score=score, advance=advance, **options)


def log_probabilities_of(
    params: Params, states: Float[Array, "users d_model"], items: Int[Array, "users n"]
) -> Float[Array, "users n"]:
    """The log-probability of some items of each user."""
    decoder, codes = params[PARAMS], params[CODES][items].astype(jnp.int32)
    each = jnp.broadcast_to(states[:, None], (*items.shape, states.shape[-1]))
    total = jnp.zeros(items.shape)
    for depth in range(len(decoder["codes"])):
        logs = code_log_probabilities(decoder, depth, each)
        total += jnp.take_along_axis(logs, codes[..., depth, None], axis=-1)[..., 0]
        each = after_code(decoder, depth, each, codes[..., depth])
    return total
