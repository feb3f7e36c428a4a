"""Checkpoints come back bit for bit, or not at all."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec.averaged import read_best
from seqrec.checkpoint import (
    Progress,
    has_checkpoint,
    open_checkpoints,
    restore,
    restore_latest,
    save,
)
from seqrec.loss_spikes import RunningLoss
from seqrec.training import TrainState
from seqrec.types import InputError


def state_at(step: int, *, size: int = 3, dtype=jnp.float32) -> TrainState:
    params = {"table": jnp.linspace(0, step, size, dtype=dtype)}
    return TrainState(jnp.int32(step), params, ({"count": jnp.int32(step)},), jax.tree.map(jnp.sqrt, params))


def progress_at(step: int, *validations: tuple[int, float]) -> Progress:
    return Progress(seed=7, step=step, validations=validations, train_seconds=1.5)


def save_all(directory, *validations: tuple[int, float], unvalidated: int = 0) -> list[int]:
    """Saves after each validation, then `unvalidated` more times; returns the steps that are kept."""
    with open_checkpoints(directory) as checkpoints:
        for n, (step, _) in enumerate(validations, start=1):
            save(checkpoints, state_at(step), progress_at(step, *validations[:n]))
        for step in range(validations[-1][0] + 1, validations[-1][0] + 1 + unvalidated):
            save(checkpoints, state_at(step), progress_at(step, *validations))
    return sorted(int(path.name) for path in directory.iterdir())


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    state, progress = state_at(5), progress_at(5, (3, 0.1), (5, 1 / 3))
    progress = dataclasses.replace(progress, loss=RunningLoss(7, 1 / 3, 1 / 7), skipped=((0,), (3, 4)))
    with open_checkpoints(tmp_path / "c") as checkpoints:
        save(checkpoints, state, progress)
    with open_checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        restored, restored_progress = restore(checkpoints, state_at(0), checkpoints.latest_step())
    assert restored_progress == progress
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (state_at(0, size=4), r"float32\(3,\) there but float32\(4,\)"),
        (state_at(0, dtype=jnp.bfloat16), r"float32\(3,\) there but bfloat16\(3,\)"),
        (dataclasses.replace(state_at(0), params={"other": jnp.zeros(3)}), "missing"),
    ],
    ids=["shape", "dtype", "name"],
)
def test_a_checkpoint_of_another_model_is_refused_by_the_name_of_its_array(tmp_path, like, message):
    save_all(tmp_path / "c", (1, 0.5))
    with (
        open_checkpoints(tmp_path / "c", read_only=True) as checkpoints,
        pytest.raises(InputError, match=rf"c/1: (averaged|params)\.\w+ is .*{message}"),
    ):
        restore(checkpoints, like, 1)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.3, 0.1, 0.2], [1, 3]),
        ([0.1, 0.3, 0.2], [2, 3]),
        ([0.1, 0.2, 0.3], [3]),
        # The earliest among equals is the best, as `Progress.best` says.
        ([0.2, 0.2, 0.2], [1, 3]),
    ],
)
def test_the_best_and_the_last_are_kept(tmp_path, values, kept):
    validations = list(enumerate(values, start=1))
    assert save_all(tmp_path / "c", *validations) == kept
    assert Progress(seed=0, validations=tuple(validations)).best[0] == kept[0]


def test_checkpoints_inside_an_epoch_replace_each_other(tmp_path):
    assert save_all(tmp_path / "c", (1, 0.3), (2, 0.1), unvalidated=5) == [1, 7]


def test_the_best_is_still_known_when_a_run_goes_on(tmp_path):
    save_all(tmp_path / "c", (1, 0.3), (2, 0.1), unvalidated=1)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        for step, validations in ((4, [(4, 0.2)]), (5, [(4, 0.2), (5, 0.1)])):
            save(checkpoints, state_at(step), progress_at(step, (1, 0.3), (2, 0.1), *validations))
    assert sorted(int(path.name) for path in (tmp_path / "c").iterdir()) == [1, 5]


def test_what_an_earlier_version_did_not_save_is_as_at_the_start_and_what_a_later_one_did_is_refused(tmp_path):
    save_all(tmp_path / "c", (1, 0.5))
    file = tmp_path / "c" / "1" / "progress" / "metadata"
    fields = json.loads(file.read_text())
    assert fields["loss"]["n"] == 0
    earlier = {name: fields[name] for name in ("seed", "step", "validations", "train_seconds")}
    file.write_text(json.dumps(earlier))
    (tmp_path / "c" / "1" / "digests.json").unlink()
    with open_checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert restore(checkpoints, state_at(0), 1)[1] == progress_at(1, (1, 0.5))
    file.write_text(json.dumps({**fields, "moons": 2}))
    with (
        open_checkpoints(tmp_path / "c") as checkpoints,
        pytest.raises(InputError, match=r"unknown fields \['moons'\].*another version"),
    ):
        restore_latest(checkpoints, state_at(0))
    assert (tmp_path / "c" / "1").is_dir()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of step 1, the best, and step 2, the latest."""
    directory = tmp_path_factory.mktemp("saved") / "c"
    save_all(directory, (1, 0.3), (2, 0.1))
    return directory


