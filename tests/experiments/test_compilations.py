"""A run compiles its training step once."""

import chex
import sasrec
from conftest import train


def test_a_whole_run_traces_its_training_step_once(toy, tmp_path, monkeypatch):
    # The objective is called once a trace, and refuses the second.
    chex.clear_trace_counter()
    monkeypatch.setattr(sasrec, "next_item", chex.assert_max_traces(sasrec.next_item, n=1))
    train(*toy, "--max-epochs", "2", "--output", tmp_path / "run")
