"""Residual-quantised variational autoencoder: codes of latents that an encoder learns for them."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int, Int32

from seqrec.config import check_above, check_at_least, check_fields
from seqrec.semantic_ids.additive import Quantised, encode, encode_block, relative_errors
from seqrec.semantic_ids.kmeans import CHUNK, DEFAULT_KMEANS, KMeansConfig, check_vectors, nothing
from seqrec.semantic_ids.neighbours import NeighbourPairs
from seqrec.semantic_ids.residual import fit_codebooks
from seqrec.types import InputError, Params


@dataclass(frozen=True)
class RQVAEConfig:
    """Sizes and training of the autoencoder."""

    hidden: tuple[int, ...] = (256, 128)
    """RQ-VAE: widths of the encoder's hidden layers; the decoder has the same in reverse."""
    code_width: int = 32
    """RQ-VAE: width of the latents and the code vectors."""
    n_steps: int = 5000
    """RQ-VAE: number of training steps."""
    batch_size: int = 1024
    """RQ-VAE: number of items in a training step, and of pairs of items for the contrastive term."""
    learning_rate: float = 1e-3
    """RQ-VAE: learning rate of Adam, which falls to 0 along a cosine."""
    commitment: float = 0.25
    """RQ-VAE: weight of the commitment term, which draws latents to their code vectors."""
    codebook_use: float = 0.0
    """RQ-VAE: weight of a term that is 0 when all codes of a level are used equally often: log of the number of codes
    minus the entropy of the mean soft assignment."""
    refill_every: int = 100
    """RQ-VAE: number of steps between refills, which move codes without items to latents of the batch. 0: never."""
    contrastive: float = 0.0
    """RQ-VAE: weight of the contrastive term, which draws together the codes of items that follow one another in
    training histories, and so adds collaborative information to codes of content."""
    contrastive_temperature: float = 0.1
    """RQ-VAE: temperature of the contrastive term."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "code_width", "n_steps", "batch_size")
        check_at_least(self, 0, "commitment", "codebook_use", "refill_every", "contrastive")
        check_above(self, 0, "learning_rate", "contrastive_temperature")
        if any(width < 1 for width in self.hidden):
            raise InputError(f"hidden={self.hidden} holds a width below 1; try hidden=256 128")


DEFAULT = RQVAEConfig()


class Pairs(NamedTuple):
    """Items that share sessions: row i of both is a pair."""

    ids: Int32[Any, "2 pairs"]
    vectors: Float[Any, "2 pairs d"]


class _State(NamedTuple):
    params: Params
    moments: Any
    uses: list[Int32[Array, " n_codes"]]
    """How often each code was chosen since the last refill."""


def init_params(key: Array, width: int, config: RQVAEConfig) -> Params:
    """Encoder and decoder; their codebooks are found by residual k-means of the first latents."""
    widths = [width, *config.hidden, config.code_width]
    keys = iter(jax.random.split(key, 2 * len(widths)))

    def layers(sizes: list[int]) -> list[Params]:
        he = jax.nn.initializers.he_normal()
        return [
            {"kernel": he(next(keys), (before, after)), "bias": jnp.zeros(after)}
            for before, after in itertools.pairwise(sizes)
        ]

    return {"encoder": layers(widths), "decoder": layers(widths[::-1])}


def network(layers: Sequence[Params], inputs: Float[Array, "n d"]) -> Float[Array, "n width"]:
    """Dense layers with ReLU between them."""
    for place, layer in enumerate(layers):
        inputs = inputs @ layer["kernel"] + layer["bias"]
        inputs = jax.nn.relu(inputs) if place + 1 < len(layers) else inputs
    return inputs


_run = jax.jit(network)


def loss_terms(
    params: Params, vectors: Float[Array, "n d"], pairs: Pairs | None, config: RQVAEConfig
) -> tuple[dict[str, Float[Array, ""]], Int32[Array, "n n_levels"]]:
    """The weighted terms of the loss, each a mean over items, and the items' codes.

    Reconstruction, code vectors and commitment as van den Oord et al. 2017, eq. 3, with the sum over levels of Lee et
    al. 2022, eq. 8 and Rajput et al. 2023, section 3.1; gradients pass from the sum of the code vectors straight to the
    latent.
    """
    latents = network(params["encoder"], vectors)
    quantised, codes, terms = _quantise(params["codebooks"], latents, config)
    errors = jnp.sum(jnp.square(vectors - network(params["decoder"], quantised)), axis=1)
    terms["reconstruction"] = jnp.mean(errors)
    if pairs is not None:
        first, second = (
            _quantise(params["codebooks"], network(params["encoder"], each), config)[0] for each in pairs.vectors
        )
        loss = contrastive_loss(first, second, pairs.ids, config.contrastive_temperature)
        terms["contrastive"] = config.contrastive * loss
    return terms, codes


def _quantise(
    codebooks: Sequence[Float[Array, "_ width"]], latents: Float[Array, "n width"], config: RQVAEConfig
) -> tuple[Float[Array, "n width"], Int32[Array, "n n_levels"], dict[str, Array]]:
    """Sums of code vectors with the gradient of the latents, the codes, and the terms of the codebooks."""
    stop = jax.lax.stop_gradient
    codes = encode_block([stop(table) for table in codebooks], stop(latents))
    terms = {"codebooks": jnp.zeros(()), "commitment": jnp.zeros(()), "use": jnp.zeros(())}
    rest, total = latents, jnp.zeros_like(latents)
    for level, table in enumerate(codebooks):
        chosen = table[codes[:, level]]
        terms["codebooks"] += jnp.mean(jnp.sum(jnp.square(stop(rest) - chosen), axis=1))
        terms["commitment"] += config.commitment * jnp.mean(jnp.sum(jnp.square(rest - stop(chosen)), axis=1))
        if config.codebook_use:
            terms["use"] += config.codebook_use * unused_entropy(rest, table)
        rest, total = rest - stop(chosen), total + stop(chosen)
    return latents + stop(total - latents), codes, terms


def unused_entropy(points: Float[Array, "n width"], table: Float[Array, "_ width"]) -> Float[Array, ""]:
    """log of the number of codes minus the entropy of the mean soft assignment: 0 where all codes are used alike."""
    distances = jnp.sum(jnp.square(table), axis=1) - 2.0 * points @ table.T
    distances = distances + jnp.sum(jnp.square(points), axis=1, keepdims=True)
    # As sharp as the choice is: in units of the distance to the nearest.
    unit = jax.lax.stop_gradient(jnp.mean(jnp.min(distances, axis=1))) + 1e-9
    mean = jnp.mean(jax.nn.softmax(-distances / unit, axis=1), axis=0)
    return jnp.log(float(len(table))) + jnp.sum(mean * jnp.log(mean + 1e-12))


def contrastive_loss(
    first: Float[Array, "pairs width"],
    second: Float[Array, "pairs width"],
    ids: Int[Array, "2 pairs"],
    temperature: float,
) -> Float[Array, ""]:
    """InfoNCE in both directions (van den Oord et al. 2018, eq. 4): each among the other items of the batch."""
    first, second = (each / (jnp.linalg.norm(each, axis=1, keepdims=True) + 1e-9) for each in (first, second))
    logits = first @ second.T / temperature
    is_self = jnp.eye(len(logits), dtype=bool)
    loss = jnp.zeros(())
    for scores, candidates in ((logits, ids[1]), (logits.T, ids[0])):
        # The same item in another pair is no negative.
        repeats = (candidates[:, None] == candidates) & ~is_self
        scores = jnp.where(repeats, -jnp.inf, scores)
        loss += 0.5 * jnp.mean(jax.nn.logsumexp(scores, axis=1) - jnp.diagonal(logits))
    return loss


def train_rqvae(
    vectors: Float[np.ndarray, "n d"],
    n_codes: Sequence[int],
    config: RQVAEConfig = DEFAULT,
    *,
    kmeans_config: KMeansConfig = DEFAULT_KMEANS,
    seed: int,
    pairs: NeighbourPairs | None = None,
    between_steps: Callable[[], object] = nothing,
) -> Params:
    """Encoder, decoder and codebooks after training; item id i has the vector in row i - 1.

    Vectors are read a batch at a time and may be memory-mapped. `pairs` are read where `contrastive` is above 0.

    Raises:
      InputError: see `kmeans`; a contrastive weight without pairs; a loss that is no number.
    """
    check_vectors(vectors, max(n_codes))
    if config.contrastive and pairs is None:
        raise InputError(f"contrastive={config.contrastive} needs pairs of items that share sessions; give a store")
    rng, key = np.random.default_rng([seed, 1]), jax.random.key(seed)
    n_sampled = min(len(vectors), kmeans_config.kmeans_batch)
    sample = np.asarray(vectors[np.sort(rng.choice(len(vectors), n_sampled, replace=False))], np.float32)
    params = init_params(key, vectors.shape[1], config)
    latents = np.asarray(_run(params["encoder"], sample))
    start = fit_codebooks(latents, n_codes, kmeans_config=kmeans_config, seed=seed, between_steps=between_steps)
    params["codebooks"] = list(map(jnp.asarray, start))
    state = _State(params, _optimizer(config).init(params), [jnp.zeros(n, jnp.int32) for n in n_codes])
    loss = jnp.zeros(())
    for number in range(config.n_steps):
        batch = np.asarray(vectors[rng.integers(0, len(vectors), config.batch_size)], np.float32)
        drawn = None
        if config.contrastive and pairs is not None:
            ids = np.stack(pairs.draw(rng, config.batch_size))
            drawn = Pairs(ids, np.asarray(vectors[ids - 1], np.float32))
        state, loss = _step(state, batch, drawn, config=config)
        # In the last fifth, what has moved could no longer settle.
        may_refill = config.refill_every and number + 1 < 0.8 * config.n_steps
        if may_refill and (number + 1) % config.refill_every == 0:
            state = _refill(state, batch, jax.random.fold_in(key, number))
        between_steps()
    if not np.isfinite(loss):
        raise InputError(
            f"the loss of the RQ-VAE is {float(loss)} after {config.n_steps} steps; scale the vectors to "
            f"lengths about 1, or lower learning_rate={config.learning_rate:g}"
        )
    return state.params


def _optimizer(config: RQVAEConfig) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.n_steps))


@functools.partial(jax.jit, static_argnames="config")
def _step(
    state: _State,
    batch: Float[Array, "n d"],
    pairs: Pairs | None,
    *,
    config: RQVAEConfig,
) -> tuple[_State, Float[Array, ""]]:
    def loss(params: Params) -> tuple[Array, Array]:
        terms, codes = loss_terms(params, batch, pairs, config)
        return sum(terms.values(), jnp.zeros(())), codes

    (value, codes), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, moments = _optimizer(config).update(gradients, state.moments)
    uses = [uses.at[codes[:, level]].add(1) for level, uses in enumerate(state.uses)]
    return _State(optax.apply_updates(state.params, updates), moments, uses), value


@jax.jit
def _refill(state: _State, batch: Float[Array, "n d"], key: Array) -> _State:
    """Code vectors that were not chosen move to what a latent of the batch has left at their level."""
    rest = network(state.params["encoder"], batch)
    codes = encode_block(state.params["codebooks"], rest)
    codebooks = []
    for level, (table, uses) in enumerate(zip(state.params["codebooks"], state.uses, strict=True)):
        rows = jax.random.choice(jax.random.fold_in(key, level), len(batch), (len(table),))
        codebooks.append(jnp.where((uses == 0)[:, None], rest[rows], table))
        rest = rest - table[codes[:, level]]
    return _State({**state.params, "codebooks": codebooks}, state.moments, [jnp.zeros_like(u) for u in state.uses])


def rqvae_quantised(params: Params, vectors: Float[np.ndarray, "n d"]) -> Quantised:
    """Codes of the vectors; `points` are their latents, and errors those of the decoded sums of code vectors."""
    codebooks = tuple(map(np.asarray, params["codebooks"]))
    # Of whole chunks alone, so that one program serves all but the last.
    latents = np.concatenate([np.asarray(_run(params["encoder"], part)) for part in _parts(vectors)])
    codes = encode(latents, codebooks)
    total, levels = np.zeros_like(latents), []
    for level, table in enumerate(codebooks):
        total += table[codes[:, level]]
        decoded = np.concatenate([np.asarray(_run(params["decoder"], part)) for part in _parts(total)])
        [error] = relative_errors(vectors, np.arange(len(vectors), dtype=np.int32)[:, None], (decoded,))
        levels.append(error)
    return Quantised(latents, codebooks, codes, tuple(levels))


def _parts(vectors: Float[np.ndarray, "n d"]) -> list[Float[np.ndarray, "n d"]]:
    return [np.asarray(vectors[first : first + CHUNK], np.float32) for first in range(0, len(vectors), CHUNK)]
