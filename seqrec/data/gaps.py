"""Time between one event of a user and the next."""

import numpy as np
from jaxtyping import Float, Int32

from seqrec.data.feature_values import Places
from seqrec.data.ragged import rows_at
from seqrec.data.store import SequenceStore

N_GAP_BUCKETS = 32


def seconds_since_previous(store: SequenceStore, places: Places) -> Float[np.ndarray, " n"]:
    """Seconds since the previous event of the same user; NaN for a user's first event."""
    times = store.columns["timestamp_us"]
    is_first = store.offsets[rows_at(store.offsets, places)] == places
    gaps = np.maximum(times[places] - times[np.maximum(places - 1, 0)], 0) / 1_000_000
    return np.where(is_first, np.nan, gaps)


def gap_buckets(store: SequenceStore, places: Places) -> Int32[np.ndarray, "n 1"]:
    """Bucket b holds gaps of 2^(b - 1) - 1 seconds and more, below 2^b - 1; the last holds all that are longer."""
    gaps = seconds_since_previous(store, places)
    _, exponents = np.frexp(1 + np.nan_to_num(gaps))
    return np.where(np.isnan(gaps), 0, np.minimum(exponents, N_GAP_BUCKETS)).astype(np.int32)[:, None]
