r"""Trains and tests the generative recommender HSTU (Zhai et al. 2024) on one file of events.

    python experiments/hstu.py                                      # the MovieLens demo
    python experiments/hstu.py --dataset ml-1m --data-path ml-1m.txt.gz --no-whole-histories --batch-size 64 \
        --d-model 128 --seen-weight 0.01 --max-epochs 25

It reads no times unless told: with --times history those of the history, and with --times query, as published, also
when the answer came. Figures of the last are labelled time-aware, and are compared with no others.
docs/results.md has the figures to expect and the minutes they took.
"""

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.behaviour import with_behaviour
from seqrec.encoders.hstu import HSTUConfig, hstu
from seqrec.experiment import Model, RunConfig, model_of, run_experiment
from seqrec.loop import FitConfig
from seqrec.losses.config import LossConfig
from seqrec.runtime import DistributedConfig
from seqrec.sharding import MeshConfig
from seqrec.tasks import DataConfig, Task
from seqrec.training import OptimizerConfig


@dataclass(frozen=True)
class Config:
    """Trains HSTU on the events of a file and tests it on each user's last item."""

    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    model: OmitArgPrefixes[HSTUConfig] = field(default_factory=HSTUConfig)
    objective: OmitArgPrefixes[LossConfig] = field(default_factory=LossConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=FitConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    processes: OmitArgPrefixes[DistributedConfig] = field(default_factory=DistributedConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = hstu(config.model, n_items=task.store.n_items, max_length=config.data.max_length, times=config.data.times)
    return model_of(with_behaviour(encoder, task.train.features), config.objective, task)


def main(config: Config) -> dict[str, Any]:
    """Trains, tests, and leaves everything in the run's directory; returns what `metrics.json` holds."""
    return run_experiment(config, build, name="HSTU")


if __name__ == "__main__":
    runtime.run_script(main, Config)
