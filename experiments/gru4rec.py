r"""Trains and tests a recurrent next-item recommender (GRU4Rec: Hidasi et al. 2016) on one file of events.

    python experiments/gru4rec.py                                   # the MovieLens demo
    python experiments/gru4rec.py --dataset ml-1m --data-path ml-1m.txt.gz --no-whole-histories --batch-size 64 \
        --d-model 128 --seen-weight 0.01 --max-epochs 25

docs/results.md has the figures to expect and the minutes they took.
"""

from dataclasses import dataclass, field

from seqrec.encoders.gru import GRUConfig, gru
from seqrec.run import Flat, Model, Task, TrainingConfig, build_model, make_main, run_script


@dataclass(frozen=True)
class Config:
    """Trains a recurrent network on the events of a file and tests it on each user's last item."""

    training: Flat[TrainingConfig] = field(default_factory=TrainingConfig)
    model: Flat[GRUConfig] = field(default_factory=GRUConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = gru(config.model, n_items=task.n_items, max_length=task.max_length)
    return build_model(encoder, config.training, task)


main = make_main(build, name="GRU4Rec")

if __name__ == "__main__":
    run_script(main, Config)
