"""Charts keep what long curves show, and ticks are few round numbers."""

import math
import re

import numpy as np
import pytest

from library.report import curves


def test_long_curves_keep_their_ends_means_and_extremes():
    records = [{"step": step, "wall": 0.0, "loss": math.sin(step)} for step in range(1, 10_001)]
    records[5000]["loss"], records[6000]["loss"] = 50.0, math.nan
    series = np.array([(r["step"], r["loss"]) for r in records])
    buckets = curves._buckets(series)
    assert len(buckets) == curves.MAX_POINTS and buckets[-1, 0] == 10_000
    assert buckets[:, 3].max() == 50.0 and np.isfinite(buckets).all()
    assert np.all(buckets[:, 2] <= buckets[:, 1]) and np.all(buckets[:, 1] <= buckets[:, 3])
    (chart,), constant = curves.charts(records)
    assert constant == {} and chart.count("<path") == 2 and "nan" not in chart


@pytest.mark.parametrize("low, high", [(0, 1), (-3.2, 17), (1e-9, 3e-9), (99990, 100010), (0, 7e8)])
def test_ticks_are_few_round_numbers_inside(low, high):
    found = curves.ticks(low, high)
    assert 2 <= len(found) <= 6
    width = high - low
    assert all(low - 1e-9 * width <= tick <= high + 1e-9 * width for tick in found)
    steps = np.diff(found)
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert np.allclose(steps, steps[0]) and min(abs(mantissa - np.array([1, 2, 5, 10]))) < 1e-6


@pytest.mark.parametrize("low, high", [(0.03, 1.2), (1e-8, 1e4), (2, 70), (0.9, 1100)])
def test_log_ticks_are_few_round_numbers_inside(low, high):
    found = curves.log_ticks(low, high)
    assert 3 <= len(found) <= 9 and all(low <= tick <= high for tick in found)
    assert {f"{tick:.0e}"[0] for tick in found} <= {"1", "2", "5"}


def test_the_ends_of_a_series_lie_on_the_ends_of_the_axes():
    np.testing.assert_allclose(curves._scale(2, 4, 46, 600)(np.array([2, 3, 4])), [46, 323, 600])
    records = [{"step": step, "wall": 0.0, "loss": float(step**2)} for step in (10, 20, 40)]
    (chart,), _ = curves.charts(records)
    (line,) = re.findall(r'class="line s0" d="M([^"]*)"', chart)
    points = np.array([[float(x) for x in point.split()] for point in line.split("L")])
    across = (points[:, 0] - curves.LEFT) / (curves.WIDTH - curves.RIGHT - curves.LEFT)
    np.testing.assert_allclose(across, [0, 1 / 3, 1], atol=1e-3)
    up = (points[0, 1] - points[:, 1]) / (points[0, 1] - points[2, 1])
    np.testing.assert_allclose(up, [0, 300 / 1500, 1], atol=1e-3)
    assert points[0, 1] - points[2, 1] > 0.8 * (curves.HEIGHT - curves.TOP - curves.BOTTOM)
