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
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.experiment import DataConfig, RunConfig, open_run, open_task, publish, train
from seqrec.loop import FitConfig
from seqrec.losses import LossConfig, make_loss
from seqrec.objectives import next_item
from seqrec.runtime import DistributedConfig
from seqrec.sharding import MeshConfig
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import Encoder


@dataclass(frozen=True)
class Config:
    """Trains a Transformer on the events of a file and tests it on each user's last item."""

    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    model: OmitArgPrefixes[TransformerConfig] = field(default_factory=TransformerConfig)
    objective: OmitArgPrefixes[LossConfig] = field(default_factory=LossConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=FitConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    processes: OmitArgPrefixes[DistributedConfig] = field(default_factory=DistributedConfig)


def build_encoder(config: Config, n_items: int) -> Encoder:
    """The model that the config describes, for a catalogue of `n_items`."""
    return transformer(config.model, n_items=n_items, max_length=config.data.max_length)


def main(config: Config) -> dict[str, Any]:
    """Trains, tests, and leaves everything in the run's directory; returns what `metrics.json` holds."""
    runtime.start(config.mesh, config.processes)
    with open_run(config, config.run, name=f"sasrec-{config.data.dataset}") as run:
        task = open_task(run, config.data, seed=config.run.seed)
        encoder = build_encoder(config, task.store.n_items)
        optimizer = make_optimizer(
            config.optimizer, encoder.specs, n_steps=config.fit.max_epochs * task.train.steps_per_epoch
        )
        train_step = make_train_step(
            encoder,
            next_item,
            make_loss(config.objective),
            optimizer,
            seed=config.run.seed,
            average_decay=config.optimizer.average_decay,
            accumulation_steps=config.optimizer.accumulation_steps,
        )
        state = init_state(encoder, optimizer, seed=config.run.seed)
        trained = train(run, task, encoder, state, train_step, config.fit)
        return publish(run, task, encoder, trained, name="SASRec")


if __name__ == "__main__":
    runtime.run_script(main, Config)
