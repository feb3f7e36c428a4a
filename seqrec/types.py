"""Records and function types that packages share, without jax, so that data preparation need not import it either."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int, Shaped

Scalar = float | Float[Any, ""]
"""A number, or a traced one: then one compiled program serves all its values."""

Times = Literal["none", "history", "query"]
"""Which timestamps a model reads: none; those of the history; or also that of the predicted event (time-aware)."""

Params = dict[str, Any]
"""Nested dicts and lists of arrays, with the structure of the `params.ParamSpec`s that they were made from."""

States = Float[Any, "rows length d_model"]
"""One vector a position of packed rows; a causal encoder's says what follows it."""

ItemTable = Float[Any, "n_rows d_model"]
"""One vector an item, by id; row 0 is padding, and so are rows beyond the catalogue."""

LossSum = tuple[Float[Any, ""], Shaped[Any, ""]]
"""Sum of the losses of targets, in nats, and their number; of weighted targets, the sum of their weights."""

Targets = Int[Any, "queries *n_targets"]
"""The held-out item of each query, or several of them."""

Exclude = Int[Any, "queries n_excluded"] | None
"""Items that are no candidates, a list a query; 0 and repeats are ignored, and None excludes none."""

Allow = Int[Any, "#queries n_allowed"] | None
"""The only items that are candidates, a list a query or one for all; 0 and repeats are ignored, and None allows all."""

TargetRanks = tuple[Float[Any, "queries *n_targets"], Int[Any, " queries"]]
"""1-based ranks of the targets among the candidates, and the number of candidates."""

BestItems = tuple[Int[Any, "queries k"], Float[Any, "queries k"]]
"""Ids of the best candidates, best first, and their scores; id 0 where candidates run out."""


class Part(NamedTuple):
    """Which of several processes that share something out this one is."""

    number: int = 0
    n_parts: int = 1


class InputError(ValueError):
    """Input from the user that cannot be used; the message names value, bound and remedy in one line."""


class Batch(NamedTuple):
    """Packed rows: several users' histories share one row and are separated by `segment_ids`.

    Fields are NumPy arrays on the host and jax arrays inside a step.
    """

    items: Int[Any, "rows length"]
    """Item ids 1..n_items, in time order inside a segment; 0 is padding."""
    next_items: Int[Any, "rows length"]
    """The item that followed each of `items` in the same history; 0 where none is known."""
    segment_ids: Int[Any, "rows length"]
    """1, 2, … for the histories that share a row; 0 is padding."""
    positions: Int[Any, "rows length"]
    """0-based position of each item inside its segment."""
    times: Int[Any, "rows length"] | None = None
    """Seconds of each item after the first of its segment; None unless the model reads times."""
    next_times: Int[Any, "rows length"] | None = None
    """The same of each of `next_items`, and of a query's target; None unless the model reads the query's time."""
    event_features: dict[str, Any] | None = None
    """Other features of each of `items`' events, by name, [rows, length, width]: codes from 1 on, where 0 is none,
    or numbers, NaN where unknown; None unless the model reads them."""

    next_weights: Float[Any, "rows length"] | None = None
    """Weight of each of `next_items` as a target; None where all weigh the same."""
    next_skips: Bool[Any, "rows length"] | None = None
    """Which of `next_items` were skipped, and so are no targets; None unless skips are read."""
    next_gaps: Int[Any, "rows length"] | None = None
    """Bucket of the time from each of `items` to the next, from 1 on; None unless it is predicted."""


class QueryBatch(NamedTuple):
    """Histories packed into rows, and for each the item whose rank among the candidates is wanted."""

    batch: Batch
    last: Int[Any, " queries"]
    """Position of each history's newest item in the flattened [rows x length] batch."""
    targets: Int[Any, " queries"]
    """The held-out item; 0 for the empty queries that fill the batch."""
    excluded: Int[Any, "queries excluded"]
    """Items that are no candidates, such as those already seen; 0 fills the list."""
    query: Int[Any, " queries"]
    """Index of each query in the list of all queries; -1 for empty queries."""


class HistoryBatch(NamedTuple):
    """Histories to continue, one a row."""

    items: Int[Any, "rows length"]
    """The latest items of each, from the first column on; 0 fills the row."""
    lengths: Int[Any, " rows"]
    """Items in each row; 1, the padding, for the empty rows that fill the batch."""
    excluded: Int[Any, "rows excluded"]
    """Items that may not continue the history, such as those already in it; 0 fills the list."""


class Question(NamedTuple):
    """What a training step asks a model about a batch."""

    inputs: Batch
    """What the model reads."""
    targets: Int[Any, "rows queried"]
    """Item id to predict; 0 has no loss."""
    positions: Int[Any, "rows queried"] | None = None
    """Column, in its row, of the state that predicts each target; None where each column does, in order."""
    weights: Float[Any, "rows queried"] | None = None
    """Weight of each target; None where all weigh the same."""
    unwanted: Int[Any, "rows queried"] | None = None
    """Item id that is to become less likely there, where there is no target; 0 where there is none."""
    constants: Any = None
    """`Model.loss_constants` as the step has them."""


@dataclass(frozen=True)
class BatchFormat:
    """What a model reads of a batch."""

    max_length: int
    """Latest items of a history that it reads."""
    times: Times = "none"
    event_features: tuple[str, ...] = ()
    """Names of the other features of events."""

    @property
    def beyond_items(self) -> str | None:
        """The first thing that it reads beside item ids, in words; None for a model of item ids alone."""
        if self.times != "none":
            return f"times={self.times}"
        return repr(self.event_features[0]) if self.event_features else None


