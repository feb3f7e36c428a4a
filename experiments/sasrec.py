r"""Trains and tests a Transformer next-item recommender (SASRec: Kang and McAuley 2018) on one file of events.

    python experiments/sasrec.py                                                # the MovieLens demo, in minutes
    python experiments/sasrec.py --dataset ml-1m --data-path ml-1m.txt.gz       # settings by the data, within an hour
    python experiments/sasrec.py --recipe none --d-model 128 --dropout 0.25     # the defaults of --help, and your own

What the flags leave open is chosen by facts of the data and printed with its reasons: docs/recipes.md. docs/results.md
has the figures to expect, and the command for SASRec at its published sizes.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from seqrec.config import check_fields
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.run import Flat, Model, Recipe, Task, TrainingConfig, build_model, make_main, run_script


@dataclass(frozen=True)
class Config:
    """Trains a Transformer on the events of a file and tests it on each user's last item."""

    training: Flat[TrainingConfig] = field(default_factory=TrainingConfig)
    model: Flat[TransformerConfig] = field(default_factory=TransformerConfig)
    recipe: Recipe = "none"
    """auto: choose the settings by facts of the data, and print them with their reasons; flags that are given stay.
    none: the defaults that this help shows."""

    WITHOUT_FLAGS: ClassVar = {"recipe": "auto"}
    """What the command line has by default, other than `Config()`: a program gets what it says."""

    def __post_init__(self) -> None:
        check_fields(self)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = transformer(config.model, n_items=task.n_items, max_length=task.max_length, times=task.times)
    return build_model(encoder, config.training, task)


main = make_main(build, name="SASRec")

if __name__ == "__main__":
    run_script(main, Config)
