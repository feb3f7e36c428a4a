r"""Trains and tests a Transformer that generates the next item's semantic id, code by code (after Rajput et al. 2023).

    python experiments/semantic_ids.py runs/sasrec-movielens-demo/store --item-features attributes --output codes
    python experiments/generative.py --semantic-ids codes
    python experiments/generative.py --dataset s3rec --data-path Beauty.txt.gz --max-length 50 --batch-size 128 \
        --semantic-ids codes --d-model 128 --dropout 0.4 --label-smoothing 0.1 --later-share 0.1 --ranks beam
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seqrec.config import check_at_least, check_fields
from seqrec.encoders.code_tokens import code_tokens
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.generative import DepthDecoderConfig, check_loss, with_semantic_ids, with_token_decoder
from seqrec.later_targets import with_drawn_later_targets
from seqrec.losses.config import LossConfig
from seqrec.questions import first_of_continuation, next_item
from seqrec.run import Flat, Model, Task, TrainingConfig, build_model, make_main, run_script
from seqrec.semantic_ids.files import read_semantic_ids
from seqrec.types import InputError


@dataclass(frozen=True)
class Config:
    """Trains a Transformer that generates semantic ids on the events of a file; tests it on each user's last item."""

    semantic_ids: Path | None = None
    """Codes of the items: a directory that experiments/semantic_ids.py wrote, or a JSON or Parquet file of codes."""
    item_vectors: bool = True
    """Add a vector of an item's id or features to the vectors of its codes; otherwise the model reads codes alone."""
    tokens: Literal["items", "codes"] = "items"
    """What a position of the Transformer holds. items: an item; a depth decoder generates the next item's codes.
    codes: one code of an item (flat tokens); a Transformer decoder generates them. As published with --no-causal."""
    n_decoder_blocks: int = 2
    """Number of Transformer blocks in the decoder of --tokens codes."""
    training: Flat[TrainingConfig] = field(default_factory=TrainingConfig)
    model: Flat[TransformerConfig] = field(default_factory=TransformerConfig)
    decoder: Flat[DepthDecoderConfig] = field(default_factory=DepthDecoderConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "n_decoder_blocks")


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    if config.semantic_ids is None:
        raise InputError(
            "a generative model needs codes of its items; make them with semantic_ids.py: --semantic-ids DIR"
        )
    loss, items = config.training.loss, config.training.items
    ids = read_semantic_ids(config.semantic_ids, task.store.item_keys, split_hash=task.split.content_hash)
    check_loss(loss)
    if items.item_features and not config.item_vectors:
        raise InputError(f"item_features={items.item_features} make item vectors; leave out them or --no-item-vectors")
    options = {"item_vectors": config.item_vectors, "label_smoothing": loss.label_smoothing}
    sizes = {"n_items": task.n_items, "max_length": task.max_length, "times": task.times}
    training = dataclasses.replace(config.training, loss=LossConfig())  # a head of codes has a loss of its own
    if config.tokens == "items":
        model = build_model(transformer(config.model, **sizes), training, task)
        model = with_semantic_ids(model, ids, config.decoder, dropout=config.model.dropout, **options)
    else:
        encoder = code_tokens(config.model, n_levels=ids.n_levels, **sizes)
        model = build_model(encoder, training, task, ask=next_item if config.model.causal else first_of_continuation)
        model = with_token_decoder(
            model, ids, config.model, config.decoder, n_blocks=config.n_decoder_blocks, **options
        )
    if not loss.later_share:
        return model
    return with_drawn_later_targets(model, share=loss.later_share, n_later=loss.n_later)


main = make_main(build, name="Generative")

if __name__ == "__main__":
    run_script(main, Config)
