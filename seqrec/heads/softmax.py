"""The softmax over an item table: states are scored by their products with the items' vectors."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec.losses.blocks import Mixture
from seqrec.losses.softmax import CatalogueLoss, LossContext, softmax_loss
from seqrec.model import Model
from seqrec.params import Params
from seqrec.questions import next_item
from seqrec.retrieval import Vectors, draw_items, rank_targets, top_k_items, top_k_log_probabilities
from seqrec.types import (
    Allow,
    Ask,
    Batch,
    BestItems,
    Encoder,
    Exclude,
    LossSum,
    Question,
    States,
    TargetRanks,
    Targets,
)


@dataclass(frozen=True, eq=False)
class SoftmaxHead:
    """A `types.Head` and `types.NextItemHead` that scores by the parameter `item_table`.

    Its queries are plain states, [queries, d_model]; it ranks and lists for `retrieval.MixtureVectors` too.
    """

    n_items: int
    catalogue_loss: CatalogueLoss = softmax_loss

    def loss(
        self, params: Params, states: States, question: Question, *, mixture: Mixture | None = None, key: Array
    ) -> LossSum:
        """The catalogue loss of the question's targets; `mixture` is that of `LossContext`."""
        if question.positions is not None:
            states = jnp.take_along_axis(states, question.positions[..., None], axis=1)
        # At chosen positions, what is known there is not what came before.
        history = question.inputs if question.positions is None else None
        return self.catalogue_loss(
            states,
            params["item_table"],
            question.targets,
            n_items=self.n_items,
            weights=question.weights,
            context=LossContext(history, mixture, question.unwanted, question.constants),
            key=key,
        )

    def queries(
        self, params: Params, states: States, batch: Batch, last: Int[Array, " queries"]
    ) -> Float[Array, "queries d_model"]:
        """The states at the positions `last` of the flattened batch."""
        del params, batch
        return states.reshape(-1, states.shape[-1])[last]

    def rank(
        self, params: Params, queries: Vectors, targets: Targets, *, exclude: Exclude = None, allow: Allow = None
    ) -> TargetRanks:
        """As `retrieval.rank_targets`."""
        return rank_targets(queries, params["item_table"], targets, n_items=self.n_items, exclude=exclude, allow=allow)

    def top_k(
        self, params: Params, queries: Vectors, *, k: int, exclude: Exclude = None, allow: Allow = None
    ) -> BestItems:
        """As `retrieval.top_k_items`."""
        return top_k_items(queries, params["item_table"], k=k, n_items=self.n_items, exclude=exclude, allow=allow)

    def top_k_log_probabilities(
        self, params: Params, states: Float[Array, "queries d_model"], *, k: int, exclude: Exclude = None
    ) -> BestItems:
        """As `retrieval.top_k_log_probabilities`."""
        return top_k_log_probabilities(states, params["item_table"], k=k, n_items=self.n_items, exclude=exclude)

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
        """As `retrieval.draw_items`."""
        return draw_items(
            states,
            params["item_table"],
            n_items=self.n_items,
            temperature=temperature,
            top_k=top_k,
            exclude=exclude,
            key=key,
        )


def softmax_model(encoder: Encoder, loss: CatalogueLoss = softmax_loss, *, ask: Ask = next_item) -> Model:
    """The model whose head is a softmax over the encoder's item table, trained by `loss` on what `ask` asks.

    >>> from seqrec.encoders.gru import GRUConfig, gru
    >>> model = softmax_model(gru(GRUConfig(d_model=8), n_items=5, max_length=4))
    >>> model.n_items, model.d_model, model.reads.max_length
    (5, 8, 4)
    """
    # Not every loss has some: a plain function is one too.
    constants = getattr(loss, "constants", None)
    return Model(encoder.specs, encoder, SoftmaxHead(encoder.n_items, loss), ask, loss_constants=constants)
