"""Trains an encoder-decoder that generates the next items of a history, such as the rest of a playlist.

    python experiments/seq2seq.py    # the MovieLens demo: the last 5 films of each user

The last n-out items of each history are its test; docs/seq2seq.md has commands for other data, and figures.
"""

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from seqrec.data.split_config import SplitConfig
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.questions import continuation
from seqrec.run import DataConfig, Flat, Model, Task, TrainingConfig, build_model, make_main, run_script

SPLIT = SplitConfig(split="leave-last-out", n_out=5, window_target="first")


@dataclass(frozen=True)
class Config:
    """Trains an encoder-decoder and tests it on what it generates in place of each user's last n-out items."""

    training: Flat[TrainingConfig] = field(default_factory=lambda: TrainingConfig(data=DataConfig(split=SPLIT)))
    model: Flat[OmitArgPrefixes[Seq2SeqConfig]] = field(default_factory=Seq2SeqConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = seq2seq(config.model, n_items=task.n_items, max_length=task.max_length)
    return build_model(encoder, config.training, task, ask=continuation)


main = make_main(build, name="Seq2Seq")

if __name__ == "__main__":
    run_script(main, Config)
