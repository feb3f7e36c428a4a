"""What the server is told on its command line, and by the clouds that run it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

try:
    from tyro.conf import OmitArgPrefixes, Positional, arg
except ModuleNotFoundError as error:
    raise ImportError(f'{error.name} is missing; run pip install "seqrec[serve]"') from error

from seqrec.bundle.files import Search
from seqrec.config import check_above, check_at_least, check_between, check_fields
from seqrec.types import InputError


@dataclass(frozen=True)
class Limits:
    """Bounds of a request; what lies beyond them is refused in one line."""

    max_k: int = 100
    """Most items of a list."""
    max_histories: int = 128
    """Most histories of a request."""
    max_history: int = 1000
    """Most items of a history."""
    max_list: int = 1000
    """Most items of a list of excluded or of allowed items."""
    max_body_bytes: int = 1 << 20
    """Size of a request's body."""
    body_seconds: float = 10.0
    """Time in which a request's body must arrive."""
    deadline_seconds: float = 1.0
    """Time in which a request must be answered, counted from the end of its body."""
    max_waiting: int = 1024
    """Most histories that wait for a call; further requests are refused."""
    max_connections: int = 1000
    """Most connections, and most requests under way."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "max_k", "max_histories", "max_history", "max_list", "max_body_bytes")
        check_at_least(self, 1, "max_waiting", "max_connections")
        check_above(self, 0, "body_seconds", "deadline_seconds")


@dataclass(frozen=True)
class ServeConfig:
    """Answers requests for recommendations over HTTP from a bundle."""

    bundle: Annotated[Positional[Path], arg(metavar="BUNDLE")]
    """Directory of the bundle, which may be s3:// or gs://."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every network of this machine."""
    port: int | None = None
    """Port to listen on; 0 takes a free one. By default that of AIP_HTTP_PORT, or 8080."""
    search: Search = "exact"
    """How the best items are found: among all; or, of a large catalogue, among candidates that int8 rows propose, or
    the index that export.py --index wrote."""
    sessions: int = 0
    """Number of users whose state is kept, so that POST /sessions needs their new events alone; of more users those
    who asked longest ago are dropped."""
    max_batch: int | None = None
    """Most histories that share a call; by default as many as suit the size of the catalogue."""
    n_callers: int = 1
    """Number of calls that run at the same time."""
    drain_seconds: float = 10.0
    """Time in which requests under way are finished after SIGTERM."""
    limits: OmitArgPrefixes[Limits] = field(default_factory=Limits)

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 0, "sessions")
        check_at_least(self, 1, "max_batch", "n_callers")
        check_above(self, 0, "drain_seconds")
        check_between(self, 0, 65535, "port")
        if self.sessions and self.search != "exact":
            raise InputError(f"sessions={self.sessions} need exact search, not {self.search}; leave one of them out")


class CloudRoutes(NamedTuple):
    """What Vertex AI names in a container's environment."""

    port: int
    health: str | None
    predict: str | None


def cloud_routes(environment: Mapping[str, str] = os.environ) -> CloudRoutes:
    """The port and the routes that the environment names; port 8080 and no routes where it names none.

    >>> cloud_routes({"AIP_HTTP_PORT": "9000", "AIP_PREDICT_ROUTE": "/predict"})
    CloudRoutes(port=9000, health=None, predict='/predict')

    Raises:
      InputError: what it names is no port, or no route.
    """
    port = environment.get("AIP_HTTP_PORT", "8080")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError(f"AIP_HTTP_PORT={port} is no port; give a number from 0 to 65535")
    routes = []
    for name in ("AIP_HEALTH_ROUTE", "AIP_PREDICT_ROUTE"):
        route = environment.get(name) or None
        if route is not None and (not route.startswith("/") or {"{", "}"} & set(route)):
            raise InputError(f"{name}={route} is no route; give one that begins with /, without braces")
        routes.append(route)
    return CloudRoutes(int(port), *routes)
