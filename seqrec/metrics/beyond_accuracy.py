"""Properties of recommendation lists beyond accuracy: coverage, concentration, popularity, novelty, diversity and
repetition.

All are computed from `lists`, the items recommended to each user: ids [users, k] as `top_k_items` returns them, 0
where a list is shorter. The conventions:

- Ids outside 1..n_items are empty places and count nowhere.
- An item that stands twice in a list counts at each of its places.
- Tables of items have a row for each id, and row 0 is padding: `item_counts[item_id]`.
- Figures of the whole catalogue come from `exposure_counts`, which add up over batches and devices.
- Figures of users are returned as one value a user. It is NaN for an empty list and, where pairs are compared, for a
  list of one item: sum with `jnp.nansum`, count with `~jnp.isnan`, and divide once, at the end.
- An `InputError` is raised where lists are no integers, or a table or a number is out of range.

No array has the shape [users, n_items], and each figure is one program for each shape of its arrays.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from seqrec.metrics.ranks import as_comparable
from seqrec.types import InputError

Lists = Integer[Array | np.ndarray, "users k"]
ItemCounts = Integer[Array | np.ndarray, " n_items_plus_1"] | Float[Array | np.ndarray, " n_items_plus_1"]


def exposure_counts(lists: Lists, *, n_items: int) -> Int[Array, " n_items_plus_1"]:
    """How often each item is recommended, by id; entry 0 is 0. The counts of two batches add with `+`.

    >>> exposure_counts(jnp.array([[2, 3], [3, 0]]), n_items=4).tolist()
    [0, 0, 1, 2, 0]
    """
    if n_items < 1:
        raise InputError(f"n_items={n_items} is below 1; pass the size of the catalogue")
    return _counts_of(_ids(lists, "lists"), n_items)


@functools.partial(jax.jit, static_argnums=1)
def _counts_of(lists: Integer[Array, "users k"], n_items: int) -> Int[Array, " n_items_plus_1"]:
    ids = jnp.where((lists >= 1) & (lists <= n_items), lists, n_items + 1)
    return jnp.zeros(n_items + 1, jnp.int32).at[ids].add(1, mode="drop")


def coverage_of_counts(counts: Integer[Array | np.ndarray, " n_items_plus_1"]) -> Float[Array, ""]:
    """`catalogue_coverage` of the lists that `exposure_counts` counted.

    >>> float(coverage_of_counts(jnp.array([0, 0, 1, 2, 0])))
    0.5
    """
    return jnp.mean(_of_items(counts) > 0)


def gini_of_counts(counts: Integer[Array | np.ndarray, " n_items_plus_1"]) -> Float[Array, ""]:
    """`gini` of the lists that `exposure_counts` counted.

    >>> float(gini_of_counts(jnp.array([0, 0, 0, 3, 1])))  # shares 0, 0, 1/4, 3/4 weigh -3/4, -1/4, 1/4, 3/4
    0.625
    """
    return _gini(_of_items(counts))


@jax.jit
def _gini(counts: Integer[Array, " n_items"]) -> Float[Array, ""]:
    exposures = jnp.sort(counts.astype(jnp.float32))
    n_items = exposures.size
    # (2i - n - 1) / n for the i-th least exposed item: the weights of two mirrored items cancel.
    weights = jnp.arange(1 - n_items, n_items, 2, dtype=jnp.float32) / n_items
    return jnp.sum(weights * (exposures / jnp.sum(exposures)))


def catalogue_coverage(lists: Lists, *, n_items: int) -> Float[Array, ""]:
    """The share of the catalogue that is recommended to at least one user (Ge, Delgado-Battenfeld and Jannach, 2010).

    It grows with the number of users, so compare models over the same ones.

    >>> float(catalogue_coverage(jnp.array([[2, 3], [3, 0]]), n_items=4))
    0.5
    """
    return coverage_of_counts(exposure_counts(lists, n_items=n_items))


def gini(lists: Lists, *, n_items: int) -> Float[Array, ""]:
    """The Gini coefficient of the items' exposure counts: 0 if all are equal, (n_items - 1) / n_items if one has all.

    Fleder and Hosanagar (2009), over all items, those that are never recommended too. NaN where nothing is recommended.

    >>> float(gini(jnp.array([[1, 2], [3, 4]]), n_items=4)), float(gini(jnp.array([[1], [1]]), n_items=4))
    (0.0, 0.75)
    """
    return gini_of_counts(exposure_counts(lists, n_items=n_items))


def popularity_bias(lists: Lists, item_counts: ItemCounts) -> Float[Array, " users"]:
    """Mean popularity of each user's list; its mean over users is the average recommendation popularity, ARP.

    `item_counts` are the numbers of interactions with each item in the training data, or their shares, by id (Yin et
    al., 2012; Abdollahpouri, Burke and Mobasher, 2019).

    >>> popularity_bias(jnp.array([[1, 2], [2, 0], [0, 0]]), jnp.array([0, 9, 1])).tolist()
    [5.0, 1.0, nan]
    """
    return _mean_over_places(_ids(lists, "lists"), _as_float32(item_counts))


def novelty(lists: Lists, item_counts: ItemCounts, *, n_users: int) -> Float[Array, " users"]:
    """Mean self-information of each user's list in bits: -log2 of the share of users who know the item.

    `item_counts` are the numbers of training users who interacted with each item, out of `n_users` (Zhou et al., 2010).
    An item without a user counts as known to one; its novelty would be infinite.

    >>> novelty(jnp.array([[1, 2], [3, 0], [0, 0]]), jnp.array([0, 8, 2, 0]), n_users=8).tolist()
    [1.0, 3.0, nan]
    """
    if n_users < 1:
        raise InputError(f"n_users={n_users} is below 1; pass the number of users behind item_counts")
    known = jnp.maximum(_as_float32(item_counts), 1.0)
    return _mean_over_places(_ids(lists, "lists"), jnp.log2(jnp.float32(n_users)) - jnp.log2(known))


def intra_list_diversity(
    lists: Lists, item_vectors: Float[Array | np.ndarray, "n_items_plus_1 d"]
) -> Float[Array, " users"]:
    """1 - the mean cosine similarity of the pairs of items in each list (Ziegler et al., 2005, with cosines).

    0 if all vectors point the same way, 1 if they are orthogonal, above 1 if they are opposed. An item whose vector is
    zero has similarity 0 with all. Take vectors that the evaluated model did not learn: its own would bias the figure.

    >>> vectors = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> intra_list_diversity(jnp.array([[1, 2, 0], [1, 2, 3], [3, 0, 0]]), vectors).tolist()  # 0, 2/3, no pair
    [0.0, 0.666..., nan]
    """
    return _cosine_distances(_ids(lists, "lists"), jnp.asarray(item_vectors))


@jax.jit
def _cosine_distances(
    lists: Integer[Array, "users k"], vectors: Float[Array, "n_items_plus_1 d"]
) -> Float[Array, " users"]:
    def of_list(items: Integer[Array, " k"]) -> Float[Array, ""]:
        filled = _is_filled(items, vectors.shape[0])
        chosen = jnp.where(filled[:, None], vectors[jnp.where(filled, items, 0)], 0.0).astype(jnp.float32)
        largest = jnp.max(jnp.abs(chosen), axis=1, keepdims=True)
        chosen = chosen / jnp.where(largest == 0.0, 1.0, largest)  # squares of large entries exceed float32
        norms = jnp.linalg.norm(chosen, axis=1, keepdims=True)
        units = chosen / jnp.where(norms == 0.0, 1.0, norms)
        # |sum of units|^2 is the sum over all ordered pairs, those of an item with itself included.
        similarity = jnp.sum(jnp.sum(units, axis=0) ** 2) - jnp.sum(units**2)
        n_filled = jnp.sum(filled)
        # Without a pair the similarity is 0 only up to rounding, so 0 / 0 would not always be NaN.
        return jnp.where(n_filled > 1, 1.0 - similarity / (n_filled * (n_filled - 1)), jnp.nan)

    return jax.vmap(of_list)(lists)


def intra_list_diversity_of_attributes(
    lists: Lists, attributes: Bool[Array | np.ndarray, "n_items_plus_1 n_attributes"]
) -> Float[Array, " users"]:
    """The mean Jaccard distance of the pairs of items in each list, by the attributes that each item has.

    Jaccard (1901): 1 - (attributes in common) / (attributes of either). With one attribute an item, such as its artist
    in one-hot rows, it is the share of pairs that differ. Two items without attributes have distance 1.

    >>> genres = jnp.array([[False, False], [True, False], [True, True], [False, True]])
    >>> lists = jnp.array([[1, 2, 0], [1, 3, 0], [1, 2, 3], [1, 0, 0]])
    >>> intra_list_diversity_of_attributes(lists, genres).tolist()  # 1/2, 1, (1/2 + 1/2 + 1) / 3, no pair
    [0.5, 1.0, 0.666..., nan]
    """
    table = jnp.asarray(attributes)
    if table.dtype != bool:
        raise InputError(f"attributes are {table.dtype}; give booleans, True where an item has an attribute")
    return _jaccard_distances(_ids(lists, "lists"), table)


@jax.jit
def _jaccard_distances(
    lists: Integer[Array, "users k"], table: Bool[Array, "n_items_plus_1 n_attributes"]
) -> Float[Array, " users"]:
    def of_list(items: Integer[Array, " k"]) -> Float[Array, ""]:
        filled = _is_filled(items, table.shape[0])
        chosen = (table[jnp.where(filled, items, 0)] & filled[:, None]).astype(jnp.float32)
        common = chosen @ chosen.T
        n_each = jnp.sum(chosen, axis=1)
        either = n_each[:, None] + n_each - common
        pairs = filled[:, None] & filled & ~jnp.eye(items.size, dtype=bool)
        return 1.0 - jnp.sum(common / jnp.maximum(either, 1.0), where=pairs) / jnp.sum(pairs)

    return jax.vmap(of_list)(lists)


def personal_repeat_share(lists: Lists, histories: Integer[Array | np.ndarray, "users h"]) -> Float[Array, " users"]:
    """The share of each user's list that is already in the user's own history; 0 pads both.

    Music and groceries are consumed again, so neither 0 nor 1 is the aim: compare with the share of repeats among
    the held-out items (Anderson et al., 2014). Every id above 0 is an item here.

    >>> lists, histories = jnp.array([[1, 2], [3, 0], [0, 0]]), jnp.array([[2, 5, 2], [4, 0, 0], [1, 0, 0]])
    >>> personal_repeat_share(lists, histories).tolist()
    [0.5, 0.0, nan]
    """
    if len(lists) != len(histories):
        raise InputError(f"lists has {len(lists)} users and histories {len(histories)}; pass one history a list")
    return _repeat_shares(_ids(lists, "lists"), _ids(histories, "histories"))


@jax.jit
def _repeat_shares(lists: Integer[Array, "users k"], histories: Integer[Array, "users h"]) -> Float[Array, " users"]:
    def of_list(items: Integer[Array, " k"], history: Integer[Array, " h"]) -> Float[Array, ""]:
        filled = items > 0
        repeated = filled & jnp.any(items[:, None] == history, axis=1)
        return jnp.sum(repeated) / jnp.sum(filled)

    return jax.vmap(of_list)(lists, histories)


def _of_items(counts: Integer[Array | np.ndarray, " n_items_plus_1"]) -> Integer[Array, " n_items"]:
    if counts.ndim != 1 or counts.shape[0] < 2:
        raise InputError(f"counts has shape {counts.shape}; pass one count per id 0..n_items, n_items at least 1")
    return as_comparable(counts, "counts")[1:]


def _ids(ids: Array | np.ndarray, name: str) -> Integer[Array, "..."]:
    """Ids in a type that holds the size of any catalogue."""
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InputError(f"{name} are {ids.dtype}; give integers, item ids and 0 for an empty place")
    ids = as_comparable(ids, name)
    return ids.astype(jnp.promote_types(ids.dtype, jnp.int32))


def _as_float32(counts: ItemCounts) -> Float[Array, " n_items_plus_1"]:
    """The counts as floats, large ones too, which jax would wrap from 64 to 32 bits."""
    return jnp.asarray(np.asarray(counts, np.float32) if isinstance(counts, np.ndarray) else counts, jnp.float32)


def _is_filled(items: Int[Array, "*shape"], n_rows: int) -> Bool[Array, "*shape"]:
    return (items >= 1) & (items < n_rows)


@jax.jit
def _mean_over_places(
    lists: Integer[Array, "users k"], of_item: Float[Array, " n_items_plus_1"]
) -> Float[Array, " users"]:
    """Mean of a table's entries over the filled places of each list."""

    def of_list(items: Integer[Array, " k"]) -> Float[Array, ""]:
        filled = _is_filled(items, of_item.size)
        return jnp.sum(of_item[jnp.where(filled, items, 0)], where=filled) / jnp.sum(filled)

    return jax.vmap(of_list)(lists)
