"""Heads beside the next item: their losses by hand, what they leave as it was, and truths that they must find."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of
from seqrec.objectives import masked_item, next_item

from seqrec.data.batches import make_queries, training_batches
from seqrec.data.engagement import EngagementConfig, base_rate_losses, engagement, log_base_rates
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import head_losses, make_head_step
from seqrec.heads import with_heads
from seqrec.losses.softmax import softmax_loss
from seqrec.params import init_params
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import InputError

N_ITEMS, D_MODEL, LENGTH = 12, 8, 10
SMALL = TransformerConfig(d_model=D_MODEL, n_blocks=1, dropout=0.0)
ENCODER = transformer(SMALL, n_items=N_ITEMS, max_length=LENGTH)
RATES = {"skip": np.log([0.75, 0.25]), "gap": np.log([0.4, 0.3, 0.2, 0.1])}
WITH_HEADS = with_heads(ENCODER, RATES)
BATCH = rows_of([[5, 9, 5, 5], [9, 5, 12]], [[1, 2, 3, 1, 2]])._replace(
    next_skips=jnp.arange(20).reshape(2, 10) % 3 == 0, next_gaps=1 + jnp.arange(20).reshape(2, 10) % 4
)


def drawn_params(scale):
    params = init_params(WITH_HEADS.specs, jax.random.key(0))
    rng = np.random.default_rng(0)
    own = jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32), params["heads"])
    return {**params, "heads": own}


def test_the_losses_are_those_of_a_logistic_and_a_softmax_regression():
    params = drawn_params(1.0)
    hidden = np.random.default_rng(1).normal(size=(2, LENGTH, D_MODEL))
    found = WITH_HEADS.heads(params, jnp.asarray(hidden, jnp.float32), BATCH.next_items, BATCH.answers)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    skip, gap = wide["heads"]["skip"], wide["heads"]["gap"]
    for row, place in np.ndindex(2, LENGTH):
        state = hidden[row, place]
        item = wide["item_table"][int(BATCH.next_items[row, place])] * np.sqrt(D_MODEL)
        logit = state @ skip["pair"] @ item + state @ skip["state"] + item @ skip["item"] + skip["bias"]
        p = 1 / (1 + np.exp(-logit))
        expected = -np.log(p if BATCH.next_skips[row, place] else 1 - p)
        np.testing.assert_allclose(found["skip"][row, place], expected, rtol=1e-4, atol=1e-5)
        logits = state @ gap["kernel"] + gap["bias"]
        expected = np.log(np.sum(np.exp(logits))) - logits[int(BATCH.next_gaps[row, place]) - 1]
        np.testing.assert_allclose(found["gap"][row, place], expected, rtol=1e-4, atol=1e-5)


def test_a_head_begins_with_how_often_its_answers_come_and_moves_no_state():
    params = init_params(WITH_HEADS.specs, jax.random.key(0))
    hidden = jnp.ones((2, LENGTH, D_MODEL))

    def total(hidden):
        found = WITH_HEADS.heads(params, hidden, BATCH.next_items, BATCH.answers)
        expected = -RATES["skip"][np.asarray(BATCH.next_skips, int)], -RATES["gap"][np.asarray(BATCH.next_gaps) - 1]
        for losses, each in zip(found.values(), expected, strict=True):
            np.testing.assert_allclose(jax.lax.stop_gradient(losses), each, rtol=1e-5)
        return sum(jnp.sum(each) for each in found.values())

    with jax.disable_jit():
        np.testing.assert_array_equal(jax.vjp(total, hidden)[1](jnp.ones(()))[0], 0)


def step_of(encoder, loss=softmax_loss, objective=next_item, n_steps=10, **options):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=5e-3, warmup_steps=10), encoder.specs, n_steps=n_steps)
    step = make_train_step(encoder, objective, loss, optimizer, seed=0, average_decay=0.9, **options)
    return init_state(encoder, optimizer, seed=0), step


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_each_position_adds_its_heads_losses_by_their_weights(accumulation_steps):
    encoder = with_heads(ENCODER, {"gap": np.log(np.full(4, 0.25))})
    batch = BATCH._replace(next_skips=None)
    state, plain = step_of(ENCODER, accumulation_steps=accumulation_steps)
    _, without = plain(state, batch)
    state, step = step_of(encoder, accumulation_steps=accumulation_steps, head_weights={"gap": 0.25})
    _, found = step(state, batch)
    assert found.n_targets == without.n_targets
    # A head begins at the rates of its answers, here four alike.
    np.testing.assert_allclose(found.loss, without.loss + 0.25 * np.log(4), rtol=1e-5)


def test_a_skip_is_foretold_where_it_is_no_target():
    encoder = with_heads(ENCODER, {"skip": np.log([0.5, 0.5])})
    state, plain = step_of(ENCODER)
    _, without = plain(state, BATCH)
    state, step = step_of(encoder, head_weights={"skip": 1.0})
    _, found = step(state, BATCH)
    n_asked = np.sum(np.asarray(BATCH.next_items) > 0)
    assert without.n_targets < n_asked
    np.testing.assert_allclose(found.loss, without.loss + np.log(2) * n_asked / without.n_targets, rtol=1e-5)


def test_the_encoder_s_own_weights_begin_as_without_heads():
    plain, more = (init_params(encoder.specs, jax.random.key(3)) for encoder in (ENCODER, WITH_HEADS))
    del more["heads"]
    jax.tree.map(np.testing.assert_array_equal, plain, more)


def test_heads_need_an_objective_that_asks_what_follows():
    state, step = step_of(WITH_HEADS, objective=masked_item, head_weights={"skip": 1.0, "gap": 1.0})
    with pytest.raises(InputError, match="heads need an objective that asks what follows each item: next_item"):
        step(state, BATCH)


# Truths


def trained(store, config, n_steps=150):
    """The losses of the heads that `config` asks for at each user's last event, and those of the base rate."""
    sizes = {"max_length": LENGTH, "batch_size": 16}
    found, split = engagement(config, store), leave_last_out(store)
    encoder = transformer(dataclasses.replace(SMALL, d_model=16), n_items=store.n_items, max_length=LENGTH)
    encoder = with_heads(encoder, log_base_rates(found, store, split))
    batches = training_batches(store, split, **sizes, seed=0, whole_histories=True, engagement=found)
    state, step = step_of(encoder, n_steps=n_steps, head_weights=config.heads)
    for number in range(n_steps):
        state, _ = step(state, batches.batch(number))
    queries = make_queries(store, split.test, **sizes, mask_seen=False, engagement=found)
    losses = head_losses(make_head_step(encoder), state.averaged, queries)
    return losses, base_rate_losses(found, store, split, asked=queries.target_positions)


