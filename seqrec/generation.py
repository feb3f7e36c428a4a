"""Continuations of histories, item by item: greedy, by beam search, or sampled."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec.config import check_at_least, check_fields
from seqrec.model import Model
from seqrec.params import Params
from seqrec.types import Batch, Decoder, HistoryBatch, InputError, NextItemHead


@dataclass(frozen=True)
class DecodingConfig:
    """How the items of a continuation are chosen."""

    method: Literal["greedy", "beam", "sample"] = "greedy"
    """greedy: the best next item at each step. beam: the best sequence found by beam search. sample: random items from
    the model's distribution."""
    beam_width: int = 4
    """For beam: number of sequences that are kept at each step."""
    temperature: float = 1.0
    """For sample: scores are divided by this; below 1 favours the best items."""
    top_k: int = 0
    """For sample: draw only from this many best items; 0 means all."""
    no_repeat: bool = True
    """Use each item at most once in a continuation."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "beam_width")
        check_at_least(self, 0, "top_k")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} is not above 0; for the best item use method=greedy")


GREEDY = DecodingConfig()


class Continuations(NamedTuple):
    """Continuations, one a history."""

    items: Int[Array, "rows n"]
    """Item ids in their order; 0 from where no item is left that may follow."""
    log_probability: Float[Array, " rows"]
    """Of the whole continuation under the model, in nats: the softmax is over all items, whatever may not follow."""


def generate(
    model: Model,
    params: Params,
    histories: HistoryBatch,
    *,
    n: int,
    config: DecodingConfig = GREEDY,
    key: Array | None = None,
) -> Continuations:
    """The next `n` items of each history, by the model's decoder.

    Greedy decoding is a beam search of width 1. A beam search keeps, of all one-item extensions of what it kept, those
    of highest probability (Sutskever et al. 2014, section 3.2), so its best is not always the best there is. `sample`
    needs a `key`, and draws a continuation a row. `params` are composed ones. To be jitted whole: a `lax.scan` over the
    steps, of fixed shapes.

    >>> import seqrec
    >>> from seqrec.params import init_params
    >>> model = seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=4), n_items=5, max_length=4))
    >>> params = init_params(model.specs, jax.random.key(0))
    >>> histories = HistoryBatch(jnp.array([[1, 2]]), lengths=jnp.array([2]), excluded=jnp.array([[1, 2]]))
    >>> continued = jax.jit(lambda params: generate(with_uncached_decoder(model), params, histories, n=3))
    >>> sorted(continued(params).items[0].tolist())  # only these are left
    [3, 4, 5]

    Raises:
      InputError: the model has no decoder, its head no distribution of a state's next item, or sizes do not fit.
    """
    decoder, head = _decoder_and_head(model)
    _check_sizes(model, histories, n, config, key)
    items, lengths, excluded = histories
    rows = len(items)
    width = config.beam_width if config.method == "beam" else 1
    newest = jnp.take_along_axis(items, lengths[:, None] - 1, axis=1)[:, 0]
    # Rows of one history lie side by side, the likeliest first; at the start all but one of them are ruled out.
    kept: Any = (*decoder.start(params, items, lengths, n=n), newest, excluded)
    memory, cache, newest, excluded = jax.tree.map(lambda leaf: jnp.repeat(leaf, width, axis=0), kept)
    lists = jnp.zeros((rows * width, n), jnp.int32)
    totals = jnp.broadcast_to(jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf), (rows, width))

    def step(carry: Any, place: Array) -> tuple[Any, None]:
        cache, newest, lists, totals = carry
        states, cache = decoder.step(params, memory, cache, newest, place)
        banned = jnp.concatenate([excluded, lists], axis=1) if config.no_repeat else excluded
        if key is not None and config.method == "sample":
            newest, logs = head.draw(
                params,
                states,
                temperature=config.temperature,
                top_k=config.top_k,
                exclude=banned,
                key=jax.random.fold_in(key, place),
            )
            totals = totals + logs[:, None]
        else:
            items, logs = head.top_k_log_probabilities(params, states, k=width, exclude=banned)
            sums = totals[:, :, None] + logs.reshape(rows, width, width)
            totals, best = jax.lax.top_k(sums.reshape(rows, width * width), width)
            items = jnp.take_along_axis(items.reshape(rows, width * width), best, axis=1)
            newest = jnp.where(totals > -jnp.inf, items, 0).reshape(-1)
            if width > 1:
                parents = (best // width + width * jnp.arange(rows)[:, None]).reshape(-1)
                cache, lists = jax.tree.map(lambda leaf: leaf[parents], (cache, lists))
        return (cache, newest, lists.at[:, place].set(newest), totals), None

    (_, _, lists, totals), _ = jax.lax.scan(step, (cache, newest, lists, totals), jnp.arange(n))
    return Continuations(lists[::width], totals[:, 0])


def _decoder_and_head(model: Model) -> tuple[Decoder, NextItemHead]:
    if not isinstance(model.head, NextItemHead):
        raise InputError(
            f"a {type(model.head).__name__} gives no distribution of the next item for a state alone, which continuing "
            "needs; use the model without it"
        )
    if model.decoder is None:
        raise InputError(
            "this model has no decoder; give with_uncached_decoder(model), which reads everything again each step"
        )
    return model.decoder, model.head


def _check_sizes(model: Model, histories: HistoryBatch, n: int, config: DecodingConfig, key: Array | None) -> None:
    length, max_length = histories.items.shape[1], model.reads.max_length
    if not 1 <= n <= max_length:
        raise InputError(f"n={n} is not in 1..{max_length}, the model's max_length; ask for fewer items")
    if length > (most := max_length + 1 - n):
        raise InputError(
            f"histories of {length} items and {n} more do not fit max_length={max_length}; "
            f"give the latest {most} items of each history"
        )
    if config.method == "beam" and config.beam_width > model.n_items:
        raise InputError(f"beam_width={config.beam_width} is above n_items={model.n_items}; use a smaller beam_width")
    if config.method == "sample" and key is None:
        raise InputError("method=sample draws items and was given no key; give one, such as jax.random.key(0)")


def with_uncached_decoder(model: Model, *, as_history: bool = True) -> Model:
    """The model with a decoder that reads everything again for each item.

    So any next-item model continues histories: its best item joins the history, and it predicts again. With
    `as_history` off an encoder-decoder reads what is generated in its decoder, as it was trained to, which gives the
    same as its own cached decoder, and slower.

    >>> import seqrec
    >>> model = seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=4), n_items=5, max_length=4))
    >>> model.decoder is None, with_uncached_decoder(model).decoder is None
    (True, False)

    Raises:
      InputError: the model reads more of events than item ids, which generated events do not have.
    """
    if (more := model.reads.beyond_items) is not None:
        raise InputError(f"a model that reads {more} cannot continue from item ids alone; build it without")
    encode = model.encoder.encode

    def start(
        params: Params, items: Int[Array, "rows length"], lengths: Int[Array, " rows"], *, n: int
    ) -> tuple[Array, Array]:
        del params
        return lengths, jnp.pad(items, ((0, 0), (0, n - 1)))

    def step(
        params: Params,
        memory: Int[Array, " rows"],
        cache: Int[Array, "rows width"],
        items: Int[Array, " rows"],
        place: Int[Array, ""],
    ) -> tuple[Array, Array]:
        # The memory is the histories' lengths, the cache all items so far.
        newest = memory - 1 + place
        cache = cache.at[jnp.arange(len(cache)), newest].set(items)
        positions = jnp.broadcast_to(jnp.arange(cache.shape[1]), cache.shape)
        n_known = newest if as_history else memory - 1
        following = jnp.pad(cache[:, 1:], ((0, 0), (0, 1)))
        batch = Batch(
            items=cache,
            next_items=jnp.where(positions < n_known[:, None], following, 0),
            segment_ids=(positions <= newest[:, None]).astype(jnp.int32),
            positions=positions,
        )
        states = encode(params, batch)
        return jnp.take_along_axis(states, newest[:, None, None], axis=1)[:, 0], cache

    return dataclasses.replace(model, encoder=dataclasses.replace(model.encoder, decoder=Decoder(start, step)))
