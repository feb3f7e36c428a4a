"""The few records that cross rooms; nothing here imports jax, so that data preparation need not either."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jaxtyping import Bool, Float, Int

Scalar = float | Float[Any, ""]
"""A number, or one that is traced: then one program serves all its values."""

Times = Literal["none", "history", "query"]
"""What a model sees of times: nothing, those of the history, or also when the answer came, which is `time-aware`."""


class InputError(ValueError):
    """What the user gave cannot be used; the message names the value, the bound and the remedy in one line."""


class Batch(NamedTuple):
    """Packed rows: several users' histories share one row, told apart by `segment_ids`.

    Fields are NumPy arrays on the host and jax arrays inside a step.
    """

    items: Int[Any, "rows length"]
    """Item ids 1..n_items, in time order inside a segment; 0 is padding."""
    next_items: Int[Any, "rows length"]
    """The item that followed each of `items` in the same history; 0 where none is known."""
    segment_ids: Int[Any, "rows length"]
    """1, 2, … for the histories that share a row; 0 is padding."""
    positions: Int[Any, "rows length"]
    """0-based place of each item inside its segment."""
    times: Int[Any, "rows length"] | None = None
    """Seconds of each item after the first of its segment; None unless times were asked for."""
    next_times: Int[Any, "rows length"] | None = None
    """The same of each of `next_items`, and of what a query asks for; None unless the query's time was asked for."""
    event_features: dict[str, Any] | None = None
    """What else is known of each of `items`' events, by name, [rows, length, width]: codes from 1 on, where 0 is none,
    or numbers, NaN where they are not known; None unless such features were asked for."""

    next_weights: Float[Any, "rows length"] | None = None
    """How much each of `next_items` counts as a target; None where all count alike."""
    next_skips: Bool[Any, "rows length"] | None = None
    """Which of `next_items` were skipped, and so are no targets; None unless skips were asked for."""
    next_gaps: Int[Any, "rows length"] | None = None
    """Bucket of the time from each of `items` to the next, from 1 on; None unless it is to be foretold."""

    @property
    def answers(self) -> dict[str, Any]:
        """What is known of each of `next_items`' events that heads foretell, by the heads' names."""
        answers = {"skip": self.next_skips, "gap": self.next_gaps}
        return {name: values for name, values in answers.items() if values is not None}


class QueryBatch(NamedTuple):
    """Histories packed into rows, and what is asked of each: the rank of one item among the candidates."""

    batch: Batch
    last: Int[Any, " queries"]
    """Place of each history's newest item in the flattened [rows x length] batch."""
    targets: Int[Any, " queries"]
    """The held-out item; 0 for the empty queries that fill the batch."""
    excluded: Int[Any, "queries excluded"]
    """Items that are not candidates, such as those already seen; 0 fills the list."""
    query: Int[Any, " queries"]
    """Place of each query in the list that was asked for; -1 for empty queries."""


class HistoryBatch(NamedTuple):
    """Histories to be continued, one a row."""

    items: Int[Any, "rows length"]
    """The latest items of each, from the first column on; 0 fills the row."""
    lengths: Int[Any, " rows"]
    """Items in each row; 1, the padding, for the empty rows that fill the batch."""
    excluded: Int[Any, "rows excluded"]
    """Items that do not continue the history, such as those already in it; 0 fills the list."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """A model that continues histories item by item, as a value. Rows come first in all that it keeps."""

    start: Callable[..., Any]
    """`start(params, items, lengths, *, n)` -> (memory, cache), for rows as in `HistoryBatch` and `n` steps from there:
    `memory` stays as it is, `cache` changes from step to step."""
    step: Callable[..., Any]
    """`step(params, memory, cache, items, place)` -> (states [rows, d_model], cache): reads one item a row, the newest
    of the history at place 0 and the n-th of its continuation at place n; the state predicts what follows it."""
    n_items: int
    """Size of the catalogue."""
    max_length: int
    """Items of a history and its continuation, the last aside, that the decoder reads."""


def _as_it_is(params: Any, constants: Any, *, key: Any = None) -> Any:
    del constants, key
    return params


@dataclass(frozen=True, eq=False)
class Encoder:
    """A model as a value: a table of its parameters and a pure function over them."""

    specs: dict[str, Any]
    """Nested dict of `params.ParamSpec`; parameters have the same structure."""
    encode: Callable[..., Any]
    """`encode(params, batch, *, key=None)` -> hidden states [rows, length, d_model]; no key means evaluation. One that
    takes `added`, vectors [rows, length, d_model], too reads their sum with those of the items, as `item_vectors` does.
    """
    n_items: int
    """Size of the catalogue; rows of the item table beyond it are padding."""
    max_length: int
    """Items of a history that the encoder reads."""
    times: Times = "none"
    """What it reads of times; its batches must hold them."""
    event_features: tuple[str, ...] = ()
    """What else it reads of events, by name; its batches must hold it."""
    compose: Callable[..., Any] = _as_it_is
    """`compose(params, constants, *, key=None)` -> params that hold the `item_table`, where they hold its makings."""
    constants: Any = None
    """What `compose` reads and no step changes, such as features of items."""
    repeats: Callable[..., Any] | None = None
    """`repeats(params, hidden, batch)` -> `repeats.Repeats`, where a share of the next item's probability is the
    history's."""
    heads: Callable[..., Any] | None = None
    """`heads(params, hidden, next_items, answers)` -> losses in nats by the head's name, in the shape of `next_items`,
    of what is foretold of the next event beside its item."""
    decoder: Decoder | None = None
    """How the model continues histories without reading them anew, if it is made for that."""
