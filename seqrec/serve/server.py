"""The process: a socket, signals, and the event loop between."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

try:
    import uvicorn
    import uvloop
except ModuleNotFoundError as error:
    raise ImportError(f'{error.name} is missing; run pip install "seqrec[serve]"') from error

from seqrec import runtime
from seqrec.files import address_of
from seqrec.serve.app import make_app
from seqrec.serve.config import CloudRoutes, ServeConfig, cloud_routes
from seqrec.serve.served import Served, load_served
from seqrec.serve.service import Service
from seqrec.sharding import MeshConfig
from seqrec.types import InputError

log = logging.getLogger("seqrec")

KEEP_ALIVE_SECONDS = 75
"""A connection without a request is closed after this time: later than load balancers, which close theirs after 60."""
IDLE_SECONDS = 3.0
"""While the server ends, a connection without a request is closed after this time: one that asks before learns by its
answer that the connection closes, where one that is closed at once may have sent a request already."""
SWITCH_SECONDS = 0.0005
"""Turns of Python's threads. In turns of 5 ms, which are usual, a finished call waits for the loop that long."""


def serve(config: ServeConfig) -> None:
    """Answers until SIGTERM or Ctrl-C, then finishes what is under way; SIGHUP reads the bundle anew."""
    cloud = cloud_routes()
    runtime.start(MeshConfig())
    with bound_socket(config.host, cloud.port if config.port is None else config.port) as listener:
        served = load_served(config)
        assert served is not None
        runtime.check_interrupt()
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.collect()
        gc.freeze()  # what was loaded stays: collections need not look at it
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(served, config, cloud, listener))


@contextlib.contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that has its address but does not listen yet.

    Raises:
      InputError: the address is taken, or is none of this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, kind) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            yield made
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be listened on ({error.strerror}); give another --host or --port"
        ) from None


class _Server(uvicorn.Server):
    """uvicorn with signals of our own: its own would end the process by SIGTERM, and close idle connections at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(served: Served, config: ServeConfig, cloud: CloudRoutes, listener: socket.socket) -> None:
    service = Service(served, config)
    server = _Server(
        uvicorn.Config(
            make_app(service, cloud),
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # /reload asks who the client is
            server_header=False,
            limit_concurrency=config.limits.max_connections,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
        )
    )
    loop, tasks = asyncio.get_running_loop(), set()

    def start(task: asyncio.Task[None]) -> None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def end(number: int) -> None:
        if service.is_draining:
            os._exit(128 + number)
        service.is_draining = True
        start(loop.create_task(_drain(server)))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    loop.add_signal_handler(signal.SIGHUP, lambda: start(loop.create_task(_reload(service))))
    start(loop.create_task(_announce(server, served, config, listener)))
    await server.serve(sockets=[listener])
    service.batcher.close()
    if tasks:  # a reload is compiling, which nothing stops, and its result has no use
        sys.stderr.flush()
        os._exit(0)


async def _announce(server: uvicorn.Server, served: Served, config: ServeConfig, listener: socket.socket) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    facts, (host, port, *_) = served.bundle.facts, listener.getsockname()
    shown = f"[{host}]" if ":" in host else host
    log.info(
        "bundle      %s: %s, %s items, %s",
        address_of(config.bundle),
        facts.model,
        f"{facts.n_items:,}",
        facts.content_hash,
    )
    if served.sessions is not None:
        n_bytes = served.sessions.sessions.bytes_per_session
        log.info("sessions    %s of %s bytes each", f"{config.sessions:,}", f"{n_bytes:,}")
    log.info("listening   http://%s:%d", shown, port)


async def _reload(service: Service) -> None:
    try:
        await service.reload()
    except InputError:
        pass  # it is in the log
    except Exception:
        log.exception("reload      failed, the bundle before goes on")


async def _drain(server: uvicorn.Server) -> None:
    """Refuses connections, and lets those that are open have an answer that says that they close."""
    log.info("ending      finishing what is under way; a second signal ends the process at once")
    for listening in server.servers:
        listening.close()
    until = asyncio.get_running_loop().time() + IDLE_SECONDS
    while server.server_state.connections and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.02)
    server.should_exit = True
