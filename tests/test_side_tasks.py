"""Side tasks: their losses by hand, what they leave unchanged, and planted truths that they must find."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of

from seqrec.data.batches import EventFields, Windows, make_queries, training_batches
from seqrec.data.engagement import EngagementConfig, base_rate_losses, engagement, log_base_rates
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.heads.softmax import softmax_model
from seqrec.params import init_params
from seqrec.run.results import query_side_task_losses
from seqrec.side_tasks import labels_of, side_task_losses, with_side_tasks
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import InputError

N_ITEMS, D_MODEL, LENGTH = 12, 8, 10
SMALL = TransformerConfig(d_model=D_MODEL, n_blocks=1, dropout=0.0)
PLAIN = softmax_model(transformer(SMALL, n_items=N_ITEMS, max_length=LENGTH))
RATES = {"skip": np.log([0.75, 0.25]), "gap": np.log([0.4, 0.3, 0.2, 0.1])}
WEIGHTS = {"skip": 1.0, "gap": 1.0}
MODEL = with_side_tasks(PLAIN, WEIGHTS, RATES)
BATCH = rows_of([[5, 9, 5, 5], [9, 5, 12]], [[1, 2, 3, 1, 2]])._replace(
    next_skips=jnp.arange(20).reshape(2, 10) % 3 == 0, next_gaps=1 + jnp.arange(20).reshape(2, 10) % 4
)


def drawn_params(scale):
    params = init_params(MODEL.specs, jax.random.key(0))
    rng = np.random.default_rng(0)
    own = jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32), params["side_tasks"])
    return {**params, "side_tasks": own}


def test_the_losses_are_those_of_a_logistic_and_a_softmax_regression():
    params = drawn_params(1.0)
    hidden = np.random.default_rng(1).normal(size=(2, LENGTH, D_MODEL))
    losses = side_task_losses(params, jnp.asarray(hidden, jnp.float32), BATCH.next_items, labels_of(BATCH))
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    skip, gap = wide["side_tasks"]["skip"], wide["side_tasks"]["gap"]
    for row, place in np.ndindex(2, LENGTH):
        state = hidden[row, place]
        item = wide["item_table"][int(BATCH.next_items[row, place])] * np.sqrt(D_MODEL)
        logit = state @ skip["pair"] @ item + state @ skip["state"] + item @ skip["item"] + skip["bias"]
        p = 1 / (1 + np.exp(-logit))
        expected = -np.log(p if BATCH.next_skips[row, place] else 1 - p)
        np.testing.assert_allclose(losses["skip"][row, place], expected, rtol=1e-4, atol=1e-5)
        logits = state @ gap["kernel"] + gap["bias"]
        expected = np.log(np.sum(np.exp(logits))) - logits[int(BATCH.next_gaps[row, place]) - 1]
        np.testing.assert_allclose(losses["gap"][row, place], expected, rtol=1e-4, atol=1e-5)


def test_a_side_task_starts_at_the_rates_of_its_labels_and_moves_no_state():
    params = init_params(MODEL.specs, jax.random.key(0))
    hidden = jnp.ones((2, LENGTH, D_MODEL))

    def total(hidden):
        all_losses = side_task_losses(params, hidden, BATCH.next_items, labels_of(BATCH))
        expected = -RATES["skip"][np.asarray(BATCH.next_skips, int)], -RATES["gap"][np.asarray(BATCH.next_gaps) - 1]
        for losses, each in zip(all_losses.values(), expected, strict=True):
            np.testing.assert_allclose(jax.lax.stop_gradient(losses), each, rtol=1e-5)
        return sum(jnp.sum(each) for each in all_losses.values())

    with jax.disable_jit():
        np.testing.assert_array_equal(jax.vjp(total, hidden)[1](jnp.ones(()))[0], 0)


def step_of(model, n_steps=10, **options):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=5e-3, warmup_steps=10), model.specs, n_steps=n_steps)
    step = make_train_step(model, optimizer, seed=0, average_decay=0.9, **options)
    return init_state(model, optimizer, seed=0), step


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_each_position_adds_the_losses_of_its_side_tasks_by_their_weights(accumulation_steps):
    model = with_side_tasks(PLAIN, {"gap": 0.25}, {"gap": np.log(np.full(4, 0.25))})
    batch = BATCH._replace(next_skips=None)
    (_, without), (_, metrics) = (
        step(state, batch)
        for state, step in (step_of(each, accumulation_steps=accumulation_steps) for each in (PLAIN, model))
    )
    assert metrics.n_targets == without.n_targets
    # A side task starts at the rates of its labels, here four equal ones.
    np.testing.assert_allclose(metrics.loss, without.loss + 0.25 * np.log(4), rtol=1e-5)


def test_a_skip_is_predicted_where_it_is_no_target():
    model = with_side_tasks(PLAIN, {"skip": 1.0}, {"skip": np.log([0.5, 0.5])})
    (_, without), (_, metrics) = (step(state, BATCH) for state, step in (step_of(PLAIN), step_of(model)))
    n_next_items = np.sum(np.asarray(BATCH.next_items) > 0)
    assert without.n_targets < n_next_items
    np.testing.assert_allclose(metrics.loss, without.loss + np.log(2) * n_next_items / without.n_targets, rtol=1e-5)


def test_all_other_weights_start_as_without_side_tasks():
    plain, more = (init_params(model.specs, jax.random.key(3)) for model in (PLAIN, MODEL))
    del more["side_tasks"]
    jax.tree.map(np.testing.assert_array_equal, plain, more)


def test_a_bidirectional_encoder_is_refused():
    bidirectional = transformer(dataclasses.replace(SMALL, causal=False), n_items=N_ITEMS, max_length=LENGTH)
    with pytest.raises(InputError, match="side tasks need a causal encoder, whose states know no later event"):
        with_side_tasks(softmax_model(bidirectional), WEIGHTS, RATES)


def test_side_tasks_are_not_added_twice():
    with pytest.raises(InputError, match="the model has auxiliary losses already; add all side tasks at once"):
        with_side_tasks(MODEL, WEIGHTS, RATES)


# Planted truths


def trained(store, config, n_steps=150):
    """The losses of the config's side tasks at each user's last event, and those of the base rate."""
    sizes = {"max_length": LENGTH, "batch_size": 16}
    signals, split = engagement(config, store), leave_last_out(store)
    encoder = transformer(dataclasses.replace(SMALL, d_model=16), n_items=store.n_items, max_length=LENGTH)
    model = with_side_tasks(softmax_model(encoder), config.heads, log_base_rates(signals, store, split))
    fields = EventFields(engagement=signals)
    batches = training_batches(store, split, **sizes, seed=0, windows=Windows(whole=True), fields=fields)
    state, step = step_of(model, n_steps=n_steps)
    for number in range(n_steps):
        state, _ = step(state, batches.batch(number))
    queries = make_queries(store, split.test, **sizes, mask_seen=False, fields=fields)
    losses = query_side_task_losses(model, state.averaged, queries)
    return losses, base_rate_losses(signals, store, split, positions=queries.target_positions)


def random_plays(n_users=60, n_events=12):
    items = np.random.default_rng(0).integers(1, N_ITEMS + 1, n_users * n_events)
    return items, np.arange(0, len(items) + 1, n_events), np.arange(N_ITEMS), np.arange(n_users)


def test_a_gap_that_depends_on_the_item_is_predicted():
    items, *others = random_plays()
    # After an even item the next follows at once, after an odd one an hour later.
    wait = np.where(items % 2 == 0, 1, 3600)
    store = sequence_store(items, *others, columns={"timestamp_us": 1_000_000 * np.cumsum(np.append(0, wait[:-1]))})
    losses, base_rate = trained(store, EngagementConfig(gap_head=1.0))
    # Two labels, about equally frequent: log 2 = .69 nats if nothing is known, and 0 if everything is.
    assert base_rate["gap"].mean() > 0.65
    assert losses["gap"].mean() < 0.1


def test_skips_that_depend_on_item_and_history_are_predicted():
    items, *others = random_plays()
    # After an even item an odd one is skipped, and the reverse: neither the item nor the history alone decides.
    skipped = items % 2 != np.append(0, items[:-1]) % 2
    store = sequence_store(items, *others, columns={"skipped": skipped})
    losses, base_rate = trained(store, EngagementConfig(skips=("skipped=true",), skip_head=1.0))
    assert base_rate["skip"].mean() > 0.65
    assert losses["skip"].mean() < 0.15


# Labels


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


def test_batches_of_training_and_of_queries_hold_the_next_event_s_labels():
    signals = engagement(EngagementConfig(skips=("kind=skip",), skip_head=1.0, gap_head=1.0), TIMED, categories=KINDS)
    split = leave_last_out(TIMED)
    make = functools.partial(training_batches, TIMED, split, max_length=5, batch_size=2, seed=0)
    fields = EventFields(engagement=signals)
    batch = make(fields=fields).batch(0)
    # Bucket b ends before 2^b - 1 seconds: gaps of 0 and 1 s are in 1 and 2; the second user's first is of 1000 s.
    pairs = {(int(a), int(b)) for a, b in zip(batch.next_gaps.ravel(), batch.next_skips.ravel(), strict=True) if a}
    assert pairs == {(1, False), (2, True)}
    queries = make_queries(TIMED, split.test, max_length=5, batch_size=2, mask_seen=False, fields=fields)
    first = next(queries.batches())
    of_query = {int(query): int(last) for query, last in zip(first.query, first.last, strict=True) if query >= 0}
    gaps, skips = first.batch.next_gaps.ravel(), first.batch.next_skips.ravel()
    # 7 s is in bucket 4, and 8000 s in bucket 13; neither is a skip.
    assert [(int(gaps[of_query[query]]), bool(skips[of_query[query]])) for query in (0, 1)] == [(4, False), (13, False)]


def test_the_base_rate_adds_one_to_the_count_of_each_label():
    signals = engagement(EngagementConfig(skips=("kind=skip",), skip_head=1.0), TIMED, categories=KINDS)
    losses = base_rate_losses(signals, TIMED, leave_last_out(TIMED), positions=np.array([6, 7]))
    # The first user's second and third event are trained on as targets, of which one was a skip: 2 / 4 and 2 / 4.
    np.testing.assert_allclose(losses["skip"], -np.log([2 / 4, 2 / 4]))
    losses = base_rate_losses(signals, MORE_TIMED, leave_last_out(MORE_TIMED), positions=np.array([2, 3]))
    # One of three: 2 / 5 and 3 / 5.
    np.testing.assert_allclose(losses["skip"], -np.log([2 / 5, 3 / 5]))


@pytest.mark.parametrize(
    ("config", "store", "line"),
    [
        ({"gap_head": 1.0}, a_store(), "gap_head .* times, but the store has no timestamp_us; prepare it with"),
        ({"skips": ("kind=skipp",)}, TIMED, "no event is 'skipp', but like, play, skip; name one of them"),
    ],
)
def test_what_the_store_does_not_hold_is_refused_in_one_line(config, store, line):
    with pytest.raises(InputError, match=line):
        engagement(EngagementConfig(**config), store, categories=KINDS)


def test_text_without_its_codes_is_refused_in_one_line():
    with pytest.raises(InputError, match="the store holds kind as numbers, without their texts; name one"):
        engagement(EngagementConfig(skips=("kind=skip",)), TIMED)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"skip_head": 0.1}, "skip_head=0.1 predicts skips; name them, as in skips skipped=1"),
        ({"gap_head": -1.0}, "gap_head=-1.0 is below 0"),
    ],
)
def test_bad_weights_of_side_tasks_are_refused(config, line):
    with pytest.raises(ValueError, match=line):
        EngagementConfig(**config)
