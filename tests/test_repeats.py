"""The repeat mixture against its dense definition in float64: losses, gradients, ranks, lists, and a planted truth."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of

from seqrec.data.batches import Windows, make_queries, training_batches
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.data.synthetic.config import ListeningConfig
from seqrec.data.synthetic.simulation import simulate_events
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.generation import generate, with_uncached_decoder
from seqrec.heads.softmax import softmax_model
from seqrec.items import ItemConfig, with_items
from seqrec.losses import softmax as losses
from seqrec.losses.config import LossConfig
from seqrec.losses.sampled import binary_cross_entropy, sampled_loss, sampled_softmax
from seqrec.losses.softmax import LossContext, SoftmaxSettings, softmax_loss
from seqrec.metrics import means, metric_sums
from seqrec.negatives import Negatives
from seqrec.params import init_params
from seqrec.questions import continuation, masked_item, next_item
from seqrec.recommendation import make_recommend
from seqrec.repeats import Repeats, mixture_of, mixture_states, repeat_probabilities, with_repeats
from seqrec.retrieval import rank_targets, top_k_items
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import HistoryBatch, InputError

N_ITEMS, D_MODEL, LENGTH = 37, 8, 10
TILES = {
    "one pass": losses.tile_sizes,
    "blocks of positions": lambda n_positions, n_rows: (4, n_rows),
    "chunks of items too": lambda n_positions, n_rows: (4, 25),
}
# Several histories in a row, items that come back in one and in its neighbour, and targets that were there before.
BATCH = rows_of([[5, 9, 5, 5, 30], [9, 5, 12]], [[1, 2, 3, 1, 2, 3, 1, 37, 36, 1]], [[7, 8]], length=LENGTH)
SMALL = TransformerConfig(d_model=D_MODEL, n_blocks=1, dropout=0.0)


def a_plain_model(ask=next_item):
    return softmax_model(transformer(SMALL, n_items=N_ITEMS, max_length=LENGTH), ask=ask)


def a_model(ask=next_item):
    return with_repeats(a_plain_model(ask))


def strong_params(model, seed=0):
    """Weights far from the start, so that shares and positions differ widely."""
    params = init_params(model.specs, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    own = {name: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for name, leaf in params["repeats"].items()}
    return {**params, "item_table": 20 * params["item_table"], "repeats": own}


def dense_log_probabilities(params, hidden, batch):
    """[rows, length, n_items] by the definition, with every score at once; nothing is taken from the package."""
    own, table = params["repeats"], params["item_table"][1 : N_ITEMS + 1]
    explore = jax.nn.softmax(hidden @ table.T, axis=-1)
    p = jax.nn.sigmoid(hidden @ own["share"] + own["share_bias"])[..., None]
    length = batch.items.shape[1]
    place = np.arange(length)
    visible = (place[None, :] <= place[:, None]) & (batch.segment_ids[:, :, None] == batch.segment_ids[:, None, :])
    scores = (hidden @ own["query"]) @ jnp.swapaxes(hidden @ own["key"], 1, 2) / np.sqrt(hidden.shape[-1])
    scores -= own["age"] * np.log1p(np.maximum(place[:, None] - place[None, :], 0))
    weights = jnp.where(visible, jnp.exp(scores - scores.max()), 0.0)
    weights /= weights.sum(-1, keepdims=True)
    one_hot = (batch.items[..., None] == np.arange(1, N_ITEMS + 1)).astype(hidden.dtype)
    return jnp.log(p * (weights @ one_hot) + (1 - p) * explore)


def dense_loss(params, hidden, weights):
    logs = dense_log_probabilities(params, hidden, BATCH)
    targets = np.asarray(BATCH.next_items)
    of_targets = jnp.take_along_axis(logs, jnp.maximum(targets - 1, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(targets > 0, weights * of_targets, 0.0))


@functools.cache
def dense_value_and_gradients():
    """Of `a_case`, in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), a_case())
        return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(dense_loss, (0, 1)))(*wide))


def a_case():
    """Parameters, states and weights."""
    rng = np.random.default_rng(1)
    hidden = jnp.asarray(rng.normal(size=(3, LENGTH, D_MODEL)), jnp.float32)
    return strong_params(a_model()), hidden, jnp.asarray(rng.uniform(0.1, 2, (3, LENGTH)), jnp.float32)


probabilities = jax.jit(repeat_probabilities)  # one program: without, each of its operations is compiled alone


@jax.jit
def a_mixture(params, hidden, batch=BATCH):
    return mixture_of(repeat_probabilities(params, hidden, batch), batch.items, batch.next_items)


def each_item_once(key, targets):
    """As if N_ITEMS uniform draws had met every item: the sampled sum is the whole catalogue's then."""
    return Negatives(jnp.arange(1, N_ITEMS + 1), jnp.full(N_ITEMS, -np.log(N_ITEMS)))


