"""Studies of a simulated world whose truth is known: a real item feature is found to help, a shuffled one is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of

from seqrec.data.features import Feature, shuffled_feature
from seqrec.data.synthetic.catalogue import item_table
from seqrec.data.synthetic.config import ListeningConfig
from seqrec.data.synthetic.simulation import simulate_events
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.heads.softmax import softmax_model
from seqrec.items import ItemConfig, with_items
from seqrec.metrics import ndcg_at_k
from seqrec.metrics.ranks import target_ranks
from seqrec.stats import compare_over_seeds_and_users
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step

N_STUDIES = 200
N_USERS, N_ITEMS, N_GENRES, LENGTH = 300, 400, 8, 10
N_STEPS, BATCH_SIZE = 60, 60
SEEDS = (0, 1, 2)
WITH_GENRE = ItemConfig(item_features=("genre",))
EVERYWHERE = np.ones(N_ITEMS + 1, np.int64)


def a_world(seed):
    """Latest plays of listeners, [n_users, LENGTH + 1], the last of which is held out, and the genres of items."""
    config = ListeningConfig(
        n_users=2 * N_USERS,
        n_items=N_ITEMS,
        n_artists=N_GENRES,
        n_genres=N_GENRES,
        seed=seed,
        sessions_per_user=2.0,
        tracks_per_session=15.0,
        repeat_share=0.0,
        artist_share=0.0,
        genre_share=0.6,
        taste_sharpness=2.0,
        release_share=0.0,
        zipf_exponent=0.5,
    )
    plays = simulate_events(config)
    histories = np.split(plays["item_id"], np.flatnonzero(np.diff(plays["user_id"])) + 1)
    long_enough = [history[-LENGTH - 1 :] for history in histories if len(history) > LENGTH]
    genre = np.append(0, item_table(config)["genre"])
    feature = Feature("genre", genre[:, None].astype(np.int32), genre > 0, tuple("abcdefgh"))
    return np.array(long_enough[:N_USERS]), feature


@functools.cache
def programs():
    """First states, one a seed, and `train(states, batch, last, orders)`: each user's NDCG@10 after all steps."""
    encoder = transformer(
        TransformerConfig(d_model=8, n_blocks=1, n_heads=1, dropout=0.0), n_items=N_ITEMS, max_length=LENGTH
    )
    model = with_items(softmax_model(encoder), WITH_GENRE, [a_world(0)[1]], counts=EVERYWHERE)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_steps=10), model.specs, n_steps=N_STEPS)
    step = make_train_step(model, optimizer, seed=0, average_decay=0.9)

    def train(state, batch, last, orders):
        def one(state, users):
            return step(state, jax.tree.map(lambda field: field[users], batch))[0], None

        state, _ = jax.lax.scan(one, state, orders)
        params = model.compose(state.averaged, state.constants.compose)
        hidden = encoder.encode(params, batch)[:, -1]
        scores = hidden @ params["item_table"][: N_ITEMS + 1].T
        candidates = jnp.arange(N_ITEMS + 1) > 0
        ranks = target_ranks(scores, last[:, None], where=jnp.broadcast_to(candidates, scores.shape))
        return jax.vmap(functools.partial(ndcg_at_k, k=10))(ranks)

    # The worlds differ, so each study may begin with the same weights.
    states = [init_state(model, optimizer, seed=seed) for seed in SEEDS]
    return states, jax.jit(jax.vmap(train, in_axes=(0, None, None, 0)))


def constants_of(feature):
    encoder = transformer(TransformerConfig(d_model=8, n_heads=1), n_items=N_ITEMS, max_length=LENGTH)
    return with_items(softmax_model(encoder), WITH_GENRE, [feature], counts=EVERYWHERE).constants["feature genre"]


def values_of(world, features):
    """[n_systems, n_seeds, n_users] of trainings with these features, of each system one a seed."""
    histories, _ = world
    batch = rows_of(*[[history] for history in histories[:, :-1].tolist()], length=LENGTH)
    last = jnp.asarray(histories[:, -1])
    begun, train = programs()
    states, orders = [], []
    for of_seed in features:
        for seed, state, feature in zip(SEEDS, begun, of_seed, strict=True):
            compose = {**state.constants.compose, "feature genre": constants_of(feature)}
            states.append(state.replace(constants=state.constants._replace(compose=compose)))
            rng = np.random.default_rng(seed)
            epochs = [rng.permutation(N_USERS).reshape(-1, BATCH_SIZE) for _ in range(N_STEPS * BATCH_SIZE // N_USERS)]
            orders.append(np.concatenate(epochs))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    values = np.asarray(train(stacked, batch, last, jnp.asarray(orders)), np.float64)
    return values.reshape(len(features), len(SEEDS), N_USERS)


def a_study(number):
    """Of genres, and of a shuffle of them, the contrast with another shuffle and its adjusted p-value.

    The base has a shuffled feature too. Against ids alone a shuffled feature is no null: it has parameters of its own,
    and in so short a training its noise costs quality, which a study rightly finds.
    """
    world = a_world(number)
    genre = world[1]
    base, other = (
        [shuffled_feature(genre, trained=EVERYWHERE > 0, seed=10 * number + seed + first) for seed in SEEDS]
        for first in (0, 5)
    )
    return compare_over_seeds_and_users(values_of(world, [base, [genre] * len(SEEDS), other]))


@pytest.fixture(scope="module")
def studies():
    return [a_study(number) for number in range(N_STUDIES)]


@pytest.mark.slow
def test_a_real_feature_is_found_to_help(studies):
    gains = [study[0][0].estimate for study in studies]
    is_significant = [study[0][1] <= 0.05 and study[0][0].estimate > 0 for study in studies]
    print(f"{len(studies)} studies: mean gain {np.mean(gains):.4f}, found in {np.mean(is_significant):.3f}")
    # The effect to find: a gain of at most .04 NDCG@10, which is a fifth to a third of the base's.
    assert 0 < np.mean(gains) < 0.04
    assert np.mean(is_significant) >= 0.8


@pytest.mark.slow
def test_a_shuffled_feature_is_significant_in_at_most_one_study_of_twenty(studies):
    false = [study[1][1] <= 0.05 for study in studies]
    print(f"{len(studies)} studies: {sum(false)} false verdicts")
    assert np.mean(false) <= 0.05
