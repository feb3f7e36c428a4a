"""Sends HTTP requests at moments that are fixed before, whatever the server does, and takes the time of each answer.

A request that finds no free connection waits for one, and its latency counts from its moment: a slow server cannot slow
down the load that it is measured by (Tene's coordinated omission).
"""

import asyncio
import gc
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import uvloop
from jaxtyping import Float

LATE_SECONDS = 5.0
"""How long after the last moment an answer is waited for."""


@dataclass
class Outcome:
    """What came of all requests."""

    seconds: list[float] = field(default_factory=list)
    """From the moment of a request to the end of its answer; of answers with status 200."""
    statuses: dict[int, int] = field(default_factory=dict)
    """Number of answers by status."""
    n_refused: int = 0
    """Requests at a moment when nothing listened."""
    n_lost: int = 0
    """Requests that were sent and got no answer."""
    bodies: list[tuple[int, bytes]] = field(default_factory=list)
    """Number of the request's content and the answer's body, where they are kept."""

    @property
    def n_failed(self) -> int:
        """Requests that got something else than an answer, or nothing, while something listened."""
        return self.n_lost + sum(count for status, count in self.statuses.items() if status != 200)


class _Connection(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, load: "_Load"):
        self.load, self.transport = load, None
        self.request: tuple[float, int] | None = None
        self.received = b""
        self.length = -1

    def connection_made(self, transport):
        self.transport = transport
        self.load.n_open += 1
        self.load.release(self)

    def send(self, moment: float, number: int) -> None:
        self.request = moment, number
        self.transport.write(self.load.contents[number])

    def data_received(self, data: bytes) -> None:
        received = self.received = self.received + data if self.received else data
        if self.length < 0:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return
            at = received.find(b"content-length: ") + 16
            self.length = end + 4 + int(received[at : received.find(b"\r\n", at)])
        if len(received) >= self.length:
            self.received, self.length = b"", -1
            request, self.request = self.request, None
            self.load.finish(request, received)
            if received.find(b"connection: close", 0, 400) >= 0:
                self.transport.close()
            else:
                self.load.release(self)

    def connection_lost(self, error) -> None:
        self.load.lose(self)


class _Load:
    def __init__(self, address: tuple[str, int], contents: Sequence[bytes], n_connections: int, *, keep: bool):
        self.address, self.contents, self.keep = address, contents, keep
        self.outcome, self.n_open, self.is_over = Outcome(), 0, False
        self.n_connections = n_connections
        self.idle: deque[_Connection] = deque()
        self.due: deque[tuple[float, int]] = deque()
        self.loop = asyncio.get_running_loop()

    async def connect(self) -> None:
        """Opens a connection as soon as something listens."""
        while not self.is_over:
            try:
                await self.loop.create_connection(lambda: _Connection(self), *self.address)
                return
            except OSError:
                await asyncio.sleep(0.02)

    def ask(self, moment: float, number: int) -> None:
        if self.idle:
            self.idle.popleft().send(moment, number)
        elif self.n_open:
            self.due.append((moment, number))
        else:
            self.outcome.n_refused += 1

    def release(self, connection: _Connection) -> None:
        if self.due:
            connection.send(*self.due.popleft())
        else:
            self.idle.append(connection)

    def finish(self, request: tuple[float, int], received: bytes) -> None:
        moment, number = request
        status = int(received[9:12])
        self.outcome.statuses[status] = self.outcome.statuses.get(status, 0) + 1
        if status == 200:
            self.outcome.seconds.append(self.loop.time() - moment)
        if self.keep:
            self.outcome.bodies.append((number, received[received.find(b"\r\n\r\n") + 4 :]))

    def lose(self, connection: _Connection) -> None:
        self.n_open -= 1
        if connection.request is not None:
            self.outcome.n_lost += 1
        elif connection in self.idle:
            self.idle.remove(connection)
        if not self.n_open:
            self.outcome.n_refused += len(self.due)
            self.due.clear()
        if not self.is_over:
            self.tasks.append(self.loop.create_task(self.connect()))

    async def run(self, moments: Float[np.ndarray, " n"], beside: Callable[[], Awaitable[None]] | None) -> Outcome:
        self.tasks = [self.loop.create_task(self.connect()) for _ in range(self.n_connections)]
        await asyncio.wait(self.tasks, timeout=10)
        other = None if beside is None else self.loop.create_task(beside())
        start = self.loop.time() + 0.1
        order = np.random.default_rng(0).integers(len(self.contents), size=len(moments)).tolist()
        at = (start + moments).tolist()
        place = 0
        while place < len(at):
            await asyncio.sleep(max(0.0, at[place] - self.loop.time()))
            now = self.loop.time()
            while place < len(at) and at[place] <= now:
                self.ask(at[place], order[place])
                place += 1
        if other is not None:
            await other
        until = self.loop.time() + LATE_SECONDS
        while len(self.idle) < self.n_open and self.loop.time() < until:
            await asyncio.sleep(0.01)
        self.is_over = True
        self.outcome.n_lost += self.n_open - len(self.idle) + len(self.due)
        for connection in list(self.idle):
            connection.transport.abort()
        await asyncio.sleep(0.05)
        return self.outcome


def run_load(
    port: int,
    contents: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    n_connections: int,
    seed: int = 0,
    keep: bool = False,
    beside: Callable[[], Awaitable[None]] | None = None,
) -> Outcome:
    """What comes of `rate` requests a second to this machine, at random moments (Poisson).

    Each request is one of `contents`, whole as HTTP/1.1 sends it; with `keep` the bodies of all answers are returned.
    `beside` runs on the same event loop.
    """
    n_requests = int(rate * seconds)
    moments = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, n_requests))

    async def load() -> Outcome:
        return await _Load(("127.0.0.1", port), contents, n_connections, keep=keep).run(moments, beside)

    gc.collect()
    gc.disable()  # a pause of this process would count as the server's
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(load())
    finally:
        gc.enable()


def post(path: str, body: bytes) -> bytes:
    """A request as HTTP/1.1 sends it."""
    headers = ("host: localhost", "content-type: application/json", f"content-length: {len(body)}")
    return "\r\n".join([f"POST {path} HTTP/1.1", *headers, "", ""]).encode() + body
