"""A run with side tasks reads their labels as text, prints what they gain, and is evaluated to the same figures."""

import evaluate_checkpoint
import pytest
from conftest import TOY_MODEL, train

from seqrec.files import read_json
from seqrec.types import InputError


@pytest.fixture
def plays(tmp_path):
    """Plays of which each listener skips every third."""
    rows = [
        f"u{user},i{(user * place) % 11},{100 * user + place**2},{'play' if place % 3 else 'skip'}"
        for user in range(30)
        for place in range(8)
    ]
    file = tmp_path / "plays.csv"
    file.write_text("\n".join(["user_id,item_id,timestamp,kind", *rows]) + "\n")
    return "--dataset", "events", "--data-path", file, "--time-unit", "s", "--no-mask-seen", *TOY_MODEL


def test_side_tasks_are_judged_beside_the_base_rates_of_their_labels(plays, tmp_path, capsys):
    flags = ("--skips", "kind=skip", "--skip-head", "0.5", "--gap-head", "0.5", "--max-epochs", "1")
    results = train(*plays, *flags, "--output", tmp_path / "run")
    assert results["side_tasks"].keys() == {"skip", "gap"}
    for each in results["side_tasks"].values():
        low, high = each["gain_interval"]
        assert low <= each["base_rate_nats"] - each["nats"] <= high
    assert read_json(tmp_path / "run" / "metrics.json")["side_tasks"] == results["side_tasks"]
    printed = capsys.readouterr().out
    assert f"skip task   {results['side_tasks']['skip']['nats']:.4f} nats" in printed
    evaluated = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(tmp_path / "run"))
    assert evaluated["side_tasks"] == results["side_tasks"]


def test_a_skip_that_no_event_is_gets_one_line(plays, tmp_path):
    with pytest.raises(InputError, match="skips=kind=jump: no event is 'jump', but play, skip; name one of them"):
        train(*plays, "--skips", "kind=jump", "--output", tmp_path / "run")
