import dataclasses
import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
from listening import DAY_US, WORLD, opens_session, within

from seqrec.data.events import prepare
from seqrec.data.sources import Columns, read_source
from seqrec.data.synthetic.catalogue import daily_popularity, item_table
from seqrec.data.synthetic.config import ListeningConfig
from seqrec.data.synthetic.listeners import skip_probability, taste
from seqrec.data.synthetic.optimum import next_item_distribution
from seqrec.data.synthetic.simulation import event_blocks, simulate_events, write_events, write_items
from seqrec.types import InputError


@pytest.fixture(scope="module")
def plays():
    return simulate_events(WORLD)


def same(left, right):
    assert left.keys() == right.keys()
    return all(np.array_equal(left[name], right[name]) for name in left)


def joined(blocks):
    blocks = list(blocks)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


# The same listeners, however they are asked for


def test_plays_do_not_depend_on_the_block(plays):
    for users_per_block in (1, 7, 299, 1000):
        assert same(joined(event_blocks(WORLD, users_per_block)), plays)


def test_listeners_may_be_asked_for_in_any_order(plays):
    events = simulate_events(WORLD, np.array([41, 7]))
    expected = joined({name: column[plays["user_id"] == user] for name, column in plays.items()} for user in (41, 7))
    assert same(events, expected)


def test_more_users_leave_the_first_ones_as_they_are(plays):
    assert same(simulate_events(dataclasses.replace(WORLD, n_users=10_000), range(1, 301)), plays)


def test_another_seed_is_another_world(plays):
    assert not np.array_equal(
        simulate_events(dataclasses.replace(WORLD, seed=1), range(1, 20))["item_id"][:50], plays["item_id"][:50]
    )


def test_no_users_have_no_plays():
    assert all(column.size == 0 for column in simulate_events(WORLD, range(0)).values())


# Time


def test_times_rise_within_a_listener_and_sessions_are_apart(plays):
    same_user = np.diff(plays["user_id"]) == 0
    step = np.diff(plays["timestamp_us"])
    assert np.all(step[same_user] > 0)
    new_session = np.diff(plays["session_id"])[same_user]
    assert set(np.unique(new_session)) == {0, 1}
    gap_us = WORLD.session_gap_minutes * 60e6
    assert np.all(step[same_user][new_session == 1] >= gap_us)
    # A track lasts five minutes at most, so that within a session the next play comes soon.
    assert np.all(step[same_user][new_session == 0] <= 305e6)


def test_crowded_sessions_stay_apart():
    crowded = ListeningConfig(n_users=50, n_days=10, sessions_per_user=30.0, tracks_per_session=10.0, n_items=600)
    plays = simulate_events(crowded)
    opens = (np.diff(plays["user_id"]) == 0) & (np.diff(plays["session_id"]) == 1)
    assert np.diff(plays["timestamp_us"])[opens].min() >= crowded.session_gap_minutes * 60e6


def test_sessions_and_their_lengths_have_the_mean_asked_for(plays):
    n_sessions = np.unique(np.stack([plays["user_id"], plays["session_id"]]), axis=1).shape[1]
    # A geometric number of mean m has variance m (m - 1).
    for count, n, mean in ((n_sessions, 300, 8), (plays["user_id"].size, n_sessions, 10)):
        assert abs(count - n * mean) < 4.5 * math.sqrt(n * mean * (mean - 1))


def test_evenings_are_busier_than_nights(plays):
    hour = plays["timestamp_us"] // (DAY_US // 24) % 24
    assert np.isin(hour, [18, 19, 20]).sum() > 3 * np.isin(hour, [2, 3, 4]).sum()


def test_no_track_is_played_before_its_release(plays):
    release_us = item_table(WORLD)["release_time_us"][plays["item_id"] - 1]
    assert np.all(release_us <= plays["timestamp_us"])
    assert (release_us > WORLD.start_day * DAY_US).any()


# Shares


def test_returns_have_the_share_asked_for(plays):
    has_history = np.diff(plays["user_id"], prepend=0) == 0
    assert not plays["is_repeat"][~has_history].any()
    assert within(plays["is_repeat"][has_history].sum(), has_history.sum(), WORLD.repeat_share)


