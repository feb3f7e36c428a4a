"""Sessions answer as the bundle does on whole histories, whatever has been kept, dropped or asked twice."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from bundle.small_bundles import KEYS, MAX_LENGTH, loaded, replace_facts
from seqrec.bundle.sessions import Sessions, UnknownSessionError
from seqrec.types import InputError


def keys(*ids: int) -> list[str]:
    return [f"track-{item}" for item in ids]


@functools.cache
def shared(times: str = "none") -> Sessions:
    """Three sessions, for all tests in programs that are compiled once."""
    return Sessions(loaded(times), 3)


def sessions(times: str = "none") -> Sessions:
    """None of which is kept yet."""
    shared(times).clear()
    return shared(times)


def assert_equal_answers(actual, expected):
    assert actual._replace(scores=[]) == expected._replace(scores=[])
    for ours, theirs in zip(actual.scores, expected.scores, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("times", [pytest.param("none", marks=pytest.mark.slow), "history"])
def test_answers_are_those_to_the_whole_history_at_every_length(times):
    """From an empty one to three times what the model reads, with unknown items and several or no new events."""
    random = np.random.default_rng(0)
    kept, bundle = sessions(times), loaded(times)
    items, seconds = {"a": [], "b": []}, {"a": [], "b": []}
    kept.recommend(["a", "b"], [[], []], 5, histories=[[], []], times=None if times == "none" else [[], []])
    for n_new in ([1, 1], [2, 1], [1, 1], [0, 1], [1, 2], [1, 1], [9, 1], [1, 1]):
        new = [keys(*random.integers(1, 33, n)) for n in n_new]
        moments = [random.integers(0, 10**5, n).tolist() for n in n_new]
        for user, events, gaps in zip(items, new, moments, strict=True):
            items[user] += events
            seconds[user] += (sum(seconds[user][-1:]) + np.cumsum(gaps)).astype(int).tolist()
        latest = [own[len(own) - n :] for own, n in zip(seconds.values(), n_new, strict=True)]
        given = [{}, {}] if times == "none" else [{"times": latest}, {"times": list(seconds.values())}]
        options = {"exclude": keys(7), "mask_seen": False}  # of one length, for fewer programs
        answers = kept.recommend(["a", "b"], new, 5, **options, **given[0])
        assert_equal_answers(answers, bundle.recommend(list(items.values()), 5, **options, **given[1]))
    assert len(items["b"]) > MAX_LENGTH


def test_one_more_event_is_one_step_and_a_full_history_is_read_anew(monkeypatch):
    kept = sessions()
    kept.recommend(["a"], [keys(1, 2, 3)], 5, histories=[[]])
    calls = []
    for name in ("_start", "compiled_append"):
        function = getattr(kept, name)
        monkeypatch.setattr(kept, name, lambda *given, f=function, name=name: calls.append(name) or f(*given))
    for item in range(4, MAX_LENGTH + 2):
        kept.recommend(["a"], [keys(item)], 5)
    assert calls == ["compiled_append"] * (MAX_LENGTH - 3) + ["_start"]


def test_two_requests_of_one_user_are_answered_in_order():
    answers = sessions().recommend(["a", "b", "a"], [keys(1), keys(2), keys(3)], 5, histories=[keys(9), [], None])
    assert_equal_answers(answers, loaded().recommend([keys(9, 1), keys(2), keys(9, 1, 3)], 5))


def test_a_history_replaces_what_was_kept():
    kept = sessions()
    kept.recommend(["a"], [keys(1)], 5, histories=[keys(2)])
    assert_equal_answers(kept.recommend(["a"], [keys(3)], 5, histories=[keys(4)]), loaded().recommend([keys(4, 3)], 5))
    assert len(kept) == 1


def test_the_session_that_was_asked_for_longest_ago_is_dropped_and_its_user_named():
    kept = sessions()
    for user in ("a", "b", "c", "a", "d"):  # d takes the place of b
        kept.recommend([user], [[]], 5, histories=[keys(1)])
    assert len(kept) == 3
    with pytest.raises(UnknownSessionError, match="no session is kept of user 'b'; give the whole history") as error:
        kept.recommend(["a", "b", "b"], [keys(2), [], []], 5)
    assert error.value.users == ["b"]
    # Nor has the other user's event been read.
    assert_equal_answers(kept.recommend(["a"], [[]], 5), loaded().recommend([keys(1)], 5))


def test_seen_items_of_the_whole_history_are_left_out_unless_a_request_says_otherwise():
    kept = sessions()
    history = keys(*range(1, 11))
    assert set(kept.recommend(["a"], [[]], 30, histories=[history]).items[0]) == set(KEYS) - set(history)
    assert set(kept.recommend(["a"], [[]], 30, mask_seen=False).items[0]) == set(KEYS)
    assert kept.recommend(["a"], [[]], 4, allow=keys(3, 12)).items == [keys(12)]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"users": list("abcd"), "events": [[]] * 4, "histories": [[]] * 4},
            "4 users ask at once, of 3 sessions; keep",
        ),
        ({"users": ["a"], "events": []}, "there are 1 users, 0 lists of events and 1 histories; give one each"),
        ({"users": ["a"], "events": [[]], "k": 31}, "k=31 is not in 1..30"),
        ({"users": ["a"], "events": ["track-1"]}, r"events\[0\] is 'track-1'; give a list of item keys"),
        ({"users": ["a"], "events": [keys(1)], "times": [[5]]}, r"times\[0\] begins before the latest event of 'a'"),
    ],
)
def test_what_cannot_be_used_is_refused_and_changes_nothing(request_, message):
    times = "history" if "times" in request_ else "none"
    kept = sessions(times)
    options = {"times": [[10, 20]]} if times == "history" else {}
    before = kept.recommend(["a"], [[]], 5, histories=[keys(1, 2)], **options)
    with pytest.raises(InputError, match=message):
        kept.recommend(**{"k": 5, **request_})
    options = {"times": [[]]} if times == "history" else {}
    assert kept.recommend(["a"], [[]], 5, **options) == before


def test_bundles_without_these_programs_and_inexact_searches_have_no_sessions():
    with pytest.raises(InputError, match=r"has no sessions: it was exported before .*; leave sessions out"):
        Sessions(replace_facts(loaded(), sessions=False), 3)
    with pytest.raises(InputError, match="sessions need search=exact, not int8, whose item table stays on disk"):
        Sessions(dataclasses.replace(loaded(), search="int8"), 3)
    with pytest.raises(InputError, match="n_sessions=0 is below 1; keep at least as many as users ask at once"):
        Sessions(loaded(), 0)


def test_a_step_changes_the_store_in_place():
    """Its temporary memory does not grow with the sessions that are kept."""
    many = Sessions(loaded(), 5000)
    one = np.zeros(1, np.int32)
    shapes = jax.eval_shape(many.empty_store)
    compiled = many.compiled_append.lower(shapes, loaded().params, one, {"items": one}).compile()
    assert (
        compiled.memory_analysis().temp_size_in_bytes < many.n_sessions * 100 < many.n_sessions * many.bytes_per_session
    )
