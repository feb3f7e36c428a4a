r"""Trains and tests a Transformer next-item recommender (SASRec: Kang and McAuley 2018) on one file of events.

    python experiments/sasrec.py                                    # the MovieLens demo, under 3 minutes
    python experiments/sasrec.py --dataset ml-1m --data-path ml-1m.txt.gz --d-model 128 --dropout 0.25 \
        --batch-size 64 --max-epochs 25 --no-whole-histories        # the setting for real use, under half an hour

docs/results.md has the figures to expect, and the command for SASRec at its published sizes.
"""

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.behaviour import with_behaviour
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.experiment import Model, RunConfig, items_of, model_of, run_experiment
from seqrec.items import ItemConfig
from seqrec.loop import FitConfig
from seqrec.losses.config import LossConfig
from seqrec.runtime import DistributedConfig
from seqrec.sharding import MeshConfig
from seqrec.tasks import DataConfig, Task
from seqrec.training import OptimizerConfig


@dataclass(frozen=True)
class Config:
    """Trains a Transformer on the events of a file and tests it on each user's last item."""

    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    model: OmitArgPrefixes[TransformerConfig] = field(default_factory=TransformerConfig)
    items: OmitArgPrefixes[ItemConfig] = field(default_factory=ItemConfig)
    objective: OmitArgPrefixes[LossConfig] = field(default_factory=LossConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=FitConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    processes: OmitArgPrefixes[DistributedConfig] = field(default_factory=DistributedConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = transformer(
        config.model, n_items=task.store.n_items, max_length=config.data.max_length, times=config.data.times
    )
    encoder = with_behaviour(encoder, task.train.features)
    return model_of(items_of(encoder, config.items, task), config.objective, task)


def main(config: Config) -> dict[str, Any]:
    """Trains, tests, and leaves everything in the run's directory; returns what `metrics.json` holds."""
    return run_experiment(config, build, name="SASRec")


if __name__ == "__main__":
    runtime.run_script(main, Config)
