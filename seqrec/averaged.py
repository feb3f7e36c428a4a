"""The averaged parameters of a run, read from its checkpoints without the rest of the training state."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

from seqrec.checkpoint import (
    Progress,
    check_forms,
    open_checkpoints,
    read_best_step,
    read_for_all,
    restore_arrays,
    saved_forms,
)
from seqrec.params import Params
from seqrec.row_updates import NEEDED_TO_CATCH_UP, TABLE, RowState, caught_up_average, has_sparse_updates


def read_best(directory: Path, like: Params | None = None) -> tuple[Params, Progress] | None:
    """The averaged parameters that validation chose and the progress at its step; None where none can be read.

    Of the rest of a state only what these need is read: of sparse updates, what rows of the item table have missed.
    Arrays are laid out as `like`, arrays or their shapes; without it, where the model is not known, they are NumPy's,
    and each process reads them by itself. Where the best is damaged, the next best that is kept is read.

    Raises:
      InputError: as `checkpoint.restore`.
    """
    with open_checkpoints(directory, read_only=True) as manager:

        def read(form: Params | None) -> tuple[Params, Progress] | None:
            return read_best_step(manager, functools.partial(_restore, form))

        return read(None) if like is None else read_for_all(manager, like, read)


def _restore(like: Params | None, manager: ocp.CheckpointManager, step: int) -> tuple[Params, Progress]:
    saved = saved_forms(manager, step)
    averaged = _shapes(saved["averaged"]) if like is None else like
    check_forms(manager, step, {"averaged": saved["averaged"]}, {"averaged": averaged})
    if not has_sparse_updates(saved["opt_state"]):
        arrays, progress = restore_arrays(manager, step, {"averaged": averaged})
        return arrays["averaged"], progress
    rows = {name: saved["opt_state"]["table"][name] for name in NEEDED_TO_CATCH_UP}
    form = {
        "averaged": averaged,
        "params": {TABLE: averaged[TABLE]},
        **_shapes(
            {**{name: saved[name] for name in ("step", "cooldown") if name in saved}, "opt_state": {"table": rows}},
            of_rows=averaged[TABLE],
        ),
    }
    arrays, progress = restore_arrays(manager, step, form)
    averaged = arrays["averaged"]
    missed = RowState(first=None, second=None, **arrays["opt_state"]["table"])
    table, mean_table = arrays["params"].pop(TABLE), averaged.pop(TABLE)
    table = caught_up_average(table, mean_table, missed, arrays["step"], arrays.get("cooldown"))
    return {**averaged, TABLE: np.asarray(table) if like is None else table}, progress


def _shapes(tree: Any, *, of_rows: Any = None) -> Any:
    """Shapes to restore, NumPy's arrays; or with a row for each of the item table `of_rows`, laid out as it is."""
    sharding = getattr(of_rows, "sharding", None)

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        layout = sharding
        if isinstance(layout, NamedSharding):
            layout = NamedSharding(layout.mesh, PartitionSpec(*layout.spec[: len(leaf.shape)]))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)

    return jax.tree.map(shape, tree)
