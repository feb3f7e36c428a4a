r"""Trains an encoder-decoder that reads a history and generates its next items, such as the rest of a playlist.

    python experiments/seq2seq.py                                   # the MovieLens demo: the last 5 films of each user
    python experiments/seq2seq.py --dataset events --data-path plays.parquet --columns user_id item_id timestamp_us \
        --time-unit us --no-mask-seen --max-length 50 --batch-size 64 --max-epochs 6 --dropout 0.2 --n-decoder-blocks 1

Each history's last n-out items are the test, those before them choose the epoch. The printed table has recall@n and
NDCG@n of the generated list, of iterating the model as a next-item model, of its n best next items at once and of
popularity. experiments/continuations.py adds the lists of other runs; docs/seq2seq.md has the figures to expect.
"""

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.data.split_config import SplitConfig
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.experiment import Model, RunConfig, model_of, run_experiment
from seqrec.loop import FitConfig
from seqrec.losses.config import LossConfig
from seqrec.objectives import continuation
from seqrec.runtime import DistributedConfig
from seqrec.sharding import MeshConfig
from seqrec.tasks import DataConfig, Task
from seqrec.training import OptimizerConfig

DATA = DataConfig(split=SplitConfig(n_out=5, window_target="first"))


@dataclass(frozen=True)
class Config:
    """Trains an encoder-decoder and tests it on what it generates in place of each user's last n-out items."""

    data: OmitArgPrefixes[DataConfig] = DATA
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    model: OmitArgPrefixes[Seq2SeqConfig] = field(default_factory=Seq2SeqConfig)
    objective: OmitArgPrefixes[LossConfig] = field(default_factory=LossConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=FitConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    processes: OmitArgPrefixes[DistributedConfig] = field(default_factory=DistributedConfig)

    def __post_init__(self):
        split = self.data.split
        if not split.holds_continuations:
            raise ValueError(
                f"split={split.split}, window_target={split.window_target}, n_out={split.n_out} leave no items to "
                "generate; use split=leave-last-out, window_target=first and n_out=5"
            )
        if split.n_out > self.data.max_length:
            raise ValueError(
                f"n_out={split.n_out} is above max_length={self.data.max_length}, which both parts share; "
                f"try max_length={4 * split.n_out}"
            )


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = seq2seq(config.model, n_items=task.store.n_items, max_length=config.data.max_length)
    return model_of(encoder, config.objective, task, continuation)


def main(config: Config) -> dict[str, Any]:
    """Trains, tests, and leaves everything in the run's directory; returns what `metrics.json` holds."""
    return run_experiment(config, build, name="Seq2Seq")


if __name__ == "__main__":
    runtime.run_script(main, Config)
