"""Whether validation still improves, and what follows where it does not: the end, or a learning rate that falls."""

import base64
import math
import zlib

import numpy as np
from jaxtyping import Float

from seqrec.checkpoint import Progress
from seqrec.files import JsonObject

PerQuery = Float[np.ndarray, " queries"]
"""NDCG@10 of each validation query."""


def is_gain(ndcg: PerQuery, reference: PerQuery, *, n_errors: float) -> bool:
    """Whether the mean is above the reference's by more than `n_errors` standard errors of the paired difference.

    Queries that both rank alike add nothing to the error, so that a small gain counts where little else has changed.

    >>> reference = np.array([0.0, 1.0, 0.0, 0.0])
    >>> ndcg = np.array([1.0, 1.0, 0.0, 0.0])  # a gain of 1/4, with a standard error of 1/4
    >>> is_gain(ndcg, reference, n_errors=0.9), is_gain(ndcg, reference, n_errors=1.0)
    (True, False)
    """
    difference = ndcg.astype(np.float64) - reference
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return bool(difference.mean() > n_errors * error)


def packed(ndcg: PerQuery) -> str:
    """The values in float32 as a text for a checkpoint's JSON, of which ranks behind the tenth take next to nothing.

    >>> unpacked(packed(np.array([0.0, 0.5, 1.0]))).tolist(), len(packed(np.zeros(1_000_000))) < 6000
    ([0.0, 0.5, 1.0], True)
    """
    return base64.b64encode(zlib.compress(ndcg.astype("<f4").tobytes())).decode()


def unpacked(text: str) -> PerQuery:
    """The values that `packed` has written."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4")


def no_gain(progress: Progress, patience: int, *, n_errors: float) -> str:
    """In words, that the last `patience` validations are no gain over as many before them; "" if they are, or fewer.

    Each query's figures are averaged over the validations first, as in `is_gain`: slow gains add up, and what
    differs from one validation to the next by chance averages out.

    >>> progress = Progress(seed=0, ndcg=tuple(packed(np.array([value])) for value in (0.5, 0.5, 0.4, 0.5)))
    >>> no_gain(progress, 2, n_errors=1.0), no_gain(progress, 1, n_errors=1.0)
    ('2 validations without a gain beyond their noise', '')
    """
    latest = progress.ndcg[-2 * patience :]
    if len(latest) < 2 * patience:
        return ""
    earlier, later = (
        np.stack([unpacked(text) for text in part]).mean(axis=0, dtype=np.float64)
        for part in (latest[:patience], latest[patience:])
    )
    if is_gain(later, earlier, n_errors=n_errors):
        return ""
    return f"{patience} validations without a gain beyond their noise"


def epochs_of(step: int, steps_per_epoch: int) -> int | float:
    """The epochs that a number of steps makes, whole where they are.

    >>> epochs_of(20, 10), epochs_of(5, 10)
    (2, 0.5)
    """
    return round(step / steps_per_epoch, 6) if step % steps_per_epoch else step // steps_per_epoch


def named(step: int, steps_per_epoch: int) -> str:
    """The epoch that ends with a step, or the step.

    >>> named(20, 10), named(5, 10)
    ('epoch 2', 'step 5')
    """
    epoch = epochs_of(step, steps_per_epoch)
    return f"epoch {epoch}" if isinstance(epoch, int) else f"step {step}"


def cooldown_line(step: int, from_step: int, steps_per_epoch: int) -> JsonObject:
    """What metrics.jsonl has of a learning rate that falls after a step, from the weights of the same step or another.

    >>> cooldown_line(40, 20, 10)
    {'step': 40, 'epoch': 4, 'cooldown_from': 2}
    """
    return {
        "step": step,
        "epoch": epochs_of(step, steps_per_epoch),
        "cooldown_from": epochs_of(from_step, steps_per_epoch),
    }


def none_better(progress: Progress, patience: int, steps_per_epoch: int) -> str:
    """In words, that at least `patience` validations have followed the best; "" if fewer have."""
    values = [value for _, value in progress.validations]
    if not values or len(values) - 1 - int(np.argmax(values)) < patience:
        return ""
    step, value = progress.best
    return f"{patience} validations without a better NDCG@10 than {value:.4f} of {named(step, steps_per_epoch)}"


def out_of_time(progress: Progress, max_minutes: float) -> str:
    """In words, that a validated run has trained for as long as it may; "" if it has not."""
    if progress.validations and max_minutes and progress.train_seconds >= 60 * max_minutes:
        return f"trained for {progress.train_seconds / 60:.1f} minutes, with max_minutes={max_minutes:g}"
    return ""
