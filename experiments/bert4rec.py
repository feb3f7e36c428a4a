r"""Trains and tests a bidirectional Transformer that restores hidden items (BERT4Rec: Sun et al. 2019).

    python experiments/bert4rec.py                                  # the MovieLens demo
    python experiments/bert4rec.py --dataset ml-1m --data-path ml-1m.txt.gz --no-whole-histories --batch-size 64 \
        --d-model 128 --max-epochs 100 --patience 25

It learns from a share of the positions at a time, so it needs several times the epochs of a causal model.
docs/results.md has the figures to expect and the minutes they took.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.experiment import Model, RunConfig, model_of, run_experiment
from seqrec.loop import FitConfig
from seqrec.losses.config import LossConfig
from seqrec.objectives import masked_item
from seqrec.runtime import DistributedConfig
from seqrec.sharding import MeshConfig
from seqrec.tasks import DataConfig, Task
from seqrec.training import OptimizerConfig

MODEL = TransformerConfig(causal=False)
FIT = FitConfig(max_epochs=60, patience=15)


@dataclass(frozen=True)
class Config:
    """Trains a bidirectional Transformer and tests it on each user's last item."""

    mask_share: float = 0.2
    """Share of a row's positions that is hidden at a time."""
    last_share: float = 0.1
    """Share of rows in which the newest item of each history is hidden instead, as evaluation does."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    model: OmitArgPrefixes[TransformerConfig] = MODEL
    objective: OmitArgPrefixes[LossConfig] = field(default_factory=LossConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    fit: OmitArgPrefixes[FitConfig] = FIT
    mesh: MeshConfig = field(default_factory=MeshConfig)
    processes: OmitArgPrefixes[DistributedConfig] = field(default_factory=DistributedConfig)

    def __post_init__(self):
        for name in ("mask_share", "last_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not a share above 0 and below 1; try {name}=0.2")
        if self.model.causal:
            raise ValueError("a causal model cannot restore hidden items; leave --causal out")


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = transformer(config.model, n_items=task.store.n_items, max_length=config.data.max_length)
    objective = partial(masked_item, mask_share=config.mask_share, last_share=config.last_share)
    return model_of(encoder, config.objective, task, objective)


def main(config: Config) -> dict[str, Any]:
    """Trains, tests, and leaves everything in the run's directory; returns what `metrics.json` holds."""
    return run_experiment(config, build, name="BERT4Rec")


if __name__ == "__main__":
    runtime.run_script(main, Config)
