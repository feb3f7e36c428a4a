"""A run with heads: it learns of the events' text, prints what its heads are worth, and is evaluated to the same."""

import bert4rec
import evaluate_checkpoint
import pytest
from conftest import TOY_MODEL, train

from seqrec import runtime
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


def test_heads_are_judged_beside_the_rates_of_their_answers(plays, tmp_path, capsys):
    flags = ("--skips", "kind=skip", "--skip-head", "0.5", "--gap-head", "0.5", "--max-epochs", "2")
    found = train(*plays, *flags, "--output", tmp_path / "run")
    assert found["heads"].keys() == {"skip", "gap"}
    for head in found["heads"].values():
        low, high = head["gain_interval"]
        assert low <= head["base_rate_nats"] - head["nats"] <= high
    assert read_json(tmp_path / "run" / "metrics.json")["heads"] == found["heads"]
    printed = capsys.readouterr().out
    assert f"skip head   {found['heads']['skip']['nats']:.4f} nats" in printed
    evaluated = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(tmp_path / "run"))
    assert evaluated["heads"] == found["heads"]


def test_a_skip_that_no_event_is_gets_one_line(plays, tmp_path):
    with pytest.raises(InputError, match="skips=kind=jump: no event is 'jump', but play, skip; name one of them"):
        train(*plays, "--skips", "kind=jump", "--output", tmp_path / "run")


def test_heads_are_refused_where_nothing_follows(plays, tmp_path):
    config = runtime.parse(
        bert4rec.Config, [str(flag) for flag in (*plays, "--gap-head", "0.1", "--output", tmp_path / "run")]
    )
    with pytest.raises(InputError, match="heads need a model that is asked what follows each item"):
        bert4rec.main(config)
