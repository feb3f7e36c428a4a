"""Data preparation: NumPy and tables, no jax."""
