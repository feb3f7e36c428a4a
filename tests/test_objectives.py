import jax.numpy as jnp
import numpy as np

from seqrec.objectives import next_item
from seqrec.types import Batch


def test_every_position_predicts_the_item_that_followed_it():
    batch = Batch(
        items=jnp.array([[3, 1, 4, 5, 9, 0]]),
        next_items=jnp.array([[1, 4, 1, 9, 2, 0]]),
        segment_ids=jnp.array([[1, 1, 1, 2, 2, 0]]),
        positions=jnp.array([[0, 1, 2, 0, 1, 0]]),
    )
    inputs, targets = next_item(batch)
    assert inputs is batch
    np.testing.assert_array_equal(targets, batch.next_items)
    # No history predicts into the one beside it, and padding predicts nothing.
    assert targets[0, 2] != batch.items[0, 3]
    assert targets[0, 5] == 0
