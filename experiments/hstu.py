r"""Trains and tests the generative recommender HSTU (Zhai et al. 2024) on one file of events.

    python experiments/hstu.py                                      # the MovieLens demo
    python experiments/hstu.py --dataset ml-1m --data-path ml-1m.txt.gz --no-whole-histories --batch-size 64 \
        --d-model 128 --seen-weight 0.01 --max-epochs 25

It reads no times unless told: with --times history those of the history, and with --times query, as published, also
when the answer came. Figures of the last are labelled time-aware, and are compared with no others.
docs/results.md has the figures to expect and the minutes they took.
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
