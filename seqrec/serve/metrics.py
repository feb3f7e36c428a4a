"""What the server counts, in the format of Prometheus."""

import functools
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts of one server, in a registry of their own."""

    def __init__(self, n_waiting: Callable[[], float]):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "seqrec_requests", "Requests answered or refused.", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "seqrec_request_seconds",
            "Time from the request's headers to its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_rows = Histogram(
            "seqrec_batch_histories", "Histories that shared a call.", buckets=ROWS, registry=self.registry
        )
        self.unknown_items = Counter(
            "seqrec_unknown_items", "Items of histories that the bundle does not know.", registry=self.registry
        )
        self.popular_lists = Counter(
            "seqrec_popular_lists", "Histories without a known item, answered by popular items.", registry=self.registry
        )
        self.reloads = Counter("seqrec_reloads", "Reloads by what came of them.", ("result",), registry=self.registry)
        # Looked up at each request.
        self._count, self._time = functools.cache(self._requests.labels), functools.cache(self._seconds.labels)
        self._bundle = Gauge("seqrec_bundle", "The bundle that answers.", ("model", "bundle"), registry=self.registry)
        Gauge("seqrec_waiting_histories", "Histories that wait for a call.", registry=self.registry).set_function(
            n_waiting
        )

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._count(route, status).inc()
        self._time(route).observe(seconds)

    def set_bundle(self, model: str, content_hash: str) -> None:
        """Names the bundle that answers from now on."""
        self._bundle.clear()
        self._bundle.labels(model, content_hash).set(1)

    def text(self) -> bytes:
        """All counts."""
        return generate_latest(self.registry)
