"""The full softmax with every score at once, and cases for it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def naive_loss(hidden, item_table, targets, *, n_items):
    """Every score at once; row 0 is padding and rows beyond the items are nothing."""
    logits = hidden @ item_table[1 : n_items + 1].T
    labels = jnp.maximum(targets - 1, 0)
    return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, labels), where=targets > 0)


naive_value_and_gradients = jax.jit(jax.value_and_grad(naive_loss, (0, 1)), static_argnames="n_items")


def a_case(*, rows, length, n_items, n_rows, d_model=8, share_padding=0.3, scale=1.0, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.integers(1, n_items + 1, (rows, length))
    targets[generator.random((rows, length)) < share_padding] = 0
    hidden = scale * generator.normal(size=(rows, length, d_model))
    table = scale * generator.normal(size=(n_rows, d_model))
    return jnp.array(hidden, jnp.float32), jnp.array(table, jnp.float32), jnp.array(targets, jnp.int32)
