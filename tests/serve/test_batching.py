"""Facts about shared calls, by lanes that answer from no bundle."""

import asyncio
import threading

import pytest

from seqrec.serve.batching import Batcher, Refused


class Doubling:
    """Answers twice the number that it is asked, and remembers its calls."""

    def __init__(self, most: int = 4):
        self.most, self.calls, self.may_answer = most, [], threading.Event()
        self.may_answer.set()

    def call(self, requests):
        self.may_answer.wait(10)
        self.calls.append(list(requests))
        if "broken" in requests:
            raise RuntimeError("broken")
        return [2 * request for request in requests]


def run(steps, **options):
    """What `steps(batcher)` returns, on a loop of its own."""

    async def main():
        batcher = Batcher(**{"n_threads": 1, "max_waiting": 100, "deadline_seconds": 10.0, **options})
        try:
            return await asyncio.wait_for(steps(batcher), 10)
        finally:
            batcher.close()

    return asyncio.run(main())


def test_requests_that_arrive_together_share_calls_of_at_most_the_lanes_rows():
    lane = Doubling(most=4)

    async def steps(batcher):
        return await asyncio.gather(*(batcher.submit(lane, number) for number in range(10)))

    assert run(steps) == [2 * number for number in range(10)]
    assert lane.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_request_of_more_rows_than_a_call_has_a_call_alone():
    lane, rows = Doubling(most=4), [3, 9, 1, 3]

    async def steps(batcher):
        return await asyncio.gather(*(batcher.submit(lane, number, n) for number, n in enumerate(rows)))

    run(steps)
    assert lane.calls == [[0], [1], [2, 3]]


def test_lanes_do_not_mix_and_the_one_that_has_waited_longest_goes_first():
    first, second = Doubling(), Doubling()

    async def steps(batcher):
        first.may_answer.clear()
        begun = batcher.submit(first, 0)
        await asyncio.sleep(0.02)
        later = [batcher.submit(second, 1), batcher.submit(first, 2), batcher.submit(second, 3)]
        first.may_answer.set()
        return await asyncio.gather(begun, *later)

    assert run(steps) == [0, 2, 4, 6]
    assert (first.calls, second.calls) == ([[0], [2]], [[1, 3]])


def test_what_would_wait_beyond_the_bound_is_refused_at_once():
    lane = Doubling(most=1)

    async def steps(batcher):
        lane.may_answer.clear()
        waiting = [batcher.submit(lane, 0)]
        await asyncio.sleep(0.02)  # this one is called, and waits no more
        waiting += [batcher.submit(lane, 1, 2), batcher.submit(lane, 2)]
        with pytest.raises(Refused, match="3 histories wait") as refusal:
            batcher.submit(lane, 3)
        lane.may_answer.set()
        return refusal.value.status, await asyncio.gather(*waiting)

    assert run(steps, max_waiting=3) == (429, [0, 2, 4])


def test_a_call_that_hangs_costs_only_those_who_wait_for_it():
    lane = Doubling(most=2)

    async def steps(batcher):
        lane.may_answer.clear()
        called = batcher.submit(lane, 0)
        await asyncio.sleep(0.02)
        queued = batcher.submit(lane, 1)
        late = await asyncio.gather(called, queued, return_exceptions=True)
        lane.may_answer.set()
        return late, await batcher.submit(lane, 2)

    late, answer = run(steps, deadline_seconds=0.2)
    assert [each.status for each in late] == [504, 504]
    assert answer == 4
    assert [1] not in lane.calls, "nobody waits for it any more, so it is not called"


def test_a_call_that_fails_refuses_its_own_requests_and_the_next_goes_on(caplog):
    lane = Doubling(most=1)

    async def steps(batcher):
        return await asyncio.gather(batcher.submit(lane, "broken"), batcher.submit(lane, 3), return_exceptions=True)

    refused, answer = run(steps)
    assert (refused.status, answer) == (500, 6)
    assert "RuntimeError" in str(refused)
    assert "broken" in caplog.text


def test_two_threads_call_at_the_same_time():
    lane, both = Doubling(most=1), threading.Barrier(2, timeout=5)
    lane.call = lambda requests: (both.wait(), requests)[1]

    async def steps(batcher):
        return await asyncio.gather(batcher.submit(lane, 1), batcher.submit(lane, 2))

    assert run(steps, n_threads=2) == [1, 2]