def random_plays(n_users=60, n_events=12):
    items = np.random.default_rng(0).integers(1, N_ITEMS + 1, n_users * n_events)
    return items, np.arange(0, len(items) + 1, n_events), np.arange(N_ITEMS), np.arange(n_users)


def test_a_gap_that_the_item_decides_is_foretold():
    items, *others = random_plays()
    # After an even item the next follows at once, after an odd one an hour later.
    wait = np.where(items % 2 == 0, 1, 3600)
    store = sequence_store(items, *others, columns={"timestamp_us": 1_000_000 * np.cumsum(np.append(0, wait[:-1]))})
    losses, base_rate = trained(store, EngagementConfig(gap_head=1.0))
    # Two answers about as often: log 2 = .69 nats if nothing is known, and 0 if all is.
    assert base_rate["gap"].mean() > 0.65
    assert losses["gap"].mean() < 0.1


def test_skips_of_what_does_not_fit_are_foretold():
    items, *others = random_plays()
    # Who plays even items skips odd ones, and the other way round: neither the item nor the history alone tells.
    skipped = items % 2 != np.append(0, items[:-1]) % 2
    store = sequence_store(items, *others, columns={"skipped": skipped})
    losses, base_rate = trained(store, EngagementConfig(skips=("skipped=true",), skip_head=1.0))
    assert base_rate["skip"].mean() > 0.65
    assert losses["skip"].mean() < 0.15


