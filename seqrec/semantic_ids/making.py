"""Codes of item vectors by any method, with what tells items with equal codes apart."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tyro.conf import OmitArgPrefixes

from seqrec.config import changed_fields, check_at_least, check_between, check_fields
from seqrec.semantic_ids.additive import Quantised
from seqrec.semantic_ids.codes import MOST_CODES, SemanticIds, semantic_ids
from seqrec.semantic_ids.collisions import balanced_codes, last_level
from seqrec.semantic_ids.kmeans import KMeansConfig, nothing
from seqrec.semantic_ids.neighbours import NeighbourPairs
from seqrec.semantic_ids.product import ProductConfig, product_quantised
from seqrec.semantic_ids.residual import ResidualConfig, residual_kmeans
from seqrec.semantic_ids.rqvae import RQVAEConfig, rqvae_quantised, train_rqvae
from seqrec.semantic_ids.vectors import VectorConfig
from seqrec.types import InputError


@dataclass(frozen=True)
class CodesConfig:
    """How codes are made of item vectors."""

    method: Literal["residual-kmeans", "rq-vae", "product"] = "residual-kmeans"
    """How vectors become codes. residual-kmeans: each level is k-means of the residual of the levels before it. rq-vae:
    the same for latents that an autoencoder learns. product: each level codes its own part of the rotated vectors."""
    n_levels: int = 3
    """Number of codes of an item, without the one that --equal-codes last-level adds."""
    n_codes: int = 256
    """Number of codes in the codebook of each level."""
    equal_codes: Literal["last-level", "balanced", "none"] = "last-level"
    """What to do with items that get equal codes. last-level: one more code numbers them, the most frequent first.
    balanced: some get the nearest codes that are free. none: codes stay equal, and a model cannot tell them apart."""
    seed: int = 0
    """Seed of all random choices, such as starting centroids and batches."""
    kmeans: OmitArgPrefixes[KMeansConfig] = field(default_factory=KMeansConfig)
    residual: OmitArgPrefixes[ResidualConfig] = field(default_factory=ResidualConfig)
    product: OmitArgPrefixes[ProductConfig] = field(default_factory=ProductConfig)
    rqvae: OmitArgPrefixes[RQVAEConfig] = field(default_factory=RQVAEConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        check_between(self, 1, 16, "n_levels")
        check_between(self, 2, MOST_CODES, "n_codes")
        check_at_least(self, 0, "seed")
        if self.rqvae.contrastive and self.method != "rq-vae":
            raise InputError(f"contrastive={self.rqvae.contrastive} goes with method=rq-vae, not {self.method}")


def check_unset(vectors: VectorConfig, codes: CodesConfig, *, flag: str) -> None:
    """Refuses any setting of vectors and codes beside a `flag` that makes neither."""
    for config in (vectors, codes):
        for name, value in changed_fields(config).items():
            raise InputError(f"{flag} takes codes as they are, and {name}={value} is about making them; leave one out")


class Made(NamedTuple):
    """Codes and what they were chosen from."""

    ids: SemanticIds
    quantised: Quantised
    """Before items with equal codes were told apart."""


def make_codes(
    vectors: Float[np.ndarray, "n_items width"],
    config: CodesConfig,
    *,
    counts: Int[np.ndarray, " n_items_plus_1"],
    pairs: NeighbourPairs | None = None,
    between_steps: Callable[[], object] = nothing,
) -> Made:
    """The codes of all items, whose vector is row id - 1; `counts` are their training events, by id.

    Raises:
      InputError: see `kmeans`, `train_rqvae` and `balanced_codes`.
    """
    sizes = (config.n_codes,) * config.n_levels
    if len(vectors) < config.n_codes:
        raise InputError(
            f"{len(vectors):,} items are fewer than n_codes={config.n_codes} codes of a level; "
            f"try --n-codes {max(2, 1 << int(np.log2(max(len(vectors), 2)) / 2))}"
        )
    shared: dict[str, Any] = {"kmeans_config": config.kmeans, "seed": config.seed, "between_steps": between_steps}
    if config.method == "rq-vae":
        quantised = rqvae_quantised(train_rqvae(vectors, sizes, config.rqvae, pairs=pairs, **shared), vectors)
    elif config.method == "product":
        quantised = product_quantised(vectors, sizes, config.product, **shared)
    else:
        quantised = residual_kmeans(vectors, sizes, config.residual, **shared)
    codes = quantised.codes
    if config.equal_codes == "balanced":
        codes = balanced_codes(quantised)
    elif config.equal_codes == "last-level":
        last = last_level(codes, sizes, counts[1:])
        codes, sizes = np.column_stack([codes, last]), (*sizes, int(last.max()) + 1)
    return Made(semantic_ids(np.concatenate([np.zeros_like(codes[:1]), codes]), sizes), quantised)
