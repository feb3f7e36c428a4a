"""Ranks and top items from user vectors and the item table, in blocks of users: never [users, n_items]."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec.losses.softmax import check_item_table
from seqrec.metrics.ranks import Ties, candidates, count, half_places_lost, own_half_places, take
from seqrec.sharding import CatalogueShard, ShardFunction, map_catalogue
from seqrec.types import Allow, BestItems, Exclude, InputError, ItemTable, TargetRanks, Targets

TWO_STAGES_FROM, BLOCK_ROWS = 1 << 16, 64
"""Rows of a shard from which its best items are looked for in blocks, of this size. On a CPU, of a million scores the
20 best took a third to a seventh of the time of `jax.lax.top_k`; of 20,000, as long. Padding to whole blocks would copy
all scores and take longer than either."""


class MixtureVectors(NamedTuple):
    """Vectors of users whose probabilities are a mixture: of a softmax, and of shares for some items, as of a history.

    Scores of these items rise so that the softmax over all scores is the probability of the mixture.
    """

    vectors: Float[Array, "queries d_model"]
    items: Int[Array, "queries n_history"]
    """0 where there is none; an item may stand there several times, each time with the same odds."""
    log_odds: Float[Array, "queries n_history"]
    """Log of the item's probability from elsewhere against the probability that the softmax shares out."""


class OffsetVectors(NamedTuple):
    """Vectors of users, or of a mixture, and numbers to add to the scores of some items."""

    vectors: "Vectors"
    items: Int[Array, "queries n_offsets"]
    """Each once; 0 where there is none."""
    offsets: Float[Array, "queries n_offsets"]


Vectors = Float[Array, "queries d_model"] | MixtureVectors | OffsetVectors


def plain_vectors(hidden: Vectors) -> Float[Array, "queries d_model"]:
    """The vectors alone, whose products with the items' vectors are what other scores start from."""
    return plain_vectors(hidden.vectors) if isinstance(hidden, MixtureVectors | OffsetVectors) else hidden


def rank_targets(
    hidden: Vectors,
    item_table: ItemTable,
    targets: Targets,
    *,
    n_items: int,
    exclude: Exclude = None,
    allow: Allow = None,
    ties: Ties = "mean",
    block_users: int | None = None,
) -> TargetRanks:
    """1-based rank of each user's target, or of each of several, and the user's number of candidates.

    As `metrics.target_ranks`, from vectors instead of scores: candidates are the items 1..n_items, or those of them
    that `allow` lists, less the ids in `exclude`, and a user's own targets, excluded or not. Both lists ignore 0 and
    duplicates; one row of `allow` may serve all users. A target that is 0, beyond n_items or not allowed has
    no rank, which is NaN. Products are taken in float32 at full precision on every device, `block_users` users at a
    time; by default as many as the device that the program is compiled for is best used by (`users_per_block`). Where a
    mesh splits the item table, each device scores its own items, and only the targets' scores and counts travel.

    >>> users, table = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    >>> ranks, n_candidates = rank_targets(users, table, jnp.array([3]), n_items=3, exclude=jnp.array([[1]]))
    >>> ranks.tolist(), n_candidates.tolist()
    ([2.0], [2])
    """
    chex.assert_rank(targets, {1, 2})
    chex.assert_type(targets, int)

    def rank(exclude, allow, hidden, targets, shard):
        scores = catalogue_scores(hidden, shard, n_items)
        valid = valid_candidates(shard, n_items, exclude, allow, targets)
        # The same product gives the target's score: a dot product of its own would round differently.
        target_scores = shard.total(take(scores, targets - shard.first, fill=0.0))
        lost = shard.total(half_places_lost(scores, target_scores, valid, ties=ties))
        ranks = 1.0 + 0.5 * (lost - own_half_places(target_scores, ties=ties))
        n_candidates = jnp.broadcast_to(shard.total(count(valid.astype(jnp.int8))), len(targets))
        ranked = (targets >= 1) & (targets <= n_items)
        if allow is not None:
            ranked &= jnp.any(targets[:, :, None] == allow[:, None, :], axis=-1)
        return jnp.where(ranked, ranks, jnp.nan), n_candidates

    each = (targets if targets.ndim == 2 else targets[:, None]).astype(jnp.int32)  # int8 holds no n_items
    rows = (*_item_lists(hidden, exclude, allow), hidden, each)
    ranks, n_candidates = over_user_blocks(rank, rows, item_table, n_items=n_items, block_users=block_users)
    return ranks.reshape(targets.shape), n_candidates


