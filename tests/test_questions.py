"""What training steps ask: the next item at every position, or hidden items and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of

from seqrec.questions import continuation, first_of_continuation, masked_item, next_item
from seqrec.types import Batch, Question


def test_every_position_predicts_the_item_that_followed_it():
    batch = Batch(
        items=jnp.array([[3, 1, 4, 5, 9, 0]]),
        next_items=jnp.array([[1, 4, 1, 9, 2, 0]]),
        segment_ids=jnp.array([[1, 1, 1, 2, 2, 0]]),
        positions=jnp.array([[0, 1, 2, 0, 1, 0]]),
    )
    question = next_item(batch)
    # Of all positions, all alike.
    assert question._replace(inputs=None, targets=None) == Question(None, None)
    assert question.inputs is batch
    targets = question.targets
    np.testing.assert_array_equal(targets, batch.next_items)
    # No history predicts into the one beside it, and padding predicts nothing.
    assert targets[0, 2] != batch.items[0, 3]
    assert targets[0, 5] == 0


def a_batch(n_rows=400, length=20):
    """Rows of two histories and some padding, each item followed by one that is known."""
    random = np.random.default_rng(0)
    rows = rows_of(*([[1] * 9, [1] * 7] for _ in range(n_rows)), length=length)
    items = random.integers(1, 50, rows.items.shape) * (np.asarray(rows.segment_ids) > 0)
    return rows._replace(next_items=jnp.asarray(items))


def test_targets_are_hidden_and_nothing_else_changes():
    batch = a_batch()
    inputs, targets, places, *_ = jax.jit(masked_item)(batch, key=jax.random.key(0))
    before, after = np.asarray(batch.next_items), np.asarray(inputs.next_items)
    hidden = np.zeros(before.shape, bool)
    for row, (place, target) in enumerate(zip(np.asarray(places), np.asarray(targets), strict=True)):
        assert len(set(place.tolist())) == len(place)
        np.testing.assert_array_equal(target[target > 0], before[row, place[target > 0]])
        hidden[row, place[target > 0]] = True
    np.testing.assert_array_equal(after, np.where(hidden, 0, before))
    assert not hidden[before == 0].any()
    for name in ("items", "segment_ids", "positions"):
        np.testing.assert_array_equal(getattr(inputs, name), getattr(batch, name))


def test_a_share_of_each_row_is_hidden_or_the_newest_item_of_each_history():
    batch = a_batch()
    inputs, targets, *_ = masked_item(batch, key=jax.random.key(1), mask_share=0.25, last_share=0.3)
    hidden = (np.asarray(inputs.next_items) == 0) & (np.asarray(batch.next_items) > 0)
    # Each row has histories of 9 and 7 items, the newest at positions 8 and 15.
    is_last = np.array([set(np.flatnonzero(row)) == {8, 15} for row in hidden])
    n_hidden = hidden.sum(axis=1)
    assert set(n_hidden[~is_last].tolist()) == {5}  # a quarter of 20 positions
    share = is_last.mean()
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(hidden))
    np.testing.assert_array_equal((np.asarray(targets) > 0).sum(axis=1), n_hidden)
    # Otherwise all items of a history are hidden equally often.
    per_place = hidden[~is_last][:, :16].mean(axis=0)
    expected = 5 / 16
    np.testing.assert_allclose(per_place, expected, atol=5 * np.sqrt(expected * (1 - expected) / (~is_last).sum()))


def test_hidden_items_are_a_function_of_the_key():
    batch = a_batch(n_rows=5)
    one, again, other = (masked_item(batch, key=jax.random.key(seed)).inputs.next_items for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def cuts_of(inputs, batch):
    """Length of the first part of each history, by row and history; both must be stretches without a gap."""
    cuts = []
    for hidden, segments in zip(np.asarray(inputs.next_items) == 0, np.asarray(batch.segment_ids), strict=True):
        for segment in range(1, segments.max() + 1):
            decoded = hidden[segments == segment]
            first = int(np.argmax(decoded))
            assert decoded[first:].all()
            assert not decoded[:first].any()
            cuts.append(first + 1)
    return cuts


def test_each_history_is_cut_in_two_and_its_second_part_is_predicted():
    batch = a_batch(n_rows=600)
    inputs, targets, places, *_ = jax.jit(lambda batch, key: continuation(batch, key=key, target_share=1.0))(
        batch, jax.random.key(0)
    )
    cuts = np.array(cuts_of(inputs, batch)).reshape(-1, 2)
    # A history of m pairs has m + 1 items, and its first part 1 to m of them, each length equally often.
    for of_history, n_pairs in zip(cuts.T, (9, 7), strict=True):
        often = np.bincount(of_history, minlength=n_pairs + 1)[1:]
        assert len(often) == n_pairs
        np.testing.assert_allclose(often, 600 / n_pairs, atol=5 * np.sqrt(600 / n_pairs))
    assert abs(np.corrcoef(cuts.T)[0, 1]) < 5 / np.sqrt(600)
    hidden = np.asarray(inputs.next_items == 0) & (np.asarray(batch.next_items) > 0)
    targets_in_place = np.zeros(hidden.shape, int)
    np.put_along_axis(targets_in_place, np.asarray(places), np.asarray(targets), axis=1)
    np.testing.assert_array_equal(targets_in_place, np.where(hidden, batch.next_items, 0))
    np.testing.assert_array_equal(inputs.items, batch.items)


def test_a_share_of_a_long_second_part_is_predicted():
    batch = a_batch()
    inputs, targets, places, *_ = continuation(batch, key=jax.random.key(1), target_share=0.25)
    n_decoded = (np.asarray(inputs.next_items == 0) & (np.asarray(batch.next_items) > 0)).sum(axis=1)
    n_targets = (np.asarray(targets) > 0).sum(axis=1)
    np.testing.assert_array_equal(n_targets, np.minimum(n_decoded, 5))  # a quarter of 20 positions
    assert all(len(set(row)) == 5 for row in np.asarray(places).tolist())


def test_of_a_continuation_the_first_item_may_be_all_that_is_asked():
    batch = a_batch(n_rows=100)
    inputs, targets, places, *_ = jax.jit(lambda batch: first_of_continuation(batch, key=jax.random.key(0)))(batch)
    whole = continuation(batch, key=jax.random.key(0))
    np.testing.assert_array_equal(inputs.next_items, whole.inputs.next_items)
    # One of each of the two histories of a row: the first of those that are hidden.
    assert (np.sum(np.asarray(targets) > 0, axis=1) == 2).all()
    for row, (each, columns) in enumerate(zip(np.asarray(targets), np.asarray(places), strict=True)):
        hidden = np.flatnonzero((np.asarray(inputs.next_items[row]) == 0) & (np.asarray(batch.next_items[row]) > 0))
        first = [part[0] for part in (hidden[hidden < 9], hidden[hidden >= 9])]
        assert sorted(columns[each > 0].tolist()) == first
        np.testing.assert_array_equal(each[each > 0], batch.next_items[row, columns[each > 0]])


def test_cuts_are_a_function_of_the_key():
    batch = a_batch(n_rows=5)
    one, again, other = (continuation(batch, key=jax.random.key(seed)).inputs.next_items for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def with_signals(batch):
    """Next items whose id is a multiple of 3 were skipped; the weight of each is its id."""
    skipped = (batch.next_items % 3 == 0) & (batch.next_items > 0)
    return batch._replace(next_weights=batch.next_items.astype(jnp.float32), next_skips=skipped)


@pytest.mark.parametrize("ask", [next_item, masked_item, continuation])
def test_a_skipped_item_is_no_target_and_weights_go_with_their_targets(ask):
    batch = with_signals(a_batch(n_rows=50))
    question = ask(batch, key=jax.random.key(0))
    targets, weights = np.asarray(question.targets), np.asarray(question.weights)
    assert np.any(targets > 0)
    assert not np.any((targets > 0) & (targets % 3 == 0))
    np.testing.assert_array_equal(weights[targets > 0], targets[targets > 0])
    assert question.unwanted is None


def test_a_skipped_item_may_be_unwanted():
    batch = with_signals(a_batch(n_rows=5))
    question = next_item(batch, unwanted_skips=True)
    items = np.asarray(batch.next_items)
    np.testing.assert_array_equal(question.unwanted, np.where(items % 3 == 0, items, 0))
    np.testing.assert_array_equal(question.targets, np.where(items % 3 == 0, 0, items))
