"""Of a checkpoint, evaluation reads the averaged parameters, and nothing that it does not need."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from seqrec.averaged import read_best
from seqrec.checkpoint import Progress, open_checkpoints, save
from seqrec.params import leaves_by_name
from seqrec.row_updates import RowState, SparseState
from seqrec.training import TrainState
from seqrec.types import InputError

N_ROWS, D_MODEL = 6, 3
VALIDATED = Progress(seed=0, step=2, validations=((2, 0.5),))


def params_at(value: float) -> dict:
    return {"item_table": jnp.full((N_ROWS, D_MODEL), value), "blocks": [{"scale": jnp.full(4, value)}]}


def dense_state() -> TrainState:
    moments = (params_at(5.0), params_at(6.0))
    return TrainState(jnp.int32(2), params_at(1.0), moments, params_at(2.0))


def sparse_state() -> TrainState:
    """The rows of even ids were last updated at step 1 of 2, those of odd ids at step 2; decay is none."""
    step = jnp.arange(N_ROWS, dtype=jnp.int32) % 2 + 1
    # total_past after n steps is the sum of .5 ** (n - j) over j = 1..n: 1, then 1.5.
    rows = RowState(
        first=jnp.zeros((N_ROWS, D_MODEL)),
        second=jnp.zeros(N_ROWS),
        step=step,
        log_decay=jnp.zeros(N_ROWS),
        past=jnp.where(step == 1, 1.0, 1.5),
        total_log_decay=jnp.zeros(()),
        total_past=jnp.float32(1.5),
        average_decay=jnp.float32(0.5),
    )
    others = {"blocks": [{"scale": jnp.zeros(4)}]}
    return TrainState(jnp.int32(2), params_at(1.0), SparseState(others, rows), params_at(2.0))


@pytest.fixture
def restored_names(monkeypatch):
    """The names of the arrays that orbax is asked for."""
    names: list[str] = []
    restore = ocp.CheckpointManager.restore

    def noted(manager, step, args):
        if "state" in args.keys():  # noqa: SIM118 (it is no mapping)
            names.extend(leaves_by_name(args["state"].item))
        return restore(manager, step, args=args)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", noted)
    return names


def saved(directory, state):
    with open_checkpoints(directory) as manager:
        save(manager, state, VALIDATED)
    return directory


@pytest.mark.parametrize("is_known", [True, False])
def test_of_a_dense_state_the_averaged_parameters_alone_are_read(tmp_path, restored_names, is_known):
    like = params_at(0.0) if is_known else None
    averaged, progress = read_best(saved(tmp_path / "c", dense_state()), like)
    jax.tree.map(np.testing.assert_array_equal, averaged, params_at(2.0))
    assert progress == VALIDATED
    assert sorted(set(restored_names)) == ["averaged.blocks.0.scale", "averaged.item_table"]
    assert all(isinstance(leaf, jax.Array if is_known else np.ndarray) for leaf in jax.tree.leaves(averaged))


def test_of_sparse_updates_also_what_rows_have_missed_is_read_and_made_up_for(tmp_path, restored_names):
    averaged, _ = read_best(saved(tmp_path / "c", sparse_state()), params_at(0.0))
    # A row that is 1 and missed a step: its average of 2 comes half way to 1.
    expected = np.where(np.arange(N_ROWS) % 2 == 0, 1.5, 2.0)[:, None]
    np.testing.assert_allclose(averaged["item_table"], np.broadcast_to(expected, (N_ROWS, D_MODEL)))
    np.testing.assert_array_equal(averaged["blocks"][0]["scale"], np.full(4, 2.0))
    # Of the arrays with the table's size two are read, of six with a row an item three.
    needed = ("average_decay", "log_decay", "past", "step", "total_log_decay", "total_past")
    assert sorted(set(restored_names)) == [
        "averaged.blocks.0.scale",
        "averaged.item_table",
        *(f"opt_state.table.{name}" for name in needed),
        "params.item_table",
        "step",
    ]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({**params_at(0.0), "item_table": jnp.zeros((N_ROWS, 2))}, r"float32\(6, 3\) there but float32\(6, 2\)"),
        ({**params_at(0.0), "item_table": jnp.zeros((N_ROWS, D_MODEL), jnp.int32)}, r"there but int32\(6, 3\)"),
        ({**params_at(0.0), "more": jnp.zeros(1)}, "missing there"),
        ({"item_table": jnp.zeros((N_ROWS, D_MODEL))}, "missing in this model"),
    ],
    ids=["shape", "dtype", "more", "less"],
)
def test_the_parameters_of_another_model_are_refused_by_the_name_of_an_array(tmp_path, like, message):
    saved(tmp_path / "c", dense_state())
    with pytest.raises(InputError, match=rf"c/2: averaged\.\S+ is .*{message}"):
        read_best(tmp_path / "c", like)
