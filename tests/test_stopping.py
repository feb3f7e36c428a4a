"""What counts as a better validation: noise does not, and slow gains add up until they do."""

import numpy as np

from seqrec.checkpoint import Progress
from seqrec.stopping import is_gain, no_gain, packed, unpacked

N_QUERIES = 400


def stops(validations, patience, *, n_errors=1.0):
    progress = Progress(seed=0, ndcg=tuple(packed(ndcg) for ndcg in validations))
    return bool(no_gain(progress, patience, n_errors=n_errors))


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
    validations = [with_gain(0), with_gain(0), with_gain(30, 24), with_gain(30, 24)]
    assert stops(validations, 2)
    assert not stops(validations, 2, n_errors=0.0)  # the mean alone has risen
    assert not stops(validations[1:], 2)  # too few to tell


def test_gains_too_small_to_count_alone_add_up():
    # Each has 8 better and 5 worse more than the one before: gains of 3 / 800 against errors of sqrt(13 / 4) / 400.
    validations = [with_gain(8 * n, 5 * n) for n in range(8)]
    assert stops(validations, 1)
    # Over n validations they are n times as large, and their errors at most sqrt(n) times.
    assert not stops(validations, 4)
    assert stops(validations[::-1], 4)  # a fall is none


def test_what_differs_by_chance_between_validations_averages_out():
    # Other queries are worse in each validation; those that are better stay so.
    generator = np.random.default_rng(0)
    noise = 0.25 * generator.choice([-1, 0, 1], p=[0.2, 0.6, 0.2], size=(10, N_QUERIES))
    validations = with_gain(0) + noise - noise.mean(axis=1, keepdims=True)
    validations[5:] += 0.008  # below the error of one difference, .25 x sqrt(.8 / 400) = .011
    assert not is_gain(validations[5], validations[4], n_errors=1.0)
    assert not stops(validations, 5)


def test_figures_are_the_same_after_a_checkpoint():
    ndcg = np.append(0.0, 1 / np.log2(1 + np.arange(1.0, 10.5, 0.5))).astype(np.float32)
    np.testing.assert_array_equal(unpacked(packed(ndcg)), ndcg)
