"""seqrec: a functional JAX toolkit for Transformer sequence recommenders.

The names of `dir(seqrec)` are the public ones. Each is imported when it is first used, so that `import seqrec` is quick
and a metric brings no database along. `__init__.pyi` says the same to editors and type checkers.
"""

import importlib
from typing import Any

import seqrec.script_start  # noqa: F401 (before anything large is imported: its docstring says why)

_NAMES = {
    "baselines.popularity": "popularity_ranks training_counts",
    "data.batches": "make_queries training_batches",
    "data.event_arrays": "store_from_events",
    "data.splits": "leave_last_out temporal",
    "data.store": "SequenceStore open_store store_from_sequences",
    "encoders.gru": "GRUConfig gru",
    "encoders.hawk": "HawkConfig hawk",
    "encoders.hstu": "HSTUConfig hstu",
    "encoders.seq2seq": "Seq2SeqConfig seq2seq",
    "encoders.transformer": "TransformerConfig transformer",
    "evaluation": "evaluate make_eval_step",
    "generation": "generate recomputed",
    "heads.softmax": "softmax_model",
    "losses.sampled": "sampled_loss",
    "losses.softmax": "softmax_loss",
    "metrics": "average_precision_at_k catalogue_coverage list_ranks means metric_sums metric_values ndcg_at_k "
    "recall_at_k reciprocal_rank target_ranks",
    "model": "Model",
    "questions": "next_item",
    "recommendation": "make_recommend",
    "repeats": "with_repeats",
    "retrieval": "rank_targets top_k_items",
    "stats": "bootstrap_intervals compare_over_seeds_and_users paired_comparison",
    "training": "OptimizerConfig init_state make_optimizer make_train_step",
    "types": "InputError",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # takes longer to import than all of this module

        try:
            value: Any = metadata.version("seqrec")
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            value = "0+unknown"
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"seqrec.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"seqrec has no attribute {name!r}; see dir(seqrec), or import its module")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_MODULES, "__version__"])
