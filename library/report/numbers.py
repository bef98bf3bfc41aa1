"""Numbers as text: as many digits as a reader needs, and as a claim's verdict hangs on."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from library.claims import Claim

_DIGITS, _ALL_DIGITS = 4, 17  # significant ones: of most numbers, and of any float64


def number(value: Any, digits: int = _DIGITS) -> str:
    """A number with so many significant digits; whole numbers below ten million have all."""
    return _typeset(_plain(float(value), digits))


def measured(claim: Claim) -> str:
    """What was measured, with digits down to the claim's tolerance."""
    return _typeset(_texts(claim)[0])


def expectation(claim: Claim) -> str:
    """What was expected, e.g. '< 2.1', '1.5 ± 0.2' or '≤ 3 + 0.1'."""
    _, expected, tolerance = map(_typeset, _texts(claim))
    if claim.relation == "within":
        return f"{expected} ± {tolerance}"
    relation = {"<=": "≤", ">=": "≥", "==": "="}.get(claim.relation, claim.relation)
    slack = f" {'+' if '<' in claim.relation else '−'} {tolerance}" if claim.tolerance else ""
    return f"{relation} {expected}{slack}"


def _texts(claim: Claim) -> tuple[str, str, str]:
    """Measured, expected and tolerance, such that the printed numbers have the verdict too.

    Without a tolerance, two numbers that differ print differently.
    """
    values = {"measured": claim.measured, "expected": claim.expected}
    # What must be equal is shown whole: parameters are counted to the last one.
    first = _ALL_DIGITS if claim.relation == "==" and claim.expected.is_integer() else _DIGITS
    for digits in range(first, _ALL_DIGITS + 1):
        texts = {n: _plain(v, max(digits, _down_to(claim, v))) for n, v in values.items()}
        texts["tolerance"] = _plain(claim.tolerance, digits)
        printed = dataclasses.replace(claim, **{n: float(text) for n, text in texts.items()})
        equal = printed.measured == printed.expected and not claim.tolerance
        if printed.holds == claim.holds and equal <= (claim.measured == claim.expected):
            break
    return texts["measured"], texts["expected"], texts["tolerance"]


def _down_to(claim: Claim, value: float) -> int:
    """Significant digits of a value down to the first one of the tolerance."""
    if not (claim.tolerance and value and math.isfinite(value)):
        return _DIGITS
    first, last = (math.floor(math.log10(abs(v))) for v in (value, claim.tolerance))
    return min(first - last + 1, _ALL_DIGITS)


def _plain(value: float, digits: int) -> str:
    whole = value == round(value, 0) and abs(value) < 1e7
    return str(int(value)) if whole else f"{value:.{max(digits, 1)}g}"


def _typeset(text: str) -> str:
    """With a typographic minus before a negative number."""
    return text.replace("-", "−", 1) if text.startswith("-") else text
