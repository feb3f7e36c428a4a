"""A run compiles its training step once."""

import dataclasses

import chex
import pytest
import sasrec
from conftest import train

from seqrec.questions import next_item
from seqrec.run import make_main
from seqrec.types import InputError


@pytest.fixture
def one_trace(monkeypatch):
    """The question is asked once a trace; a second trace is refused."""
    chex.clear_trace_counter()
    once = chex.assert_max_traces(next_item, n=1)

    def build(config, task):
        return dataclasses.replace(sasrec.build(config, task), ask=once)

    monkeypatch.setattr(sasrec, "main", make_main(build, name="SASRec"))


def test_a_whole_run_traces_its_training_step_once(one_trace, toy, tmp_path):
    train(*toy, "--max-epochs", "2", "--output", tmp_path / "run")


def test_a_run_that_rolls_back_traces_its_training_step_once(one_trace, toy, tmp_path):
    too_fast = ("--schedule", "constant", "--learning-rate", "1e30", "--on-spike", "roll-back")
    with pytest.raises(InputError, match=r"after 3 roll-backs; the checkpoint of step \d+ is kept"):
        train(*toy, *too_fast, "--output", tmp_path / "run")
