"""The dict of a comparison, from ranks whose metrics are known by hand."""

import json

import numpy as np
import pytest

from seqrec.report.comparison import compare, compared_metrics, select_metrics
from seqrec.report.rank_tables import RankTableFile
from seqrec.report.slices import value_slices
from seqrec.stats.bootstrap import bootstrap_intervals
from seqrec.stats.multiplicity import holm
from seqrec.types import InputError


def table(ranks, **options) -> RankTableFile:
    users = np.arange(len(ranks))
    return RankTableFile(users, users, np.array(ranks, float), **options)


def test_without_lists_all_metrics_are_compared():
    assert list(compared_metrics(np.array([1.0]), ks=(3,)))[:2] == ["recall@3", "ndcg@3"]
    assert "mrr" in compared_metrics(np.array([1.0]), ks=(3,))


def test_what_a_list_does_not_say_is_not_compared():
    values = compared_metrics(np.array([1.0, 4.0, 12.0, np.nan]), ks=(5, 10, 20), list_length=10)
    assert {name.split("@")[1] for name in values} == {"5", "10"}
    np.testing.assert_allclose(values["mrr@10"], [1.0, 1 / 4, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(values["recall@5"], [1.0, 1.0, 0.0, 0.0])


def test_a_list_shorter_than_all_cut_offs_is_compared_at_its_length():
    assert list(compared_metrics(np.array([1.0]), ks=(5, 10), list_length=3)) == ["recall@3", "ndcg@3", "mrr@3"]


def test_metrics_are_chosen_in_their_own_order():
    assert select_metrics(["a", "b", "c"], ["c", "a"]) == ["a", "c"]
    assert select_metrics(["a", "b"], []) == ["a", "b"]
    with pytest.raises(InputError, match="metric 'd' is not among a, b"):
        select_metrics(["a", "b"], ["d"])


def test_each_run_is_compared_with_the_first():
    ranks = {"a": [1.0, 2.0, 30.0, 4.0], "b": [1.0, 1.0, 30.0, 2.0], "c": [30.0, 30.0, 30.0, 30.0]}
    comparison = compare({name: table(each) for name, each in ranks.items()}, ks=(5,), metrics=["recall@5", "mrr"])
    assert (comparison["reference"], comparison["n_users"], comparison["metrics"]) == ("a", 4, ["recall@5", "mrr"])
    assert list(comparison["comparisons"]) == ["b", "c"]
    assert comparison["runs"]["a"]["recall@5"][0] == 0.75
    assert comparison["comparisons"]["b"]["recall@5"]["difference"] == 0.0
    # Users 2 and 4 gain 1/2 and 1/4 of a reciprocal rank.
    assert comparison["comparisons"]["b"]["mrr"]["difference"] == pytest.approx((1 / 2 + 1 / 4) / 4)
    assert comparison["comparisons"]["c"]["recall@5"]["difference"] == -0.75
    low, high = comparison["comparisons"]["c"]["recall@5"]["interval"]
    assert low <= -0.75 <= high


def test_p_values_are_adjusted_over_all_runs_and_metrics():
    random = np.random.default_rng(0)
    ranks = {name: random.geometric(0.1, 50) for name in "abc"}
    comparison = compare({name: table(each) for name, each in ranks.items()}, ks=(5, 10), n_resamples=500)
    cells = [cell for by_metric in comparison["comparisons"].values() for cell in by_metric.values()]
    assert len(cells) == 2 * len(comparison["metrics"])
    np.testing.assert_allclose([c["p_holm"] for c in cells], holm(np.array([c["p"] for c in cells])))


def test_a_runs_own_interval_is_the_bootstraps():
    ranks = np.random.default_rng(1).geometric(0.1, 50).astype(float)
    comparison = compare({"a": table(ranks), "b": table(ranks)}, ks=(10,), metrics=["recall@10"])
    lower, upper = bootstrap_intervals((ranks <= 10).astype(float)[:, None])
    np.testing.assert_allclose(comparison["runs"]["a"]["recall@10"], [np.mean(ranks <= 10), lower[0], upper[0]])


def test_the_shortest_lists_bound_the_cut_offs_of_all():
    comparison = compare(
        {"a": table([1.0, 9.0]), "b": table([1.0, 7.0], list_length=8), "c": table([1.0, 2.0], list_length=6)}
    )
    assert comparison["list_length"] == 6
    assert comparison["metrics"] == ["recall@5", "ndcg@5", "mrr@6"]


def test_slices_have_every_run_and_the_dict_is_json():
    slicing = value_slices(["x", "y", "y"], name="s", column="s")
    comparison = compare({"a": table([1.0, 2.0, 3.0]), "b": table([1.0, 1.0, 1.0])}, ks=(1,), slicings=[slicing])
    [slices] = comparison["slices"]
    assert [each["n_users"] for each in slices["slices"]] == [2, 1]
    assert slices["slices"][0]["differences"]["b"]["recall@1"][0] == 1.0
    assert json.loads(json.dumps(comparison, allow_nan=False)) == json.loads(json.dumps(comparison))


def test_one_user_leaves_the_detectable_difference_open():
    comparison = compare({"a": table([1.0]), "b": table([2.0])}, ks=(1,))
    assert comparison["comparisons"]["b"]["mrr"]["detectable"] is None
    json.dumps(comparison, allow_nan=False)
