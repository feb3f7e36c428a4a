"""seqrec: a functional JAX toolkit for Transformer sequence recommenders."""

__version__ = "0.1.0"
