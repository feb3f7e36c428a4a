"""Recommenders without gradients, in NumPy and SciPy: what a model has to beat."""