def top_k_items(
    hidden: Vectors,
    item_table: ItemTable,
    *,
    k: int,
    n_items: int,
    exclude: Exclude = None,
    allow: Allow = None,
    block_users: int | None = None,
) -> BestItems:
    """Ids of each user's `k` best candidates, best first, and their scores; of tied items the lower id comes first.

    Candidates, blocks and scores are those of `rank_targets`, except that targets have no part in them. Where fewer
    than `k` are left, the list ends in id 0 with score -inf; an item whose score is NaN or -inf is never listed. Where
    a mesh splits the item table, each device finds the best of its own items, and only these are merged.

    >>> users, table = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    >>> ids, scores = top_k_items(users, table, k=2, n_items=3, exclude=jnp.array([[1]]))
    >>> ids.tolist(), scores.tolist()
    ([[2, 3]], [[2.0, 1.0]])
    """
    check_k(k, n_items)

    def top(exclude, allow, hidden, shard):
        scores = catalogue_scores(hidden, shard, n_items)
        return _best(_candidate_scores(scores, shard, n_items, exclude, allow), shard, k)

    rows = (*_item_lists(hidden, exclude, allow), hidden)
    return over_user_blocks(top, rows, item_table, n_items=n_items, block_users=block_users)


def top_k_log_probabilities(
    hidden: Float[Array, "queries d_model"], item_table: ItemTable, *, k: int, n_items: int, exclude: Exclude = None
) -> BestItems:
    """As `top_k_items`, with the natural logarithm of each item's probability in place of its score.

    Probabilities are the softmax over all items, those that are excluded too.
    """
    check_k(k, n_items)

    def top(exclude, allow, hidden, shard):
        scores = catalogue_scores(hidden, shard, n_items)
        ids, best = _best(_candidate_scores(scores, shard, n_items, exclude, allow), shard, k)
        return ids, best - _log_normalisers(scores, shard, n_items)[:, None]

    return over_user_blocks(top, (*_item_lists(hidden, exclude), hidden), item_table, n_items=n_items)


def draw_items(
    hidden: Float[Array, "queries d_model"],
    item_table: ItemTable,
    *,
    n_items: int,
    temperature: float = 1.0,
    top_k: int = 0,
    exclude: Exclude = None,
    key: Array,
) -> tuple[Int[Array, " queries"], Float[Array, " queries"]]:
    """One item a user, drawn by the softmax of the candidates' scores over `temperature`, and its log-probability.

    With `top_k` only the k best candidates are drawn, and what ties with the last of them. The log-probability is that
    of `top_k_log_probabilities`. A user without a candidate gets id 0. Drawn as the largest of the scores with Gumbel
    noise (Gumbel 1954; Maddison et al. 2014, section 2), so that blocks and shards of the catalogue need no sum.
    """

    def draw(exclude, allow, hidden, seeds, shard):
        scores = catalogue_scores(hidden, shard, n_items)
        candidate_scores = _candidate_scores(scores, shard, n_items, exclude, allow)
        if top_k:
            _, best = _best(candidate_scores, shard, min(top_k, n_items))
            candidate_scores = jnp.where(candidate_scores >= best[:, -1:], candidate_scores, -jnp.inf)
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.wrap_key_data(seed), shard.first))(seeds)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (scores.shape[1],)))(keys)
        chosen, _ = _best(candidate_scores / temperature + noise, shard, 1)
        score = shard.total(take(scores, chosen - shard.first, fill=0.0))
        log_probability = (score - _log_normalisers(scores, shard, n_items)[:, None])[:, 0]
        return chosen[:, 0], jnp.where(chosen[:, 0] > 0, log_probability, -jnp.inf)

    seeds = jax.random.key_data(jax.random.split(key, len(hidden)))
    return over_user_blocks(draw, (*_item_lists(hidden, exclude), hidden, seeds), item_table, n_items=n_items)


