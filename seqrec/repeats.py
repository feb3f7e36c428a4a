"""The repeat mixture: a share of the next item's probability goes to the items of the history itself."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec.attention import causal_mask
from seqrec.heads.softmax import SoftmaxHead
from seqrec.losses.blocks import Mixture
from seqrec.model import Model
from seqrec.params import Params, ParamSpec
from seqrec.retrieval import MixtureVectors
from seqrec.types import Allow, Batch, BestItems, Exclude, InputError, LossSum, Question, States, TargetRanks, Targets


class Repeats(NamedTuple):
    """How probable each state finds it that an item of the history comes next, and which."""

    log_odds: Float[Array, "rows length"]
    """Log-odds of the next item being copied from the history, against being drawn from the catalogue."""
    log_attention: Float[Array, "rows length length"]
    """Log-probability [row, state, position] that it is this position that is copied; -inf outside the history."""


@dataclass(frozen=True, eq=False)
class RepeatHead:
    """A `types.Head`: a softmax over the item table mixed with a distribution over the history's own items.

    Its queries are states with the items of their histories, whose scores are those of the mixture.
    """

    softmax: SoftmaxHead

    def loss(self, params: Params, states: States, question: Question, *, key: Array) -> LossSum:
        """The softmax head's loss, of the mixture's probabilities.

        Raises:
          InputError: the question is about chosen positions, whose next item it hides or chooses.
        """
        if question.positions is not None:
            raise InputError("a repeat mixture predicts the next item of every position; use next_item as the question")
        labels = question.targets
        if question.unwanted is not None:
            labels = jnp.maximum(labels, question.unwanted)
        repeats = repeat_probabilities(params, states, question.inputs)
        mixture = mixture_of(repeats, question.inputs.items, labels)
        return self.softmax.loss(params, states, question, mixture=mixture, key=key)

    def queries(self, params: Params, states: States, batch: Batch, last: Int[Array, " queries"]) -> MixtureVectors:
        """The states at the positions `last`, and how much they raise the items of their histories."""
        return mixture_states(states, repeat_probabilities(params, states, batch), batch.items, last)

    def rank(
        self, params: Params, queries: MixtureVectors, targets: Targets, *, exclude: Exclude = None, allow: Allow = None
    ) -> TargetRanks:
        """Ranks by the mixture's probability."""
        return self.softmax.rank(params, queries, targets, exclude=exclude, allow=allow)

    def top_k(
        self, params: Params, queries: MixtureVectors, *, k: int, exclude: Exclude = None, allow: Allow = None
    ) -> BestItems:
        """The items of highest probability under the mixture."""
        return self.softmax.top_k(params, queries, k=k, exclude=exclude, allow=allow)


def with_repeats(model: Model) -> Model:
    """The model with a head whose states also predict that an item of the history comes next, and which.

    The next item's probability is p times that of the history's positions, plus 1 - p times the softmax over the
    catalogue, which may pick an item of the history too (after RepeatNet: Ren et al. 2019, eq. 1, whose explore mode
    may not). Positions are weighed by scaled products of states and a slope over the logarithm of their age.

    >>> import seqrec
    >>> model = with_repeats(seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=8), n_items=5, max_length=4)))
    >>> type(model.head).__name__, sorted(model.specs["repeats"])
    ('RepeatHead', ['age', 'key', 'query', 'share', 'share_bias'])

    Raises:
      InputError: the model's head is no plain softmax, or its states know later items than their own.
    """
    if not isinstance(model.head, SoftmaxHead):
        raise InputError(f"a repeat mixture needs a softmax head, not a {type(model.head).__name__}; leave one out")
    if not model.encoder.causal:
        raise InputError("a repeat mixture needs a causal encoder, whose states know no later item; leave it out")
    d_model = model.d_model
    normal, zeros = jax.nn.initializers.normal(0.02), jax.nn.initializers.zeros
    specs: Params = {
        "query": ParamSpec((d_model, d_model), ("embed", "heads"), normal),
        "key": ParamSpec((d_model, d_model), ("embed", "heads"), normal),
        "age": ParamSpec((), (), zeros, decay=False),
        "share": ParamSpec((d_model,), ("embed",), zeros),
        "share_bias": ParamSpec((), (), zeros, decay=False),
    }
    return dataclasses.replace(model, specs={**model.specs, "repeats": specs}, head=RepeatHead(model.head))


def repeat_probabilities(params: Params, states: States, batch: Batch) -> Repeats:
    """What each state of a batch predicts of its history's items."""
    mixture, states = params["repeats"], states.astype(jnp.float32)
    products = jnp.einsum("rqd,rkd->rqk", states @ mixture["query"], states @ mixture["key"]) / states.shape[-1] ** 0.5
    age = jnp.maximum(batch.positions[:, :, None] - batch.positions[:, None, :], 0)
    scores = jnp.where(causal_mask(batch.segment_ids), products - mixture["age"] * jnp.log1p(age), -jnp.inf)
    return Repeats(states @ mixture["share"] + mixture["share_bias"], jax.nn.log_softmax(scores, axis=-1))


def mixture_of(repeats: Repeats, items: Int[Array, "rows length"], targets: Int[Array, "rows length"]) -> Mixture:
    """The probability that the history gives each target, and the share that it leaves to the catalogue."""
    matches = items[:, None, :] == targets[:, :, None]
    matches &= (targets > 0)[:, :, None] & (repeats.log_attention > -jnp.inf)
    any_match = jnp.any(matches, axis=-1)
    # Without a match only the value of the sum is wanted: a gradient through a sum over nothing is NaN.
    others = jnp.where(any_match, -jnp.inf, 0.0)[:, :, None]
    log_sum = jax.nn.logsumexp(jnp.where(matches, repeats.log_attention, others), axis=-1)
    log_history = jnp.where(any_match, log_sum, -jnp.inf)
    return Mixture(jax.nn.log_sigmoid(-repeats.log_odds), jax.nn.log_sigmoid(repeats.log_odds) + log_history)


def mixture_states(
    states: States, repeats: Repeats, items: Int[Array, "rows length"], last: Int[Array, " queries"]
) -> MixtureVectors:
    """The states at the positions `last` of the flattened batch, and the items of their histories."""
    length = items.shape[1]
    history, log_attention = items[last // length], repeats.log_attention.reshape(-1, length)[last]
    held = (history > 0) & (log_attention != -jnp.inf)
    same = (history[:, :, None] == history[:, None, :]) & held[:, None, :]
    log_sum = jax.nn.logsumexp(jnp.where(same, log_attention[:, None, :], -jnp.inf), axis=-1)
    log_odds = repeats.log_odds.reshape(-1)[last][:, None] + log_sum
    return MixtureVectors(states.reshape(-1, states.shape[-1])[last], jnp.where(held, history, 0), log_odds)
