"""Lists for all users, by the script: killed and started again, with flags for what may be listed."""

import functools
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import recommend
from bundle.small_bundles import KEYS, kept

from seqrec import runtime
from seqrec.types import InputError


@pytest.fixture(scope="module")
def plays(tmp_path_factory):
    """Of 400 users 4 plays each."""
    path = tmp_path_factory.mktemp("plays") / "plays.parquet"
    tracks = KEYS[np.random.default_rng(0).integers(30, size=1600)].tolist()
    times = 1_600_000_000 + np.arange(1600)
    pq.write_table(pa.table({"user": np.repeat(np.arange(400), 4), "track": tracks, "at": times}), path)
    return path


def flags(plays, output, *more):
    return [
        str(kept()),
        "--histories",
        str(plays),
        "--columns",
        "user",
        "track",
        "at",
        "--output",
        str(output),
        "--k",
        "3",
        *more,
    ]


def test_the_script_writes_a_list_for_each_user(plays, tmp_path, capsys):
    arguments = flags(plays, tmp_path / "lists.parquet", "--item-vectors", str(tmp_path / "items"))
    summary = recommend.main(runtime.parse(recommend.Arguments, arguments))
    table = pq.read_table(tmp_path / "lists.parquet")
    assert table.column_names == ["user", "item", "rank", "score", "popular"]
    assert table.num_rows == summary.n_rows == 3 * 400
    assert np.load(tmp_path / "items" / "vectors.npy").shape == (30, 8)
    assert "1,200 rows for 400 users" in capsys.readouterr().out


def test_the_search_is_that_of_the_flag(plays, tmp_path):
    arguments = flags(plays, tmp_path / "lists.parquet", "--search", "ann")
    with pytest.raises(InputError, match=r"bundle has no index; write one by experiments/export.py RUN --index"):
        recommend.main(runtime.parse(recommend.Arguments, arguments))


SLOW_PARTS = """
import time
from seqrec.bundle import lists_file
lists_file.write_lists.__kwdefaults__["users_per_part"] = 50
write_part = lists_file._write_part
def slowly(*given, **options):
    write_part(*given, **options)
    time.sleep(0.5)
lists_file._write_part = slowly
"""


def test_a_script_that_is_killed_and_started_again_leaves_the_same_file(
    plays, tmp_path, start_script, monkeypatch, capsys
):
    output = tmp_path / "lists.parquet"
    killed = start_script("recommend.py", *flags(plays, output), code=SLOW_PARTS)
    deadline = time.monotonic() + 120
    while not (tmp_path / "lists.parquet.parts" / "000001.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not output.exists()
    monkeypatch.setattr(recommend, "write_lists", functools.partial(recommend.write_lists, users_per_part=50))
    for path in (output, tmp_path / "whole.parquet"):
        recommend.main(runtime.parse(recommend.Arguments, flags(plays, path)))
        assert ("goes on     after" in capsys.readouterr().err) == (path == output)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_something_must_be_asked_for(plays):
    with pytest.raises(InputError, match="nothing is to be written; give an --output, --item-vectors or"):
        runtime.parse(recommend.Arguments, [str(kept()), "--histories", str(plays)])
