"""Features against their placebos, in studies whose truth is known."""

import numpy as np
import pytest
from examples import at_night
from study_runs import a_run

from seqrec.metrics import metric_values
from seqrec.report.placebos import against_placebos, placebo_sentences, placebos_of
from seqrec.report.study_figures import study_figures
from seqrec.stats import contrast_over_seeds_and_users, seed_user_summary

ARMS = {
    "ids": "--max-epochs 3",
    "genres": "--item-features genres year:buckets --id-dropout 0.1",
    "shuffled": "--id-dropout 0.1 --item-features genres year:buckets --shuffled-features genres year",
    "gap": "--event-features gap",
    "shuffled gap": "--event-features gap --shuffled-event-features gap",
    "shuffled hour": "--event-features hour --shuffled-event-features hour",
}


def a_study(*, genres: float, shuffled: float, seeds=(0, 1, 2), exact=True):
    """What study.json holds of three systems; and their NDCG@10 by system, seed and user."""
    gains = {"ids": 0.0, "genres": genres, "shuffled": shuffled}
    runs = [a_run(name, seed, gain=gain) for name, gain in gains.items() for seed in seeds]
    placebos = placebos_of(ARMS) if exact else {}
    study = {"arms": ARMS, **study_figures(list(gains), seeds, runs, placebos=placebos)}
    values = [np.asarray(metric_values(run.ranks.rank)["ndcg@10"], np.float64) for run in runs]
    return study, np.array(values).reshape(len(gains), len(seeds), -1)


def test_a_placebo_has_the_flags_of_its_feature_in_any_order():
    assert placebos_of(ARMS) == {"genres": "shuffled", "gap": "shuffled gap"}


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_feature_is_compared_with_its_placebo_user_by_user(seeds):
    study, values = a_study(genres=0.1, shuffled=0.02, seeds=seeds)
    # gap and its placebo have no runs.
    [(name, contrast)] = against_placebos(study).items()
    assert (name, contrast["placebo"]) == ("genres", "shuffled")
    expected = contrast_over_seeds_and_users(seed_user_summary(values), np.array([0.0, 1.0, -1.0]))
    assert contrast["difference"] == pytest.approx(values[1].mean() - values[2].mean())
    assert contrast["interval"] == pytest.approx([expected.lower, expected.upper])


@pytest.mark.parametrize("shuffled", at_night([-0.01, 0.0, 0.02, 0.1], quick=(-0.01, 0.02)))
@pytest.mark.parametrize("seeds", at_night([(0,), (0, 1), (0, 1, 2)], quick=((0,), (0, 1, 2))))
def test_without_that_comparison_the_interval_is_no_narrower(seeds, shuffled):
    contrasts = [
        against_placebos(a_study(genres=0.1, shuffled=shuffled, seeds=seeds, exact=exact)[0])["genres"]
        for exact in (True, False)
    ]
    (low, high), (lowest, highest) = (each["interval"] for each in contrasts)
    assert lowest <= low <= high <= highest
    assert contrasts[0]["difference"] == pytest.approx(contrasts[1]["difference"])


@pytest.mark.parametrize(
    ("genres", "shuffled", "message"),
    [(0.1, 0.0, "better ("), (0.02, 0.021, "no difference shown ("), (0.0, 0.1, "worse (")],
)
def test_the_outcome_is_said_in_words(genres, shuffled, message):
    study, _ = a_study(genres=genres, shuffled=shuffled)
    [sentence] = placebo_sentences(study)
    assert sentence.startswith(f"genres against its placebo, shuffled: {message}")


def test_a_placebo_that_helps_takes_its_part_of_the_gain():
    study, values = a_study(genres=0.2, shuffled=0.1)
    assert study["variations"]["shuffled"]["verdict"]["kind"] == "helps"
    of_placebo, whole = ((values[row] - values[0]).mean() for row in (2, 1))
    [sentence] = placebo_sentences(study)
    message = (
        f"The placebo helps too: {of_placebo:.4f} of the gain of {whole:.4f} comes with the added parameters alone"
    )
    assert message.replace("0.", ".") in sentence


def test_what_the_kept_figures_cannot_decide_is_said_to_be_undecided():
    study, _ = a_study(genres=0.02, shuffled=0.021, exact=False)
    [sentence] = placebo_sentences(study)
    assert "not decided (" in sentence
    assert "by the widest interval that the kept figures allow" in sentence
