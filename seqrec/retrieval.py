"""Ranks and top items from user vectors and the item table, in blocks of users: never [users, n_items]."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from seqrec.losses.softmax import check_item_table
from seqrec.params import Params
from seqrec.ranking import Ties, candidates, count, half_places_lost, own_half_places, take
from seqrec.repeats import Raised, raised
from seqrec.sharding import CatalogueShard, map_catalogue, on_host
from seqrec.types import Batch, Encoder, InputError


def rank_targets(
    hidden: Float[Array, "users d_model"],
    item_table: Float[Array, "n_rows d_model"],
    targets: Int[Array, "users *n_targets"],
    *,
    n_items: int,
    exclude: Int[Array, "users n_excluded"] | None = None,
    repeated: Raised | None = None,
    ties: Ties = "mean",
    block_users: int | None = None,
) -> tuple[Float[Array, "users *n_targets"], Int[Array, " users"]]:
    """1-based rank of each user's target, or of each of several, and the user's number of candidates.

    As `ranking.target_ranks`, from vectors instead of scores: candidates are the items 1..n_items less the ids in
    `exclude` (0 and repeats are ignored), and a user's own targets. A target of 0 or beyond n_items has no rank,
    which is NaN. Products are taken in float32 at full precision on every device, `block_users` users at a time; by
    default as many as keep the scores in a CPU's cache. Where a mesh splits the item table, each device scores
    its own items, and only the targets' scores and counts travel. Items that are `repeated` score as much more as makes
    the softmax over all scores the mixture's probability.
    """
    chex.assert_rank([hidden, item_table, targets], [2, 2, {1, 2}])
    chex.assert_type(targets, int)
    chex.assert_equal_shape_prefix([hidden, targets], 1)

    def rank(hidden, targets, exclude, repeated, shard):
        scores = _with_repeated(_scores(hidden, shard), repeated, shard, n_items)
        valid = _valid(shard, n_items, exclude, targets)
        # The same product gives the target's score: a dot product of its own would round differently.
        target_scores = shard.total(take(scores, targets - shard.first, fill=0.0))
        lost = shard.total(half_places_lost(scores, target_scores, valid, ties=ties))
        ranks = 1.0 + 0.5 * (lost - own_half_places(target_scores, ties=ties))
        n_candidates = jnp.broadcast_to(shard.total(count(valid.astype(jnp.int8))), len(hidden))
        return jnp.where((targets >= 1) & (targets <= n_items), ranks, jnp.nan), n_candidates

    each = targets if targets.ndim == 2 else targets[:, None]
    rows = (hidden, each, _exclude(exclude, hidden), repeated)
    ranks, n_candidates = _over_user_blocks(rank, rows, item_table, n_items=n_items, block_users=block_users)
    return ranks.reshape(targets.shape), n_candidates


def top_k_items(
    hidden: Float[Array, "users d_model"],
    item_table: Float[Array, "n_rows d_model"],
    *,
    k: int,
    n_items: int,
    exclude: Int[Array, "users n_excluded"] | None = None,
    repeated: Raised | None = None,
    block_users: int | None = None,
) -> tuple[Int[Array, "users k"], Float[Array, "users k"]]:
    """Ids of each user's `k` best candidates, best first, and their scores; of tied items the lower id comes first.

    Candidates, blocks and scores are those of `rank_targets`, but for targets. Where fewer than `k` are left, the list
    ends in id 0 with score -inf; an item whose score is NaN or -inf is never listed. Where a mesh splits the item
    table, each device finds the best of its own items, and only these are merged.
    """
    _check_k(k, n_items)
    chex.assert_rank([hidden, item_table], 2)

    def top(hidden, exclude, repeated, shard):
        scores = _with_repeated(_scores(hidden, shard), repeated, shard, n_items)
        return _best(_allowed(scores, shard, n_items, exclude), shard, k)

    rows = (hidden, _exclude(exclude, hidden), repeated)
    return _over_user_blocks(top, rows, item_table, n_items=n_items, block_users=block_users)


def top_k_log_probabilities(
    hidden: Float[Array, "users d_model"],
    item_table: Float[Array, "n_rows d_model"],
    *,
    k: int,
    n_items: int,
    exclude: Int[Array, "users n_excluded"] | None = None,
) -> tuple[Int[Array, "users k"], Float[Array, "users k"]]:
    """As `top_k_items`, with the natural logarithm of each item's probability in place of its score.

    Probabilities are the softmax over all items, those that are excluded too.
    """
    _check_k(k, n_items)
    chex.assert_rank([hidden, item_table], 2)

    def top(hidden, exclude, shard):
        scores = _scores(hidden, shard)
        ids, best = _best(_allowed(scores, shard, n_items, exclude), shard, k)
        return ids, best - _log_normalisers(scores, shard, n_items)[:, None]

    rows = (hidden, _exclude(exclude, hidden))
    return _over_user_blocks(top, rows, item_table, n_items=n_items, block_users=None)


def draw_items(
    hidden: Float[Array, "users d_model"],
    item_table: Float[Array, "n_rows d_model"],
    *,
    n_items: int,
    temperature: float = 1.0,
    top_k: int = 0,
    exclude: Int[Array, "users n_excluded"] | None = None,
    key: Array,
) -> tuple[Int[Array, " users"], Float[Array, " users"]]:
    """One item a user, drawn by the softmax of the candidates' scores over `temperature`, and its log-probability.

    With `top_k` only the k best candidates are drawn, and what ties with the last of them. The log-probability is that
    of `top_k_log_probabilities`. A user without a candidate gets id 0. Drawn as the largest of the scores with Gumbel
    noise (Gumbel 1954; Maddison et al. 2014, section 2), so that blocks and shards of the catalogue need no sum.
    """
    chex.assert_rank([hidden, item_table], 2)

    def draw(hidden, exclude, seeds, shard):
        scores = _scores(hidden, shard)
        allowed = _allowed(scores, shard, n_items, exclude)
        if top_k:
            _, best = _best(allowed, shard, min(top_k, n_items))
            allowed = jnp.where(allowed >= best[:, -1:], allowed, -jnp.inf)
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.wrap_key_data(seed), shard.first))(seeds)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (scores.shape[1],)))(keys)
        chosen, _ = _best(allowed / temperature + noise, shard, 1)
        score = shard.total(take(scores, chosen - shard.first, fill=0.0))
        log_probability = (score - _log_normalisers(scores, shard, n_items)[:, None])[:, 0]
        return chosen[:, 0], jnp.where(chosen[:, 0] > 0, log_probability, -jnp.inf)

    seeds = jax.random.key_data(jax.random.split(key, len(hidden)))
    rows = (hidden, _exclude(exclude, hidden), seeds)
    return _over_user_blocks(draw, rows, item_table, n_items=n_items, block_users=None)


def asked_states(
    encoder: Encoder, params: Params, batch: Batch, last: Int[Array, " queries"]
) -> tuple[Float[Array, "queries d_model"], Raised | None]:
    """The states at the places `last` of the flattened batch and, if the encoder knows, what is repeated there."""
    states = encoder.encode(params, batch)
    hidden = states.reshape(-1, states.shape[-1])[last]
    return hidden, None if encoder.repeats is None else raised(
        encoder.repeats(params, states, batch), batch.items, last
    )


def make_recommend(encoder: Encoder) -> Callable[..., list[int]]:
    """`recommend(params, sequence, k, *, mask_seen=True, times=None, event_features=None)` for any list of item ids.

    The oldest comes first. It returns the `k` best next items, best first; with `mask_seen` none of them is in
    `sequence`, and where too few are left the list is shorter. The user need not be one that the model was trained on.
    An encoder that reads times needs `times`, the seconds of each item and, last, of the question; one that reads what
    else is known of events needs `event_features`, as `data.behaviour.features_at` returns them.
    """

    @functools.partial(jax.jit, static_argnames="k")
    def top(params: Params, batch: Batch, last: Array, excluded: Array, *, k: int) -> Array:
        hidden, repeated = asked_states(encoder, params, batch, last[None])
        options: dict[str, Any] = {"n_items": encoder.n_items, "exclude": excluded, "repeated": repeated}
        return top_k_items(hidden, params["item_table"], k=k, **options)[0]

    def recommend(
        params: Params,
        sequence: Sequence[int] | np.ndarray,
        k: int,
        *,
        mask_seen: bool = True,
        times: Sequence[int] | np.ndarray | None = None,
        event_features: Mapping[str, np.ndarray] | None = None,
    ) -> list[int]:
        items = np.asarray(sequence)
        if items.size == 0 or not np.issubdtype(items.dtype, np.integer):
            raise InputError(f"sequence={sequence!r} is not a list of item ids; give at least one integer")
        if items.min() < 1 or items.max() > encoder.n_items:
            bad = items[(items < 1) | (items > encoder.n_items)][0]
            raise InputError(f"item {bad} is not in 1..{encoder.n_items}; use the ids of the store's vocabulary")
        read = items[-encoder.max_length :]
        n_fields = {"none": 4, "history": 5, "query": 6}[encoder.times]
        fields = np.zeros((n_fields, 1, encoder.max_length), np.int32)
        fields[0, 0, : len(read)] = read
        fields[1, 0, : len(read) - 1] = read[1:]
        fields[2, 0, : len(read)] = 1
        fields[3, 0, : len(read)] = np.arange(len(read))
        if encoder.times != "none":
            if times is None or len(times) != len(items) + 1:
                raise InputError("the encoder reads times; give the seconds of each item and, last, of the question")
            seconds = np.asarray(times)[-len(read) - 1 :]
            fields[4, 0, : len(read)] = seconds[:-1] - seconds[0]
            fields[5:, 0, : len(read)] = seconds[1:] - seconds[0]
        batch = Batch(*fields)
        if encoder.event_features:
            batch = batch._replace(event_features=_latest(event_features or {}, encoder, len(items)))
        seen = np.unique(items) if mask_seen else items[:0]
        # Lengths in powers of two: one compiled function serves many users.
        excluded = np.zeros((1, 1 << int(len(seen) - 1).bit_length() if len(seen) else 0), np.int32)
        excluded[0, : len(seen)] = seen
        found = top(params, batch, jnp.int32(len(read) - 1), jnp.asarray(excluded), k=k)
        return [int(item) for item in on_host(found)[0] if item]

    return recommend


def _latest(
    event_features: Mapping[str, np.ndarray], encoder: Encoder, n_items: int
) -> dict[str, Shaped[np.ndarray, "1 length width"]]:
    """What is known of the events that the encoder reads, of `n_items` in all."""
    rows = {}
    for name in encoder.event_features:
        values = event_features.get(name)
        if values is None or len(values) != n_items:
            raise InputError(
                f"the encoder reads {name!r} of events; give event_features with one row for each of {n_items} items"
            )
        latest = values[-encoder.max_length :]
        rows[name] = np.zeros((1, encoder.max_length, *values.shape[1:]), values.dtype)
        rows[name][0, : len(latest)] = latest
    return rows


def _check_k(k: int, n_items: int) -> None:
    if not 1 <= k <= n_items:
        raise InputError(f"k={k} is not in 1..n_items={n_items}; ask for at most as many items as there are")


def _exclude(exclude: Int[Array, "users n_excluded"] | None, hidden: Array) -> Int[Array, "users n_excluded"]:
    if exclude is None:
        return jnp.zeros((len(hidden), 0), jnp.int32)
    chex.assert_rank(exclude, 2)
    chex.assert_type(exclude, int)
    chex.assert_equal_shape_prefix([hidden, exclude], 1)
    return exclude


def _scores(hidden: Float[Array, "users d_model"], shard: CatalogueShard) -> Float[Array, "users n_rows"]:
    # By default a TPU multiplies in bfloat16 and a GPU in TF32, which moves ranks.
    return jnp.matmul(hidden, shard.table.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _with_repeated(
    scores: Float[Array, "users n_rows"], repeated: Raised | None, shard: CatalogueShard, n_items: int
) -> Float[Array, "users n_rows"]:
    if repeated is None:
        return scores
    places = repeated.items - shard.first
    places = jnp.where((repeated.items > 0) & (places >= 0), places, scores.shape[1])
    added = _log_normalisers(scores, shard, n_items)[:, None] + repeated.log_odds
    own = jnp.logaddexp(take(scores, places, fill=0.0), added)
    return scores.at[jnp.arange(len(scores))[:, None], places].set(own, mode="drop")


def _allowed(
    scores: Float[Array, "users n_rows"], shard: CatalogueShard, n_items: int, exclude: Int[Array, "users n_excluded"]
) -> Float[Array, "users n_rows"]:
    """The scores of the candidates, -inf for what is none or has no number for a score."""
    valid = _valid(shard, n_items, exclude, jnp.zeros((len(scores), 0), jnp.int32))
    return jnp.where(valid & ~jnp.isnan(scores), scores, -jnp.inf)


def _best(
    scores: Float[Array, "users n_rows"], shard: CatalogueShard, k: int
) -> tuple[Int[Array, "users k"], Float[Array, "users k"]]:
    """Ids and scores of the `k` highest over all shards; id 0 where they are -inf."""
    best, ids = jax.lax.top_k(scores, min(k, scores.shape[1]))
    best, ids = shard.gather(best), shard.gather(ids + shard.first)
    # Shards lie in the order of their ids, so a tie still goes to the lower one.
    best, places = jax.lax.top_k(best, k)
    ids = jnp.take_along_axis(ids, places, axis=1)
    return jnp.where(best > -jnp.inf, ids, 0), best


def _log_normalisers(
    scores: Float[Array, "users n_rows"], shard: CatalogueShard, n_items: int
) -> Float[Array, " users"]:
    """Log of the sum of exp(score) over all items of all shards."""
    scores = _allowed(scores, shard, n_items, jnp.zeros((len(scores), 0), jnp.int32))
    highest = shard.highest(jnp.max(scores, axis=1))
    return highest + jnp.log(shard.total(jnp.sum(jnp.exp(scores - highest[:, None]), axis=1)))


def _valid(
    shard: CatalogueShard,
    n_items: int,
    exclude: Int[Array, "users n_excluded"],
    targets: Int[Array, "users n_targets"],
) -> Bool[Array, "#users n_rows"]:
    """Which of a shard's rows are each user's candidates; one line for all users where nothing is excluded."""
    ids = shard.first + jnp.arange(shard.table.shape[0])
    items = ((ids >= 1) & (ids <= n_items))[None]
    if exclude.shape[1] == 0:
        return items
    items = jnp.broadcast_to(items, (len(exclude), items.shape[1]))
    return candidates(items, exclude - shard.first, targets - shard.first)


def users_per_block(n_users: int, n_rows: int) -> int:
    """How many users are scored against `n_rows` items at a time."""
    # 16 MB of scores, and more where that is fewer than 32 users: on a CPU, 8 took 1.8 times as long among a million
    # items, and 32 at 20,000 items 1.7 times as long as 200. From two million items on memory counts more.
    at_least = min(32, max(8, 2**25 // n_rows))
    return max(1, min(n_users, max(at_least, 2**22 // n_rows)))


def _over_user_blocks(
    function: Callable[..., Any], rows: tuple[Any, ...], item_table: Array, *, n_items: int, block_users: int | None
) -> Any:
    """`function(*block, shard)` for blocks of users, each device over its own users and items."""
    check_item_table(item_table, n_items)

    def local(*arguments):
        *rows, shard = arguments
        n_users = rows[0].shape[0]
        block = block_users or users_per_block(n_users, shard.table.shape[0])
        n_blocks = -(-n_users // block)
        block = -(-n_users // max(n_blocks, 1))  # as even as can be: a last block that is mostly padding is waste
        padding = n_blocks * block - n_users

        def cut(row):
            row = jnp.pad(row, ((0, padding),) + ((0, 0),) * (row.ndim - 1))
            return row.reshape(n_blocks, block, *row.shape[1:])

        outputs = jax.lax.map(lambda block: function(*block, shard), jax.tree.map(cut, tuple(rows)))
        return jax.tree.map(lambda out: out.reshape(-1, *out.shape[2:])[:n_users], outputs)

    return map_catalogue(local, rows, item_table, outputs=("rows", "rows"))
