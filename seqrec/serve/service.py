"""The bundle that answers now, and how another one takes its place."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from seqrec.bundle.loading import Answers, Request
from seqrec.serve.batching import Batcher, Refused
from seqrec.serve.config import ServeConfig
from seqrec.serve.metrics import Metrics
from seqrec.serve.schema import Health, Reloaded
from seqrec.serve.served import Served, load_served
from seqrec.types import InputError

log = logging.getLogger("seqrec")

Value = TypeVar("Value")

STUCK_SECONDS = 30.0
"""A call that takes longer has hung: the server says that it is not well."""


class Service:
    """Answers from one bundle at a time; made inside the event loop that it answers on."""

    def __init__(self, served: Served, config: ServeConfig):
        self.config, self.served = config, served
        self.is_draining = False
        self.metrics = Metrics(lambda: self.batcher.n_waiting)
        limits = config.limits
        self.batcher = Batcher(
            n_threads=config.n_callers,
            max_waiting=limits.max_waiting,
            deadline_seconds=limits.deadline_seconds,
            observe=self.metrics.batch_rows.observe,
        )
        self._reloading = asyncio.Lock()
        self._name_bundle()

    def submit(self, served: Served, request: Request) -> asyncio.Future[Answers]:
        """The answer to come of the bundle in whose ids the request is.

        Raises:
          Refused: too many wait.
        """
        return self.batcher.submit(served.lane_of(request), request, len(request.items.lengths))

    def count(self, answers: Answers) -> None:
        """Counts what was unknown."""
        if n_unknown := sum(answers.n_unknown):
            self.metrics.unknown_items.inc(n_unknown)
        if n_popular := sum(answers.is_popular):
            self.metrics.popular_lists.inc(n_popular)

    def health(self) -> Health:
        """What answers.

        Raises:
          Refused: a call has hung, or the server is about to end.
        """
        if self.is_draining:
            raise Refused(503, "the server is about to end")
        if (seconds := self.batcher.seconds_since_last_call()) > STUCK_SECONDS:
            raise Refused(503, f"a call has not returned for {seconds:.0f} seconds; start the server again")
        facts = self.served.bundle.facts
        return Health("ok", facts.model, facts.n_items, facts.content_hash)

    async def reload(self) -> Reloaded:
        """Reads the bundle's directory anew and, once it is compiled, answers from it.

        Raises:
          InputError: the bundle there cannot be used; the one before goes on.
        """
        async with self._reloading:
            config, before = self.config, self.served.bundle.facts.content_hash
            try:
                served = await in_thread(lambda: load_served(config, unless=before))
            except Exception as error:
                self.metrics.reloads.labels("failed").inc()
                if isinstance(error, InputError):
                    log.warning("reload      refused, the bundle before goes on: %s", error)
                raise
            if served is not None:
                self.served = served
                self._name_bundle()
                log.info("reload      bundle %s", served.bundle.facts.content_hash)
            self.metrics.reloads.labels("unchanged" if served is None else "changed").inc()
            return Reloaded(self.served.bundle.facts.content_hash, served is not None)

    def _name_bundle(self) -> None:
        facts = self.served.bundle.facts
        self.metrics.set_bundle(facts.model, facts.content_hash)


async def in_thread(function: Callable[[], Value]) -> Value:
    """What a function returns, which runs in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        try:
            value, error = function(), None
        except Exception as raised:
            value, error = None, raised

        def deliver() -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        loop.call_soon_threadsafe(deliver)

    threading.Thread(target=run, name="reload", daemon=True).start()
    result: Value = await future
    return result