@pytest.mark.parametrize("way", [*TILES, "sampled"])
def test_the_loss_and_its_gradients_are_those_of_the_dense_mixture(way, monkeypatch):
    monkeypatch.setattr(losses, "tile_sizes", TILES.get(way, losses.tile_sizes))
    params, hidden, weights = a_case()
    softmax = sampled_loss(sampled_softmax, each_item_once) if way == "sampled" else softmax_loss
    model = with_repeats(softmax_model(transformer(SMALL, n_items=N_ITEMS, max_length=LENGTH), softmax))
    question = next_item(BATCH._replace(next_weights=weights))

    def loss(params, hidden):
        return model.head.loss(params, hidden, question, key=jax.random.key(0))[0]

    total, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, hidden)
    expected, expected_gradients = dense_value_and_gradients()
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(params, hidden), expected, rtol=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (gradients, expected_gradients)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)


def test_ranks_and_lists_are_those_of_the_dense_mixture():
    params, hidden, _ = a_case()
    last = jnp.asarray([4, 7, 19, 21])  # the newest position of each history
    vectors = jax.jit(mixture_states)(hidden, probabilities(params, hidden, BATCH), BATCH.items, last)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (params, hidden))
        dense = np.asarray(jax.jit(dense_log_probabilities)(*wide, BATCH)).reshape(-1, N_ITEMS)[np.asarray(last)]
    targets = jnp.broadcast_to(jnp.arange(1, N_ITEMS + 1), (4, N_ITEMS))
    rank = jax.jit(functools.partial(rank_targets, n_items=N_ITEMS, block_users=3))
    ranks, _ = rank(vectors, params["item_table"], targets)
    order = np.argsort(-dense, axis=1)
    np.testing.assert_array_equal(ranks, 1 + np.argsort(order, axis=1))
    items, scores = top_k_items(vectors, params["item_table"], k=N_ITEMS, n_items=N_ITEMS)
    np.testing.assert_array_equal(items, 1 + order)
    # Scores are log-probabilities but for one number a query.
    np.testing.assert_allclose(np.ptp(scores - np.take_along_axis(dense, order, axis=1), axis=1), 0, atol=1e-4)
    plain, _ = top_k_items(hidden.reshape(-1, D_MODEL)[last], params["item_table"], k=N_ITEMS, n_items=N_ITEMS)
    assert np.any(items != plain)  # so the history has an effect


def test_a_probability_that_is_no_number_ranks_last():
    params, hidden, _ = a_case()
    params["repeats"]["share"] = params["repeats"]["share"].at[0].set(jnp.nan)
    head = a_model().head

    @jax.jit
    def rank(params):
        return head.rank(params, head.queries(params, hidden, BATCH, jnp.asarray([4])), jnp.asarray([5]))

    ranks, _ = rank(params)
    assert ranks.tolist() == [N_ITEMS]


def test_a_history_means_the_same_wherever_it_is_packed():
    model = a_model()
    params = strong_params(model)
    together = rows_of([[5, 9, 5, 5], [9, 5, 12]], length=LENGTH)
    separate = rows_of([[9, 5, 12]], [[5, 9, 5, 5]], length=LENGTH)

    @jax.jit
    def of(batch, last):
        hidden = model.encoder.encode(params, batch)
        options = {"n_items": N_ITEMS, "context": LossContext(mixture=a_mixture(params, hidden, batch))}
        loss = softmax_loss(hidden, params["item_table"], batch.next_items, **options)[0]
        return loss, model.head.top_k(params, model.queries(params, batch, last), k=N_ITEMS)

    loss, (items, scores) = of(together, jnp.asarray([3, 6]))
    same_loss, (same_items, same_scores) = of(separate, jnp.asarray([LENGTH + 3, 2]))
    np.testing.assert_allclose(loss, same_loss, rtol=1e-5)
    np.testing.assert_array_equal(items, same_items)
    np.testing.assert_allclose(scores, same_scores, rtol=1e-4, atol=1e-4)


def test_recommended_items_are_the_best_of_the_mixture():
    model = a_model()
    params = strong_params(model)
    # Nearly all of the probability goes back to the history, most of it to what was played most recently.
    params["repeats"] |= {"share_bias": jnp.float32(30.0), "age": jnp.float32(9.0), "query": jnp.zeros((D_MODEL,) * 2)}
    assert make_recommend(model)(params, [3, 8, 21, 8, 4], 3, mask_seen=False) == [4, 8, 21]