def cut_short(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def change_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def is_array(file):
    return "d" in file.parts[-2:-1]


DAMAGE = {
    "all files cut short": lambda checkpoint: [cut_short(file) for file in checkpoint.rglob("*") if file.is_file()],
    "arrays cut short": lambda checkpoint: [cut_short(file) for file in checkpoint.rglob("*") if is_array(file)],
    "no arrays": lambda checkpoint: shutil.rmtree(checkpoint / "state"),
    "arrays with a byte changed": lambda checkpoint: [change_a_byte(f) for f in checkpoint.rglob("*") if is_array(f)],
    "arrays empty": lambda checkpoint: [file.write_bytes(b"") for file in checkpoint.rglob("*") if is_array(file)],
    "no progress": lambda checkpoint: (checkpoint / "progress" / "metadata").unlink(),
    "progress of another type": lambda checkpoint: (checkpoint / "progress" / "metadata").write_text("[1]"),
    "another figure of validation": lambda checkpoint: change_a_byte(checkpoint / "metrics" / "metrics"),
    "digests cut short": lambda checkpoint: cut_short(checkpoint / "digests.json"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before_and_can_be_written_again(saved, tmp_path, damage, caplog):
    shutil.copytree(saved, tmp_path / "c")
    damage(tmp_path / "c" / "2")
    with caplog.at_level("WARNING", logger="seqrec"), open_checkpoints(tmp_path / "c") as checkpoints:
        state, progress = restore_latest(checkpoints, state_at(0))
        assert progress == progress_at(1, (1, 0.3))
        np.testing.assert_array_equal(state.params["table"], state_at(1).params["table"])
        assert "the checkpoint of step 2 cannot be read" in caplog.text
        save(checkpoints, state_at(2), progress_at(2, (1, 0.3), (2, 0.1)))
    with open_checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert restore_latest(checkpoints, state_at(0))[1].step == 2


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize(("damaged", "chosen"), [(2, 1), (1, 2)], ids=["the latest", "the best"])
def test_of_a_damaged_run_the_best_checkpoint_that_is_intact_is_evaluated(
    saved, tmp_path, damage, damaged, chosen, caplog
):
    shutil.copytree(saved, tmp_path / "c")
    damage(tmp_path / "c" / str(damaged))
    with caplog.at_level("WARNING", logger="seqrec"):
        averaged, progress = read_best(tmp_path / "c", state_at(0).averaged)
    assert progress.step == chosen
    np.testing.assert_array_equal(averaged["table"], state_at(chosen).averaged["table"])
    assert f"the checkpoint of step {damaged} cannot be read" in caplog.text
    assert ("validation chose step 1" in caplog.text) == (damaged == 1)
    assert (tmp_path / "c" / str(damaged)).is_dir()


@pytest.mark.parametrize(("damaged", "chosen"), [((), 1), ((2,), 1), ((1,), 2), ((1, 2), None)])
def test_the_best_checkpoint_is_read_without_knowing_its_model(saved, tmp_path, damaged, chosen):
    shutil.copytree(saved, tmp_path / "c")
    for step in damaged:
        DAMAGE["arrays with a byte changed"](tmp_path / "c" / str(step))
    assert has_checkpoint(tmp_path / "c") == (chosen is not None)
    read = read_best(tmp_path / "c")
    if chosen is None:
        assert read is None
        return
    assert read is not None
    assert isinstance(read[0]["table"], np.ndarray)
    np.testing.assert_array_equal(read[0]["table"], state_at(chosen).averaged["table"])
    assert read[1].step == chosen


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert not has_checkpoint(tmp_path / "c")


def test_without_digests_damage_is_what_the_formats_find(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "c")
    for step in ("1", "2"):
        (tmp_path / "c" / step / "digests.json").unlink()
    assert read_best(tmp_path / "c")[1].step == 1
    cut_short(tmp_path / "c" / "1" / "progress" / "metadata")
    assert read_best(tmp_path / "c")[1].step == 2


def test_a_run_that_goes_on_without_its_best_checkpoint_chooses_among_those_it_has(tmp_path):
    save_all(tmp_path / "c", (1, 0.2), (2, 0.3), (3, 0.1))
    cut_short(tmp_path / "c" / "2" / "progress" / "metadata")
    with open_checkpoints(tmp_path / "c") as checkpoints:
        progress = restore_latest(checkpoints, state_at(0))[1]
        assert progress.validations == ((1, float("-inf")), (2, float("-inf")), (3, 0.1))
        assert progress.best == (3, 0.1)
        assert restore(checkpoints, state_at(0), progress.best[0])[1].step == 3
        save(checkpoints, state_at(4), dataclasses.replace(progress, step=4))
    assert read_best(tmp_path / "c")[1].step == 3


def test_without_a_validated_checkpoint_there_is_no_best(tmp_path):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        save(checkpoints, state_at(1), progress_at(1))
    assert read_best(tmp_path / "c") is None


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tmp_path):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        assert restore_latest(checkpoints, state_at(0)) is None


def test_a_sound_checkpoint_of_another_model_is_not_taken_for_a_damaged_one(tmp_path):
    save_all(tmp_path / "c", (1, 0.3), (2, 0.1))
    with open_checkpoints(tmp_path / "c") as checkpoints, pytest.raises(InputError, match="use the config"):
        restore_latest(checkpoints, state_at(0, size=4))
    assert sorted(int(path.name) for path in (tmp_path / "c").iterdir()) == [1, 2]
