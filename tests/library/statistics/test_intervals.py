"""Intervals against binomial sums, Student's t by simulation-free identities, and quantiles."""

import math

import jax
import numpy as np
import pytest
import scipy.stats

from library.statistics import intervals


def binomial_tail(k, n, p, upper):
    """P(count >= k) or P(count <= k), summed term by term."""
    counts = range(k, n + 1) if upper else range(k + 1)
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in counts)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("k, n", [(1, 2), (3, 10), (9, 10), (50, 121)])
def test_at_the_ends_of_clopper_and_pearson_each_tail_has_half_of_the_rest(k, n, level):
    low, high = intervals.clopper_pearson(k, n, level)
    half = (1 - level) / 2
    assert binomial_tail(k, n, low, upper=True) == pytest.approx(half, rel=1e-10)
    assert binomial_tail(k, n, high, upper=False) == pytest.approx(half, rel=1e-10)


def test_clopper_and_pearson_at_the_borders():
    """(1 - p)^n = half where none succeeded: a closed form; all succeeding is its mirror."""
    low, high = intervals.clopper_pearson(0, 20)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20), rel=1e-12))
    mirrored = intervals.clopper_pearson(20, 20)
    assert mirrored == (pytest.approx(1 - high, rel=1e-12), 1.0)


def test_clopper_and_pearson_covers_at_least_as_promised():
    """Exactly, by summing the binomial distribution over all counts."""
    ends = [intervals.clopper_pearson(k, 15, 0.9) for k in range(16)]
    for p in np.linspace(0.01, 0.99, 33):
        masses = scipy.stats.binom.pmf(range(16), 15, p)
        covered = sum(m for m, (low, high) in zip(masses, ends) if low <= p <= high)
        assert covered >= 0.9


@pytest.mark.parametrize(
    "k, n, level, message",
    [
        (-1, 5, 0.95, "-1 successes of 5"),
        (6, 5, 0.95, "6 successes of 5"),
        (0, 0, 0.95, "0 of 0"),
        (1, 5, 1.0, "level=1.0: expected"),
        (1, 5, 0.0, "level=0.0: expected"),
    ],
)
def test_counts_and_levels_that_do_not_fit_are_refused(k, n, level, message):
    with pytest.raises(ValueError, match=message.replace("0 of 0", "0 successes of 0")):
        intervals.clopper_pearson(k, n, level)


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(3, 2, 9)
    expected = scipy.stats.t.interval(0.9, 8, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose(intervals.normal_mean(values, 0.9), expected, rtol=1e-10)
    # One degree of freedom is Cauchy's distribution: tan(pi (p - 1/2)).
    low, high = intervals.normal_mean([1.0, 3.0], 0.5)
    assert (low, high) == (pytest.approx(2 - 1), pytest.approx(2 + 1))
    with pytest.raises(ValueError, match=r"shape \(1,\): expected \[N\], N >= 2"):
        intervals.normal_mean([1.0])


def test_percentiles_of_draws():
    draws = np.arange(101.0)
    np.testing.assert_allclose(intervals.percentile(draws, 0.9), (5, 95), rtol=1e-12)
    draws[-10:] = np.inf  # lost resamples decide the upper end
    assert intervals.percentile(draws, 0.9) == (5.0, np.inf)
    assert intervals.tails(0.5) == (0.25, 0.75)


def test_resamples_count_every_pick_once():
    counts = intervals.resample_counts(3, 7, 50)
    assert counts.shape == (50, 7) and np.all(counts.sum(1) == 7) and counts.max() > 1
    picks = np.random.default_rng(3).integers(7, size=(50, 7))
    assert np.array_equal(counts[4], np.bincount(picks[4], minlength=7))
    same = intervals.resample_counts(np.random.default_rng(3), 7, 50)
    np.testing.assert_array_equal(counts, same)


def test_a_key_seeds_a_generator():
    a, b, c = (intervals.generator(jax.random.key(seed)).random() for seed in (5, 5, 6))
    assert a == b != c


def test_no_draws_and_endless_trials_are_refused():
    with pytest.raises(ValueError, match="no draws"):
        intervals.percentile([])
    with pytest.raises(ValueError, match="num_trials=5.5: expected a positive whole number"):
        intervals.clopper_pearson(1, 5.5)
    with pytest.raises(ValueError, match="num_successes=1.5: expected a whole number >= 0"):
        intervals.clopper_pearson(1.5, 5)
    with pytest.raises(ValueError, match="num_runs=0"):
        intervals.resample_counts(0, 0, 3)
    with pytest.raises(ValueError, match="num_resamples=-3"):
        intervals.resample_counts(0, 5, -3)
    with pytest.raises(ValueError, match="inf trials"):
        intervals.clopper_pearson(1, math.inf)


def test_a_numpy_seed_is_a_seed():
    counts = [intervals.resample_counts(seed, 5, 3) for seed in (7, np.int64(7))]
    np.testing.assert_array_equal(*counts)
