"""When the periods of a backtest are, and what is asked in each of them, on a log made by hand."""

import dataclasses
import itertools

import numpy as np
import pytest

from seqrec.backtest.periods import DAY_US, BacktestConfig, make_periods, of_one_shape, period_starts
from seqrec.data.batches import make_queries
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import sequence_store
from seqrec.run.data import DataConfig, make_task
from seqrec.types import InputError

# The first user returns to item 1 on day 3, the second comes back on day 4, when the third comes for the first time.
EVENTS = (
    *((0, 1, 0.1), (0, 2, 1.0), (0, 1, 3.1), (0, 4, 3.2), (0, 2, 4.2)),
    *((1, 2, 0.5), (1, 3, 2.5), (1, 4, 4.5)),
    *((2, 1, 4.1), (2, 5, 4.6)),
)
USERS, ITEMS, DAYS = (np.array(column) for column in zip(*EVENTS, strict=True))
STORE = sequence_store(
    ITEMS.astype(int),
    np.array([0, 5, 8, 10]),
    np.arange(1, 6),
    np.arange(3),
    columns={"timestamp_us": (DAYS * DAY_US).astype(np.int64)},
)
STARTS = [3 * DAY_US, 4 * DAY_US, 5 * DAY_US]


def task(**changes):
    split = SplitConfig(split="temporal", valid_start="1970-01-04", test_start="1970-01-05", window_target="first")
    config = DataConfig(dataset="store", split=split, max_length=4, mask_seen="no")
    return make_task(dataclasses.replace(config, **changes), STORE, seed=0)


def users_and_targets(period):
    return sorted(zip(period.queries.users.tolist(), period.queries.targets.tolist(), strict=True))


def test_periods_end_with_the_log():
    assert period_starts(STORE, BacktestConfig(n_periods=2)) == STARTS
    half = period_starts(STORE, BacktestConfig(n_periods=2, period_days=0.5))
    assert [last - first for first, last in itertools.pairwise(half)] == [DAY_US // 2] * 2
    assert half[-1] == int(STORE.columns["timestamp_us"].max()) + 1
    named = BacktestConfig(n_periods=2, period_days=2.0, first_period="1970-01-02T12:00")
    assert period_starts(STORE, named) == [3 * DAY_US // 2, 7 * DAY_US // 2, 11 * DAY_US // 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_periods": 5}, "would begin at 1970-01-01T00:00:00Z, but events are of"),
        ({"first_period": "1971-01-01"}, "would begin at 1971-01-01T00:00:00Z, but"),
        ({"first_period": "1970-01-03", "n_periods": 4}, "last tested period would begin at 1970-01-06"),
    ],
)
def test_periods_without_events_before_or_in_them_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        period_starts(STORE, BacktestConfig(**changes))


def test_a_log_without_times_is_refused():
    with pytest.raises(InputError, match="by their times, which this log lacks"):
        period_starts(STORE._replace(columns={}), BacktestConfig())


def test_the_first_event_of_a_period_is_asked_of_users_with_a_history():
    third, fourth = make_periods(task(), STARTS, targets="first")
    assert users_and_targets(third) == [(0, 1)]
    assert users_and_targets(fourth) == [(0, 2), (1, 4)]  # the third user has no history
    assert third.is_known.tolist() == [False, True, True, True, False, False]
    assert (third.n_new_targets, fourth.n_new_targets) == (0, 0)
    assert (third.split.train_stop - STORE.offsets[:-1]).tolist() == [2, 2, 0]


def test_every_event_with_one_before_it_is_asked_and_new_items_are_misses():
    third, fourth = make_periods(task(), STARTS, targets="every")
    assert users_and_targets(third) == [(0, 1), (0, 4)]
    assert users_and_targets(fourth) == [(0, 2), (1, 4), (2, 5)]
    for period, item in ((third, 4), (fourth, 5)):
        assert period.queries.targets[period.queries.is_miss].tolist() == [item]
        assert period.n_new_targets == 1


def test_where_seen_items_are_masked_targets_seen_before_are_left_out_or_misses():
    for treatment, expected in (("exclude", [(0, 4)]), ("miss", [(0, 1), (0, 4)])):
        masked = task(repeated_targets=treatment)._replace(mask_seen=True)
        third, _ = make_periods(masked, STARTS, targets="every")
        assert users_and_targets(third) == expected
        assert third.queries.is_miss.all()  # seen before, or new


def test_a_period_without_targets_has_no_queries():
    quiet = [2 * DAY_US, 2 * DAY_US + 1, 3 * DAY_US]
    assert [period.queries is None for period in make_periods(task(), quiet, targets="first")] == [True, False]


def test_queries_of_one_shape_ask_the_same():
    periods = [
        make_queries(STORE, np.array(positions), max_length=4, batch_size=size, mask_seen=True)
        for positions, size in (([1, 2, 3, 4, 6], 1), ([7], 3))
    ]
    alike = of_one_shape(periods)
    batches = [batch for queries in alike for batch in queries.batches()]
    assert len({(batch.batch.items.shape, batch.targets.shape, batch.excluded.shape) for batch in batches}) == 1
    for before, after in zip(periods, alike, strict=True):
        targets = {}
        for batch in after.batches():
            rows = batch.query >= 0
            targets |= dict(zip(batch.query[rows].tolist(), batch.targets[rows].tolist(), strict=True))
        assert targets == dict(enumerate(before.targets.tolist()))
