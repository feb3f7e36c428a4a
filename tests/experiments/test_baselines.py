"""The script of baselines tests them on the queries that models are tested on."""

import baselines
import results as results_script

from seqrec import runtime
from seqrec.baselines import scored
from seqrec.files import read_json
from seqrec.report import compared_runs
from seqrec.report.kept_results import condense_run
from seqrec.report.results_page import page


def run_baselines(ratings, output, *flags):
    flags = ["--dataset", "movielens", "--data-path", str(ratings), *flags, "--output", str(output)]
    return baselines.main(runtime.parse(baselines.Config, flags))


def test_every_table_of_the_data_carries_the_baselines(ratings, finished, tmp_path, caplog):
    results = run_baselines(ratings, tmp_path / "run", "--max-length", "8")
    # Once, though the events are read a second time for their times.
    assert [record.message.split()[0] for record in caplog.records].count("ties") == 1
    popularities = ["popularity", "personal popularity", "personal recency", "recent popularity"]
    others = ["first-order Markov", "skip-gram Markov", "item-kNN", "VS-SkNN", "STAN", "iALS", "SLIM", "EASE"]
    assert list(results["baselines"]) == [*popularities, *others]
    for name, figures in finished.results["baselines"].items():
        assert results["baselines"][name] == figures  # on the same queries
    assert results["protocol"] == finished.results["protocol"]
    assert read_json(tmp_path / "run" / "metrics.json") == results
    kept = {"toy-seed-0": condense_run(finished.directory), "toy-baselines": condense_run(tmp_path / "run")}
    text = page(kept, {}, defaults=results_script.DEFAULTS)
    assert text.count("\n## ") == 1
    for name, figures in results["baselines"].items():
        assert f"| {name} | {figures['recall@10']:.4f} | {figures['ndcg@10']:.4f} |" in text
    assert "`python experiments/baselines.py --dataset movielens" in text


def test_recent_popularity_counts_recent_events_and_a_catalogue_too_large_for_ease_is_said(
    ratings, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(scored, "_LARGEST_EASE", 10)
    only = ("popularity", "recent popularity", "EASE")
    results = run_baselines(ratings, tmp_path / "run", "--recent-days", "1000", "--only", *only)
    # All of the toy's events lie within these days.
    assert results["baselines"]["recent popularity"] == results["baselines"]["popularity"]
    assert "EASE" not in results["baselines"]
    assert "left out    EASE on 30 items needs" in caplog.text


def test_a_model_is_compared_with_each_baseline_by_naming_their_directory(ratings, finished, tmp_path):
    run_baselines(ratings, tmp_path / "baselines", "--max-length", "8")
    compare = [compared_runs.with_ranks(path) for path in (finished.directory, tmp_path / "baselines")]
    assert compare[0] == [finished.directory]
    names = [path.name for path in compare[1]]
    assert names == sorted(names)
    assert set(names) >= {"ease", "item-knn", "first-order-markov", "personal-popularity", "popularity"}
    paths = compared_runs.named_paths([*compare[0], *compare[1]], ())
    tables = compared_runs.read_tables(paths)
    (targets,) = {tuple(table.item.tolist()) for table in tables.values()}  # the same queries for all
    assert len(targets) == len(tables["ease"].rank)
