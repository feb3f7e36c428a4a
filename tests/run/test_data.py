"""The data of a run is prepared once, opened again as it was, and made into batches and queries."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec import runs
from seqrec.data import preparation
from seqrec.data.engagement import EngagementConfig
from seqrec.data.key_tables import KeyTable
from seqrec.data.sources import read_source
from seqrec.data.split_config import SplitConfig
from seqrec.data.splits import leave_last_out
from seqrec.data.store import open_store, read_preparation, store_from_sequences
from seqrec.files import read_json
from seqrec.run.data import DataConfig, make_task, open_task, prepare_store
from seqrec.types import InputError


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("".join(f"{user} {1 + (user + place) % 5}\n" for user in (1, 2, 3) for place in range(5)))
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    return runs.prepare_run_directory(tmp_path / "run", {}, experiment="toy", resume=False)


def test_a_resumed_run_reads_its_own_store_and_not_the_file_again(pairs, run):
    first = open_task(run, DataConfig("ml-1m", pairs, max_length=4), seed=0)
    pairs.unlink()
    again = open_task(run, DataConfig("ml-1m", pairs, max_length=4), seed=0)
    assert again.split.content_hash == first.split.content_hash
    noted = read_json(run / "config.json")["data"]
    assert noted == {"content_hash": first.store.content_hash, "split_hash": first.split.content_hash}


def test_other_data_behind_the_same_config_is_refused(pairs, run):
    open_task(run, DataConfig("ml-1m", pairs), seed=0)
    (run / "store").rename(run.parent / "store moved away")
    pairs.write_text(pairs.read_text() + "4 1\n4 2\n4 3\n")
    with pytest.raises(InputError, match="never held the events with the content hash"):
        open_task(run, DataConfig("ml-1m", pairs), seed=0)


def a_store_of(keys):
    """One user a key, who took items 1 to 5, and a sixth where the key is even."""
    items = [[*range(1, 6), *([6] if key % 2 == 0 else [])] for key in keys]
    return store_from_sequences(items, n_items=6)._replace(user_table=KeyTable({"key": np.array(keys)}))


def users_of(queries):
    return set(queries.store.user_keys[queries.users].tolist())


def test_a_sample_of_users_is_the_same_under_any_seed_and_hardly_moves_when_the_store_grows():
    config = DataConfig("store", validate_users=20, test_users=30)
    tasks = [make_task(config, a_store_of(range(n)), seed=n) for n in (100, 100, 150)]
    valid, test = ([users_of(getattr(task, part)) for task in tasks] for part in ("valid", "test"))
    assert valid[0] == valid[1]
    assert [len(users) for users in valid] == [20, 20, 20]
    assert valid[0] < test[0]  # the 20 and the 30 smallest hashes of the same users
    # Nobody who was in the store before comes in: those who leave make room for users who joined.
    assert valid[2] & set(range(100)) <= valid[0]
    assert tasks[0].samples == {
        "validation": "a sample of 20 of 100 users, by a hash of their keys",
        "test": "a sample of 30 of 100 users, by a hash of their keys",
    }
    # What is learned from does not change.
    whole = make_task(DataConfig("store"), a_store_of(range(100)), seed=100)
    np.testing.assert_array_equal(whole.train.batch(0).items, tasks[0].train.batch(0).items)
    np.testing.assert_array_equal(whole.counts, tasks[0].counts)


def test_a_sample_of_as_many_users_as_there_are_is_no_sample():
    task = make_task(DataConfig("store", validate_users=100, test_users=999), a_store_of(range(100)), seed=0)
    assert (len(task.valid.users), len(task.test.users), dict(task.samples)) == (100, 100, {})


def test_of_sampled_users_those_count_as_misses_who_would_among_all():
    config = DataConfig("store", mask_seen="yes", repeated_targets="miss")
    histories = [[1, 2, 3, 4, 1 if user % 3 else 5] for user in range(50)]
    store = store_from_sequences(histories)
    whole, sample = (make_task(replace(config, test_users=n), store, seed=0).test for n in (0, 10))
    misses = dict(zip(whole.users.tolist(), whole.is_miss.tolist(), strict=True))
    assert len(sample.users) == 10
    assert sample.is_miss.tolist() == [misses[user] for user in sample.users.tolist()]
    assert len(set(sample.is_miss.tolist())) == 2


def test_random_crops_reach_what_the_latest_window_never_does(pairs, run):
    # Two pairs a history to learn from, and rows of one.
    seen = {}
    for random_crops in (False, True):
        config = DataConfig("ml-1m", pairs, max_length=1, whole_histories=False, random_crops=random_crops)
        train = open_task(run, config, seed=0).train
        seen[random_crops] = {int(item) for step in range(20) for item in train.batch(step).items.flat if item}
    assert (seen[False], seen[True]) == ({1 + (user + 1) % 5 for user in (1, 2, 3)}, {2, 3, 4, 5})


def test_data_that_nothing_can_be_learned_from_is_refused(pairs, run):
    pairs.write_text("1 1\n1 2\n1 3\n")
    with pytest.raises(InputError, match="nothing to learn from"):
        open_task(run, DataConfig("ml-1m", pairs), seed=0)


def test_a_store_needs_a_path(run):
    with pytest.raises(InputError, match="store is read from a directory; give its data path"):
        open_task(run, DataConfig("store"), seed=0)


PLAYS = pa.table(
    {
        "listener": [f"listener {user}" for user in (1, 2, 3) for _ in range(5)],
        "song": [1 + (user + place) % 5 for user in (1, 2, 3) for place in range(5)],
        "at": [10**9 + place for _ in (1, 2, 3) for place in range(5)],
        "liked": [float(place) for _ in (1, 2, 3) for place in range(5)],
    }
)
OF_A_FRAME = DataConfig("events", columns=("listener", "song", "at"), max_length=4)


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_a_frame_is_read_as_the_file_of_it_and_its_run_opened_again_without_it(run, tmp_path, kind):
    frame = PLAYS
    if kind != "arrow":
        pytest.importorskip(kind)
        frame = PLAYS.to_pandas() if kind == "pandas" else pytest.importorskip("polars").from_arrow(PLAYS)
    pq.write_table(PLAYS, tmp_path / "plays.parquet")
    weights = EngagementConfig(loss_weight="liked")
    prepare_store(tmp_path / "of the file", (replace(OF_A_FRAME, data_path=tmp_path / "plays.parquet"), weights))
    task = open_task(run, OF_A_FRAME, seed=0, engagement=weights, events=frame)
    assert task.store.content_hash == open_store(tmp_path / "of the file").content_hash
    assert read_json(run / "config.json")["data"]["content_hash"] == task.store.content_hash
    again = open_task(run, OF_A_FRAME, seed=0, engagement=weights)
    assert again.split.content_hash == task.split.content_hash
    # Nor is another frame read in its place.
    other = open_task(run, OF_A_FRAME, seed=0, engagement=weights, events=PLAYS.slice(5))
    assert other.store.content_hash == task.store.content_hash


def test_a_frame_goes_with_events_and_nothing_else(run, pairs):
    with pytest.raises(InputError, match="dataset=movielens-demo with data_path=None; take dataset=events"):
        open_task(run, DataConfig(), seed=0, events=PLAYS)
    with pytest.raises(InputError, match=r"data_path=.*pairs.txt; take dataset=events without a data path"):
        open_task(run, replace(OF_A_FRAME, data_path=pairs), seed=0, events=PLAYS)
    with pytest.raises(InputError, match="give its data path, and no frame"):
        open_task(run, DataConfig("store", pairs.parent), seed=0, events=PLAYS)
    with pytest.raises(InputError, match="events is read from a file; give its data path or a frame"):
        open_task(run, OF_A_FRAME, seed=0)
    with pytest.raises(InputError, match="frame has no column 'listener'"):
        open_task(run, OF_A_FRAME, seed=0, events=PLAYS.drop_columns("listener"))


@pytest.fixture
def temporal_store(tmp_path):
    """A store prepared with a temporal split: three users with seven events each, a second apart."""
    lines = [f"{user},{1 + (user + place) % 9},{10**9 + place}" for user in (1, 2, 3) for place in range(7)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    source = read_source("events", tmp_path / "log.csv", time_unit="s")
    split = SplitConfig(split="temporal", valid_share=0.2, test_share=0.2)
    preparation.prepare_store(source, tmp_path / "temporal", preparation.StepsConfig(), split)
    return tmp_path / "temporal"


@pytest.mark.parametrize("given", [SplitConfig(), SplitConfig(split="temporal", valid_share=0.2, test_share=0.2)])
def test_a_store_is_trained_on_with_its_own_split(temporal_store, run, given, caplog):
    caplog.set_level("INFO", logger="seqrec")
    task = open_task(run, DataConfig("store", temporal_store, split=given), seed=0)
    assert task.split.content_hash == read_preparation(temporal_store)["split"]["hash"]
    assert task.config.split.split == "temporal"
    assert ("as the store was prepared" in caplog.text) == (given == SplitConfig())
    # A fifth of 21 events, three in each second, is that of the last second and part of the one before it.
    assert task.split.train_stop.tolist() == [4, 11, 18]
    assert task.split.test.tolist() == [6, 13, 20]


@pytest.mark.parametrize(
    ("given", "note", "test"),
    [
        (
            SplitConfig(split="leave-last-out", n_out=2),
            "by the flags; the store was prepared with split=temporal, valid_share=0.2, test_share=0.2",
            [6, 13, 20],
        ),
        (SplitConfig(test_share=0.4), "as the store was prepared, but test_share=0.4", [6, 13, 20]),
        (
            SplitConfig(test_share=0.4, window_target="first"),
            "as the store was prepared, but test_share=0.4, window_target=first",
            [4, 11, 18],
        ),
    ],
)
def test_flags_of_the_split_go_before_the_stores_and_are_said(temporal_store, run, given, note, test, caplog):
    caplog.set_level("INFO", logger="seqrec")
    task = open_task(run, DataConfig("store", temporal_store, split=given), seed=0)
    assert f"split       {note}" in caplog.messages
    assert task.split.test.tolist() == test
    assert task.split.content_hash != read_preparation(temporal_store)["split"]["hash"]


def test_a_store_without_a_split_of_its_own_leaves_the_last_out(pairs, run, tmp_path):
    prepare_store(tmp_path / "plain", (DataConfig("ml-1m", pairs), EngagementConfig()))
    task = open_task(run, DataConfig("store", tmp_path / "plain"), seed=0)
    assert task.config.split == SplitConfig(split="leave-last-out")
    assert task.split.content_hash == leave_last_out(task.store).content_hash


def test_flags_that_the_stores_split_does_not_go_with_are_refused_in_one_line(temporal_store, run):
    config = DataConfig("store", temporal_store, split=SplitConfig(valid_newest=True))
    with pytest.raises(InputError, match="valid_newest is for split=marked-users, not temporal"):
        open_task(run, config, seed=0)
    with pytest.raises(ValueError, match="valid_newest is for split=marked-users, not leave-last-out"):
        DataConfig(split=SplitConfig(valid_newest=True))


def test_the_order_of_ties_is_that_of_the_config_and_is_said(run, tmp_path, caplog):
    lines = [f"{user},{item},{10**9}" for user in range(1, 6) for item in range(1, 7)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    caplog.set_level("INFO", logger="seqrec")
    items = {}
    for ties in ("auto", "file"):
        config = DataConfig("events", tmp_path / "log.csv", time_unit="s", ties=ties)
        prepare_store(tmp_path / ties, (config, EngagementConfig()))
        items[ties] = open_store(tmp_path / ties).items.tolist()
    assert items["file"] == [*range(1, 7)] * 5
    assert items["auto"] != items["file"]
    message = (
        "100.0% of neighbours have equal times, of these 100.0% in the order of item ids (chance: 50%); ordered by"
    )
    assert [line for line in caplog.messages if "ties" in line] == [
        f"ties        {message} hash",
        f"ties        {message} file",
    ]


@pytest.mark.parametrize("name", ["max_length", "batch_size"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 is below 1"):
        DataConfig(**{name: 0})


def test_times_are_refused_where_items_are_generated():
    with pytest.raises(ValueError, match="times=history, but items are generated without times"):
        DataConfig(times="history", split=SplitConfig(n_out=5, window_target="first"))


def test_a_task_says_what_a_model_reads_and_generates():
    store = store_from_sequences([[1, 2, 3, 4, 5, 6, 7]] * 3)
    task = make_task(DataConfig(max_length=4), store, seed=0)
    assert (task.n_items, task.max_length, task.times, task.n_generated) == (7, 4, "none", None)
    split = SplitConfig(n_out=2, window_target="first")
    assert make_task(DataConfig(split=split), store, seed=0).n_generated == 2


def test_sessions_in_two_files_are_tested_on_every_prefix_of_the_second(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "sessions"
    folder.mkdir()
    sessions = {"train": rng.integers(1, 9, (40, 4)), "test": rng.integers(1, 9, (7, 5))}
    for part, items in sessions.items():
        lines = [" ".join(map(str, row)) for row in items]
        (folder / f"{part}_sessions.txt").write_text("\n".join(lines) + "\n")
    split = SplitConfig(split="marked-users", window_target="every", valid_share=0.2)
    config = DataConfig("sessions", folder, split=split, mask_seen="no")
    prepare_store(tmp_path / "store", (config, EngagementConfig()))
    task = make_task(config, open_store(tmp_path / "store"), seed=0)
    targets = task.store.item_keys[task.test.targets - 1].reshape(7, 4)
    assert sorted(targets.astype(int).tolist()) == sorted(sessions["test"][:, 1:].tolist())
    assert len(task.test.users) == 7 * 4


def test_a_column_is_read_as_text_or_as_numbers_but_not_as_both(tmp_path):
    (tmp_path / "plays.csv").write_text("user_id,item_id,timestamp,kind\na,x,1,2\na,y,2,3\n")
    config = DataConfig("events", tmp_path / "plays.csv")
    readers = ((config, EngagementConfig(skips=("kind=skip",))), (config, EngagementConfig(loss_weight="kind")))
    with pytest.raises(InputError, match="kind is read as text, of which no engagement is known"):
        prepare_store(tmp_path / "store", *readers)
