"""Facts about requests that share a call, and about the sizes of calls."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from bundle.small_bundles import copy_of, kept, loaded, replace_facts

from seqrec.bundle.files import APPEND, START, STATE_TOP_K, TOP_K
from seqrec.serve.config import ServeConfig
from seqrec.serve.served import compile_calls, joined, load_served, serve_bundle
from seqrec.serve.sessions import SessionRequest
from seqrec.types import InputError
from serve.small_service import LIMITS, TRACKS, served


def with_recorded_calls(bundle):
    """The bundle with a program that answers item 1 alone, and the list that its calls' arguments go to."""
    calls = []

    def program(params, histories, *lists):
        calls.append((histories, *lists))
        allow, _, places = lists
        ids = np.zeros((len(allow), len(places)), np.int32)
        ids[:, 0] = 1
        return ids, np.zeros(ids.shape, np.float32)

    return dataclasses.replace(bundle, programs={TOP_K: program}), calls


def shapes_of(calls):
    """The shapes of the arrays of all calls."""
    return {(histories["items"].shape, *(each.shape for each in lists)) for histories, *lists in calls}


def answers_together(ready, queries):
    """The answers to requests that share one call of their lane."""
    requests = [ready.bundle.request(**each) for each in queries]
    (lane,) = {ready.lane_of(request) for request in requests}
    return lane.call(requests)


@pytest.mark.parametrize("allow", [False, True])
def test_each_of_several_requests_is_answered_as_if_it_were_alone(allow):
    requests = [
        {"histories": [TRACKS[:3]], "k": 4},
        {"histories": [TRACKS[4:9], ["nobody knows"]], "k": 2, "mask_seen": False},
        {"histories": [TRACKS[9:12]], "k": 9, "exclude": TRACKS[12:15]},
    ]
    if allow:
        for each, own in zip(requests, (TRACKS[:4], [TRACKS[5:9], TRACKS[3:5]], TRACKS[12:16]), strict=True):
            each["allow"] = own
    for each, together in zip(requests, answers_together(served(), requests), strict=True):
        alone = loaded().recommend(**each)
        assert together.items == alone.items
        assert (together.n_unknown, together.is_popular) == (alone.n_unknown, alone.is_popular)
        for row, own in zip(together.scores, alone.scores, strict=True):
            np.testing.assert_allclose(row, own, rtol=1e-5)


def test_times_of_several_requests_stay_with_their_own_histories():
    bundle, calls = with_recorded_calls(replace_facts(loaded(), times="query"))
    ready = serve_bundle(bundle, LIMITS, max_batch=2)
    requests = [
        {"histories": [TRACKS[:2]], "k": 5, "times": [[1e9, 1e9 + 5, 1e9 + 90_000]]},
        {"histories": [["nobody knows", *TRACKS[5:7]]], "k": 5, "times": [[5e8, 6e8, 7e8, 8e8]]},
    ]
    answers_together(ready, requests)
    (histories,) = (histories for histories, *_ in calls)
    order = np.argsort(histories["items"][:, 0])
    # Seconds after the first known item: of the items, and of what follows each.
    np.testing.assert_array_equal(histories["times"][order, :2], [[0, 5], [0, 1e8]])
    np.testing.assert_array_equal(histories["next_times"][order, :2], [[5, 90_000], [1e8, 2e8]])


def test_whatever_the_limits_let_in_needs_no_size_that_was_not_compiled_before():
    bundle, calls = with_recorded_calls(loaded())
    ready = serve_bundle(bundle, LIMITS, max_batch=3)
    compile_calls(ready)
    compiled = shapes_of(calls)
    rng = np.random.default_rng(0)
    for _ in range(200):
        n_users = int(rng.integers(1, 9))

        def lists(low, high, n_users=n_users):
            return [rng.choice(TRACKS, int(rng.integers(low, high + 1))).tolist() for _ in range(n_users)]

        request = bundle.request(
            lists(0, LIMITS.max_history),
            int(rng.integers(1, LIMITS.max_k + 1)),
            exclude=lists(0, LIMITS.max_list) if rng.random() < 0.5 else None,
            allow=lists(1, LIMITS.max_list) if rng.random() < 0.3 else None,
            mask_seen=bool(rng.random() < 0.5),
        )
        ready.lane_of(request).call([request] * int(rng.integers(1, 3)))
    assert shapes_of(calls) == compiled


@pytest.mark.parametrize("n_sessions", [3, 8])
def test_nor_do_requests_of_users_whose_state_is_kept(n_sessions):
    """Of as many users as there are sessions, also where that is none of the sizes that calls have."""
    traced = []

    def start(params, histories):
        traced.append(("start", histories["items"].shape))
        n_rows = len(histories["items"])
        return jnp.zeros((n_rows, 2)), jnp.zeros((n_rows, 1))

    def append(params, cache, rows, events):
        traced.append(("append", rows.shape))
        return jnp.zeros((len(rows), 2)), cache

    def top_k(params, states, allow, exclude, places):
        traced.append((states.shape, allow.shape, exclude.shape, places.shape))
        return jnp.ones((len(states), len(places)), jnp.int32), jnp.zeros((len(states), len(places)))

    bundle, _ = with_recorded_calls(loaded())
    programs = {**bundle.programs, START: start, APPEND: append, STATE_TOP_K: top_k}
    bundle = dataclasses.replace(bundle, programs=programs)
    # With lists that are longer than those of usual calls by exclusion alone.
    limits = dataclasses.replace(LIMITS, max_list=10)
    ready = serve_bundle(bundle, limits, max_batch=6, n_sessions=n_sessions)
    compile_calls(ready)
    n_traced, rng = len(traced), np.random.default_rng(0)

    def some(low, high):
        return rng.choice(TRACKS, int(rng.integers(low, high + 1)), replace=False).tolist()

    for _ in range(60):
        n_users, allows = int(rng.integers(1, ready.sessions.most + 1)), rng.random() < 0.4
        requests = [
            SessionRequest(
                str(user),
                some(0, 2),
                int(rng.integers(1, limits.max_k + 1)),
                history,
                exclude=some(0, limits.max_list),
                allow=some(1, limits.max_list) if allows else None,
            )
            for user in range(n_users)
            for history in (some(0, 3), None)
        ]
        ready.sessions.call(requests)
    assert len(traced) == n_traced, traced[n_traced:]


def test_a_joined_request_masks_only_what_each_part_masks():
    bundle = loaded()
    parts = [bundle.request([TRACKS[:2]]), bundle.request([TRACKS[2:4]], mask_seen=False)]
    request = joined(parts)
    assert [request.exclude.row(row).tolist() for row in (0, 1)] == [[1, 2], []]
    assert not request.mask_seen


def test_a_bundle_that_is_there_already_is_not_loaded_again(tmp_path):
    assert load_served(ServeConfig(kept()), unless=loaded().facts.content_hash) is None
    damaged = copy_of(tmp_path)
    (damaged / "weights.safetensors").write_bytes(b"?")
    with pytest.raises(InputError, match=r"weights\.safetensors is damaged"):
        load_served(ServeConfig(damaged), unless="another")
