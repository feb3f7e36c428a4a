"""Team draft and the preference test."""

import math

import numpy as np
import pytest

from seqrec.abtest.interleaving import interleaving_preference, team_draft
from seqrec.types import InputError


def test_a_team_draft_is_fair_to_equal_lists_and_gives_both_teams_half():
    random = np.random.default_rng(3)
    first_teams = []
    for _ in range(2000):
        items, teams = team_draft([1, 2, 3, 4], [1, 2, 3, 4], length=4, random=random)
        assert items == [1, 2, 3, 4]
        assert sum(teams) == 2
        first_teams.append(teams[0])
    assert abs(np.mean(first_teams) - 0.5) <= 4 * 0.5 / math.sqrt(2000)


def test_a_ranker_without_items_loses_its_turns():
    items, teams = team_draft([1], [5, 6, 7], length=10, random=np.random.default_rng(0))
    assert sorted(items) == [1, 5, 6, 7]
    assert [items[i] for i in range(4) if teams[i] == 1] == [5, 6, 7]


def test_a_better_ranker_wins_the_interleaving():
    random = np.random.default_rng(4)
    preference = interleaving_preference(random.poisson(1.0, 2000), random.poisson(1.2, 2000))
    assert preference.preference > 0.5
    assert preference.p_value < 0.01


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: team_draft([1], [2], length=0, random=np.random.default_rng(0)), "length=0"),
        (lambda: interleaving_preference(np.array([1.0, np.nan]), np.array([0.0, 2.0])), "NaN or infinite"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
