"""What the tests of the server share: one bundle with sizes of calls that are compiled once."""

import functools

from bundle.small_bundles import loaded

from seqrec.serve.config import Limits
from seqrec.serve.served import Served, serve_bundle

LIMITS = Limits(
    max_k=20,
    max_histories=3,
    max_history=5,
    max_list=4,
    max_body_bytes=2_000,
    body_seconds=0.2,
    deadline_seconds=60.0,  # compiling counts here
)
TRACKS = [f"track-{number}" for number in range(1, 31)]


@functools.cache
def served() -> Served:
    """The kept bundle; a size is compiled when it is first asked for."""
    return serve_bundle(loaded(), LIMITS, max_batch=2)
