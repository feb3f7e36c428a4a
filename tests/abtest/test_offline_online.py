"""Offline metrics beside online ones: of made-up experiments, of kept comparisons and of past results."""

import json
import math

import numpy as np
import pytest

from seqrec.abtest.offline_online import offline_online, read_offline, with_offline
from seqrec.types import InputError

ARMS = ("control", "treatment")


def comparison(**differences: float) -> dict:
    """As experiments/compare.py writes it, as far as it is read here."""
    metrics = {
        name: {
            "difference": value,
            "interval": [value - 0.01, value + 0.01],
            "p": 0.1,
            "p_holm": 0.1,
            "detectable": 0.02,
        }
        for name, value in differences.items()
    }
    return {"reference": "a", "comparisons": {"b": metrics}}


def result(relative: float | None, *, decision: str = "ship", more_is_better: bool = True) -> dict:
    return {
        "plan": {"primary": {"more_is_better": more_is_better}},
        "verdicts": {"treatment": {"decision": decision}},
        "effects": {"treatment": {"primary": {"relative": relative}}},
    }


def kept(directory, name: str, value) -> object:
    file = directory / name
    file.write_text(json.dumps(value))
    return file


def test_unrelated_metrics_agree_in_half_the_experiments_and_intervals_cover_that():
    random = np.random.default_rng(6)
    agreements = [offline_online(random.normal(size=40), random.normal(size=40)) for _ in range(500)]
    four_errors = 4 * math.sqrt(0.05 * 0.95 / 500)
    # Wilson's interval over 40 experiments covers .5 with chance .962, as the binomial has it.
    assert abs(np.mean([f.sign_lower <= 0.5 <= f.sign_upper for f in agreements]) - 0.96) <= four_errors
    assert abs(np.mean([f.rank_lower <= 0.0 <= f.rank_upper for f in agreements]) - 0.95) <= four_errors


def test_a_metric_that_predicts_every_effect_agrees_with_every_effect():
    effects = np.array([-2.0, -1.0, 1.0, 2.0])
    agreement = offline_online(effects, effects)
    assert (agreement.sign_agreement, agreement.rank_correlation) == (1.0, pytest.approx(1.0))


def test_a_kept_comparison_of_two_runs_is_that_of_two_arms(tmp_path):
    offline = read_offline(kept(tmp_path, "comparison.json", comparison(**{"ndcg@10": 0.02})), ARMS)
    assert offline == {"treatment": {"ndcg@10": {"difference": 0.02, "lower": 0.01, "upper": 0.03, "detectable": 0.02}}}
    with pytest.raises(InputError, match="none is named as the arm 'c'"):
        read_offline(tmp_path / "comparison.json", ("a", "b", "c"))


def test_this_and_past_experiments_are_held_against_their_offline_metrics(tmp_path):
    past = []
    for i, (offline, online) in enumerate([(0.02, 0.03), (0.01, 0.02), (-0.01, 0.01), (-0.02, -0.02)]):
        figures = {"treatment": {"ndcg@10": {"difference": offline, "lower": offline, "upper": offline}}}
        past.append(kept(tmp_path, f"past{i}.json", {**result(online), "offline": figures}))
    figures = read_offline(kept(tmp_path, "comparison.json", comparison(**{"ndcg@10": 0.03, "mrr": 0.0})), ARMS)
    agreements = with_offline(result(0.04), figures, past)["offline_online"]
    # In one of five the signs differ; the order is the same in all.
    agreement = agreements["agreements"]["ndcg@10"]
    assert (agreement["n_experiments"], agreement["sign_agreement"]) == (5, 0.8)
    assert agreement["rank_correlation"] == pytest.approx(1.0)
    assert (agreements["n_blocked"], list(agreements["agreements"])) == (0, ["ndcg@10"])
    # A metric of which less is better, such as skips, falls where the offline metric is right.
    turned = with_offline(result(-0.04, more_is_better=False), figures, past)["offline_online"]
    assert turned["agreements"]["ndcg@10"] == agreement


def test_a_blocked_experiment_tells_nothing_of_its_effect(tmp_path):
    figures = {"treatment": {"ndcg@10": {"difference": 0.1, "lower": 0.0, "upper": 0.2}}}
    past = [kept(tmp_path, "past.json", {**result(0.5, decision="blocked"), "offline": figures})]
    agreements = with_offline(result(0.04), figures, past)["offline_online"]
    assert agreements == {"agreements": {}, "n_blocked": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not JSON"),
        ("[]", "not an object of JSON"),
        ("{}", "is not a comparison"),
        ('{"comparisons": {"b": {"ndcg@10": {}}}}', "is not a comparison"),
    ],
)
def test_a_file_that_is_no_comparison_is_refused_with_its_name(tmp_path, text, words):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        read_offline(tmp_path / "c.json", ARMS)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_past_result_without_an_offline_comparison_is_refused(tmp_path):
    figures = {"treatment": {"ndcg@10": {"difference": 0.1, "lower": 0.0, "upper": 0.2}}}
    with pytest.raises(InputError, match="analyse it again with --offline"):
        with_offline(result(0.04), figures, [kept(tmp_path, "past.json", result(0.1))])
    with pytest.raises(InputError, match="cannot be read"):
        with_offline(result(0.04), figures, [tmp_path / "none.json"])


@pytest.mark.parametrize(
    ("offline", "online", "words"),
    [
        (np.ones(1), np.ones(1), "1 offline and 1 online"),
        (np.array([1.0, math.nan]), np.ones(2), "experiment 1"),
    ],
)
def test_effects_that_were_not_measured_are_refused(offline, online, words):
    with pytest.raises(InputError, match=words):
        offline_online(offline, online)
