"""Detection of loss spikes and of numbers that are not finite."""

import math
from dataclasses import dataclass

import numpy as np

from seqrec.data.batches import TrainingBatches

N_LOSSES = 100
"""About how many losses the running mean covers; with fewer, the running deviation is not used yet."""
MIN_RISE = 1.0
"""The least rise above the running mean that is a spike, in nats: a loss near 0 varies by many deviations."""


@dataclass(frozen=True)
class RunningLoss:
    """Mean and variance of the losses so far.

    Up to `N_LOSSES` losses weigh the same; then each new loss has the weight `1 / N_LOSSES` and older ones decay
    exponentially (Finch 2009, "Incremental calculation of weighted mean and variance", section 9).
    """

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def add(self, loss: float) -> "RunningLoss":
        """The mean and variance with one more loss."""
        share = max(1 / (self.n + 1), 1 / N_LOSSES)
        rise = loss - self.mean
        return RunningLoss(self.n + 1, self.mean + share * rise, (1 - share) * (self.variance + share * rise * rise))

    def limit(self, *, deviations: float) -> float:
        """The loss above which the next one is a spike: this many standard deviations above the mean.

        For the first `N_LOSSES` losses it is twice the mean, and always at least `MIN_RISE` above the mean. Before the
        first loss, and with 0 deviations, it is infinite.
        """
        if self.n == 0 or deviations == 0:
            return math.inf
        rise = abs(self.mean) if self.n < N_LOSSES else deviations * math.sqrt(self.variance)
        return self.mean + max(rise, MIN_RISE)


class Spike(Exception):
    """The loss of a step is a spike, or a number is not finite; the message says which."""

    def __init__(self, message: str, *, step: int, gradient_norm: float):
        super().__init__(message)
        self.step = step
        self.gradient_norm = gradient_norm


def find_spike(
    running: RunningLoss, losses: np.ndarray, gradient_norms: np.ndarray, *, first_step: int, deviations: float
) -> RunningLoss:
    """The running loss after these steps.

    Raises:
      Spike: the loss of one of them is a spike or not finite, or its gradient's norm is not finite.
    """
    for step, (loss, norm) in enumerate(zip(losses.tolist(), gradient_norms.tolist(), strict=True), start=first_step):
        if not math.isfinite(loss):
            raise Spike(f"the loss is {loss} at step {step}", step=step, gradient_norm=norm)
        if not math.isfinite(norm):
            raise Spike(f"the gradient's norm is {norm} at step {step}", step=step, gradient_norm=norm)
        if loss > (limit := running.limit(deviations=deviations)):
            raise Spike(
                f"the loss is {loss:.4g} at step {step}, above {limit:.4g}, the limit at a running mean of "
                f"{running.mean:.4g}",
                step=step,
                gradient_norm=norm,
            )
        running = running.add(loss)
    return running


def describe_spike(spike: Spike, batches: TrainingBatches, position: int, *, n_named: int = 5) -> str:
    """The spike in one phrase, with the gradient's norm and the keys of the first users of its batch."""
    users = batches.users(position)
    named = ", ".join(str(batches.store.user_keys[user]) for user in users[:n_named])
    more = f" and {len(users) - n_named:,} more" if len(users) > n_named else ""
    return f"{spike} (gradient norm {spike.gradient_norm:.4g}; users {named}{more})"
