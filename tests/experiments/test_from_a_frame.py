"""The example of docs/data.md trains on a frame, and a run that read a frame goes on without it."""

import re
from dataclasses import replace
from pathlib import Path

import baselines
import numpy as np
import pytest

from seqrec.data.store import open_store
from seqrec.files import read_json
from seqrec.run import DataConfig, RunConfig

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
[EXAMPLE] = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "events=plays" in block]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """What the example's variables hold after it; its run is in the working directory."""
    values = {"__name__": "example"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("example"))
        patch.setattr("sys.argv", ["example.py"])
        exec(EXAMPLE, values)
        values["run"] = Path("runs/songs").absolute()
        yield values


def test_the_run_holds_the_frame_as_its_store(executed):
    plays, store = executed["plays"], open_store(executed["run"] / "store")
    assert read_json(executed["run"] / "config.json")["data"]["content_hash"] == store.content_hash
    own = plays[plays["listener"] == 7].sort_values("at")["song"].tolist()
    assert store.item_keys[store.items[store.offsets[7] : store.offsets[8]] - 1].tolist() == own
    assert executed["results"]["test"]["n_users"] == plays["listener"].nunique()


def test_the_run_is_resumed_without_the_frame(executed):
    config = executed["Config"](executed["training"], executed["TransformerConfig"](d_model=32, n_blocks=1))
    resumed = replace(config.training, run=replace(config.training.run, resume=True))
    assert executed["main"](replace(config, training=resumed))["test"] == executed["results"]["test"]


def test_baselines_find_the_times_of_a_frame(executed, tmp_path):
    """Recent popularity reads times, which the store of the other baselines does without."""
    data = DataConfig("events", columns=("listener", "song", "at"))
    config = baselines.Config(data=data, run=RunConfig(tmp_path / "run"))
    results = baselines.main(config, events=executed["plays"])["baselines"]
    assert "recent popularity" in {name.lower() for name in results}
    times = open_store(tmp_path / "run" / "store-with-times").columns["timestamp_us"]
    assert np.all(np.diff(np.sort(times)) == 60_000_000)
