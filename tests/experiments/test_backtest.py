"""The script that replays a log: what its models know on which day, one program for all days, and going on."""

import os
import re
import shlex
import signal

import backtest
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import EXPERIMENTS, TOY_MODEL

from seqrec import runtime
from seqrec.backtest import replay
from seqrec.backtest.training import Trainer
from seqrec.files import read_json
from seqrec.types import InputError

FLAGS = (
    *("--dataset", "events", *TOY_MODEL, "--n-periods", "3", "--max-epochs", "12"),
    *("--learning-rate", "0.02", "--targets", "every", "--refresh-epochs", "6", "--refresh-on", "all"),
)


def log() -> pd.DataFrame:
    """Walks along a circle of items 1 to 15 on four days, and from the fifth day on along one of new items, 16 to 30.

    Who has reached item i goes to the next one, so whoever knows the items of a day predicts all but the first. The
    first user stays away on the fifth day.
    """
    rows = [
        (user, 1 + 15 * (day >= 4) + (user + place) % 15, 86_400 * (10_000 + day) + 600 * place + user)
        for user in range(24)
        for day in range(6)
        for place in range(7)
        if (user, day) != (0, 4)
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def run(output, *more):
    flags = [*map(str, FLAGS), "--output", str(output), *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [str(EXPERIMENTS / "backtest.py"), *flags])
        return backtest.main(runtime.parse(backtest.config_type("sasrec"), flags), events=log())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A backtest, its directory, and its trainer with the periods."""
    output, made = tmp_path_factory.mktemp("backtests") / "undisturbed", []

    def make(*arguments):
        made.append((make_trainer(*arguments), arguments[-1]))
        return made[-1][0]

    make_trainer = replay.make_trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "make_trainer", make)
        results = run(output)
    return results, output, made[0]


def test_who_is_not_refreshed_never_finds_new_items(undisturbed):
    results, output, _ = undisturbed
    first, second, third = results["quality"]
    assert first["warm"] == first["anew"] == first["never"]
    # On the fifth day nobody knows the new items, which are all targets; on the sixth two of the three models do.
    assert results["periods"][1]["n_new_targets"] == results["periods"][1]["n_targets"] == 23 * 7
    assert {arm: values["recall@10"][0] for arm, values in second.items()} == {"warm": 0, "anew": 0, "never": 0}
    assert third["never"]["recall@10"][0] == 0
    assert min(third["warm"]["recall@10"][0], third["anew"]["recall@10"][0]) > 0.6  # chance: 1/3
    table = pq.read_table(output / "periods" / "002-warm.parquet").to_pydict()
    assert set(table["n_candidates"]) == {30}
    never = pq.read_table(output / "periods" / "002-never.parquet").to_pydict()
    assert (np.array(never["rank"]) > 15).all()


def test_differences_and_costs_are_of_the_refreshed_periods(undisturbed):
    results, output, _ = undisturbed
    quality, overall = results["quality"][1:], results["overall"]
    for arm in ("warm", "anew", "never"):
        values = [each[arm]["ndcg@10"][0] for each in quality]
        assert overall[arm]["ndcg@10"][0] == pytest.approx(np.average(values, weights=[23, 24]))
    mean, lower, upper = results["differences"]["warm - never"]["ndcg@10"]
    assert mean == pytest.approx(overall["warm"]["ndcg@10"][0] - overall["never"]["ndcg@10"][0])
    assert 0 < lower <= mean <= upper
    assert results["costs"]["warm"]["n_steps"] * 2 == results["costs"]["anew"]["n_steps"]  # 6 epochs against 12
    assert read_json(output / "backtest.json")["overall"] == overall
    assert "refreshed warm against never refreshed" in (output / "backtest.html").read_text()


def test_one_compiled_program_serves_all_days(undisturbed):
    _, _, (trainer, _) = undisturbed
    assert trainer.train_step._cache_size() == trainer.rank_step._cache_size() == 1


def test_a_refresh_may_learn_from_the_newest_windows_of_active_users_alone(undisturbed):
    _, _, (trainer, (_, fifth, sixth)) = undisturbed
    packed = trainer.batches(sixth, seed=0, active_since=fifth).packed
    ends = sixth.split.train_stop[1:] - 1  # the first user has no event on the fifth day
    assert sorted((packed.starts + packed.lengths).tolist()) == ends.tolist()
    assert set(packed.lengths.tolist()) == {8}  # --max-length
    assert len(trainer.batches(sixth, seed=0).packed.lengths) == 24


def test_a_stopped_backtest_goes_on_and_ends_as_if_undisturbed(undisturbed, tmp_path, monkeypatch, capsys):
    expected, _, _ = undisturbed
    tested = []

    def stop_at_fifth(self, *arguments, **options):
        tested.append(test(self, *arguments, **options))
        if len(tested) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return tested[-1]

    test = Trainer.test
    monkeypatch.setattr(Trainer, "test", stop_at_fifth)
    with pytest.raises(runtime.Interrupted, match=r"go on with\n.*backtest.py .*--resume"):
        run(tmp_path / "stopped")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "stopped" / "periods").glob("*.json")}
    assert len(kept) == 1 + 5
    results = run(tmp_path / "stopped", "--resume")
    assert len(tested) == 9
    assert all(file.stat().st_mtime_ns == written for file, written in kept.items())
    for name in ("quality", "overall", "differences"):
        assert results[name] == expected[name]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--split leave-last-out", "splits by its periods"),
        ("--start-from runs/old", "from random weights; leave --start-from out"),
        ("--track tensorboard", "leave --track out"),
        ("--item-updates sparse", "updates all rows of the item table"),
        ("--item-features year", "codes of item features"),
        ("--n-periods 60", "first tested period would begin"),
    ],
)
def test_what_cannot_be_replayed_gets_one_line(tmp_path, flags, message):
    with pytest.raises(InputError, match=re.escape(message)) as refusal:
        run(tmp_path / "new", *shlex.split(flags))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "new").exists()