def test_a_return_is_to_a_track_heard_before(plays):
    for user in range(1, 40):
        mine = plays["user_id"] == user
        items, is_repeat = plays["item_id"][mine], plays["is_repeat"][mine]
        assert all(items[j] in items[:j] for j in np.flatnonzero(is_repeat))


def test_returns_go_back_as_far_as_the_memory_says():
    # Tracks are so many and returns so few that a track heard twice was returned to once.
    world = ListeningConfig(
        n_users=200, n_items=100_000, n_artists=100_000, n_genres=1, zipf_exponent=0.0, release_share=0.0,
        repeat_share=0.03, artist_share=0.0, genre_share=0.0, repeat_memory_plays=5.0,
    )  # fmt: skip
    plays = simulate_events(world)
    lags = []
    for user in range(1, 201):
        mine = plays["user_id"] == user
        items = plays["item_id"][mine].tolist()
        lags += [1 + items[:j][::-1].index(items[j]) for j in np.flatnonzero(plays["is_repeat"][mine]) if j > 60]
    # Lag k has probability 0.2 * 0.8 ** (k - 1): mean 5, variance 20.
    assert len(lags) > 300
    assert abs(np.mean(lags) - 5) < 4.5 * math.sqrt(20 / len(lags))


def test_a_session_stays_with_artist_and_genre(plays):
    table = item_table(WORLD)
    together = (np.diff(plays["user_id"]) == 0) & (np.diff(plays["session_id"]) == 0)
    for name, least in (("artist", WORLD.artist_share), ("genre", WORLD.artist_share + WORLD.genre_share)):
        attribute = table[name][plays["item_id"] - 1]
        stays = (attribute[1:] == attribute[:-1])[together]
        # Beside those that stay on purpose, others do by taste or chance.
        assert stays.mean() > least
        shuffled = np.random.default_rng(0).permutation(table[name])[plays["item_id"] - 1]
        assert (shuffled[1:] == shuffled[:-1])[together].mean() < stays.mean() - 0.1


# Tastes and popularity


def test_few_tracks_have_most_plays():
    plays = simulate_events(ListeningConfig(n_users=200))
    counts = np.sort(np.bincount(plays["item_id"], minlength=5001)[1:])[::-1]
    assert counts[:50].sum() > 0.1 * counts.sum()
    assert counts[:1000].sum() > 0.5 * counts.sum()


def test_new_tracks_are_played_as_often_as_their_popularity_says():
    world = dataclasses.replace(
        WORLD, repeat_share=0.0, artist_share=0.0, genre_share=0.0, chart_share=1.0, new_boost=8.0, n_days=30
    )
    plays = simulate_events(world)
    # A session follows the charts of its first day.
    opens = opens_session(plays)
    day = plays["timestamp_us"][opens] // DAY_US - world.start_day
    release_day = item_table(world)["release_time_us"] // DAY_US - world.start_day
    age = day - release_day[plays["item_id"][opens] - 1]
    expected = variance = 0.0
    for d, n in zip(*np.unique(day, return_counts=True), strict=True):
        weight = daily_popularity(world, int(d))
        p = weight[d - release_day < world.new_days].sum() / weight.sum()
        expected, variance = expected + n * p, variance + n * p * (1 - p)
    assert expected > 200
    assert abs((age < world.new_days).sum() - expected) < 4.5 * math.sqrt(variance)


def test_a_track_is_most_popular_when_new():
    released = item_table(WORLD)["release_time_us"] // DAY_US - WORLD.start_day
    item = int(np.argmax(released))
    day = int(released[item])
    weights = [daily_popularity(WORLD, day + age)[item] for age in (-1, 0, WORLD.new_days - 1, WORLD.new_days)]
    assert weights[0] == 0
    assert weights[1] == weights[2] == pytest.approx((1 + WORLD.new_boost) * weights[3])


