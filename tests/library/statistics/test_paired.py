"""Paired tests by closed forms: counts of signs, sums over all signs of ranks, Cauchy's t."""

import itertools
import math

import numpy as np
import pytest

from library.statistics import paired

A = np.array([5.0, 7.0, 4.5, 9.0, 3.0, 6.5])
B = np.array([4.0, 4.8, 4.9, 5.5, 1.2, 6.4])  # differences 1, 2.2, -0.4, 3.5, 1.8, 0.1


def test_the_sign_test_counts_wins():
    found = paired.sign_test(A, B, "greater")
    assert found.p_value == pytest.approx((math.comb(6, 5) + 1) / 2**6, rel=1e-12)
    assert found.difference == pytest.approx(1.4) and found.num_pairs == 6
    assert paired.sign_test(A, B).p_value == pytest.approx(2 * 7 / 64, rel=1e-12)
    tied = paired.sign_test(np.append(A, 1.0), np.append(B, 1.0), "greater")
    assert (tied.p_value, tied.num_pairs) == (pytest.approx(7 / 64), 6)


@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_signed_ranks_are_summed_over_all_signs(alternative):
    difference = A - B
    ranks = np.argsort(np.argsort(np.abs(difference))) + 1
    seen = ranks[difference > 0].sum()
    sums = np.array([ranks @ np.array(s) for s in itertools.product((0, 1), repeat=6)])
    tail = np.mean(sums >= seen) if alternative == "greater" else np.mean(sums <= seen)
    assert paired.wilcoxon(A, B, alternative).p_value == pytest.approx(tail, rel=1e-12)


def test_t_of_two_pairs_is_cauchys():
    """t = mean / (half range): P(T > t) = 1/2 - atan(t) / pi with one degree of freedom."""
    found = paired.t_test([2.0, 6.0], [1.0, 2.0], "greater")  # differences 1 and 4: t = 5 / 3
    assert found.p_value == pytest.approx(0.5 - math.atan(5 / 3) / math.pi, rel=1e-10)
    assert (found.difference, found.num_pairs) == (2.5, 2)
    both = paired.t_test([2.0, 6.0], [1.0, 2.0]).p_value
    assert both == pytest.approx(2 * found.p_value, rel=1e-10)


@pytest.mark.parametrize("test", [paired.t_test, paired.sign_test, paired.wilcoxon])
def test_swapping_the_methods_swaps_the_alternatives(test):
    one, other = test(A, B, "greater"), test(B, A, "less")
    assert one.p_value == pytest.approx(other.p_value, rel=1e-10)
    assert one.difference == -other.difference
    with pytest.raises(ValueError, match=r"shapes \(6,\) and \(5,\)"):
        test(A, B[:5])
    with pytest.raises(ValueError, match="alternative='more': expected one of two-sided"):
        test(A, B, "more")


def test_equal_samples_show_no_difference():
    for test in (paired.sign_test, paired.wilcoxon):
        assert test(A, A) == paired.Paired(0.0, 1.0, 0)


@pytest.mark.parametrize("test", [paired.t_test, paired.sign_test, paired.wilcoxon])
def test_pairs_that_failed_are_no_losses(test):
    with pytest.raises(ValueError, match="finite"):
        test([1.0, math.nan, 2.0], [1.0, 2.0, 3.0])
