"""Two methods on the same cases: Student's t test, the sign test and Wilcoxon's signed ranks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

ALTERNATIVES = ("two-sided", "greater", "less")


@dataclasses.dataclass(frozen=True)
class Paired:
    """What a paired test found.

    Attributes:
        difference: of the first method over the second: the mean for t, else the median.
        p_value: of a difference as extreme where there is none.
        num_pairs: cases that count; the sign test leaves ties out.
    """

    difference: float
    p_value: float
    num_pairs: int


def t_test(a: Any, b: Any, alternative: str = "two-sided") -> Paired:
    """Student's t test of the differences, for normal ones.

    Args:
        a, b: [N] float, N >= 2, both methods on the same cases in the same order.
        alternative: "two-sided", "greater" (a above b) or "less".
    Raises:
        ValueError: if shapes or the alternative do not fit, or a number is not finite.
    """
    from scipy import stats

    difference = _differences(a, b, alternative)
    p_value = stats.ttest_1samp(difference, 0.0, alternative=alternative).pvalue
    return Paired(float(difference.mean()), float(p_value), len(difference))


def sign_test(a: Any, b: Any, alternative: str = "two-sided") -> Paired:
    """The exact test of how often `a` is above `b`; arguments as for `t_test`."""
    from scipy import stats

    difference = _differences(a, b, alternative)
    wins, num = int(np.sum(difference > 0)), int(np.sum(difference != 0))
    p_value = stats.binomtest(wins, num, alternative=alternative).pvalue if num else 1.0
    return Paired(float(np.median(difference)), float(p_value), num)


def wilcoxon(a: Any, b: Any, alternative: str = "two-sided") -> Paired:
    """Wilcoxon's signed ranks (1945), for symmetric differences; arguments as for `t_test`."""
    from scipy import stats

    difference = _differences(a, b, alternative)
    some = bool(np.any(difference))
    p_value = stats.wilcoxon(difference, alternative=alternative).pvalue if some else 1.0
    return Paired(float(np.median(difference)), float(p_value), int(np.sum(difference != 0)))


def _differences(a: Any, b: Any, alternative: str) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)  # [N]
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"samples of shapes {a.shape} and {b.shape}: expected [N], N >= 2")
    if not np.all(np.isfinite([a, b])):
        raise ValueError("a paired test needs finite numbers: leave out the pairs that failed")
    if alternative not in ALTERNATIVES:
        raise ValueError(f"alternative={alternative!r}: expected one of {', '.join(ALTERNATIVES)}")
    return a - b