@runtime_checkable
class Encode(Protocol):
    """From packed histories to one state a position."""

    def __call__(self, params: Params, batch: Batch, *, key: Any = None, added: States | None = None) -> States:
        """States of a batch; without a key nothing is dropped out. Causal encoders add `added` to item vectors."""


@runtime_checkable
class Ask(Protocol):
    """From a batch to what a training step asks about it."""

    def __call__(self, batch: Batch, *, key: Any) -> Question:
        """`key` serves what is drawn, such as which items are hidden."""


@runtime_checkable
class Compose(Protocol):
    """From trained parameters to those that encoder and head read, such as an item table made of features."""

    def __call__(self, params: Params, constants: Any, *, key: Any = None) -> Params:
        """`constants` are the arrays that no step changes; without a key nothing is dropped out."""


@runtime_checkable
class Head(Protocol):
    """How states choose among the items of the catalogue."""

    def loss(self, params: Params, states: States, question: Question, *, key: Any) -> LossSum:
        """The loss of a question's targets."""

    def queries(self, params: Params, states: States, batch: Batch, last: Int[Any, " queries"]) -> Any:
        """What `rank` and `top_k` read of the positions `last` of the flattened batch: arrays with a row a query."""

    def rank(
        self, params: Params, queries: Any, targets: Targets, *, exclude: Exclude = None, allow: Allow = None
    ) -> TargetRanks:
        """Ranks of the targets among the candidates."""

    def top_k(self, params: Params, queries: Any, *, k: int, exclude: Exclude = None, allow: Allow = None) -> BestItems:
        """The `k` best candidates."""


@runtime_checkable
class NextItemHead(Protocol):
    """What generation needs of a head: the distribution of the next item, given a state alone."""

    def top_k_log_probabilities(
        self, params: Params, states: Float[Any, "queries d_model"], *, k: int, exclude: Exclude = None
    ) -> BestItems:
        """As `Head.top_k`, with each item's log-probability under the softmax over all items."""

    def draw(
        self,
        params: Params,
        states: Float[Any, "queries d_model"],
        *,
        temperature: float,
        top_k: int,
        exclude: Exclude = None,
        key: Any,
    ) -> tuple[Int[Any, " queries"], Float[Any, " queries"]]:
        """One item a query, drawn at a temperature among the `top_k` best (0: all), and its log-probability."""


@runtime_checkable
class StartDecoding(Protocol):
    """Reads histories before their continuation."""

    def __call__(
        self, params: Params, items: Int[Any, "rows length"], lengths: Int[Any, " rows"], *, n: int
    ) -> tuple[Any, Any]:
        """(memory, cache) for rows as in `HistoryBatch` and `n` steps: memory stays, the cache changes each step."""


StepDecoding = Callable[[Params, Any, Any, Int[Any, " rows"], Int[Any, ""]], tuple[Float[Any, "rows d_model"], Any]]
"""`step(params, memory, cache, items, place)` -> (states, cache): reads one more item a row, the newest of the history
at place 0 and the n-th of its continuation at place n; a state predicts what follows."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """A way to continue histories item by item. Rows come first in all arrays that it keeps."""

    start: StartDecoding
    step: StepDecoding


@runtime_checkable
class StartReading(Protocol):
    """Reads whole histories, so that later events need no second reading of them."""

    def __call__(self, params: Params, batch: Batch) -> tuple[Float[Any, "rows d_model"], Any]:
        """(states, cache) of a batch with one history a row, from the first column on, or none.

        A state is that of the newest item; of a row without an item it means nothing.
        """


@runtime_checkable
class AppendEvents(Protocol):
    """Reads one more event of some histories."""

    def __call__(
        self,
        params: Params,
        cache: Any,
        items: Int[Any, " n"],
        *,
        rows: Int[Any, " n"] | None = None,
        times: Int[Any, " n"] | None = None,
    ) -> tuple[Float[Any, "n d_model"], Any]:
        """(states, cache) once the histories in these `rows` of the cache, by default in all, have one more item.

        `times` are as in `Batch`. A row holds `max_length` items at most: a history that is full is to be started anew
        from its newest items, since the oldest one, which no longer counts, has changed the states of all others.
        """


@dataclass(frozen=True, eq=False)
class Incremental:
    """A way to read histories event by event: states equal those of `Encoder.encode` on the whole history.

    The cache is a tree of dicts, lists and tuples of arrays, all with a row a history. What a row held before it is
    started anew does not count.
    """

    start: StartReading
    append: AppendEvents


@dataclass(frozen=True, eq=False)
class Encoder:
    """A sequence encoder as a value: a table of its parameters and a pure function over them."""

    specs: Params
    """Nested dict of `params.ParamSpec`; parameters have the same structure."""
    encode: Encode
    n_items: int
    """Size of the catalogue; rows of the item table beyond it are padding."""
    d_model: int
    """Width of item vectors and states."""
    reads: BatchFormat
    causal: bool = True
    """Whether the state at each position depends on that item and those before it in the same history alone."""
    decoder: Decoder | None = None
    """How it continues histories without reading them anew, if it is made for that."""
    incremental: Incremental | None = None
    """How it reads one more event without reading the whole history, if it can."""
