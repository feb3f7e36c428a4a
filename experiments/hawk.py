r"""Trains and tests gated linear recurrences (Hawk: De et al. 2024) as a next-item recommender on one file of events.

    python experiments/hawk.py                                      # the MovieLens demo
    python experiments/hawk.py --dataset ml-1m --data-path ml-1m.txt.gz --random-crops --batch-size 64 --d-model 192 \
        --n-blocks 4 --dropout 0.3 --label-smoothing 0.1 --seen-weight 0.01 --learning-rate 0.003 --weight-decay 0.3 \
        --max-epochs 35                                             # the best on ML-1M: minutes on a GPU

docs/results.md has the figures to expect and the minutes they took.
"""

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.behaviour import with_behaviour
from seqrec.encoders.hawk import HawkConfig, hawk
from seqrec.experiment import Model, RunConfig, model_of, run_experiment
from seqrec.loop import FitConfig
from seqrec.losses.config import LossConfig
from seqrec.runtime import DistributedConfig
from seqrec.sharding import MeshConfig
from seqrec.tasks import DataConfig, Task
from seqrec.training import OptimizerConfig


@dataclass(frozen=True)
class Config:
    """Trains gated linear recurrences on the events of a file and tests it on each user's last item."""

    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    model: OmitArgPrefixes[HawkConfig] = field(default_factory=HawkConfig)
    objective: OmitArgPrefixes[LossConfig] = field(default_factory=LossConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=FitConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    processes: OmitArgPrefixes[DistributedConfig] = field(default_factory=DistributedConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = hawk(config.model, n_items=task.store.n_items, max_length=config.data.max_length)
    return model_of(with_behaviour(encoder, task.train.features), config.objective, task)


def main(config: Config) -> dict[str, Any]:
    """Trains, tests, and leaves everything in the run's directory; returns what `metrics.json` holds."""
    return run_experiment(config, build, name="Hawk")


if __name__ == "__main__":
    runtime.run_script(main, Config)