def test_off_is_absent_and_on_leaves_all_other_weights_as_they_were():
    plain = a_plain_model()
    assert "repeats" not in plain.specs
    params, own = (init_params(model.specs, jax.random.key(0)) for model in (plain, with_repeats(plain)))
    assert own.pop("repeats")
    for ours, theirs in zip(jax.tree.leaves(own), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_items_may_be_made_of_other_things_than_a_table():
    counts = np.ones(N_ITEMS + 1, np.int64)
    model = with_repeats(with_items(a_plain_model(), ItemConfig(ids="multi-hash"), counts=counts))
    assert model.specs["repeats"]["query"].shape == (D_MODEL, D_MODEL)
    assert {"items", "repeats"} <= set(model.specs)


def test_a_chance_that_no_item_comes_back_leaves_the_softmax():
    params, hidden, _ = a_case()
    repeats = probabilities(params, hidden, BATCH)
    never = Repeats(jnp.full_like(repeats.log_odds, -80.0), repeats.log_attention)
    context = LossContext(mixture=mixture_of(never, BATCH.items, BATCH.next_items))
    table, targets = params["item_table"], BATCH.next_items
    loss = jax.jit(functools.partial(softmax_loss, n_items=N_ITEMS))
    plain, _ = loss(hidden, table, targets)
    mixed, _ = loss(hidden, table, targets, context=context)
    np.testing.assert_allclose(mixed, plain, rtol=1e-6)


# A planted truth


def a_world():
    config = ListeningConfig(
        n_users=300, n_items=400, n_artists=40, n_genres=4, repeat_share=0.5, repeat_memory_plays=10.0,
        sessions_per_user=4.0, tracks_per_session=8.0,
    )  # fmt: skip
    plays = simulate_events(config)
    histories = np.split(plays["item_id"], np.flatnonzero(np.diff(plays["user_id"])) + 1)
    histories = [history.tolist() for history in histories if len(history) >= 5]
    return store_from_sequences(histories, n_items=config.n_items)


def ndcg_of(model, store, n_steps=100):
    split = leave_last_out(store)
    sizes = {"max_length": 50, "batch_size": 32}
    batches = training_batches(store, split, **sizes, seed=0, windows=Windows(whole=True))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=5e-3, warmup_steps=20), model.specs, n_steps=n_steps)
    step = make_train_step(model, optimizer, seed=0, average_decay=0.9)
    state = init_state(model, optimizer, seed=0)
    for number in range(n_steps):
        state, _ = step(state, batches.batch(number))
    ranks = evaluate(make_eval_step(model), state.averaged, make_queries(store, split.test, **sizes, mask_seen=False))
    return means(metric_sums(ranks.rank))["ndcg@10"]


def test_where_listeners_return_to_what_they_heard_the_mixture_ranks_better():
    store = a_world()
    plain = softmax_model(transformer(dataclasses.replace(SMALL, d_model=16), n_items=store.n_items, max_length=50))
    without, mixed = ndcg_of(plain, store), ndcg_of(with_repeats(plain), store)
    # One standard error of an NDCG over 290 listeners is below .025; the pair shares its listeners.
    assert mixed > without + 0.05


# Refusals


@pytest.mark.parametrize("bad", [{"loss": "bce"}, {"temperature": 2.0}, {"label_smoothing": 0.1}, {"seen_weight": 0.5}])
def test_a_mixture_needs_a_plain_softmax(bad):
    with pytest.raises(ValueError, match="repeat_mixture mixes with a plain softmax; use loss=softmax or sampled"):
        LossConfig(repeat_mixture=True, **bad)
    if "loss" not in bad:
        params, hidden, _ = a_case()
        options = {"context": LossContext(BATCH, a_mixture(params, hidden)), "settings": SoftmaxSettings(**bad)}
        with pytest.raises(InputError, match=f"leave {next(iter(bad))} at"):
            softmax_loss(hidden, params["item_table"], BATCH.next_items, n_items=N_ITEMS, **options)


def test_a_loss_without_probabilities_is_refused():
    params, hidden, _ = a_case()
    options = {"context": LossContext(mixture=a_mixture(params, hidden)), "key": jax.random.key(0)}
    loss = sampled_loss(binary_cross_entropy, each_item_once)
    with pytest.raises(InputError, match="mixture needs probabilities; use sampled_softmax or softmax_loss"):
        loss(hidden, params["item_table"], BATCH.next_items, n_items=N_ITEMS, **options)


@pytest.mark.parametrize("ask", [masked_item, functools.partial(continuation, target_share=1.0)])
def test_a_question_about_chosen_positions_is_refused(ask):
    model = a_model(ask)
    optimizer = make_optimizer(OptimizerConfig(), model.specs, n_steps=1)
    step = make_train_step(model, optimizer, seed=0, average_decay=0.9)
    with pytest.raises(InputError, match="a repeat mixture predicts the next item of every position; use next_item"):
        step(init_state(model, optimizer, seed=0), BATCH)


def test_a_mixture_generates_no_continuations():
    model = a_model()
    histories = HistoryBatch(jnp.ones((1, 2), jnp.int32), jnp.full(1, 2), jnp.zeros((1, 0), jnp.int32))
    with pytest.raises(InputError, match="a RepeatHead gives no distribution of the next item for a state alone"):
        generate(with_uncached_decoder(model), strong_params(model), histories, n=2)


def test_what_a_mixture_cannot_wrap_is_refused():
    bidirectional = transformer(dataclasses.replace(SMALL, causal=False), n_items=N_ITEMS, max_length=LENGTH)
    with pytest.raises(InputError, match="a repeat mixture needs a causal encoder, whose states know no later item"):
        with_repeats(softmax_model(bidirectional))
    with pytest.raises(InputError, match="a repeat mixture needs a softmax head, not a RepeatHead"):
        with_repeats(a_model())
