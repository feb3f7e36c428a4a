"""Checkpoints by orbax: state, seed and data position are saved together; the best and the latest are kept."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from seqrec.checkpoint_files import (
    completed,
    damage,
    exchange_parts,
    fetch_parts,
    is_in_parts,
    is_private,
    remove_damaged,
)
from seqrec.data.paths import first_line
from seqrec.files import JsonObject
from seqrec.loss_spikes import RunningLoss
from seqrec.params import leaves_by_name
from seqrec.sharding import from_first, on_first
from seqrec.training import TrainState
from seqrec.types import InputError

log = logging.getLogger("seqrec")

Read = TypeVar("Read")
Arrays = TypeVar("Arrays")


@dataclass(frozen=True)
class Progress:
    """What a resumed run needs besides the arrays; the data position is `step`."""

    seed: int
    step: int = 0
    validations: tuple[tuple[int, float], ...] = ()
    """(step, NDCG@10) of each validation so far."""
    train_seconds: float = 0.0
    loss: RunningLoss = field(default_factory=RunningLoss)
    skipped: tuple[tuple[int, ...], ...] = ()
    """For each roll-back the places in the stream of batches that are left out since."""
    ndcg: tuple[str, ...] = ()
    """Of the schedule plateau: NDCG@10 of each query in the latest validations, as `stopping.packed` writes them."""
    cooldown: str = ""
    """Why the learning rate has started to fall before the end was near, in words."""

    def position(self, step: int) -> int:
        """0-based place, in the stream of batches, of the batch of a 1-based step.

        >>> progress = Progress(seed=0, skipped=((2, 3),))
        >>> [progress.position(step) for step in (1, 2, 3, 4)]
        [0, 1, 4, 5]
        """
        position = step - 1
        for skipped in sorted(itertools.chain(*self.skipped)):
            position += skipped <= position
        return position

    @property
    def best(self) -> tuple[int, float]:
        """(step, NDCG@10) of the best validation, the earliest among equals; (0, -inf) before the first."""
        return max(self.validations, key=lambda validation: validation[1], default=(0, float("-inf")))


def open_checkpoints(directory: Path, *, read_only: bool = False) -> ocp.CheckpointManager:
    """A manager that saves in the background and keeps the best (by NDCG@10) and the latest checkpoint.

    Checkpoints that are damaged are removed with a warning, unless the manager is `read_only`. In a working copy of a
    run, which no other process sees, each process saves and reads the parts of arrays that it holds, if it writes to
    the bucket; otherwise the first process reads for all.
    """
    processes, number = ocp.options.MultiprocessingOptions(), jax.process_index()
    if in_parts := is_in_parts(directory.parent):
        processes = ocp.options.MultiprocessingOptions(primary_host=None, barrier_sync_key_prefix="parts")
    elif is_private(directory):
        processes = ocp.options.MultiprocessingOptions(
            primary_host=number, active_processes={number}, barrier_sync_key_prefix=f"process-{number}"
        )
    if is_private(directory):
        directory.mkdir(exist_ok=True)  # orbax makes none for some of the processes
    if not read_only:
        remove_damaged(directory)

    def best_earliest(metrics: dict[str, float]) -> tuple[float, int]:
        return metrics["ndcg@10"], -int(metrics["step"])

    best = BestN(n=1, get_metric_fn=best_earliest, keep_checkpoints_without_metrics=False)
    return ocp.CheckpointManager(
        directory.absolute(),
        item_handlers={
            # A file for each part of an array: orbax's other format needs a process that sees all parts.
            "state": ocp.PyTreeCheckpointHandler(multiprocessing_options=processes, use_ocdbt=not in_parts),
            "progress": ocp.JsonCheckpointHandler(multiprocessing_options=processes),
        },
        options=ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else AnyPreservationPolicy([LatestN(n=1), best]),
            # Without it orbax would not write the metrics, and would take the latest checkpoint for the best.
            best_fn=None if read_only else best_earliest,
            lightweight_initialize=read_only,  # without the metrics of all checkpoints, which may be damaged
            async_options=ocp.AsyncOptions(post_finalization_callback=completed(directory)),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not is_private(directory),
            multiprocessing_options=processes,
        ),
    )


def save(manager: ocp.CheckpointManager, state: TrainState, progress: Progress) -> None:
    """Saves in the background; a checkpoint taken right after a validation carries its figure.

    Raises:
      InputError: this save or the one before it cannot be written; the last good checkpoint stays.
    """
    validated = progress.validations and progress.validations[-1][0] == progress.step
    with _refused_writes_named(manager):
        manager.save(
            progress.step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(_by_name(state)), progress=ocp.args.JsonSave(dataclasses.asdict(progress))
            ),
            metrics={"ndcg@10": progress.validations[-1][1], "step": progress.step} if validated else None,
            force=True,
        )


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits until the save in progress is on disk.

    Raises:
      InputError: as `save`.
    """
    with _refused_writes_named(manager):
        manager.wait_until_finished()


