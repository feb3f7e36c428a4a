"""Facts about the process: its port, its signals and its end."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundle import small_bundles
from bundle.small_bundles import copy_of, loaded

from seqrec.serve.server import bound_socket
from seqrec.types import InputError

ROOT = Path(__file__).parents[2]
NOT_OF_SERVING = {"duckdb", "narwhals", "orbax", "optax", "flax", "chex", "tqdm", "matplotlib", "fsspec"}
SCRIPT = f"""
import atexit, sys
atexit.register(lambda: print("imported", *({NOT_OF_SERVING!r} & {{name.split(".")[0] for name in sys.modules}})))
sys.argv = ["serve", *sys.argv[1:]]
from seqrec import runtime
from seqrec.serve.config import ServeConfig
from seqrec.serve.server import serve
runtime.run_script(serve, ServeConfig)
"""


def start(*flags: str, log: Path) -> subprocess.Popen:
    """The server as a process of its own."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *flags],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )


def wait_for(pattern: str, log: Path, process: subprocess.Popen, seconds: float = 120.0) -> re.Match:
    """The match, as soon as the log has one."""
    until = time.monotonic() + seconds
    while (match := re.search(pattern, log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
    return match


def ask(connection: http.client.HTTPConnection, method: str = "GET", path: str = "/healthz", body=None):
    """The answer's status, headers and JSON."""
    headers = {} if body is None else {"content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, json.loads(answer.read())


def test_sighup_puts_a_new_bundle_in_place_and_sigterm_finishes_what_is_under_way(tmp_path):
    directory, log, model = copy_of(tmp_path), tmp_path / "log", small_bundles.a_model()
    process = start(str(directory), "--port", "0", "--max-batch", "1", "--max-k", "20", log=log)
    try:
        port = int(wait_for(r"listening +http://127\.0\.0\.1:(\d+)", log, process)[1])
        idle, slow = (http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(2))
        assert ask(idle)[2]["bundle"] == loaded().facts.content_hash

        (directory / "items.parquet").write_bytes(b"?")
        (directory / "manifest.json").write_text(
            (directory / "manifest.json").read_text().replace(loaded().facts.content_hash, "0" * 64)
        )
        process.send_signal(signal.SIGHUP)
        wait_for(r"reload +refused.*items\.parquet is damaged", log, process)
        assert ask(idle)[2]["bundle"] == loaded().facts.content_hash

        shutil.rmtree(directory)
        small_bundles.write(directory, model, small_bundles.random_params(model, seed=1))
        process.send_signal(signal.SIGHUP)
        new = wait_for(r"reload +bundle ([0-9a-f]{64})", log, process)[1]
        history = {"histories": [["track-1", "track-2"]], "k": 5}
        _, _, answer = ask(idle, "POST", "/recommend", history)
        assert answer["bundle"] == new != loaded().facts.content_hash
        assert answer["items"] == small_bundles.load_bundle(directory).recommend(**history).items

        # A request whose body is half there when SIGTERM comes is accepted: it is answered.
        body = json.dumps(history).encode()
        slow.putrequest("POST", "/recommend")
        slow.putheader("content-type", "application/json")
        slow.putheader("content-length", str(len(body)))
        slow.endheaders()
        slow.send(body[:10])
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        wait_for("finishing what is under way", log, process)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        status, headers, again = ask(idle, "POST", "/recommend", history)
        assert (status, headers["connection"], again) == (200, "close", answer)
        slow.send(body[10:])
        finished = slow.getresponse()
        assert (finished.status, json.loads(finished.read())) == (200, answer)
        assert process.wait(30) == 0, log.read_text()
        assert log.read_text().endswith("imported\n"), "no training code, DuckDB or orbax"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("address", [("127.0.0.1", None), ("203.0.113.7", 0), ("no such host", 0)])
def test_an_address_that_cannot_be_listened_on_is_named(address):
    with socket.socket() as other_socket:
        other_socket.bind(("127.0.0.1", 0))
        other_socket.listen()
        host, port = address[0], other_socket.getsockname()[1] if address[1] is None else address[1]
        with pytest.raises(InputError, match=f"{host}:{port} cannot be listened on"), bound_socket(host, port):
            pass
