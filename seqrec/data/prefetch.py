"""Makes the next batches in a thread while a step runs."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from seqrec.types import InputError

Made = TypeVar("Made")


@contextlib.contextmanager
def prefetched(make: Callable[[int], Made], *, n_ahead: int = 2) -> Iterator[Callable[[int], Made]]:
    """A function that returns what `make(step)` does, and has a thread make what the next `n_ahead` steps will ask for.

    Nothing but speed depends on the order of steps: a caller may begin anywhere, go back, or stop. An error of `make`
    is raised where its step is asked for. However the block is left, its thread has ended; that waits for the one
    result that may be under way.

    >>> with prefetched(lambda step: step**2) as square:
    ...     [square(step) for step in (0, 1, 2, 7, 8)]
    [0, 1, 4, 49, 64]

    Raises:
      InputError: `n_ahead` is below 1.
    """
    if n_ahead < 1:
        raise InputError(f"n_ahead={n_ahead} is below 1; call make itself where nothing is to be made ahead")
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    ahead: dict[int, Future[Made]] = {}

    def made(step: int) -> Made:
        wanted = range(step, step + n_ahead + 1)
        for other in ahead.keys() - wanted:
            ahead.pop(other).cancel()
        for other in wanted:
            if other not in ahead:
                ahead[other] = pool.submit(make, other)
        return ahead.pop(step).result()

    try:
        yield made
    finally:
        pool.shutdown(cancel_futures=True)
