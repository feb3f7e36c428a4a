"""What counts as a better validation: noise does not, and slow gains add up until they do."""

import numpy as np
import pytest

from seqrec.checkpoint import Progress
from seqrec.stopping import is_gain, no_gain, packed, unpacked, with_validation

N_QUERIES = 400


def after(validations, *, gain_errors=1.0):
    progress = Progress(seed=0)
    for step, ndcg in enumerate(validations, start=1):
        progress = with_validation(progress, step, float(np.mean(ndcg)), ndcg, gain_errors=gain_errors)
    return progress


def with_gain(n_better, n_worse=0):
    """A validation in which, against one of .5 throughout, so many queries are better or worse by a half."""
    return 0.5 + 0.5 * np.repeat([1, 0, -1], [n_better, N_QUERIES - n_better - n_worse, n_worse])


def test_a_gain_counts_from_so_many_standard_errors_of_the_paired_difference():
    generator = np.random.default_rng(0)
    reference, ndcg = generator.uniform(size=(2, N_QUERIES))
    difference = ndcg - reference
    error = np.sqrt(np.sum((difference - difference.mean()) ** 2) / (N_QUERIES - 1) / N_QUERIES)
    for n_errors in (0.0, 1.0, 2.0):
        for shift, expected in ((1.001, True), (0.999, False)):
            moved = ndcg - difference.mean() + shift * n_errors * error + (shift - 1) * 1e-9
            assert is_gain(moved, reference, n_errors=n_errors) is expected


def test_noise_about_the_same_mean_is_no_gain_however_high_it_comes():
    # 30 better and 24 worse of 400: a mean gain of .0075, with a standard error of about sqrt(54 / 4) / 400 = .0092.
    progress = after([with_gain(0), with_gain(30, 24), with_gain(27, 24), with_gain(29, 24)])
    assert progress.best == (2, pytest.approx(0.5075))
    assert progress.reference[0] == 1
    assert [bool(no_gain(progress, patience)) for patience in (3, 4)] == [True, False]
    # By the means alone the second would have counted.
    assert after([with_gain(0), with_gain(30, 24)], gain_errors=0.0).reference[0] == 2


def test_gains_too_small_to_count_alone_add_up():
    # Each has 8 better and 5 worse more than the one before: gains of 3 / 800 against errors of sqrt(13 / 4) / 400.
    validations = [with_gain(8 * n, 5 * n) for n in range(8)]
    assert not is_gain(validations[1], validations[0], n_errors=1.0)
    assert not is_gain(validations[4], validations[3], n_errors=1.0)
    # n of them: a gain of 3 n / 800 against sqrt(13 n / 4) / 400, so above it from n = 2 on.
    progress = after(validations)
    assert [after(validations[:n]).reference[0] for n in range(1, 9)] == [1, 1, 3, 3, 5, 5, 7, 7]
    assert not no_gain(progress, 2)


def test_a_reference_is_the_same_after_a_checkpoint():
    ndcg = np.append(0.0, 1 / np.log2(1 + np.arange(1.0, 10.5, 0.5)))
    np.testing.assert_allclose(unpacked(packed(ndcg)), ndcg, atol=2**-12)
    reference = packed(ndcg)
    assert packed(unpacked(reference)) == reference
    # Judged as a checkpoint holds them, the same figures are no gain.
    assert after([ndcg, ndcg], gain_errors=0.0).reference[0] == 1


def test_where_only_means_are_known_a_higher_one_counts():
    progress = Progress(seed=0)
    for step, value in enumerate([0.1, 0.3, 0.3, 0.2], start=1):
        progress = with_validation(progress, step, value, None, gain_errors=1.0)
    assert progress.reference == (2, "")
    assert [bool(no_gain(progress, patience)) for patience in (2, 3)] == [True, False]
