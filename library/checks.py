"""What the host can check before anything is traced: whole numbers and where they lie."""

from __future__ import annotations

import numbers
import operator
from typing import Any


def count(name: str, value: Any, least: int = 1, of: str = "") -> int:
    """`value`, where it is a whole number from `least` on.

    Args:
        name: of the argument, for the error line.
        value: as it came; a float, also 2.0, and a boolean are no counts.
        least: the smallest that makes sense.
        of: what is counted, e.g. "steps".
    Raises:
        ValueError: naming the argument, what came and what was expected.
    """
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        expected = "a positive whole number" if least == 1 else f"a whole number >= {least}"
        raise ValueError(f"{name}={value}: expected {expected}{of and ' of ' + of}")
    return number


def share(name: str, value: Any) -> float:
    """`value`, where it is a number in [0, 1].

    Raises:
        ValueError: naming the argument, what came and what was expected; so for nan.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: expected a number in [0, 1]")
    return float(value)