def check_k(k: int, n_items: int) -> None:
    """Refuses a length of lists that is not in 1..n_items."""
    if not 1 <= k <= n_items:
        raise InputError(f"k={k} is not in 1..n_items={n_items}; ask for at most as many items as there are")


def _item_lists(
    hidden: Vectors, exclude: Exclude, allow: Allow = None
) -> tuple[Int[Array, "queries n_excluded"], Int[Array, "queries n_allowed"] | None]:
    """Both lists with a row a user, once they are found to be lists of ids; without `allow` all items are allowed."""
    vectors = jax.tree.leaves(hidden)
    chex.assert_rank(vectors, 2)
    n_users = len(vectors[0])
    for ids in (exclude, allow):
        if ids is not None:
            chex.assert_rank(ids, 2)
            chex.assert_type(ids, int)
    if allow is not None:
        allow = jnp.broadcast_to(allow, (n_users, allow.shape[1])).astype(jnp.int32)
    return jnp.zeros((n_users, 0), jnp.int32) if exclude is None else exclude.astype(jnp.int32), allow


def catalogue_scores(hidden: Vectors, shard: CatalogueShard, n_items: int) -> Float[Array, "queries n_rows"]:
    """The scores of a shard's rows."""
    if isinstance(hidden, OffsetVectors):
        scores = catalogue_scores(hidden.vectors, shard, n_items)
        places = places_of(hidden.items, shard)
        return scores.at[jnp.arange(len(scores))[:, None], places].add(hidden.offsets, mode="drop")
    # By default a TPU multiplies in bfloat16 and a GPU in TF32, which moves ranks.
    vectors, precision = plain_vectors(hidden), jax.lax.Precision.HIGHEST
    scores = jnp.matmul(vectors, shard.table.T, precision=precision, preferred_element_type=jnp.float32)
    if not isinstance(hidden, MixtureVectors):
        return scores
    places = places_of(hidden.items, shard)
    added = _log_normalisers(scores, shard, n_items)[:, None] + hidden.log_odds
    boosted = jnp.logaddexp(take(scores, places, fill=0.0), added)
    return scores.at[jnp.arange(len(scores))[:, None], places].set(boosted, mode="drop")


def places_of(items: Int[Array, "queries n"], shard: CatalogueShard) -> Int[Array, "queries n"]:
    """The row of each item in a shard; behind all rows for padding and for items of other shards."""
    places = items - shard.first
    return jnp.where((items > 0) & (places >= 0), places, shard.table.shape[0])


def _candidate_scores(
    scores: Float[Array, "queries n_rows"],
    shard: CatalogueShard,
    n_items: int,
    exclude: Int[Array, "queries n_excluded"],
    allow: Int[Array, "queries n_allowed"] | None = None,
) -> Float[Array, "queries n_rows"]:
    """The scores of the candidates, -inf for other items and for scores that are NaN."""
    valid = valid_candidates(shard, n_items, exclude, allow, jnp.zeros((len(scores), 0), jnp.int32))
    return jnp.where(valid & ~jnp.isnan(scores), scores, -jnp.inf)


