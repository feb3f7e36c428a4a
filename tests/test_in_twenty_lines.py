"""The page of twenty lines and its notebook are the same code, and it works."""

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import seqrec
from seqrec.baselines.popularity import training_counts

DOCS = Path(__file__).parents[1] / "docs"
PAGE = re.findall(r"```python\n(.*?)```", (DOCS / "in_twenty_lines.md").read_text(), re.DOTALL)
CELLS = json.loads((DOCS / "notebooks" / "in_twenty_lines.ipynb").read_text())["cells"]
NOTEBOOK = ["".join(cell["source"]) + "\n" for cell in CELLS if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def executed():
    """What the notebook's variables hold after its last cell."""
    backend, values = matplotlib.get_backend(), {}
    matplotlib.use("agg")
    for cell in NOTEBOOK:
        exec(cell, values)
    yield values
    values["plt"].close("all")
    matplotlib.use(backend)


def test_the_notebook_holds_the_page_and_no_outputs():
    assert NOTEBOOK == PAGE
    assert not any(cell.get("outputs") for cell in CELLS)


def test_the_model_learns_what_is_next_on_the_circle(executed):
    """After song 2 comes song 3 with chance 3/4 and else song 4; the model cannot do better than list them first."""
    assert executed["ids"][:2] == [4, 5]
    store, split = executed["store"], executed["split"]
    counts = training_counts(store, split)
    popular, _ = seqrec.popularity_ranks(store, split.test[split.test >= 0], counts, mask_seen=False)
    ndcg_of_popularity = np.mean(seqrec.metric_values(popular)["ndcg@10"])
    assert executed["lower"] > ndcg_of_popularity
    # First with chance 3/4, else second, is the most there is to know; chance alone moves 300 users by less than .1.
    assert executed["ndcg"].mean() == pytest.approx(0.75 + 0.25 / np.log2(3), abs=0.1)


def test_the_frame_becomes_the_store(executed):
    events, store = executed["events"], executed["store"]
    assert store.n_events == len(events)
    own = events[events["user"] == 7].sort_values("time")["item"].tolist()
    assert store.item_keys[store.items[store.offsets[7] : store.offsets[8]] - 1].tolist() == own
