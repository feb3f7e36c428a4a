"""The config that all training scripts share; each script adds that of its encoder."""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from seqrec.baselines.neighbour_tables import NeighbourTableName
from seqrec.config import check_fields
from seqrec.data.engagement import EngagementConfig
from seqrec.items import ItemConfig
from seqrec.loop import FitConfig
from seqrec.losses.config import LossConfig
from seqrec.run.baselines import BaselineChoice
from seqrec.run.data import DataConfig
from seqrec.run.start_from import StartConfig
from seqrec.runtime import DistributedConfig
from seqrec.sharding import MeshConfig
from seqrec.tracking.tracker import TrackerName
from seqrec.training import OptimizerConfig


@dataclass(frozen=True)
class RunConfig:
    """Where a run is kept, and its seed."""

    output: Path | None = None
    """Directory of the run, which may be s3:// or gs://; by default a new one under runs/."""
    resume: bool = False
    """Continue the run in --output from its latest checkpoint."""
    seed: int = 0
    """Seed of weights, batches and dropout."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class TrainingConfig:
    """What every training script takes, whatever its encoder."""

    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    start: OmitArgPrefixes[StartConfig] = field(default_factory=StartConfig)
    items: OmitArgPrefixes[ItemConfig] = field(default_factory=ItemConfig)
    engagement: OmitArgPrefixes[EngagementConfig] = field(default_factory=EngagementConfig)
    loss: OmitArgPrefixes[LossConfig] = field(default_factory=LossConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=FitConfig)
    baselines: tuple[BaselineChoice, ...] = ("auto",)
    """Baselines to test beside the model, by the paired test over users. auto: popularity, personal popularity,
    first-order Markov, skip-gram Markov, item-kNN, VS-SkNN and STAN, as far as they take a tenth of the training's time
    together; more names, as in auto EASE, are tested however long they take."""
    fuse: tuple[NeighbourTableName, ...] = ()
    """Item-to-item tables to add to scores after training, with weights fitted on validation: markov (what followed the
    newest item), item-kNN (what is similar to the latest items), slim (sparse linear weights of the latest items)."""
    track: tuple[TrackerName, ...] = ()
    """Trackers to send settings, metrics and figures to while training: mlflow, tensorboard, wandb or several.
    Runs stay on this machine unless the environment says otherwise (MLFLOW_TRACKING_URI, WANDB_MODE)."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    processes: OmitArgPrefixes[DistributedConfig] = field(default_factory=DistributedConfig)

    def __post_init__(self):
        check_fields(self)
        if not self.baselines:
            raise ValueError("baselines names none; popularity is there at no cost")
        if self.data.times == "query" and self.engagement.gap_head:
            raise ValueError(
                "gap_head predicts when the next event comes, which times=query gives away; use times=history"
            )
        if self.data.shards == "own":
            needs_all = {
                "fuse": bool(self.fuse),
                "start_from": self.start.start_from is not None,
                "loss weights, skips and side tasks": self.engagement != EngagementConfig(),
            }
            if refused := [name for name, is_asked in needs_all.items() if is_asked]:
                raise ValueError(
                    f"shards=own goes without {refused[0]}, which reads all shards; use shards=all, or leave it out"
                )
        if self.loss.skip_weight and not self.engagement.skips:
            raise ValueError(f"skip_weight={self.loss.skip_weight:g} weighs skips; name them, as in --skips skipped=1")
