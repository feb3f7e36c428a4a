"""A batch in, what the model reads and what it must predict out."""

from jaxtyping import Array, Int

from seqrec.types import Batch


def next_item(batch: Batch) -> tuple[Batch, Int[Array, "rows length"]]:
    """Reads each history and predicts, at every position, the item that followed; target 0 is not scored."""
    return batch, batch.next_items
