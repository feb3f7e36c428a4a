"""What scripts share: data opened once, runs begun, interrupted and discarded."""

import json
import os
import signal
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
from seqrec.experiment import RunConfig, model_of, open_run
from seqrec.objectives import masked_item, next_item
from seqrec.tasks import DataConfig, make_task, open_task, prepare_store

from seqrec import runs, runtime
from seqrec.data.engagement import EngagementConfig
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import open_store, sequence_store
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import read_json
from seqrec.losses.config import LossConfig
from seqrec.types import InputError


@dataclass(frozen=True)
class Config:
    run: RunConfig = field(default_factory=RunConfig)


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("".join(f"{user} {1 + (user + place) % 5}\n" for user in (1, 2, 3) for place in range(5)))
    return path


@pytest.fixture
def begin(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    config = Config(RunConfig(output=tmp_path / "run"))
    return lambda **changes: open_run(config, RunConfig(output=tmp_path / "run", **changes), experiment="toy")


def test_a_resumed_run_reads_its_own_store_and_not_the_file_again(pairs, begin):
    with begin() as run:
        first = open_task(run, DataConfig("ml-1m", pairs, max_length=4), seed=0)
    pairs.unlink()
    with begin(resume=True) as run:
        again = open_task(run, DataConfig("ml-1m", pairs, max_length=4), seed=0)
    assert again.split.content_hash == first.split.content_hash
    noted = read_json(run / "config.json")["data"]
    assert noted == {"content_hash": first.store.content_hash, "split_hash": first.split.content_hash}


def test_other_data_behind_the_same_config_is_refused(pairs, begin):
    with begin() as run:
        open_task(run, DataConfig("ml-1m", pairs), seed=0)
    (run / "store").rename(run.parent / "store moved away")
    pairs.write_text(pairs.read_text() + "4 1\n4 2\n4 3\n")
    with pytest.raises(InputError, match="never held the events with the content hash"), begin(resume=True) as run:
        open_task(run, DataConfig("ml-1m", pairs), seed=0)
    assert (run / "config.json").exists()


def test_random_crops_reach_what_the_latest_window_never_does(pairs, begin):
    # Two pairs a history to learn from, and rows of one.
    seen = {}
    for random_crops in (False, True):
        config = DataConfig("ml-1m", pairs, max_length=1, whole_histories=False, random_crops=random_crops)
        with begin(resume=random_crops) as run:
            train = open_task(run, config, seed=0).train
        seen[random_crops] = {int(item) for step in range(20) for item in train.batch(step).items.flat if item}
    assert (seen[False], seen[True]) == ({1 + (user + 1) % 5 for user in (1, 2, 3)}, {2, 3, 4, 5})


def test_data_that_nothing_can_be_learned_from_leaves_no_run(pairs, begin):
    pairs.write_text("1 1\n1 2\n1 3\n")
    with pytest.raises(InputError, match="nothing to learn from"), begin() as run:
        open_task(run, DataConfig("ml-1m", pairs), seed=0)
    assert not run.exists()


def test_an_interrupt_anywhere_tells_how_to_go_on(begin):
    def stop_here():
        os.kill(os.getpid(), signal.SIGTERM)
        runtime.check_interrupt()

    with pytest.raises(runtime.Interrupted) as stop, begin() as run:
        stop_here()
    assert stop.value.signal_number == signal.SIGTERM
    assert str(stop.value).splitlines()[-1].strip() == runs.resume_command(run)
    assert run.exists()


def test_resuming_needs_to_know_where():
    with pytest.raises(InputError, match="--output"), open_run(Config(), RunConfig(resume=True), experiment="toy"):
        pass


@pytest.mark.parametrize("name", ["max_length", "batch_size"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 is below 1"):
        DataConfig(**{name: 0})


def test_times_are_refused_where_items_are_generated():
    with pytest.raises(ValueError, match="times=history, but items are generated without times"):
        DataConfig(times="history", split=SplitConfig(n_out=5, window_target="first"))


def test_a_config_file_holds_plain_values(begin):
    with begin() as run:
        assert json.loads((run / "config.json").read_text())["config"]["run"]["output"] == str(run)


def test_sessions_in_two_files_are_tested_on_every_prefix_of_the_second(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "sessions"
    folder.mkdir()
    sessions = {"train": rng.integers(1, 9, (40, 4)), "test": rng.integers(1, 9, (7, 5))}
    for part, items in sessions.items():
        lines = [" ".join(map(str, row)) for row in items]
        (folder / f"{part}_sessions.txt").write_text("\n".join(lines) + "\n")
    split = SplitConfig(split="marked-users", window_target="every", valid_share=0.2)
    config = DataConfig("sessions", folder, split=split, mask_seen=False)
    prepare_store(tmp_path / "store", config)
    task = make_task(config, open_store(tmp_path / "store"), seed=0)
    asked = task.store.item_keys[task.test.targets - 1].reshape(7, 4)
    assert sorted(asked.astype(int).tolist()) == sorted(sessions["test"][:, 1:].tolist())
    assert len(task.test.users) == 7 * 4


def a_model(loss=None, objective=next_item, **data):
    skipped = {"skipped": np.arange(12) % 4 == 1}
    store = sequence_store(1 + np.arange(12) % 5, np.array([0, 6, 12]), np.arange(5), np.arange(2), columns=skipped)
    task = make_task(DataConfig("store", max_length=4, batch_size=2, **data), store, seed=0)
    encoder = transformer(TransformerConfig(d_model=8), n_items=5, max_length=4)
    return encoder, model_of(encoder, loss or LossConfig(), task, objective)


def test_a_model_is_the_script_s_own_unless_the_config_asks_for_more():
    encoder, model = a_model()
    assert model.encoder is encoder
    assert model.objective is next_item
    _, model = a_model(LossConfig(repeat_mixture=True), mask_seen=False)
    assert model.encoder.repeats is not None


SKIPS = EngagementConfig(skips=("skipped=true",))


@pytest.mark.parametrize(
    ("loss", "options", "said"),
    [
        ({"repeat_mixture": True}, {}, "those are not ranked; add --no-mask-seen"),
        ({"skip_weight": 0.5}, {}, "weighs skips; name them, as in --skips skipped=1"),
        ({"skip_weight": 0.5}, {"engagement": SKIPS, "objective": masked_item}, "asked what follows each item"),
    ],
)
def test_a_loss_that_its_data_gives_no_reason_for_is_refused(loss, options, said):
    with pytest.raises(InputError, match=said):
        a_model(LossConfig(**loss), **options)
