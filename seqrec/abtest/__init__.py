"""Online experiments: SQL sums logs up by arm, functions on such sums turn them into a decision; no jax."""
