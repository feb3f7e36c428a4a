"""What the simulator says is the best possible, against what is played and against other rankings."""

import dataclasses
import math

import numpy as np
import pytest
from listening import DAY_US, SMALL, WORLD, distributions, states

from seqrec.data.synthetic.catalogue import item_table
from seqrec.data.synthetic.config import ListeningConfig
from seqrec.data.synthetic.optimum import best_possible_ndcg, held_out_plays, next_item_distribution
from seqrec.data.synthetic.simulation import simulate_events


@pytest.fixture(scope="module")
def plays():
    return simulate_events(WORLD)


def test_the_distribution_is_one_and_leaves_out_what_is_not_released():
    plays = simulate_events(SMALL, range(1, 30))
    table = item_table(SMALL)
    for user, history, start_us, opens, item in states(SMALL, plays):
        p = next_item_distribution(SMALL, user, history, start_us, opens_session=opens)
        assert p.sum() == pytest.approx(1)
        assert np.all(p[table["release_time_us"] > start_us] == 0)
        assert p[item - 1] > 0


def test_the_distribution_by_hand():
    world = ListeningConfig(
        n_items=4, n_artists=2, n_genres=1, zipf_exponent=0.0, release_share=0.0,
        repeat_share=0.4, artist_share=0.1, genre_share=0.2, chart_share=0.1, repeat_memory_plays=2.0,
    )  # fmt: skip
    artist = item_table(world)["artist"]
    last, before = 1, int(np.flatnonzero(artist != artist[0])[0]) + 1
    mates = artist == artist[0]
    # One genre and equal tracks: genre (0.2), chart (0.1) and taste (the rest, 0.2) choose fairly among four.
    expected = 0.5 / 4 + 0.1 * mates / mates.sum()
    # Weights 1 and 1/2 of the last play and the one before.
    expected[last - 1] += 0.4 * 2 / 3
    expected[before - 1] += 0.4 / 3
    start_us = (world.start_day + 30) * DAY_US
    p = next_item_distribution(world, 1, np.array([before, last]), start_us, opens_session=False)
    np.testing.assert_allclose(p, expected)
    assert expected.sum() == pytest.approx(1)


def test_played_tracks_follow_the_distribution():
    """Chi-square of each track, and of each rank by probability, against the sum of the probabilities."""
    plays = simulate_events(SMALL, range(1, 201))
    n = plays["user_id"].size
    by_item, by_rank = np.zeros(12), np.zeros(12)
    var_item, var_rank, seen_rank = np.zeros(12), np.zeros(12), np.zeros(12)
    seen_item = np.bincount(plays["item_id"], minlength=13)[1:]
    for p, item in distributions(SMALL, plays):
        by_item += p
        var_item += p * (1 - p)
        order = np.argsort(-p)
        by_rank += p[order]
        var_rank += p[order] * (1 - p[order])
        seen_rank[np.flatnonzero(order == item - 1)[0]] += 1
    assert n > 2000
    for seen, expected, variance in ((seen_item, by_item, var_item), (seen_rank, by_rank, var_rank)):
        z = (seen - expected) / np.sqrt(variance)
        assert np.abs(z).max() < 4
        # 12 squares that sum to about 11: beyond 31 once in a thousand seeds.
        assert (z**2).sum() < 31


@pytest.mark.parametrize("name", ["repeat_share", "artist_share", "genre_share", "chart_share", None])
def test_each_part_of_the_mixture_alone_follows_its_distribution(name):
    none = dict.fromkeys(("repeat_share", "artist_share", "genre_share", "chart_share"), 0.0)
    config = dataclasses.replace(SMALL, **(none if name is None else {**none, name: 0.9}), n_users=100)
    plays = simulate_events(config)
    surprise, entropy, variance = 0.0, 0.0, 0.0
    for p, item in distributions(config, plays):
        log_p = np.log(np.maximum(p, 1e-300))
        surprise -= log_p[item - 1]
        entropy -= (p * log_p).sum()
        variance += (p * log_p**2).sum() - (p * log_p).sum() ** 2
    # The log-likelihood of the truth is its entropy, up to chance.
    assert abs(surprise - entropy) < 4.5 * math.sqrt(variance)


def test_the_best_possible_ndcg_is_that_of_the_held_out_plays():
    truths = held_out_plays(WORLD, users=range(1, 41))
    discount = 1 / np.log2(np.arange(2, 12))
    # A dict keeps the last play of each listener.
    last = {state[0]: state for state in states(WORLD, simulate_events(WORLD, range(1, 41))) if state[1].size >= 2}
    assert truths.user_id.tolist() == sorted(last)
    for row, (user, history, start_us, opens, item) in enumerate(last[user] for user in sorted(last)):
        p = next_item_distribution(WORLD, user, history, start_us, opens_session=opens)
        above, tied = (p > p[item - 1]).sum(), (p == p[item - 1]).sum()
        assert truths.item_id[row] == item
        assert truths.probability[row] == p[item - 1]
        assert truths.rank[row] == above + (tied + 1) / 2
        assert truths.expected_ndcg[row] == pytest.approx(np.sort(p)[::-1][:10] @ discount)
    by_hand = np.mean([1 / math.log2(rank + 1) if rank <= 10 else 0 for rank in truths.rank])
    best = best_possible_ndcg(WORLD, users=range(1, 41))
    assert best.ndcg == pytest.approx(by_hand)
    assert best.expected_ndcg == pytest.approx(truths.expected_ndcg.mean())


def test_truth_beats_popularity_and_any_perturbation_of_itself(plays):
    best = best_possible_ndcg(WORLD)
    last = np.flatnonzero(np.diff(plays["user_id"], append=0))
    n_plays = np.bincount(plays["user_id"], minlength=301)[plays["user_id"][last]]
    last = last[n_plays >= 3]
    assert best.n_users == last.size
    counts = np.bincount(np.delete(plays["item_id"], last), minlength=401)[1:]
    rank = 1 + np.array([(counts > counts[item - 1]).sum() for item in plays["item_id"][last]])
    by_popularity = np.where(rank <= 10, 1 / np.log2(rank + 1), 0).mean()
    assert best.ndcg > by_popularity + 0.05
    # What is seen is what is expected, within the error of so many users, whose NDCG lies in 0..1.
    assert abs(best.ndcg - best.expected_ndcg) < 4.5 * 0.5 / math.sqrt(best.n_users)


def test_the_truth_about_some_listeners_is_part_of_the_truth_about_all():
    some, all_users = held_out_plays(WORLD, users=np.array([9, 4, 5])), held_out_plays(WORLD, users=range(1, 20))
    kept = np.isin(all_users.user_id, [4, 5, 9])
    assert some.user_id.tolist() == all_users.user_id[kept].tolist()
    np.testing.assert_array_equal(some.rank, all_users.rank[kept])
