"""Lists for all users of a file: what the bundle says of each alone, whatever interrupts the writing."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bundle.small_bundles import COUNTS, KEYS, loaded
from seqrec.bundle.histories_file import read_histories
from seqrec.bundle.lists_file import ListOptions, write_item_vectors, write_lists
from seqrec.data.sources import read_source
from seqrec.types import InputError

RANDOM = np.random.default_rng(3)
HISTORIES = {
    f"user {number:02}": [f"track-{item}" for item in RANDOM.integers(1, 36, RANDOM.integers(1, 12))]
    for number in range(23)
} | {"zoe": ["nothing", "known"]}


def histories(**lists):
    users = [user for user, items in HISTORIES.items() for _ in items]
    items = [item for row in HISTORIES.values() for item in row]
    frame = pa.table({"user_id": users, "item_id": items, "timestamp": 1_600_000_000 + np.arange(len(items))})
    return read_histories(read_source("events", frame), KEYS, **lists)


def written(output, options=ListOptions(k=4), **given):  # noqa: B008 (a tuple)
    return write_lists(loaded(), histories(), options, output=output, users_per_part=5, **given)


def lists_of(rows):
    lists = {}
    for row in rows:
        lists.setdefault(row["user"], []).append((int(row["rank"]), row["item"], float(row["score"])))
    return lists


def test_each_users_list_is_that_of_the_history_alone(tmp_path):
    summary = written(tmp_path / "lists.parquet")
    rows = pq.read_table(tmp_path / "lists.parquet").to_pylist()
    lists = lists_of(rows)
    answers = loaded().recommend(list(HISTORIES.values()), 4)
    for user, items, scores in zip(HISTORIES, answers.items, answers.scores, strict=True):
        assert [(rank, item) for rank, item, _ in lists[user]] == list(enumerate(items, start=1))
        np.testing.assert_allclose([score for *_, score in lists[user]], scores, rtol=1e-5)
    assert {row["user"] for row in rows if row["popular"]} == {
        user for user, popular in zip(HISTORIES, answers.is_popular, strict=True) if popular
    }
    assert summary == (24, 4 * 24, sum(answers.is_popular), sum(answers.n_unknown), 0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["lists.parquet"]


def test_a_csv_file_has_the_same_rows(tmp_path):
    written(tmp_path / "lists.parquet")
    written(tmp_path / "lists.csv")
    with (tmp_path / "lists.csv").open() as file:
        in_csv = lists_of(csv.DictReader(file))
    for user, row in lists_of(pq.read_table(tmp_path / "lists.parquet").to_pylist()).items():
        assert [entry[:2] for entry in in_csv[user]] == [entry[:2] for entry in row]
        np.testing.assert_allclose([score for *_, score in in_csv[user]], [score for *_, score in row], rtol=1e-6)


class Killed(Exception):
    pass


def stop_after(n_reports):
    """A report that ends the writing after so many parts, as a kill between two of them would."""
    seen = []

    def report(n_users):
        seen.append(n_users)
        if len(seen) == n_reports:
            raise Killed

    return report


def test_a_killed_writing_goes_on_and_leaves_the_same_bytes(tmp_path, monkeypatch):
    vectors = {"user_vectors": tmp_path / "whole"}
    written(tmp_path / "whole.parquet", **vectors)
    for n_reports in (2, 3):
        with pytest.raises(Killed):
            written(tmp_path / "lists.parquet", user_vectors=tmp_path / "vectors", report=stop_after(n_reports))
    # A part whose last file is missing is written again.
    parts = sorted((tmp_path / "lists.parquet.parts").glob("*.json"))
    assert [part.name for part in parts] == ["000000.json", "000001.json", "000002.json", "request.json"]
    parts[2].unlink()
    answered = []
    top_ids = type(loaded()).top_ids
    monkeypatch.setattr(
        type(loaded()),
        "top_ids",
        lambda self, items, *args, **given: (answered.append(1), top_ids(self, items, *args, **given))[1],
    )
    written(tmp_path / "lists.parquet", user_vectors=tmp_path / "vectors")
    assert len(answered) == 5 - 2
    assert (tmp_path / "lists.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    for name in ("vectors.npy", "keys.parquet"):
        assert (tmp_path / "vectors" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_parts_of_other_options_are_not_taken_over(tmp_path):
    with pytest.raises(Killed):
        written(tmp_path / "lists.parquet", report=stop_after(3))
    written(tmp_path / "lists.parquet", ListOptions(k=2))
    assert pq.read_table(tmp_path / "lists.parquet")["rank"].to_numpy().max() == 2


def test_vectors_multiply_to_scores(tmp_path):
    summary = written(None, user_vectors=tmp_path / "users")
    write_item_vectors(loaded(), tmp_path / "items")
    users, items = (np.load(tmp_path / name / "vectors.npy") for name in ("users", "items"))
    user_keys, item_keys = (
        pq.read_table(tmp_path / name / "keys.parquet")["key"].to_pylist() for name in ("users", "items")
    )
    assert item_keys == KEYS.tolist()
    assert user_keys == [user for user, row in HISTORIES.items() if set(row) & set(KEYS)]
    assert str(summary).startswith(f"{len(user_keys)} vectors for 24 users; ")
    assert "popular" not in str(summary)
    answers = loaded().recommend([HISTORIES[user] for user in user_keys], 1, mask_seen=False)
    places = (users @ items.T).argmax(axis=1)
    assert [item_keys[place] for place in places] == [best for [best] in answers.items]


def test_a_user_who_is_allowed_nothing_has_no_list_and_is_counted(tmp_path, write):
    allow = write("user,item\nuser 03,track-5\nzoe,track-9\n", "allow.csv")
    summary = write_lists(
        loaded(), histories(allow=allow), ListOptions(4, mask_seen=False), output=tmp_path / "lists.parquet"
    )
    lists = lists_of(pq.read_table(tmp_path / "lists.parquet").to_pylist())
    assert {user: [item for _, item, _ in row] for user, row in lists.items()} == {
        "user 03": ["track-5"],
        "zoe": ["track-9"],
    }
    assert lists["zoe"][0][2] == COUNTS[8]
    assert summary.n_without == 22


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("lists.parquet", ListOptions(k=31), r"k=31 is not in 1\.\.30, the number of items of"),
        ("lists.json", ListOptions(k=3), r"lists.json ends neither in .csv nor in .parquet"),
        ("s3://b/lists.csv", ListOptions(k=3), r"s3://b/lists.csv is in a bucket; write to a local path"),
    ],
)
def test_lists_that_cannot_be_are_refused_before_any_work(output, options, message, tmp_path):
    path = type(tmp_path)(output) if "://" in output else tmp_path / output
    with pytest.raises(InputError, match=message):
        written(path, options)
    assert not any(tmp_path.iterdir())


def test_a_model_that_reads_the_querys_time_must_be_told_it(tmp_path):
    with pytest.raises(InputError, match="reads the time of the query; give it by --at, such as"):
        write_lists(loaded("query"), histories(), ListOptions(k=3), output=tmp_path / "lists.csv")
    write_lists(loaded("query"), histories(), ListOptions(k=3, at_seconds=1_700_000_000), output=tmp_path / "lists.csv")
    with pytest.raises(InputError, match="--at 2001-09-09T01:46:40 is before the newest event, of 2020-09-13T"):
        write_lists(loaded("query"), histories(), ListOptions(k=3, at_seconds=10**9), output=tmp_path / "lists.csv")
    at = [1_700_000_000]
    first = next(iter(HISTORIES))
    seconds = [*range(1_600_000_000, 1_600_000_000 + len(HISTORIES[first])), *at]
    answer = loaded("query").recommend([HISTORIES[first]], 3, times=[seconds])
    with (tmp_path / "lists.csv").open() as file:
        assert [row["item"] for row in csv.DictReader(file) if row["user"] == first] == answer.items[0]
