"""seqrec: a functional JAX toolkit for Transformer sequence recommenders."""

import seqrec.script_start  # noqa: F401 (before anything large is imported: its docstring says why)

__version__ = "0.1.0"
