r"""Trains an encoder-decoder that reads a history and generates its next items, such as the rest of a playlist.

    python experiments/seq2seq.py                                   # the MovieLens demo: the last 5 films of each user
    python experiments/seq2seq.py --dataset events --data-path plays.parquet --columns user_id item_id timestamp_us \
        --time-unit us --no-mask-seen --max-length 50 --batch-size 64 --max-epochs 6 --dropout 0.2 --n-decoder-blocks 1

Each history's last n-out items are the test, those before them choose the epoch. The printed table has recall@n and
NDCG@n of the generated list, of iterating the model as a next-item model, of its n best next items at once and of
popularity. experiments/continuations.py adds the lists of other runs; docs/seq2seq.md has the figures to expect.
"""

from dataclasses import dataclass, field

from seqrec.data.split_config import SplitConfig
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.questions import continuation
from seqrec.run import DataConfig, Flat, Model, Task, TrainingConfig, build_model, make_main, run_script

SPLIT = SplitConfig(n_out=5, window_target="first")


@dataclass(frozen=True)
class Config:
    """Trains an encoder-decoder and tests it on what it generates in place of each user's last n-out items."""

    training: Flat[TrainingConfig] = field(default_factory=lambda: TrainingConfig(data=DataConfig(split=SPLIT)))
    model: Flat[Seq2SeqConfig] = field(default_factory=Seq2SeqConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = seq2seq(config.model, n_items=task.n_items, max_length=task.max_length)
    return build_model(encoder, config.training, task, ask=continuation)


main = make_main(build, name="Seq2Seq")


if __name__ == "__main__":
    run_script(main, Config)