def _best(
    scores: Float[Array, "queries n_rows"], shard: CatalogueShard, k: int
) -> tuple[Int[Array, "queries k"], Float[Array, "queries k"]]:
    """Ids and scores of the `k` highest over all shards; id 0 where they are -inf."""
    best, ids = _top_k(scores, min(k, scores.shape[1]))
    best, ids = shard.gather(best), shard.gather(ids + shard.first)
    # Shards lie in the order of their ids, so a tie still goes to the lower one.
    best, places = jax.lax.top_k(best, k)
    ids = jnp.take_along_axis(ids, places, axis=1)
    return jnp.where(best > -jnp.inf, ids, 0), best


def _top_k(scores: Float[Array, "queries n_rows"], k: int) -> tuple[Float[Array, "queries k"], Int[Array, "queries k"]]:
    """As `jax.lax.top_k`, of tied scores the first too; of a large catalogue in two stages.

    The k best scores lie in the k blocks with the highest maxima, of tied blocks the first: each of these blocks has
    a score that comes before whatever lies in another block.
    """
    n_rows = scores.shape[1]
    if n_rows < TWO_STAGES_FROM:
        best, rows = jax.lax.top_k(scores, k)
        return best, rows
    n_blocks = n_rows // BLOCK_ROWS
    in_blocks = n_blocks * BLOCK_ROWS
    maxima = jnp.max(scores[:, :in_blocks].reshape(-1, n_blocks, BLOCK_ROWS), axis=2)
    _, blocks = jax.lax.top_k(maxima, jax.core.min_dim(k, n_blocks))  # k is open where this is exported
    # In their order in the catalogue, and the rows behind the last whole block after them: so ties keep theirs.
    rows = jnp.sort(blocks, axis=1)[:, :, None] * BLOCK_ROWS + jnp.arange(BLOCK_ROWS)
    behind = jnp.broadcast_to(jnp.arange(in_blocks, n_rows), (len(scores), n_rows - in_blocks))
    rows = jnp.concatenate([rows.reshape(len(scores), -1), behind], axis=1)
    best, places = jax.lax.top_k(jnp.take_along_axis(scores, rows, axis=1), k)
    return best, jnp.take_along_axis(rows, places, axis=1)


def _log_normalisers(
    scores: Float[Array, "queries n_rows"], shard: CatalogueShard, n_items: int
) -> Float[Array, " queries"]:
    """Log of the sum of exp(score) over all items of all shards."""
    scores = _candidate_scores(scores, shard, n_items, jnp.zeros((len(scores), 0), jnp.int32))
    highest = shard.highest(jnp.max(scores, axis=1))
    return highest + jnp.log(shard.total(jnp.sum(jnp.exp(scores - highest[:, None]), axis=1)))


def valid_candidates(
    shard: CatalogueShard,
    n_items: int,
    exclude: Int[Array, "queries n_excluded"],
    allow: Int[Array, "queries n_allowed"] | None,
    targets: Int[Array, "queries n_targets"],
) -> Bool[Array, "#queries n_rows"]:
    """Which of a shard's rows are each user's candidates; one line for all users where they have the same."""
    ids = shard.first + jnp.arange(shard.table.shape[0])
    items = ((ids >= 1) & (ids <= n_items))[None]
    if allow is not None:
        users, n_rows = jnp.arange(len(allow))[:, None], len(ids)
        columns = jnp.where(allow < shard.first, n_rows, allow - shard.first)
        items &= jnp.zeros((len(allow), n_rows), bool).at[users, columns].set(True, mode="drop")
    if exclude.shape[1] == 0:
        return items
    items = jnp.broadcast_to(items, (len(exclude), items.shape[1]))
    return candidates(items, exclude - shard.first, targets - shard.first)


class BlockBounds(NamedTuple):
    """What bounds the users that are scored at a time on a kind of device."""

    few_scores: int
    """A block has as many users as have this many scores, or more."""
    most_scores: int
    """It is not enlarged beyond this many scores, unless these are of fewer than eight users."""


