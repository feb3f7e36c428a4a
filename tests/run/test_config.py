"""The shared config of training scripts refuses what contradicts itself."""

import pytest

from seqrec.data.engagement import EngagementConfig
from seqrec.losses.config import LossConfig
from seqrec.run.config import TrainingConfig
from seqrec.run.data import DataConfig


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"data": DataConfig(times="query"), "engagement": EngagementConfig(gap_head=0.1)},
            "which times=query gives away; use times=history",
        ),
        ({"loss": LossConfig(skip_weight=0.5)}, "skip_weight=0.5 weighs skips; name them, as in --skips skipped=1"),
    ],
    ids=["gap head", "skip weight"],
)
def test_parts_that_contradict_each_other_are_refused(parts, said):
    with pytest.raises(ValueError, match=said) as refusal:
        TrainingConfig(**parts)
    assert "\n" not in str(refusal.value)
    for name, part in parts.items():
        if name != "loss":
            TrainingConfig(**{name: part})  # each alone is sound
