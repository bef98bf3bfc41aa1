"""Printed numbers have the digits that their tolerance and their verdict need."""

import dataclasses
import math

import numpy as np
import pytest

from library.report import numbers
from tests.library.report.runs import claim


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((1, 2, "<"), "< 2"),
        ((1, 0.5, "within", 0.125), "0.5 ± 0.125"),
        ((1, -0.5, "<=", 0.1), "≤ −0.5 + 0.1"),
        ((1, 1234567, ">=", 2), "≥ 1234567 − 2"),
        ((1, 1e-9, "=="), "= 1e-09"),
    ],
)
def test_expectations_read_as_one_would_write_them(arguments, text):
    assert numbers.expectation(claim(*arguments)) == text


@pytest.mark.parametrize(
    "value, digits, text",
    [
        (0, 4, "0"),
        (3.0, 4, "3"),
        (1234567, 4, "1234567"),
        (12345678, 4, "1.235e+07"),
        (-0.123456, 4, "−0.1235"),
        (-0.123456, 6, "−0.123456"),
        (1.5e-9, 4, "1.5e-09"),
        (math.nan, 4, "nan"),
        (-math.inf, 4, "−inf"),
    ],
)
def test_numbers_of_metrics(value, digits, text):
    assert numbers.number(value, digits) == text


@pytest.mark.parametrize(
    "arguments, measured, expected",
    [
        # Digits down to the tolerance.
        ((0.015831234567, 0.015831241, "within", 1.6e-8), "0.01583123", "0.01583124 ± 1.6e-08"),
        ((99.2046, 99.25, "within", 0.1), "99.2", "99.25 ± 0.1"),
        ((1234.5678, 1234.5, "within", 0.01), "1234.57", "1234.5 ± 0.01"),
        ((2e-12, 0, "within", 1e-10), "2e-12", "0 ± 1e-10"),
        # No further than the verdict asks: both print as equal, and equal they are within.
        ((0.33333333, 0.33333331, "within", 0.1), "0.3333", "0.3333 ± 0.1"),
        # Two that differ are told apart where the verdict rests on it.
        ((0.99999, 1.0, ">="), "0.99999", "≥ 1"),
        ((1.00001, 1.0, ">="), "1.00001", "≥ 1"),
        ((2.00004, 2.00002, "<"), "2.00004", "< 2.00002"),
        ((0.123456, 0.123457, "=="), "0.123456", "= 0.123457"),
        ((0.1 + 0.2, 0.3, "=="), "0.30000000000000004", "= 0.29999999999999999"),
        ((0.123456, 0.123457, "<"), "0.123456", "< 0.123457"),
        ((123456789, 123456790, "=="), "123456789", "= 123456790"),
        ((1.00012, 1.0, "within", 1e-4), "1.00012", "1 ± 0.0001"),
        ((math.nan, 1.0, "<"), "nan", "< 1"),
    ],
)
def test_digits_down_to_the_tolerance_and_to_the_verdict(arguments, measured, expected):
    found = claim(*arguments)
    assert (numbers.measured(found), numbers.expectation(found)) == (measured, expected)


@pytest.mark.parametrize("relation", ["<", "<=", ">", ">=", "==", "within"])
def test_a_reader_of_the_printed_numbers_comes_to_the_same_verdict(relation):
    rng = np.random.default_rng(0)
    for _ in range(300):
        expected = rng.normal() * 10.0 ** rng.integers(-6, 6)
        measured = expected * (1 + rng.choice([0, 1, -1]) * 10.0 ** rng.uniform(-16, 0))
        tolerance = 0.0 if relation == "==" else abs(expected) * 10.0 ** rng.uniform(-15, 0)
        found = claim(measured, expected, relation, tolerance)
        texts = [numbers.measured(found), *numbers.expectation(found).split()]
        values = [float(word.replace("−", "-")) for word in texts if word[-1].isdigit()]
        shown = dict(zip(("measured", "expected", "tolerance"), values))
        assert dataclasses.replace(found, **shown).holds == found.holds


def test_what_must_be_equal_is_shown_whole():
    counted = claim(124_439_807, 124_439_808, "==")
    assert numbers.measured(counted) == "124439807"
    assert numbers.expectation(counted) == "= 124439808"
