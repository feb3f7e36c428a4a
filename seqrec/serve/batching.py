"""Requests that arrive together share a call: queues on the event loop, and calls in threads of their own."""

import asyncio
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

log = logging.getLogger("seqrec")


class Refused(Exception):
    """A request that gets no answer: the HTTP status, and why in one line."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


@runtime_checkable
class Lane(Protocol):
    """Requests that can share a call."""

    most: int
    """Most rows of a call; a request of more rows has a call alone."""

    def call(self, requests: Sequence[Any]) -> Sequence[Any]:
        """The answer to each request, or the exception that it raises; runs in a thread of its own."""


class Waiting(NamedTuple):
    """A request that has no answer yet."""

    request: Any
    n_rows: int
    answer: asyncio.Future[Any]
    arrived: float


class Batcher:
    """Takes requests on the event loop, and answers those that can share a call together.

    A call begins as soon as a thread is free, with what waits by then: so calls grow with the load, and a request that
    comes alone waits for nobody. The lane whose first request has waited longest is called first.
    """

    def __init__(
        self,
        *,
        n_threads: int,
        max_waiting: int,
        deadline_seconds: float,
        observe: Callable[[int], None] = lambda n_rows: None,
    ):
        self.n_waiting = 0
        """Rows that wait for a call."""
        self._max_waiting, self._deadline, self._observe = max_waiting, deadline_seconds, observe
        self._lanes: dict[Lane, deque[Waiting]] = {}
        self._called: list[list[Waiting]] = []
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._n_threads, self._is_scheduled = n_threads, False
        self._next_sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        for number in range(n_threads):
            threading.Thread(target=self._work, name=f"calls-{number}", daemon=True).start()

    def submit(self, lane: Lane, request: Any, n_rows: int = 1) -> asyncio.Future[Any]:
        """The answer to come.

        Raises:
          Refused: too many wait already.
        """
        if self.n_waiting + n_rows > self._max_waiting:
            raise Refused(429, f"{self.n_waiting:,} histories wait for an answer already; ask again later")
        waiting = Waiting(request, n_rows, self._loop.create_future(), self._loop.time())
        self._lanes.setdefault(lane, deque()).append(waiting)
        self.n_waiting += n_rows
        self._schedule()
        if self._next_sweep is None:
            self._next_sweep = self._loop.call_at(waiting.arrived + self._deadline, self._sweep)
        return waiting.answer

    def seconds_since_last_call(self) -> float:
        """How long the oldest call under way has waited for its answer; 0 where there is none."""
        return max((self._loop.time() - batch[0].arrived for batch in self._called), default=0.0)

    def close(self) -> None:
        """Ends the threads once their calls are done."""
        for _ in range(self._n_threads):
            self._calls.put(None)

    def _schedule(self) -> None:
        # At the end of this turn of the loop: what arrives in one turn shares a call.
        if not self._is_scheduled and len(self._called) < self._n_threads:
            self._is_scheduled = True
            self._loop.call_soon(self._begin_calls)

    def _begin_calls(self) -> None:
        self._is_scheduled = False
        while self._lanes and len(self._called) < self._n_threads:
            lane = min(self._lanes, key=lambda each: self._lanes[each][0].arrived)
            waiting, n_rows = self._lanes[lane], 0
            batch: list[Waiting] = []
            while waiting and (not batch or n_rows + waiting[0].n_rows <= lane.most):
                first = waiting.popleft()
                self.n_waiting -= first.n_rows
                if not first.answer.done():
                    batch.append(first)
                    n_rows += first.n_rows
            if not waiting:
                del self._lanes[lane]
            if batch:
                self._observe(n_rows)
                self._called.append(batch)
                self._calls.put((lane, batch))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            lane, batch = call
            answers: Sequence[Any]
            try:
                answers = lane.call([waiting.request for waiting in batch])
            except Exception as error:
                log.exception("a call of %d requests failed", len(batch))
                answers = [Refused(500, f"the call failed ({type(error).__name__}); the server's log says more")] * len(
                    batch
                )
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                self._loop.call_soon_threadsafe(self._finish, batch, answers)

    def _finish(self, batch: list[Waiting], answers: Sequence[Any]) -> None:
        self._called.remove(batch)
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)
        self._schedule()

    def _sweep(self) -> None:
        """Refuses what has waited too long, also where a call does not return."""
        oldest = self._loop.time() - self._deadline
        late = Refused(504, f"there was no answer in {self._deadline:g} seconds; ask again later")
        left = []
        for waiting in (each for batch in [*self._lanes.values(), *self._called] for each in batch):
            if waiting.answer.done():
                continue
            if waiting.arrived <= oldest:
                waiting.answer.set_exception(late)
            else:
                left.append(waiting.arrived)
        self._next_sweep = self._loop.call_at(min(left) + self._deadline, self._sweep) if left else None
