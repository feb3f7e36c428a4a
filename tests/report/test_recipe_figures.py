"""The table of runs without flags: which runs it counts, what it averages, and what it says of baselines."""

from dataclasses import dataclass, field
from pathlib import Path

from seqrec.config import to_json, with_values
from seqrec.encoders.gru import GRUConfig
from seqrec.report.recipe_figures import without_flags
from seqrec.run.config import TrainingConfig


@dataclass(frozen=True)
class Config:
    training: TrainingConfig = field(default_factory=TrainingConfig)
    model: GRUConfig = field(default_factory=GRUConfig)
    recipe: str = "auto"


DEFAULTS = {"gru": Config()}
PUBLISHED = {"Beauty": (("A", 0.05, 0.04, "one"), ("B", 0.06, 0.03, "another"))}
DATA = {"training.data.data_path": Path("Beauty.txt.gz"), "training.data.dataset": "s3rec"}


def kept_run(ndcg, *, seed=0, chosen, flags=(), p_holm=0.001):
    """What is kept of a run of which the recipe chose some values and flags others."""
    config = with_values(Config(), {**DATA, "training.run.seed": seed, **chosen, **dict(flags)})
    pair = {"difference": 0.01, "interval": [0.0, 0.02], "p_holm": p_holm}
    return {
        "experiment": "gru",
        "config": to_json(config),
        "recipe": {"facts": {}, "values": chosen, "reasons": {}},
        "test": {"recall@10": 2 * ndcg, "ndcg@10": ndcg},
        "unfused": {"test": {"recall@10": ndcg, "ndcg@10": ndcg / 2}},
        "comparisons": {"metric": "ndcg@10", "level": 0.95, "baselines": {"STAN": pair}},
        "train_seconds": 60.0 * (1 + seed),
    }


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_seeds_are_averaged_beside_the_best_that_is_published_of_each_metric():
    chosen = {"model.dropout": 0.5}
    kept = {f"beauty-seed-{seed}": kept_run(ndcg, seed=seed, chosen=chosen) for seed, ndcg in enumerate((0.05, 0.07))}
    *_, hr, ndcg, _ = without_flags(kept, PUBLISHED, defaults=DEFAULTS)
    assert cells(hr) == ["Beauty", "HR@10", "0.1200", "0.0600", "0.0600 (B)", "above all 1", "2.0"]
    assert cells(ndcg) == ["", "NDCG@10", "0.0600", "0.0300", "0.0400 (A)", "", ""]


def test_a_baseline_that_some_seed_is_not_above_is_named_with_how_many():
    kept = {
        f"beauty-seed-{seed}": kept_run(0.05, seed=seed, chosen={"model.dropout": 0.5}, p_holm=p_holm)
        for seed, p_holm in enumerate((0.2, 0.001))
    }
    *_, hr, _, _ = without_flags(kept, {}, defaults=DEFAULTS)
    assert cells(hr)[4:6] == ["", "of 1 not above STAN (1 of 2 seeds)"]


def test_a_run_with_a_flag_of_its_model_is_not_counted():
    run = kept_run(0.05, chosen={"model.dropout": 0.5}, flags={"model.d_model": 32})
    assert without_flags({"beauty-seed-0": run}, PUBLISHED, defaults=DEFAULTS) == []


def test_a_run_that_could_test_no_baseline_is_above_none():
    run = kept_run(0.05, chosen={"model.dropout": 0.5})
    run["comparisons"]["baselines"] = {}
    *_, hr, _, _ = without_flags({"beauty-seed-0": run}, {}, defaults=DEFAULTS)
    assert cells(hr)[5] == ""
