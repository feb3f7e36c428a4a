"""A head that writes the next item's code level by level, and so needs no vector for each item of the catalogue."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.core import max_dim, min_dim
from jaxtyping import Array, Bool, Float, Int

from seqrec.config import check_at_least, check_fields
from seqrec.heads.code_probabilities import (
    after_code,
    code_losses,
    code_scores,
    item_log_probabilities,
    loss_of_targets,
    refuse_unwanted,
)
from seqrec.heads.code_search import (
    CODES,
    PARAMS,
    TREE,
    SearchSizes,
    beam_search,
    finite,
    leaves_of,
    rank_leaves,
    scores_by_leaf,
    top_k_leaves,
)
from seqrec.params import Params
from seqrec.prefix_tree import nodes_above
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


@dataclass(frozen=True)
class DepthDecoderConfig:
    """How codes of items are scored, and how the best items are searched for."""

    level_d_ff: int = 0
    """Width of the feed-forward layer that scores the codes of a level; 0 means 2 x d-model."""
    lists: Literal["beam", "exact"] = "beam"
    """How the best items are searched for. beam: by the likeliest prefixes of each level. exact: among all items."""
    beam_width: int = 50
    """Number of prefixes that a beam keeps at each level; never fewer than the items of a list."""
    ranks: Literal["exact", "beam"] = "exact"
    """How targets are ranked. exact: among all items. beam: by the beam's list, which is faster; a target that is not
    on it has the mean of the ranks behind it. Figures of the two differ."""
    dense_weight: float = 0.0
    """Weight of a softmax over item vectors, whose loss and log-probabilities add to those of the codes: for items
    whose features say more than their codes. 0 leaves it out."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 0, "dense_weight")
        if self.dense_weight and "beam" in self.ranks:
            raise InputError("--ranks beam knows no item vectors; use exact ranks with --dense-weight")
        if self.dense_weight and self.lists == "exact":
            raise InputError("--lists exact knows no item vectors; use --lists beam with --dense-weight")
        check_at_least(self, 0, "level_d_ff")
        check_at_least(self, 1, "beam_width")


@dataclass(frozen=True, eq=False)
class DepthDecoder:
    """A `types.Head` and `types.NextItemHead`: the next item's probability is the product of those of its codes.

    p(item | state) = p(c1 | state) p(c2 | state, c1) … (Rajput et al. 2023, section 3.2, with a state in place of a
    decoder's sequence), each a softmax over the codes that an item of the catalogue goes on with, so that the
    probabilities of all items sum to 1, as in a hierarchical softmax (Morin and Bengio 2005). Items with equal codes
    have the same probability, and tie. Its queries are plain states, [queries, d_model]; scores are log-probabilities.
    """

    n_items: int
    config: DepthDecoderConfig = DepthDecoderConfig()
    dropout: Scalar = 0.0
    label_smoothing: Scalar = 0.0
    """Share of the label that all codes that may follow divide evenly."""

    def loss(self, params: Params, states: States, question: Question, *, key: Array) -> LossSum:
        """The sum over levels of the cross-entropy of each target's code, given those before it.

        Raises:
          InputError: the question has unwanted items.
        """
        refuse_unwanted(question)
        if question.positions is not None:
            states = jnp.take_along_axis(states, question.positions[..., None], axis=1)
        decoder, targets, smoothing = params[PARAMS], question.targets, self.label_smoothing
        codes, tree, losses = params[CODES][targets].astype(jnp.int32), params[TREE], jnp.zeros(targets.shape)
        for depth, nodes in enumerate(nodes_above(tree, leaves_of(tree, targets))):
            scores = code_scores(decoder, depth, states, dropout_rate=self.dropout, key=jax.random.fold_in(key, depth))
            losses += code_losses(tree.levels[depth], nodes, scores, codes[..., depth], label_smoothing=smoothing)
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

        sizes = SearchSizes(self.n_items, queries.shape[-1], self.config.beam_width)

        def score(params: Params, states: Array, targets: Array, valid: Array) -> Array:
            if self.config.ranks == "beam":
                return scores_by_leaf(*self.beam(params, states, valid, width=sizes.width), valid)
            lowest = self._lowest(params, states, targets)
            return item_log_probabilities(params[PARAMS], params[TREE], states, at_least=lowest)

        return rank_leaves(score, params, queries, targets, sizes, exclude=exclude, allow=allow)

    def top_k(
        self, params: Params, queries: Array, *, k: int, exclude: Exclude = None, allow: Allow = None
    ) -> BestItems:
        """Ids of the `k` likeliest candidates that the search finds, and their log-probabilities, best first.

        A beam is at least `k` wide and keeps no prefix without a candidate below it, so that it finds `k` items
        wherever there are as many; where fewer are left, the list ends in id 0 with score -inf.
        """
        is_exact = self.config.lists == "exact"
        width = self.config.beam_width if is_exact else max_dim(k, self.config.beam_width)
        sizes = SearchSizes(self.n_items, queries.shape[-1], width, has_leaf_scores=is_exact)

        def search(params: Params, states: Array, valid: Array | None) -> tuple[Array, Array]:
            if not is_exact:
                return self.beam(params, states, valid, width=width)
            scores = item_log_probabilities(params[PARAMS], params[TREE], states)
            scores = finite(scores if valid is None else jnp.where(valid, scores, -jnp.inf))
            best, leaves = jax.lax.top_k(scores, min_dim(k, params[TREE].n_leaves))
            return leaves, best

        return top_k_leaves(search, params, queries, sizes, k=k, exclude=exclude, allow=allow)

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
            return code_scores(decoder, depth, states), states

        def advance(depth: int, states: Array, beams: Array, codes: Array) -> Array:
            return after_code(decoder, depth, jnp.take_along_axis(states, beams[..., None], axis=1), codes)

        start, options = states[:, None], {"n_users": len(states), "width": width}
        return beam_search(params[TREE], valid, start, score=score, advance=advance, **options)


def log_probabilities_of(
    params: Params, states: Float[Array, "users d_model"], items: Int[Array, "users n"]
) -> Float[Array, "users n"]:
    """The log-probability of some items of each user."""
    decoder, tree, codes = params[PARAMS], params[TREE], params[CODES][items].astype(jnp.int32)
    each = jnp.broadcast_to(states[:, None], (*items.shape, states.shape[-1]))
    total = jnp.zeros(items.shape)
    for depth, nodes in enumerate(nodes_above(tree, leaves_of(tree, items))):
        scores = code_scores(decoder, depth, each)
        total -= code_losses(tree.levels[depth], nodes, scores, codes[..., depth])
        each = after_code(decoder, depth, each, codes[..., depth])
    return total
