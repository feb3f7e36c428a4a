"""Moments as people write them, in UTC, and as int64 microseconds since 1970."""

import numpy as np

from seqrec.data.paths import as_input_error


def moment_us(moment: str) -> int:
    """Microseconds since 1970 of an ISO date or time, in UTC.

    >>> moment_us("1970-01-02")
    86400000000
    """
    with as_input_error(
        f"{moment!r} is not an ISO date or time; write it as 2024-05-31 or 2024-05-31T12:00", ValueError
    ):
        return int(np.datetime64(moment.removesuffix("Z"), "us").astype(np.int64))


def iso_moment(timestamp_us: int | np.int64) -> str:
    """The ISO date and time, UTC, of so many microseconds since 1970.

    >>> iso_moment(86_400_000_000)
    '1970-01-02T00:00:00Z'
    """
    return f"{np.datetime64(int(timestamp_us), 'us')}".removesuffix(".000000") + "Z"
