"""The residual-quantised autoencoder: where gradients go, and what its terms are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec.semantic_ids import rqvae
from seqrec.semantic_ids.kmeans import KMeansConfig
from seqrec.semantic_ids.neighbours import NeighbourPairs
from seqrec.semantic_ids.rqvae import RQVAEConfig, contrastive_loss, rqvae_quantised, train_rqvae, unused_entropy
from seqrec.types import InputError

RNG = np.random.default_rng(0)
CONFIG = RQVAEConfig(
    hidden=(16,),
    code_width=4,
    n_steps=200,
    batch_size=64,
    learning_rate=0.03,
    refill_every=50,
    contrastive=0.01,
    codebook_use=0.01,
)
KMEANS = KMeansConfig(2)
CENTRES = RNG.normal(size=(8, 6)).astype(np.float32)
SIZES = (8, 8)
# Each item with one of the same cluster, or with one of the next where the numbers wrap.
PAIRS = NeighbourPairs(np.arange(160, dtype=np.int32) * 8 % 159 + 1, np.arange(150))
VECTORS = CENTRES[np.arange(160) % 8] + 0.02 * RNG.normal(size=(160, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    return train_rqvae(VECTORS, SIZES, CONFIG, kmeans_config=KMEANS, seed=0, pairs=PAIRS)


def test_eight_clusters_are_reconstructed_from_their_codes(trained):
    quantised = rqvae_quantised(trained, VECTORS)
    # A code for each cluster would leave the noise, .0004 of the variance.
    assert quantised.errors[-1] < 0.1
    assert len(np.unique(quantised.codes, axis=0)) >= 8
    assert quantised.points.shape == (160, 4)


def test_equal_seeds_give_equal_weights(trained):
    again = train_rqvae(VECTORS, SIZES, CONFIG, kmeans_config=KMEANS, seed=0, pairs=PAIRS)
    jax.tree.map(np.testing.assert_array_equal, trained, again)


def reached(params, config, pairs=None):
    """The parts of the parameters that each term of the loss has a gradient to."""

    def terms(params):
        return rqvae.loss_terms(params, jnp.asarray(VECTORS[:32]), pairs, config)[0]

    gradients = jax.jit(jax.jacrev(terms))(params)
    return {
        term: {name for name, part in each.items() if any(np.any(leaf != 0) for leaf in jax.tree.leaves(part))}
        for term, each in gradients.items()
    }


def test_gradients_go_where_the_papers_send_them(trained):
    ids = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    config = RQVAEConfig(hidden=(16,), code_width=4, contrastive=1.0, codebook_use=1.0)
    assert reached(trained, config, rqvae.Pairs(jnp.asarray(ids), jnp.asarray(VECTORS[ids - 1]))) == {
        "reconstruction": {"encoder", "decoder"},  # straight through the codes
        "codebooks": {"codebooks"},
        "commitment": {"encoder"},
        "use": {"encoder", "codebooks"},
        "contrastive": {"encoder"},
    }


def test_the_latent_has_the_gradient_of_the_sum_of_its_code_vectors(trained):
    latents = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)

    def through(latents):
        return jnp.sum(jnp.sin(rqvae._quantise(trained["codebooks"], latents, CONFIG)[0]))

    quantised = rqvae._quantise(trained["codebooks"], latents, CONFIG)[0]
    np.testing.assert_allclose(jax.jit(jax.grad(through))(latents), jnp.cos(quantised), rtol=1e-5, atol=1e-6)


def test_the_contrastive_term_is_info_nce_and_takes_no_item_as_its_own_negative():
    first, second = RNG.normal(size=(2, 4, 3))
    ids = np.array([[1, 2, 3, 4], [5, 6, 5, 7]])  # item 5 is the second of two pairs
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (first, second))
    total = 0.0
    for x, y, other in ((a, b, ids[1]), (b, a, ids[0])):
        for row in range(4):
            scores = np.exp(x[row] @ y.T / 0.5)
            kept = [place for place in range(4) if place == row or other[place] != other[row]]
            total -= np.log(scores[row] / scores[kept].sum()) / 8
    arrays = [jnp.asarray(each, jnp.float32) for each in (first, second)]
    np.testing.assert_allclose(contrastive_loss(*arrays, jnp.asarray(ids), 0.5), total, rtol=1e-5)


def test_the_term_of_use_is_0_for_equal_use_and_log_n_for_one_code():
    table = jnp.eye(4) * 100.0
    np.testing.assert_allclose(unused_entropy(table + 0.01, table), 0.0, atol=1e-4)
    np.testing.assert_allclose(unused_entropy(jnp.tile(table[:1], (4, 1)) + 0.01, table), np.log(4), rtol=1e-4)


def test_codes_that_were_not_chosen_move_to_latents(trained):
    tables = [trained["codebooks"][0].at[3].set(1e3), trained["codebooks"][1]]
    uses = [jnp.ones(8, jnp.int32).at[3].set(0), jnp.ones(8, jnp.int32)]
    state = rqvae._State({**trained, "codebooks": tables}, None, uses)
    moved = rqvae._refill(state, jnp.asarray(VECTORS), jax.random.key(0)).params["codebooks"]
    latents = rqvae._run(trained["encoder"], jnp.asarray(VECTORS))
    assert float(jnp.abs(latents - moved[0][3]).sum(axis=1).min()) < 1e-5
    np.testing.assert_array_equal(np.delete(moved[0], 3, axis=0), np.delete(tables[0], 3, axis=0))
    np.testing.assert_array_equal(moved[1], tables[1])


def test_a_contrastive_weight_without_pairs_is_refused():
    with pytest.raises(InputError, match=r"contrastive=0.01 needs pairs"):
        train_rqvae(VECTORS, SIZES, CONFIG, kmeans_config=KMEANS, seed=0)


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(InputError, match=r"the loss of the RQ-VAE is (inf|nan) after 200 steps; scale the vectors"):
        train_rqvae(VECTORS * 1e25, SIZES, CONFIG, kmeans_config=KMEANS, seed=0, pairs=PAIRS)