CPU = BlockBounds(few_scores=2**22, most_scores=2**25)
"""16 MB, which a cache holds. From two million items on memory counts more than time."""
ACCELERATOR = BlockBounds(few_scores=2**26, most_scores=2**28)
"""256 MB keep a chip busy; with 1 GB, of which the best items take seven times as much in all, a program fits a TPU
v5e, whose chips have 16 GB (docs/scaling.md)."""


def enough_users(d_model: int, *, bounds: BlockBounds) -> int:
    """From how many users in a block on reading the table adds little to the time of a user.

    On an accelerator a tenth, by a roofline (Williams et al. 2009): for each row of the table a block reads 4 d_model
    bytes, and each user has 8 bytes of its score written and read and 2 d_model operations, of which chips do about 32
    in the time of a byte (TPU v5e 40, v5p 28, H100 20, in float32 at full precision). On a CPU 32: 8 took 1.8 times as
    long among a million items, and 32 at 20,000 items 1.7 times as long as 200.

    >>> enough_users(64, bounds=ACCELERATOR), enough_users(256, bounds=ACCELERATOR), enough_users(64, bounds=CPU)
    (214, 427, 32)
    """
    return 32 if bounds is CPU else math.ceil(10 * 4 * d_model / (8 + 2 * d_model / 32))


def users_per_block(n_users: int, n_rows: int, *, d_model: int, bounds: BlockBounds = CPU) -> int:
    """How many users are scored against `n_rows` items at a time.

    >>> [users_per_block(10**6, n_rows, d_model=64, bounds=ACCELERATOR) for n_rows in (20_032, 10**6, 6_250_496)]
    [3350, 214, 42]
    """
    at_least = min(enough_users(d_model, bounds=bounds), max(8, bounds.most_scores // n_rows))
    return max(1, min(n_users, max(at_least, bounds.few_scores // n_rows)))


def over_user_blocks(
    function: ShardFunction,
    rows: tuple[Any, ...],
    item_table: ItemTable,
    *,
    n_items: int,
    block_users: int | None = None,
) -> Any:
    """`function(*block, shard)` for blocks of users, each device over its own users and items."""
    chex.assert_equal_shape_prefix(jax.tree.leaves(rows), 1)
    check_item_table(item_table, n_items)

    def local(*arguments):
        *rows, shard = arguments
        n_users, (n_rows, d_model) = rows[0].shape[0], shard.table.shape

        def block(bounds: BlockBounds) -> int:
            return block_users or users_per_block(n_users, n_rows, d_model=d_model, bounds=bounds)

        def in_blocks(size: int, *rows: Any) -> Any:
            return user_blocks(lambda rows: function(*rows, shard), rows, block=size)

        # By what the program is lowered for, which may be several: a bundle's is, on a machine that has none of them.
        on_cpu, on_others = (functools.partial(in_blocks, block(each)) for each in (CPU, ACCELERATOR))
        if block(CPU) == block(ACCELERATOR):
            return on_cpu(*rows)
        return jax.lax.platform_dependent(*rows, cpu=on_cpu, default=on_others)

    return map_catalogue(local, rows, item_table, outputs=("rows", "rows"))


def user_blocks(function: Callable[..., Any], rows: Any, *given: Any, block: int) -> Any:
    """`function(rows, *given)` for `block` rows of the tree `rows` at a time, one block after another."""
    n_users = len(jax.tree.leaves(rows)[0])
    n_blocks = -(-n_users // block)
    block = -(-n_users // max(n_blocks, 1))  # as even as can be: a last block that is mostly padding is waste
    padding = n_blocks * block - n_users

    def cut(row: Array) -> Array:
        row = jnp.pad(row, ((0, padding),) + ((0, 0),) * (row.ndim - 1))
        return row.reshape(n_blocks, block, *row.shape[1:])

    outputs = jax.lax.map(lambda rows: function(rows, *given), jax.tree.map(cut, rows))
    return jax.tree.map(lambda out: out.reshape(-1, *out.shape[2:])[:n_users], outputs)
