"""The shared config of training scripts refuses what contradicts itself."""

import pytest

from seqrec.data.engagement import EngagementConfig
from seqrec.data.event_features import EventFeatureConfig
from seqrec.data.split_config import SplitConfig
from seqrec.losses.config import LossConfig
from seqrec.run.config import TrainingConfig
from seqrec.run.data import DataConfig

OWN = DataConfig("store", shards="own")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"data": DataConfig(times="query"), "engagement": EngagementConfig(gap_head=0.1)},
            "which times=query gives away; use times=history",
        ),
        ({"loss": LossConfig(skip_weight=0.5)}, "skip_weight=0.5 weighs skips; name them, as in --skips skipped=1"),
        ({"data": OWN, "fuse": ("markov",)}, "shards=own goes without fuse, .*; use shards=all, or leave it out"),
        ({"data": OWN, "engagement": EngagementConfig(half_life=9.0)}, "shards=own goes without loss weights"),
    ],
    ids=["gap head", "skip weight", "fused tables", "weights by age"],
)
def test_parts_that_contradict_each_other_are_refused(parts, message):
    with pytest.raises(ValueError, match=message) as refusal:
        TrainingConfig(**parts)
    assert "\n" not in str(refusal.value)
    for name, part in parts.items():
        if name != "loss":
            TrainingConfig(**{name: part})  # each alone is sound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "events"}, "shards=own with dataset=events; prepare a store, and use dataset=store"),
        ({"features": EventFeatureConfig(("hour",))}, "neither event_features and user_features nor several items"),
        ({"split": SplitConfig(window_target="first", n_out=3)}, "nor several items held out to generate"),
    ],
)
def test_what_no_process_can_make_of_its_own_shards_is_refused(options, message):
    DataConfig(**{"dataset": "store", **options})
    with pytest.raises(ValueError, match=message):
        DataConfig(**{"dataset": "store", "shards": "own", **options})
