"""A model as one value: what training, evaluation, generation and export know of it, whatever it is made of.

An encoder turns batches into states, a head turns states into choices among items. `heads.softmax.softmax_model` joins
both; functions `with_x(model, …) -> model`, each in a module of its own, add what a feature needs and refuse what they
cannot wrap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key

from seqrec.params import Params
from seqrec.questions import next_item
from seqrec.sharding import split_items
from seqrec.types import Ask, Batch, BatchFormat, Compose, Decoder, Encoder, Head, LossSum, States


def keep_params(params: Params, constants: Any, *, key: Array | None = None) -> Params:
    """The parameters as they are: the `Compose` of a model that makes none out of others."""
    del constants, key
    return params


AuxiliaryLoss = Callable[[Params, States, Batch], Float[Array, ""]]
"""What states predict beside the next item, trained jointly with it: a weighted sum of losses over the positions whose
next item is known, in nats."""


class StepConstants(NamedTuple):
    """Arrays that a training step reads and does not change, by what reads them; nested dicts, tuples or None."""

    compose: Any = None
    loss: Any = None


@dataclass(frozen=True, eq=False)
class Model:
    """A recommender: a table of its parameters and pure functions over them."""

    specs: Params
    """Nested dict of `params.ParamSpec` of all that is trained; parameters have the same structure."""
    encoder: Encoder
    head: Head
    ask: Ask = next_item
    """What a training step asks about a batch."""
    compose: Compose = keep_params
    """From trained parameters to those that encoder and head read."""
    constants: Any = None
    """Arrays that `compose` reads and no step changes, with a row for each row of the item table."""
    loss_constants: Any = None
    """Arrays that the loss reads and no step changes, such as a sampler's, which a mesh splits as the item table."""
    auxiliary_loss: AuxiliaryLoss | None = None

    @property
    def step_constants(self) -> StepConstants:
        """What a training state holds of both."""
        return StepConstants(self.constants, self.loss_constants)

    @property
    def n_items(self) -> int:
        """Size of the catalogue: item ids are 1..n_items."""
        return self.encoder.n_items

    @property
    def d_model(self) -> int:
        """Width of item vectors and states."""
        return self.encoder.d_model

    @property
    def reads(self) -> BatchFormat:
        """What it reads of a batch."""
        return self.encoder.reads

    @property
    def decoder(self) -> Decoder | None:
        """How it continues histories item by item; see `generation.with_uncached_decoder` for models without one."""
        return self.encoder.decoder

    def loss(self, params: Params, constants: StepConstants | None, batch: Batch, *, keys: Key[Array, "4"]) -> LossSum:
        """Sum of the losses of a batch's targets, in nats, and their number; `keys` are those of `loss_keys`.

        `constants` are the `step_constants`, as the training state has them; None where there are none.
        """
        constants = constants or StepConstants()
        params = self.compose(params, constants.compose, key=keys[3])
        question = self.ask(batch, key=keys[2])._replace(constants=constants.loss)
        states = self.encoder.encode(params, question.inputs, key=keys[0])
        total, count = self.head.loss(params, states, question, key=keys[1])
        if self.auxiliary_loss is not None:
            total += self.auxiliary_loss(params, states, batch)
        return total, count

    def queries(self, params: Params, batch: Batch, last: Int[Array, " queries"]) -> Any:
        """What the head reads of the positions `last` of a flattened batch; `params` are composed ones."""
        return self.head.queries(params, self.encoder.encode(params, batch), batch, last)


def loss_keys(key: Array) -> Key[Array, "4"]:
    """The keys of `Model.loss`: for the encoder, the head, the question and the composition."""
    return jax.random.split(key, 4)


def composed_params(model: Model, params: Params) -> Params:
    """The parameters that encoder and head read, made once for an evaluation."""
    if model.constants is None:
        return params
    return jax.jit(model.compose)(params, split_items(model.constants))
