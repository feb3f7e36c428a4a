"""A model card says what the run's files say, in the form that hubs read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.bundle.card import model_card
from seqrec.bundle.files import Facts

RECORD = {
    "experiment": "sasrec",
    "config": {"training": {"data": {"dataset": 'my "events": | a', "max_length": 50, "times": "none"}}},
    "trained_with": {"seqrec": "0.1", "jax": "0.10", "python": "3.11", "device": "1 x cpu (cpu)"},
    "data": {
        "content_hash": "c" * 64,
        "split_hash": "d" * 64,
        "split": "leave last 1 out",
        "n_users": 40,
        "n_items": 30,
        "n_events": 400,
    },
}

FACTS = Facts(
    model="sasrec",
    n_items=30,
    max_length=50,
    d_model=8,
    times="none",
    mask_seen=True,
    item_table="float32",
    jax_version="0.10",
)


def figures(value: float) -> dict:
    return {"ndcg@10": value, "n_users": 3, "intervals": {"ndcg@10": [value - 0.1, value + 0.1]}}


@pytest.fixture
def run(tmp_path):
    metrics = {
        "test": figures(0.5),
        "baselines": {"popularity": figures(0.25)},
        "protocol": {"candidates": "all 30 items", "intervals": "95%", "time_aware": False},
        "cost": {"n_parameters": 1234, "state_bytes": 5_000_000, "steps_per_epoch": 7},
        "train_seconds": 90.0,
        "best_epoch": 3,
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    columns = {"user": [1, 2, 3], "item": [4, 5, 6], "rank": [1.0, 3.0, 20.0], "target_events": [0, 5, 9]}
    pq.write_table(pa.table(columns), tmp_path / "ranks.parquet")
    return tmp_path


def card(run, **changes) -> str:
    return model_card(run, {**RECORD, **changes}, FACTS)


def test_the_front_matter_holds_the_test_figures(run):
    yaml = pytest.importorskip("yaml")
    _, front, _ = card(run).split("---\n", 2)
    message = yaml.safe_load(front)
    assert message["library_name"] == "seqrec"
    [result] = message["model-index"][0]["results"]
    assert result["dataset"]["name"] == 'my "events": | a'
    assert result["metrics"] == [{"type": "ndcg@10", "value": 0.5}]


def test_figures_stand_beside_the_baselines_with_intervals(run):
    text = card(run)
    assert "| metric | model | popularity |" in text
    assert "| ndcg@10 | 0.5000 [0.4000, 0.6000] | 0.2500 [0.1500, 0.3500] |" in text
    assert "c" * 64 in text
    assert "d" * 64 in text
    assert "- **Parameters**: 1,234\n" in text
    assert "not above the best baseline" not in text


def test_slices_are_those_of_the_rank_table(run):
    # The one cold target has rank 1, whose NDCG is 1; the two warm ones have ranks 3 and 20: 1 / log2(4) and 0.
    text = card(run)
    assert "| cold targets | cold: not in training | 1 | 1.0000 [1.0000, 1.0000] |" in text
    assert "| cold targets | warm | 2 | 0.2500 [0.0000, 0.5000] |" in text


def test_a_model_that_is_no_better_than_popularity_says_so(run):
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "baselines": {"popularity": figures(0.5)}}))
    assert "**On its own test it is not above the best baseline by NDCG@10.**" in card(run)


def test_a_model_that_the_paired_test_does_not_show_above_a_baseline_says_so(run):
    metrics = json.loads((run / "metrics.json").read_text())

    def card_with(**each):
        each = {"difference": 0.01, "interval": [-0.01, 0.03], **each}
        comparisons = {"metric": "ndcg@10", "level": 0.95, "n_users": 3, "baselines": {"popularity": each}}
        (run / "metrics.json").write_text(json.dumps({**metrics, "comparisons": comparisons}))
        return card(run)

    assert "- **The model is NOT above the baseline on NDCG@10 by the paired test: not told apart" in card_with(
        p_holm=0.3
    )
    assert "NOT above" not in card_with(p_holm=0.01)


def test_figures_of_a_time_aware_model_are_labelled(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["protocol"]["time_aware"] = True
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "**Time-aware**" in card(run)


def test_a_fused_model_names_its_tables_and_what_it_is_without_them(run):
    assert "tables" not in card(run)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["unfused"] = {"test": figures(0.4), "difference": 0.1, "interval": [0.05, 0.15], "p": 0.01}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = card(run, fusion={"tables": {"markov": 0.5, "slim": 0.25}})
    assert "Item-to-item tables (markov, slim), fitted on the training part, raise its scores." in text
    assert "The model without its tables has NDCG@10 0.4000; they raise it by .1000 [.0500, .1500]." in text


def test_recall_of_the_searches_is_on_the_card(run):
    assert "recall@20" not in card(run)
    text = model_card(run, RECORD, FACTS._replace(recall={"k": 20, "n_users": 1500, "int8": 0.9999, "ann": 0.9876}))
    assert "Of the 20 best items of exact search it finds, as a mean over 1,500 test users:" in text
    assert '| `search="int8"` | 0.9999 |\n| `search="ann"` | 0.9876 |' in text


def test_a_run_without_test_has_a_card_that_says_so(tmp_path):
    assert "The run has not been tested." in card(tmp_path)


def test_a_card_names_onnx_files_where_there_are_any(run):
    with_files = model_card(run, RECORD, FACTS, onnx=True)
    assert "`top_k.onnx` and `states.onnx`" in with_files
    assert ".onnx" not in card(run)