def test_tastes_are_distributions_that_drift_and_have_hours():
    users = np.arange(1, 101)
    start = WORLD.start_day * DAY_US

    def tastes(config, time_us):
        return taste(config, users, np.full(100, time_us))

    np.testing.assert_allclose(tastes(WORLD, start).sum(1), 1)
    moved = [np.abs(tastes(WORLD, start + days * DAY_US) - tastes(WORLD, start)).sum(1).mean() for days in (1, 10, 60)]
    assert 0 < moved[0] < moved[1] < moved[2]
    constant = dataclasses.replace(WORLD, drift_share=0.0)
    np.testing.assert_allclose(tastes(constant, start + 40 * DAY_US), tastes(constant, start))
    assert np.abs(tastes(constant, start + DAY_US // 2) - tastes(constant, start)).max() > 0.01
    timeless = dataclasses.replace(constant, hour_strength=0.0)
    np.testing.assert_allclose(tastes(timeless, start + DAY_US // 2), tastes(timeless, start))


def test_fashion_moves_all_tastes_by_the_same_factors_within_its_strength():
    moving = dataclasses.replace(WORLD, fashion_strength=1.0, fashion_days=10.0)
    users = np.arange(1, 51)

    def odds(config, day):
        """Weight of each genre against the first."""
        liked = taste(config, users, np.full(50, (config.start_day + day) * DAY_US))
        return liked / liked[:, :1]

    for day in (0, 7, 35):
        factor = odds(moving, day) / odds(WORLD, day)
        np.testing.assert_allclose(factor, np.broadcast_to(factor[0], factor.shape))
        assert np.abs(np.log(factor)).max() <= 2
    assert np.abs(np.log(odds(moving, 35) / odds(WORLD, 35)) - np.log(odds(moving, 0) / odds(WORLD, 0))).max() > 0.1
    assert same(simulate_events(dataclasses.replace(WORLD, fashion_days=3.0)), simulate_events(WORLD))


def test_so_many_tracks_are_new_each_day():
    world = dataclasses.replace(WORLD, daily_releases=3)
    released = item_table(world)["release_time_us"] // DAY_US - world.start_day
    assert np.bincount(released[released >= 0]).tolist() == [3] * WORLD.n_days
    assert (released[: -3 * WORLD.n_days] < 0).all()
    plays = simulate_events(world)
    assert np.all(item_table(world)["release_time_us"][plays["item_id"] - 1] <= plays["timestamp_us"])


@pytest.mark.parametrize("fashion", [0.0, 1.5])
def test_genres_are_played_as_tastes_say(fashion):
    world = dataclasses.replace(
        WORLD, repeat_share=0.0, artist_share=0.0, genre_share=0.0, chart_share=0.0, fashion_strength=fashion
    )
    plays = simulate_events(world)
    opens = opens_session(plays)
    genre = item_table(world)["genre"][plays["item_id"][opens] - 1]
    expected = taste(world, plays["user_id"][opens], plays["timestamp_us"][opens])
    for g in range(1, world.n_genres + 1):
        p = expected[:, g - 1]
        assert abs((genre == g).sum() - p.sum()) < 4.5 * math.sqrt((p * (1 - p)).sum())


# Engagement


def skips_expected(users, items, times):
    """The probability that each track is skipped by its listener at a moment."""
    liked = taste(WORLD, users, times)
    return skip_probability(
        WORLD, users, items, liked[np.arange(items.size), item_table(WORLD)["genre"][items - 1] - 1]
    )


def test_skips_happen_as_often_as_expected(plays):
    session_start = np.maximum.accumulate(np.where(opens_session(plays), np.arange(plays["user_id"].size), 0))
    p = skips_expected(plays["user_id"], plays["item_id"], plays["timestamp_us"][session_start])
    error = math.sqrt((p * (1 - p)).sum())
    assert abs(plays["skipped"].sum() - p.sum()) < 4.5 * error
    # Where more skips are expected there are more: in each tenth of the plays, by expectation.
    for tenth in np.array_split(np.argsort(p), 10):
        assert abs(plays["skipped"][tenth].mean() - p[tenth].mean()) < 4.5 * 0.5 / math.sqrt(tenth.size)
    # A skip ends at a uniform share u / 2 of the track, whose mean is 1 / 4; what is heard lasts 1 - u^4 / 2, 9 / 10.
    assert plays["played_share"].mean() == pytest.approx((0.25 * p + 0.9 * (1 - p)).mean(), abs=0.01)
    assert np.array_equal(plays["skipped"], plays["played_share"] < 0.5)
    assert plays["played_share"].min() > 0
    assert plays["played_share"].max() <= 1


def test_a_track_of_a_loved_genre_is_skipped_less():
    items = np.arange(1, WORLD.n_items + 1)
    genre = item_table(WORLD)["genre"]
    for user in range(1, 6):
        users, times = np.full(items.size, user), np.full(items.size, WORLD.start_day * DAY_US)
        liked = taste(WORLD, users[:1], times[:1])[0]
        skip = skips_expected(users, items, times)
        assert skip[genre == 1 + np.argmax(liked)].mean() < skip[genre == 1 + np.argmin(liked)].mean()


# Files


def test_a_store_is_prepared_from_the_written_plays(tmp_path, plays):
    file = tmp_path / "plays.parquet"
    assert write_events(WORLD, file, users_per_block=64) == plays["user_id"].size
    # A row group a block: nothing was held back.
    assert pq.ParquetFile(file).num_row_groups == math.ceil(300 / 64)
    source = read_source("events", file, columns=Columns(time="timestamp_us"), time_unit="us")
    store = prepare(source, tmp_path / "store")
    assert store.user_keys.tolist() == list(range(1, 301))
    assert np.array_equal(store.item_keys[store.items - 1], plays["item_id"])
    write_items(WORLD, tmp_path / "items.parquet")
    assert pq.read_table(tmp_path / "items.parquet")["item_id"].to_pylist() == list(range(1, 401))


def test_memory_is_that_of_a_block():
    def peak(n_users):
        tracemalloc.start()
        for _ in event_blocks(dataclasses.replace(WORLD, n_users=n_users), 50):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(50)  # the catalogue is kept
    assert peak(1000) < 2 * peak(100)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_users": 0}, "n_users=0 is below 1"),
        ({"n_artists": 6000}, "n_artists=6000 is outside 1 to 5000"),
        ({"n_genres": 501}, "n_genres=501 is outside 1 to 500"),
        ({"seed": -1}, "seed=-1 is below 0"),
        ({"tracks_per_session": 0.5}, r"tracks_per_session=0\.5 is below 1"),
        ({"repeat_share": 1.5}, r"repeat_share=1\.5 is not a share in \[0, 1\]"),
        ({"repeat_share": 0.7, "artist_share": 0.4}, "sum to .*, above 1; lower one"),
        ({"skip_share": 0.0}, r"skip_share=0\.0 is not a share in \(0, 1\)"),
        ({"repeat_memory_plays": 1.0}, "repeat_memory_plays=1.0 is not above 1"),
        ({"zipf_exponent": float("nan")}, "zipf_exponent=nan is not a finite number"),
        ({"sessions_per_user": 5000.0}, "sessions_per_user=5000 fill more than half of n_days=120; take at most"),
        ({"daily_releases": 42}, "daily_releases=42 on n_days=120 leave fewer old tracks than n_genres=12; .* most 41"),
    ],
)
def test_impossible_worlds_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        ListeningConfig(**changes)


def test_unknown_listeners_and_tracks_are_refused():
    with pytest.raises(InputError, match=r"user id 0 is outside 1\.\.n_users=300"):
        simulate_events(WORLD, range(0, 3))
    with pytest.raises(InputError, match=r"item id 401 is outside 1\.\.n_items=400"):
        next_item_distribution(WORLD, 1, np.array([401]), WORLD.start_day * DAY_US, opens_session=True)
    with pytest.raises(InputError, match="before the first day"):
        next_item_distribution(WORLD, 1, np.array([1]), 5, opens_session=True)
    with pytest.raises(InputError, match="give the history"):
        next_item_distribution(WORLD, 1, np.array([], int), WORLD.start_day * DAY_US, opens_session=False)
    with pytest.raises(InputError, match="users_per_block=0; take at least 1"):
        next(event_blocks(WORLD, 0))


def test_the_simulator_does_not_import_jax():
    code = (
        "import sys, seqrec.data.synthetic.optimum; "
        "sys.exit(any(name.split('.')[0] in ('jax', 'jaxlib', 'flax') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
