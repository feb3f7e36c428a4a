"""Weights and skips travel with the events that are to be predicted, and what cannot be one is refused."""

import numpy as np
import pytest

from seqrec.data.batches import EventFields, Windows, training_batches
from seqrec.data.engagement import EngagementConfig, engagement
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.types import InputError

LENGTHS = (7, 4, 12, 5)


def a_store(**columns):
    """Item ids that name their event, so that each position can be traced to its source."""
    n = sum(LENGTHS)
    offsets = np.cumsum([0, *LENGTHS])
    return sequence_store(np.arange(1, n + 1), offsets, np.arange(1, n + 1), np.arange(len(LENGTHS)), columns=columns)


PLAYED = np.linspace(0.05, 1.0, sum(LENGTHS))
STORE = a_store(played=PLAYED, skipped=PLAYED < 0.4, kind=np.arange(sum(LENGTHS)) % 3)


def batch_of(config, store=STORE, *, random_crops=False):
    sizes = {"max_length": 6, "batch_size": 4, "seed": 0}
    fields = EventFields(engagement=engagement(config, store))
    windows = Windows(whole=True, random=random_crops)
    return training_batches(store, leave_last_out(store), **sizes, windows=windows, fields=fields).batch(0)


@pytest.mark.parametrize("random_crops", [False, True])
def test_each_target_has_the_weight_and_the_skip_of_its_own_event(random_crops):
    config = EngagementConfig(loss_weight="played", skips=("skipped=true", "kind=2"))
    batch = batch_of(config, random_crops=random_crops)
    event = batch.next_items - 1
    is_pair = batch.items > 0
    assert is_pair.sum() >= 10
    weights = np.where(is_pair, PLAYED[event], 0).astype(np.float32)
    np.testing.assert_array_equal(batch.next_weights, weights)
    np.testing.assert_array_equal(batch.next_skips, is_pair & ((PLAYED[event] < 0.4) | (event % 3 == 2)))


def test_kinds_of_events_weigh_what_the_config_says():
    batch = batch_of(EngagementConfig(loss_weight="kind", loss_weight_values=("0=0", "2=3", "1=0.5")))
    expected = np.array([0, 0.5, 3])[(batch.next_items - 1) % 3]
    np.testing.assert_array_equal(batch.next_weights, np.where(batch.items > 0, expected, 0).astype(np.float32))
    assert batch.next_skips is None


@pytest.mark.parametrize("timed", [False, True])
def test_an_event_weighs_half_as_much_a_half_life_before(timed):
    n = sum(LENGTHS)
    # In time the log runs backwards, and ever slower: only the order counts.
    columns = {"played": PLAYED} | ({"timestamp_us": 10**6 * (n - np.arange(n)) ** 3} if timed else {})
    batch = batch_of(EngagementConfig(loss_weight="played", half_life=0.25), a_store(**columns))
    event = batch.next_items[batch.items > 0] - 1
    newer = event / (n - 1) if timed else 1 - (event + 1) / n
    expected = PLAYED[event] * 2.0 ** (-newer / 0.25)
    np.testing.assert_allclose(batch.next_weights[batch.items > 0], expected, rtol=0.01)
    np.testing.assert_array_equal(batch.next_weights[batch.items == 0], 0)


def test_off_is_absent():
    assert engagement(EngagementConfig(), STORE) is None
    plain = training_batches(
        STORE, leave_last_out(STORE), max_length=6, batch_size=4, seed=0, windows=Windows(whole=True)
    )
    for ours, theirs in zip(batch_of(EngagementConfig()), plain.batch(0), strict=True):
        np.testing.assert_array_equal(ours, theirs)


BAD_STORE = a_store(
    gaps=np.where(PLAYED > 0.9, np.nan, PLAYED), below=np.arange(len(PLAYED)) - 3, nothing=np.zeros(len(PLAYED))
)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"loss_weight": "likes"}, "no column 'likes', but below, gaps, nothing; prepare the data with it"),
        ({"skips": ("event_type=1",)}, "no column 'event_type', but below, gaps, nothing"),
        (
            {"loss_weight": "gaps"},
            f"event column 'gaps': nan of event {np.argmax(PLAYED > 0.9)} is not a weight of 0 or above",
        ),
        ({"loss_weight": "below"}, "event column 'below': -3 of event 0 is not a weight of 0 or above"),
        ({"loss_weight": "below", "loss_weight_values": ("-3=1",)}, "-2 of event 1 has no weight among"),
        ({"loss_weight": "nothing"}, "has weight 0 for every event, so there is nothing to learn"),
        ({"skips": ("nothing=0",)}, "leaves no target, because every event is a skip"),
        ({"skips": ("nothing=1",)}, "no event of the store is a skip; check the values"),
    ],
)
def test_a_column_that_cannot_weigh_is_told_in_one_line(config, line):
    with pytest.raises(InputError, match=line) as error:
        engagement(EngagementConfig(**config), BAD_STORE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"skips": ("skipped",)}, "skips=skipped is not of the form NAME=VALUE; try skipped=1"),
        ({"loss_weight": "kind", "loss_weight_values": ("like=3",)}, "loss_weight_values: 'like' is not a number"),
        ({"loss_weight": "kind", "loss_weight_values": ("1=-1",)}, "1=-1 is not a weight of 0 or above"),
        ({"loss_weight": "kind", "loss_weight_values": ("1=nan",)}, "1=nan is not a weight of 0 or above"),
        ({"half_life": -0.1}, "half_life=-0.1 is below 0; try half_life=0"),
        ({"loss_weight_values": ("1=1",)}, "but no loss_weight; name the column"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(config, line):
    with pytest.raises(ValueError, match=line):
        EngagementConfig(**config)
