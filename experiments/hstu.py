"""Trains and tests the generative recommender HSTU (Zhai et al. 2024) on one file of events.

    python experiments/hstu.py    # the MovieLens demo; docs/results.md has commands for other data, and figures

It reads no times by default: with --times history those of the history, and with --times query, as published, also
that of the predicted event. Results of the last are labelled time-aware, and are compared with no others.
"""

from dataclasses import dataclass, field

from seqrec.encoders.hstu import HSTUConfig, hstu
from seqrec.run import Flat, Model, Task, TrainingConfig, build_model, make_main, run_script


@dataclass(frozen=True)
class Config:
    """Trains HSTU on the events of a file and tests it on each user's last item."""

    training: Flat[TrainingConfig] = field(default_factory=TrainingConfig)
    model: Flat[HSTUConfig] = field(default_factory=HSTUConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = hstu(config.model, n_items=task.n_items, max_length=task.max_length, times=task.times)
    return build_model(encoder, config.training, task)


main = make_main(build, name="HSTU")

if __name__ == "__main__":
    run_script(main, Config)