# Answers


def a_store(**columns):
    return sequence_store(
        np.array([1, 2, 3, 4, 5, 1, 2, 3]), np.array([0, 5, 8]), np.arange(5), np.arange(2), columns=columns
    )


TIMED = a_store(
    timestamp_us=1_000_000 * np.array([0, 0, 1, 4, 11, 7, 1007, 9007]),
    kind=np.array([0, 1, 2, 1, 1, 0, 2, 1], np.int32),
)
MORE_TIMED = sequence_store(
    np.arange(1, 7),
    np.array([0, 6]),
    np.arange(6),
    np.arange(1),
    columns={"kind": np.array([0, 1, 2, 1, 2, 2], np.int32)},
)
KINDS = {"kind": ("like", "play", "skip")}


def test_training_and_queries_hold_the_next_event_s_answers():
    found = engagement(EngagementConfig(skips=("kind=skip",), skip_head=1.0, gap_head=1.0), TIMED, categories=KINDS)
    split = leave_last_out(TIMED)
    make = functools.partial(training_batches, TIMED, split, max_length=5, batch_size=2, seed=0)
    batch = make(engagement=found).batch(0)
    # Bucket b ends before 2^b - 1 seconds: gaps of 0 and 1 s are in 1 and 2; the second user's first is of 1000 s.
    pairs = {(int(a), int(b)) for a, b in zip(batch.next_gaps.ravel(), batch.next_skips.ravel(), strict=True) if a}
    assert pairs == {(1, False), (2, True)}
    queries = make_queries(TIMED, split.test, max_length=5, batch_size=2, mask_seen=False, engagement=found)
    asked = next(queries.batches())
    of_query = {int(query): int(last) for query, last in zip(asked.query, asked.last, strict=True) if query >= 0}
    gaps, skips = asked.batch.next_gaps.ravel(), asked.batch.next_skips.ravel()
    # 7 s is in bucket 4, and 8000 s in bucket 13; neither is a skip.
    assert [(int(gaps[of_query[query]]), bool(skips[of_query[query]])) for query in (0, 1)] == [(4, False), (13, False)]


def test_the_base_rate_counts_each_answer_once_more_than_it_came():
    found = engagement(EngagementConfig(skips=("kind=skip",), skip_head=1.0), TIMED, categories=KINDS)
    losses = base_rate_losses(found, TIMED, leave_last_out(TIMED), asked=np.array([6, 7]))
    # The first user's second and third event are trained on as targets, of which one was a skip: 2 / 4 and 2 / 4.
    np.testing.assert_allclose(losses["skip"], -np.log([2 / 4, 2 / 4]))
    losses = base_rate_losses(found, MORE_TIMED, leave_last_out(MORE_TIMED), asked=np.array([2, 3]))
    # One of three: 2 / 5 and 3 / 5.
    np.testing.assert_allclose(losses["skip"], -np.log([2 / 5, 3 / 5]))


@pytest.mark.parametrize(
    ("config", "store", "line"),
    [
        ({"gap_head": 1.0}, a_store(), "gap_head foretells times, but the store has no timestamp_us; prepare it with"),
        ({"skips": ("kind=skipp",)}, TIMED, "no event is 'skipp', but like, play, skip; name one of them"),
    ],
)
def test_what_the_store_does_not_hold_is_told_in_one_line(config, store, line):
    with pytest.raises(InputError, match=line):
        engagement(EngagementConfig(**config), store, categories=KINDS)


def test_text_without_its_codes_is_told_in_one_line():
    with pytest.raises(InputError, match="the store holds kind as numbers, without their texts; name one"):
        engagement(EngagementConfig(skips=("kind=skip",)), TIMED)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"skip_head": 0.1}, "skip_head=0.1 predicts skips; name them, as in skips skipped=1"),
        ({"gap_head": -1.0}, "gap_head=-1.0 is below 0"),
    ],
)
def test_a_head_that_cannot_be_is_refused(config, line):
    with pytest.raises(ValueError, match=line):
        EngagementConfig(**config)
