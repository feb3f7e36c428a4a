"""A run compiles its training step once."""

import chex
import sasrec
from conftest import train

from seqrec.objectives import next_item


def test_a_whole_run_traces_its_training_step_once(toy, tmp_path, monkeypatch):
    # The objective is called once a trace, and refuses the second.
    chex.clear_trace_counter()
    build, once = sasrec.build, chex.assert_max_traces(next_item, n=1)
    monkeypatch.setattr(sasrec, "build", lambda config, task: build(config, task)._replace(objective=once))
    train(*toy, "--max-epochs", "2", "--output", tmp_path / "run")
