"""What a training script says to flags, data and directories that it cannot work with: one line, and status 2."""

import re
import sys

import pytest
import sasrec

from seqrec import runtime


def refusal(monkeypatch, capsys, *flags) -> str:
    """What the script says to flags that it cannot work with; it must be one line, and exit status 2."""
    monkeypatch.setattr("sys.argv", ["sasrec.py", *map(str, flags)])
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)
    with pytest.raises(SystemExit) as stop:
        runtime.run_script(sasrec.main, sasrec.Config)
    assert stop.value.code == 2
    complaints = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sasrec.py: ")]
    assert len(complaints) == 1
    return complaints[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-epoch", "2"], "--max-epochs"),
        (["--learning-rat", "2"], "--learning-rate"),
        (["--loss", "hinge"], "sampled-softmax"),
        (["--dataset", "ml1m"], "ml-1m"),
        (["--max-epochs", "two"], "two"),
        (["--max-epochs", "0"], "max_epochs=1"),
        (["--d-model", "15"], "n_heads=2; try d_model=16"),
        (["--dropout", "1.5"], r"\[0, 1\)"),
        (["--n-negatives", "0"], "n_negatives=0"),
        (["--columns", "a", "b"], "3"),
        (["--resume"], "--output"),
        (["--repeat-mixture", "--loss", "bce"], "mixes with a plain softmax; use loss=softmax"),
        (["--skips", "skipped"], "NAME=VALUE; try skipped=1"),
        (["--skip-weight", "1", "--label-smoothing", "0.1"], "leave label_smoothing at 0"),
        (["--mesh.model", "3"], "model=3"),
        (["--dataset", "movielens"], "data path"),
        (["--dataset", "movielens", "--data-path", "absent.csv"], "absent.csv does not exist"),
    ],
)
def test_flags_that_cannot_be_used_get_one_line(monkeypatch, capsys, tmp_path, flags, message):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refusal(monkeypatch, capsys, *flags))
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("dataset", "content", "message"),
    [
        ("movielens", "", "is empty"),
        ("movielens", "userId,movieId,rating,timestamp\n1,2,3\n", ":2: .*4 are due"),
        ("ml-1m", "1 2\n1 x\n", ":2: item_id 'x'"),
        ("s3rec", "1 2 3\n2 a\n", ":2: .*'a'"),
        ("events", "user_id,item,timestamp\n1,2,3\n", "no column 'item_id'.*'user_id', 'item', 'timestamp'"),
        ("ml-1m", "1 2\n1 3\n2 1\n", "no user has 3 events"),
        ("ml-1m", "1 2\n1 3\n1 4\n2 1\n", "nothing to learn from"),
    ],
)
def test_data_that_cannot_be_used_gets_one_line_and_leaves_the_output_free(
    monkeypatch, capsys, tmp_path, dataset, content, message
):
    path = tmp_path / "data.txt"
    path.write_text(content)
    flags = ("--dataset", dataset, "--data-path", path, "--output", tmp_path / "run")
    assert re.search(message, refusal(monkeypatch, capsys, *flags))
    assert not (tmp_path / "run").exists()


def test_an_output_that_holds_a_run_is_refused_with_an_offer_to_resume(monkeypatch, capsys, finished):
    assert "--resume" in refusal(monkeypatch, capsys, *finished.flags)


def test_resuming_with_another_config_names_the_field(monkeypatch, capsys, finished):
    message = refusal(monkeypatch, capsys, *finished.flags, "--resume", "--d-model", "32")
    assert "model.d_model=16, not 32" in message


def test_a_damaged_config_is_named(monkeypatch, capsys, tmp_path, toy):
    (tmp_path / "config.json").write_text('{"config": ')
    assert "config.json:1" in refusal(monkeypatch, capsys, *toy, "--output", tmp_path, "--resume")


@pytest.mark.parametrize("place", ["file", "file/below", "full"])
def test_an_output_that_cannot_be_a_run_is_named(monkeypatch, capsys, tmp_path, toy, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("")
    assert f"--output {tmp_path / place} " in refusal(monkeypatch, capsys, *toy, "--output", tmp_path / place)
