r"""Trains and tests a Transformer on generalised binary cross-entropy (gSASRec: Petrov and Macdonald 2023).

    python experiments/gsasrec.py                                   # the MovieLens demo
    python experiments/gsasrec.py --dataset ml-1m --data-path ml-1m.txt.gz --no-whole-histories --batch-size 64 \
        --d-model 128 --dropout 0.25 --max-epochs 25

Each row of a batch has 256 uniform negatives of its own, and the calibration t is .75.
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

LOSS = LossConfig(loss="gbce", n_negatives=256, calibration=0.75, negatives_per_row=True)


@dataclass(frozen=True)
class Config:
    """Trains a Transformer on a calibrated binary loss and tests it on each user's last item."""

    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    model: OmitArgPrefixes[TransformerConfig] = field(default_factory=TransformerConfig)
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
    return run_experiment(config, build, name="gSASRec")


if __name__ == "__main__":
    runtime.run_script(main, Config)