@contextlib.contextmanager
def _refused_writes_named(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Inside, a write that the operating system refuses, for instance on a full disk, raises `InputError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        # tensorstore raises a ValueError with the system's number in its text.
        match = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(match[1]) if match else getattr(error, "errno", None)
        if number is None:
            raise
        manager.reload()  # the manager believes that older checkpoints are already replaced
        kept = manager.latest_step()
        raise InputError(
            f"{manager.directory}: a checkpoint cannot be written ({os.strerror(number)}); "
            + ("none was saved before it" if kept is None else f"the one of step {kept} is intact")
            + "; make room there and go on with --resume"
        ) from error


def restore_latest(manager: ocp.CheckpointManager, like: TrainState) -> tuple[TrainState, Progress] | None:
    """What the latest checkpoint holds that can be read; None where there is none.

    One that is damaged is removed with a warning, so that the run can write it again, and the one before is read. A
    validation whose checkpoint is gone counts as -inf if it would be the best.

    Raises:
      InputError: as `restore`.
    """
    return _read_state(manager, like, lambda form: _restore_latest(manager, form))


def has_checkpoint(directory: Path) -> bool:
    """Whether a run has a checkpoint to go on from, none of whose files is damaged."""
    return any(damage(checkpoint) is None for checkpoint in directory.glob("[0-9]*") if checkpoint.name.isdigit())


def read_best_step(manager: ocp.CheckpointManager, read: Callable[[ocp.CheckpointManager, int], Read]) -> Read | None:
    """What `read(manager, step)` returns of the best validated step of which it can be read."""
    kept = sorted(manager.all_steps(), reverse=True)
    values: dict[int, float] = {}
    for step in kept:
        if not values and (progress := _unless_damaged(manager, step, _restore_progress)) is not None:
            values = dict(progress.validations)
    by_value = sorted(values, key=lambda step: (-values[step], step))
    for step in by_value:
        if step in kept and (restored := _unless_damaged(manager, step, read)) is not None:
            if step != by_value[0]:
                log.warning(
                    "damaged     validation chose step %d; this is the checkpoint of step %d", by_value[0], step
                )
            return restored
    return None


def _unless_damaged(
    manager: ocp.CheckpointManager, step: int, read: Callable[[ocp.CheckpointManager, int], Read]
) -> Read | None:
    """What `read(manager, step)` returns; None with a warning where files are damaged."""
    try:
        if reason := damage(Path(manager.directory) / str(step)):
            raise ValueError(reason)
        return read(manager, step)
    except InputError:
        raise
    except Exception as error:  # whatever the formats inside raise of files that are cut short or garbled
        log.warning("damaged     the checkpoint of step %d cannot be read (%s)", step, first_line(error))
        return None


def _restore_latest(manager: ocp.CheckpointManager, like: TrainState) -> tuple[TrainState, Progress] | None:
    for step in sorted(manager.all_steps(), reverse=True):
        restored = _unless_damaged(manager, step, functools.partial(_restore, like))
        if restored is not None:
            state, progress = restored
            return state, _with_kept_best(progress, manager.all_steps())
        manager.delete(step)
    return None


def _with_kept_best(progress: Progress, kept: Sequence[int]) -> Progress:
    """`progress`, whose best validation has a checkpoint if any has."""
    best = max((value for step, value in progress.validations if step in kept), default=float("-inf"))
    validations = tuple((step, value if value <= best else float("-inf")) for step, value in progress.validations)
    return dataclasses.replace(progress, validations=validations)


def restore(manager: ocp.CheckpointManager, like: TrainState, step: int) -> tuple[TrainState, Progress]:
    """The state and progress saved at `step`, laid out as `like`.

    Raises:
      InputError: the checkpoint's arrays differ in name, shape or dtype, which orbax would cast in silence.
    """
    restored = _read_state(manager, like, lambda form: _restore(form, manager, step))
    assert restored is not None
    return restored


def _restore(like: TrainState, manager: ocp.CheckpointManager, step: int) -> tuple[TrainState, Progress]:
    arrays = _by_name(like)
    check_forms(manager, step, saved_forms(manager, step), arrays)
    restored, progress = restore_arrays(manager, step, arrays)
    return TrainState(**restored), progress


def saved_forms(manager: ocp.CheckpointManager, step: int) -> Any:
    """What a checkpoint says of its arrays."""
    metadata = manager.item_metadata(step)["state"]
    if metadata is None:
        raise ValueError("it has no metadata")
    return metadata


def check_forms(manager: ocp.CheckpointManager, step: int, saved: Any, expected: Any) -> None:
    """Refuses arrays that differ in name, shape or dtype, which orbax would cast in silence."""
    saved, expected = _array_forms(saved), _array_forms(expected)
    for name in sorted(saved.keys() | expected.keys()):
        if saved.get(name) != expected.get(name):
            raise InputError(
                f"checkpoint {manager.directory / str(step)}: {name} is {saved.get(name, 'missing')} there "
                f"but {expected.get(name, 'missing')} in this model; use the config that the run was started with"
            )


def restore_arrays(manager: ocp.CheckpointManager, step: int, like: JsonObject) -> tuple[JsonObject, Progress]:
    """The arrays that `like` names, laid out as they are there, and the progress."""
    fetch_parts(Path(manager.directory) / str(step), leaves_by_name(like))
    restore_args = ocp.checkpoint_utils.construct_restore_args(like)
    state = ocp.args.PyTreeRestore(item=like, restore_args=restore_args, partial_restore=True)
    restored = manager.restore(step, args=ocp.args.Composite(state=state, progress=ocp.args.JsonRestore()))
    return restored["state"], _progress(restored["progress"])


def _read_state(
    manager: ocp.CheckpointManager,
    like: TrainState,
    read: Callable[[TrainState], tuple[TrainState, Progress] | None],
) -> tuple[TrainState, Progress] | None:
    """As `read_for_all`; the constants of `like` are kept."""
    restored = read_for_all(manager, dataclasses.replace(like, constants=None), read)
    return restored and (dataclasses.replace(restored[0], constants=like.constants), restored[1])


def read_for_all(
    manager: ocp.CheckpointManager, like: Arrays, read: Callable[[Arrays], tuple[Arrays, Progress] | None]
) -> tuple[Arrays, Progress] | None:
    """What `read(like)` returns; if only the first process has checkpoints, it reads and sends them.

    In that case `read` gets NumPy arrays, which are then sent one by one and laid out as those of `like`.
    """
    directory = Path(manager.directory)
    exchange_parts(directory)
    if is_in_parts(directory.parent) or not is_private(directory):
        return read(like)
    form = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), like)

    def read_progress() -> JsonObject | None:
        nonlocal form
        if (restored := read(form)) is None:
            return None
        form, progress = restored
        return dataclasses.asdict(progress)

    if (progress := on_first(read_progress)) is None:
        return None
    return jax.tree.map(lambda array, leaf: from_first(np.asarray(array), leaf), form, like), _progress(progress)


def _restore_progress(manager: ocp.CheckpointManager, step: int) -> Progress:
    restored = manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
    return _progress(restored["progress"])


def _progress(fields: JsonObject) -> Progress:
    """The record from its JSON; fields that an earlier version did not save have their defaults."""
    unknown = fields.keys() - {field.name for field in dataclasses.fields(Progress)}
    if unknown:
        raise InputError(f"the checkpoint has unknown fields {sorted(unknown)}; it is of another version of seqrec")
    return Progress(
        **{
            **fields,
            "validations": tuple((step, value) for step, value in fields["validations"]),
            "loss": RunningLoss(**fields.get("loss", {})),
            "skipped": tuple(tuple(positions) for positions in fields.get("skipped", ())),
            "ndcg": tuple(fields.get("ndcg", ())),
        }
    )


def _by_name(state: TrainState) -> JsonObject:
    """The saved fields as a dict: orbax fills copies of the tree with None, which a typed record refuses in tests."""
    fields = {name: getattr(state, name) for name in ("step", "params", "opt_state", "averaged", "cooldown")}
    return {name: value for name, value in fields.items() if value is not None}


def _array_forms(tree: Any) -> dict[str, str]:
    """Name of each array -> its dtype and shape."""
    arrays = {name: leaf for name, leaf in leaves_by_name(tree).items() if hasattr(leaf, "shape")}
    return {name: f"{leaf.dtype}{tuple(leaf.shape)}" for name, leaf in arrays.items()}
