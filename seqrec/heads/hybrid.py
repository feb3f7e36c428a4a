"""Codes and item vectors together: items are scored by the sum of their log-probabilities under both."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.core import max_dim, min_dim
from jaxtyping import Array, Float, Int

from seqrec.heads.code_probabilities import item_log_probabilities
from seqrec.heads.code_search import DENSE, PARAMS, TREE, SearchSizes, rank_leaves, top_k_leaves
from seqrec.heads.depth_decoder import DepthDecoder, log_probabilities_of
from seqrec.heads.softmax import SoftmaxHead
from seqrec.params import Params
from seqrec.types import (
    Allow,
    Batch,
    BestItems,
    Exclude,
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
    by its codes. Vectors are in the composed parameter `code_search.DENSE`. Queries are plain states.
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

        def score(params: Params, states: Array, targets: Array, valid: Array) -> Array:
            return item_log_probabilities(params[PARAMS], params[TREE], states) + self._dense(params, states)

        sizes = SearchSizes(self.n_items, queries.shape[-1], self.codes.config.beam_width)
        return rank_leaves(score, params, queries, targets, sizes, exclude=exclude, allow=allow)

    def top_k(
        self, params: Params, queries: Array, *, k: int, exclude: Exclude = None, allow: Allow = None
    ) -> BestItems:
        """Ids and sums of the `k` best of what a beam and an exact search by vectors find, best first.

        Each finds as many as a beam is wide, and all that they find are compared by the sums.
        """

        width = max_dim(k, self.codes.config.beam_width)

        def search(params: Params, states: Array, valid: Array | None) -> tuple[Array, Array]:
            tree, dense = params[TREE], self._dense(params, states)
            if valid is not None:
                dense = jnp.where(valid, dense, -jnp.inf)
            written, logs = self.codes.beam(params, states, valid, width=width)
            near_dense, near = jax.lax.top_k(dense, min_dim(width, tree.n_leaves))
            near_logs = log_probabilities_of(params, states, tree.items[near])
            by_beam = jnp.where(logs > -jnp.inf, logs + jnp.take_along_axis(dense, written, axis=1), -jnp.inf)
            # What both found is counted once.
            is_written = jnp.zeros(dense.shape, bool).at[jnp.arange(len(states))[:, None], written].max(logs > -jnp.inf)
            by_vectors = jnp.where(jnp.take_along_axis(is_written, near, axis=1), -jnp.inf, near_logs + near_dense)
            scores, leaves = (jnp.concatenate(each, axis=1) for each in ((by_beam, by_vectors), (written, near)))
            best, places = jax.lax.top_k(scores, min_dim(k, scores.shape[1]))
            return jnp.take_along_axis(leaves, places, axis=1), best

        sizes = SearchSizes(self.n_items, queries.shape[-1], width)
        return top_k_leaves(search, params, queries, sizes, k=k, exclude=exclude, allow=allow)

    def _dense(self, params: Params, states: Float[Array, "users d_model"]) -> Float[Array, "users n_leaves"]:
        """The weighted log-probability of each leaf's item under the softmax over the catalogue; -inf without one."""
        tree, vectors = params[TREE], params[DENSE].astype(states.dtype)
        scores = jnp.matmul(states, vectors.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)[
            :, tree.items
        ]
        logs = jax.nn.log_softmax(jnp.where(tree.items > 0, scores, -jnp.inf), axis=-1)
        return self.codes.config.dense_weight * jnp.where(tree.items > 0, logs, -jnp.inf)
