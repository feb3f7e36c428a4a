r"""Trains and tests a gated Transformer with sampled softmax over mixed negatives (eSASRec) on one file of events.

    python experiments/esasrec.py                                   # the MovieLens demo
    python experiments/esasrec.py --dataset s3rec --data-path Beauty.txt.gz --max-length 50 --batch-size 128 \
        --dropout 0.5 --max-epochs 40

The gates are LiGR's (Borisyuk et al. 2025); half of the negatives are drawn by popularity and half evenly.
docs/results.md has the figures to expect and the minutes they took.
"""

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.behaviour import with_behaviour
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.experiment import Model, RunConfig, model_of, run_experiment
from seqrec.loop import FitConfig
from seqrec.losses.config import LossConfig
from seqrec.runtime import DistributedConfig
from seqrec.sharding import MeshConfig
from seqrec.tasks import DataConfig, Task
from seqrec.training import OptimizerConfig

MODEL = TransformerConfig(gated=True)
LOSS = LossConfig(loss="sampled-softmax", negatives="popular", uniform_share=0.5)


@dataclass(frozen=True)
class Config:
    """Trains a gated Transformer and tests it on each user's last item."""

    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    model: OmitArgPrefixes[TransformerConfig] = MODEL
    objective: OmitArgPrefixes[LossConfig] = LOSS
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
    return model_of(encoder, config.objective, task)


def main(config: Config) -> dict[str, Any]:
    """Trains, tests, and leaves everything in the run's directory; returns what `metrics.json` holds."""
    return run_experiment(config, build, name="eSASRec")


if __name__ == "__main__":
    runtime.run_script(main, Config)
