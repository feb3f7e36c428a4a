"""A model against its baselines: differences of published figures, in pairs over users, and what is said of them."""

import numpy as np
import pytest

from seqrec.report.baseline_comparison import (
    compare_with_baselines,
    format_tested,
    is_above_all,
    verdict_on_baselines,
)
from seqrec.report.figures import figures
from seqrec.stats import holm

RANDOM = np.random.default_rng(0)
USERS = np.repeat(np.arange(60), RANDOM.integers(1, 4, 60))
"""Users of one to three queries."""
RANKS = {
    "good": RANDOM.integers(1, 4, len(USERS)).astype(float),
    "same": RANDOM.integers(1, 4, len(USERS)).astype(float),
    "bad": RANDOM.integers(8, 20, len(USERS)).astype(float),
}


@pytest.fixture(scope="module")
def compared():
    return compare_with_baselines(RANKS["good"], {name: RANKS[name] for name in ("same", "bad")}, users=USERS)


def test_the_difference_is_that_of_the_means_over_queries(compared):
    published = {name: figures(ranks, users=USERS)["ndcg@10"] for name, ranks in RANKS.items()}
    for name, each in compared["baselines"].items():
        assert each["difference"] == pytest.approx(published["good"] - published[name], abs=1e-6)
        assert each["interval"][0] <= each["difference"] <= each["interval"][1]
    assert compared["n_users"] == 60


def test_p_values_are_adjusted_for_the_number_of_baselines(compared):
    adjusted = holm(np.array([each["p"] for each in compared["baselines"].values()]))
    assert [each["p_holm"] for each in compared["baselines"].values()] == adjusted.tolist()


def test_queries_of_one_user_are_no_evidence_of_their_own():
    # Of two users one gains with each of many queries: both signs are as likely, so p is at least a half.
    users = np.repeat([0, 1], [500, 500])
    ranks = np.ones(1000)
    others = np.where(users == 0, 2.0, 1.0)
    [each] = compare_with_baselines(ranks, {"other": others}, users=users)["baselines"].values()
    assert each["p"] > 0.5


def test_the_verdict_names_what_the_model_is_not_above(compared):
    message = verdict_on_baselines(compared, name="Mine")
    assert message.startswith(
        "Mine is NOT above all 2 baselines on NDCG@10 by the paired test: not told apart from same ("
    )
    alone = {**compared, "baselines": {"bad": compared["baselines"]["bad"]}}
    assert "NOT" not in verdict_on_baselines(alone, name="Mine")
    beaten = compare_with_baselines(RANKS["bad"], {"good": RANKS["good"]}, users=USERS)
    assert "NOT above the baseline on NDCG@10 by the paired test: below good by ." in verdict_on_baselines(
        beaten, name="Mine"
    )


def test_without_a_baseline_a_model_is_above_none():
    # As where the only one that was named could not be fitted.
    compared = compare_with_baselines(RANKS["good"], {}, users=USERS)
    assert verdict_on_baselines(compared, name="Mine") == "Mine was compared with no baseline; take --baselines auto"
    assert not is_above_all(compared)


def test_the_best_of_the_baselines_comes_first_in_the_verdict():
    better = {"slightly": RANKS["good"] - 0.5, "far": np.ones(len(USERS))}
    message = verdict_on_baselines(compare_with_baselines(RANKS["bad"], better, users=USERS), name="Mine")
    assert message.index("below far") < message.index("below slightly")


def test_the_table_has_a_line_for_each_baseline(compared):
    tested = {name: figures(ranks, users=USERS) for name, ranks in RANKS.items()}
    results = {
        "test": tested["good"],
        "baselines": {name: tested[name] for name in ("same", "bad")},
        "comparisons": compared,
    }
    lines = format_tested(results, name="Mine").splitlines()
    [line] = [line for line in lines if line.startswith("bad ")]
    assert line.split()[1:4] == [f"{tested['bad'][metric]:.4f}" for metric in ("ndcg@10", "recall@10", "mrr@20")]
    assert line.split()[-1] == "<.001"
    # What was kept of a run before there were comparisons still has a table: a column for each.
    del results["comparisons"]
    assert format_tested(results, name="Mine").splitlines()[0].split() == ["test", "Mine", "same", "bad"]


def test_without_baselines_there_is_no_table_of_them():
    results = {"test": figures(RANKS["good"], users=USERS), "baselines": {}}
    compared = {**results, "comparisons": compare_with_baselines(RANKS["good"], {}, users=USERS)}
    assert format_tested(compared, name="Mine") == format_tested(results, name="Mine")
