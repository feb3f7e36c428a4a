"""A run compiles its training step once."""

import chex
import pytest
import sasrec
from conftest import train
from seqrec.objectives import next_item

from seqrec.types import InputError


@pytest.fixture
def one_trace(monkeypatch):
    """The objective is called once a trace, and refuses the second."""
    chex.clear_trace_counter()
    build, once = sasrec.build, chex.assert_max_traces(next_item, n=1)
    monkeypatch.setattr(sasrec, "build", lambda config, task: build(config, task)._replace(objective=once))


def test_a_whole_run_traces_its_training_step_once(one_trace, toy, tmp_path):
    train(*toy, "--max-epochs", "2", "--output", tmp_path / "run")


def test_a_run_that_rolls_back_traces_its_training_step_once(one_trace, toy, tmp_path):
    too_fast = ("--schedule", "constant", "--learning-rate", "1e30", "--on-spike", "roll-back")
    with pytest.raises(InputError, match=r"after 3 roll-backs; the checkpoint of step \d+ is kept"):
        train(*toy, *too_fast, "--output", tmp_path / "run")
