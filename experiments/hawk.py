r"""Trains and tests gated linear recurrences (Hawk: De et al. 2024) as a next-item recommender on one file of events.

    python experiments/hawk.py                                      # the MovieLens demo
    python experiments/hawk.py --dataset ml-1m --data-path ml-1m.txt.gz --random-crops --batch-size 64 --d-model 192 \
        --n-blocks 4 --dropout 0.3 --label-smoothing 0.1 --seen-weight 0.01 --learning-rate 0.003 --weight-decay 0.3 \
        --max-epochs 35                                             # the best on ML-1M: minutes on a GPU

docs/results.md has the figures to expect and the minutes they took.
"""

from dataclasses import dataclass, field

from seqrec.encoders.hawk import HawkConfig, hawk
from seqrec.run import Flat, Model, Task, TrainingConfig, build_model, make_main, run_script


@dataclass(frozen=True)
class Config:
    """Trains gated linear recurrences on the events of a file and tests it on each user's last item."""

    training: Flat[TrainingConfig] = field(default_factory=TrainingConfig)
    model: Flat[HawkConfig] = field(default_factory=HawkConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = hawk(config.model, n_items=task.n_items, max_length=task.max_length)
    return build_model(encoder, config.training, task)


main = make_main(build, name="Hawk")

if __name__ == "__main__":
    run_script(main, Config)
