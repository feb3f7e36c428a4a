"""Codes and item vectors together: items are scored by the sum of their log-probabilities under both."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import max_dim, min_dim
from jaxtyping import Array, Float, Int

from seqrec.heads.code_probabilities import item_log_probabilities
from seqrec.heads.code_search import candidate_leaves, leaves_of, listed, ranks_of_leaves
from seqrec.heads.depth_decoder import DENSE, PARAMS, TREE, DepthDecoder, log_probabilities_of
from seqrec.heads.softmax import SoftmaxHead
from seqrec.params import Params
from seqrec.prefix_tree import PrefixTree
from seqrec.types import (
    Allow,
    Batch,
    BestItems,
    Exclude,
    InputError,
    LossSum,
    Question,
    States,
    TargetRanks,
    Targets,
)


@dataclass(frozen=True, eq=False)
class HybridHead:
    """A `types.Head` of a `DepthDecoder` and a softmax over item vectors, a product of two experts (Hinton 2002).

    An item's score is its log-probability under the codes and, times `codes.config.dense_weight`, that under the
    softmax: items with equal codes are told apart by their vectors, and an item without a near neighbour in training
    by its codes. Vectors are in the composed parameter `depth_decoder.DENSE`. Queries are plain states.
    """

    codes: DepthDecoder

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.codes.n_items

    def loss(self, params: Params, states: States, question: Question, *, key: Array) -> LossSum:
        """The losses of both, as scores add them."""
        total, n = self.codes.loss(params, states, question, key=key)
        dense, _ = SoftmaxHead(self.n_items).loss({"item_table": params[DENSE]}, states, question, key=key)
        return total + self.codes.config.dense_weight * dense, n

    def queries(
        self, params: Params, states: States, batch: Batch, last: Int[Array, " queries"]
    ) -> Float[Array, "queries d_model"]:
        """The states at the positions `last` of the flattened batch."""
        return self.codes.queries(params, states, batch, last)

    def rank(
        self, params: Params, queries: Array, targets: Targets, *, exclude: Exclude = None, allow: Allow = None
    ) -> TargetRanks:
        """Exact ranks by the sums, with ties, lists and what has no rank as of `DepthDecoder.rank`."""

        def rank(users: Any, params: Params) -> tuple[Array, Array]:
            states, each, exclude, allow = users
            tree = params[TREE]
            leaves = leaves_of(tree, each)
            valid = candidate_leaves(tree, exclude, allow, leaves)
            scores = item_log_probabilities(params[PARAMS], tree, states) + self._dense(params, tree, states)
            return ranks_of_leaves(scores, leaves, valid)

        each = targets if targets.ndim == 2 else targets[:, None]
        ranks, n_candidates = self.codes.by_users(rank, params, queries, each, exclude, allow)
        return ranks.reshape(targets.shape), n_candidates

    def top_k(
        self, params: Params, queries: Array, *, k: int, exclude: Exclude = None, allow: Allow = None
    ) -> BestItems:
        """Ids and sums of the `k` best of what a beam and an exact search by vectors find, best first.

        Each finds as many as a beam is wide, and all that they find are compared by the sums.
        """

        def top(users: Any, params: Params) -> tuple[Array, Array]:
            states, none, exclude, allow = users
            tree = params[TREE]
            valid = candidate_leaves(tree, exclude, allow, none)
            dense = jnp.where(valid, self._dense(params, tree, states), -jnp.inf)
            width = max_dim(k, self.codes.config.beam_width)
            written, logs = self.codes.beam(params, states, valid, width=width)
            near_dense, near = jax.lax.top_k(dense, min_dim(width, tree.n_leaves))
            near_logs = log_probabilities_of(params, states, tree.items[near])
            by_beam = jnp.where(logs > -jnp.inf, logs + jnp.take_along_axis(dense, written, axis=1), -jnp.inf)
            # What both found is counted once.
            is_written = jnp.zeros(valid.shape, bool).at[jnp.arange(len(states))[:, None], written].max(logs > -jnp.inf)
            by_vectors = jnp.where(jnp.take_along_axis(is_written, near, axis=1), -jnp.inf, near_logs + near_dense)
            scores, leaves = (jnp.concatenate(each, axis=1) for each in ((by_beam, by_vectors), (written, near)))
            best, places = jax.lax.top_k(scores, min_dim(k, scores.shape[1]))
            return listed(tree, jnp.take_along_axis(leaves, places, axis=1), best, k=k)

        if not 1 <= k <= self.n_items:
            raise InputError(f"k={k} is not in 1..n_items={self.n_items}; ask for at most as many items as there are")
        none = jnp.zeros((len(queries), 0), jnp.int32)
        return self.codes.by_users(top, params, queries, none, exclude, allow)

    def _dense(
        self, params: Params, tree: PrefixTree, states: Float[Array, "users d_model"]
    ) -> Float[Array, "users n_leaves"]:
        """The weighted log-probability of each leaf's item under the softmax over the catalogue."""
        vectors = params[DENSE].astype(states.dtype)
        scores = jnp.matmul(states, vectors.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)[
            :, tree.items
        ]
        logs = jax.nn.log_softmax(jnp.where(tree.items > 0, scores, -jnp.inf), axis=-1)
        return self.codes.config.dense_weight * jnp.where(tree.items > 0, logs, -jnp.inf)
