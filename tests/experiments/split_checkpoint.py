"""One of two processes that save a split state to a bucket, and read it into fresh copies; for `test_s3`."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from seqrec import checkpoint, runtime
from seqrec.checkpoint import Progress
from seqrec.data.buckets import working_copy
from seqrec.sharding import MeshConfig, make_mesh
from seqrec.training import TrainState


def state(step: int) -> TrainState:
    """A table that the mesh splits by its rows, beside a vector that all devices have whole."""
    mesh = make_mesh(MeshConfig(model=jax.device_count()))

    def put(array: np.ndarray, *axes: str) -> jax.Array:
        layout = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.make_array_from_callback(array.shape, layout, lambda part: array[part])

    table = np.arange(48, dtype=np.float32).reshape(12, 4)

    def params(scale: int) -> dict[str, jax.Array]:
        return {"item_table": put(scale * table, "model"), "bias": put(np.full(3, scale, np.float32))}

    return TrainState(put(np.int32(step)), params(step), params(-step), params(10 * step))


def described(copy: Path, restored: tuple[TrainState, Progress]) -> dict:
    """What came back, and the parts of the table whose files are in the copy."""
    table = restored[0].params["item_table"].addressable_shards[0].data
    files = copy.glob(f"checkpoints/{restored[1].step}/state/params.item_table/[0-9]*")
    return {
        "step": restored[1].step,
        "seconds": restored[1].train_seconds,
        "first_column": np.asarray(table)[:, 0].tolist(),
        "bias": np.asarray(restored[0].averaged["bias"].addressable_shards[0].data).tolist(),
        "parts_here": sorted(file.name for file in files),
    }


def main(run: str, number: int, address: str) -> None:
    jax.distributed.initialize(address, 2, number)
    restored = []
    shared = {"fetch": "checkpoints/", "part": runtime.part()}
    with (
        working_copy(Path(run), follow=True, **shared) as copy,
        checkpoint.open_checkpoints(copy / "checkpoints") as manager,
    ):
        for step in (1, 2, 3):
            # Times differ between processes; the first one's count.
            progress = Progress(0, step, ((1, 0.1), (2, 0.3), (3, 0.2))[:step], train_seconds=10.0 * number + step)
            checkpoint.save(manager, state(step), progress)
        checkpoint.finish(manager)
        restored.append(described(copy, checkpoint.restore(manager, state(0), 2)))
    with working_copy(Path(run), **shared) as copy, checkpoint.open_checkpoints(copy / "checkpoints") as manager:
        restored.append(described(copy, checkpoint.restore_latest(manager, state(0))))
    print(json.dumps(restored))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
