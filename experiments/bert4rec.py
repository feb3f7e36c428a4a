"""Trains a bidirectional Transformer that restores hidden items (BERT4Rec: Sun et al. 2019), and tests it.

python experiments/bert4rec.py    # the MovieLens demo; docs/results.md has commands for other data, and figures
"""

from dataclasses import dataclass, field

from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.loop import FitConfig
from seqrec.questions import MaskedItemConfig, masked_items
from seqrec.run import Flat, Model, Task, TrainingConfig, build_model, make_main, run_script

FIT = FitConfig(max_epochs=60, patience=15)  # a step learns from a share of the positions, so it needs more epochs


@dataclass(frozen=True)
class Config:
    """Trains a bidirectional Transformer and tests it on each user's last item."""

    training: Flat[TrainingConfig] = field(default_factory=lambda: TrainingConfig(fit=FIT))
    model: Flat[TransformerConfig] = field(default_factory=lambda: TransformerConfig(causal=False))
    masking: Flat[MaskedItemConfig] = field(default_factory=MaskedItemConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = transformer(config.model, n_items=task.n_items, max_length=task.max_length)
    return build_model(encoder, config.training, task, ask=masked_items(config.masking))


main = make_main(build, name="BERT4Rec")

if __name__ == "__main__":
    run_script(main, Config)
