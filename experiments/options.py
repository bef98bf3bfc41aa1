"""Whether the numbers of a config lie where its presets say, before anything runs.

The presets of a question show what its options mean, so no question has to say it again: where none
is negative (or a whole number 0, or an empty list), an option can't be either. So `--num-steps -5`
is refused where every preset trains, `--num-samples 0` passes where the smoke draws none. A field
that may go further, or not as far, says so:

    correlation: float = dataclasses.field(default=0.8, metadata={"least": -1, "most": 1})
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any


def check(config: Any, presets: Iterable[Any], path: str = "--") -> None:
    """Refuses numbers out of range, fields of nested configs included.

    Args:
        config: a dataclass, as the command line made it.
        presets: of the question, of the same class.
        path: before a field's name, for the error line.
    Raises:
        ValueError: naming the first option out of range, its value and what was expected.
    """
    presets = list(presets)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        known = [getattr(preset, field.name) for preset in presets if hasattr(preset, field.name)]
        flag = path + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            check(value, known, f"{flag}.")
        elif expected := _broken(value, known, field.metadata):
            shown = " ".join(map(str, value)) if isinstance(value, tuple | list) else value
            raise ValueError(f"{flag} {shown}".rstrip() + f": expected {expected}")


def _broken(value: Any, known: list[Any], limits: Any) -> str:
    """What a value was expected to be; empty where it is."""
    if isinstance(value, tuple | list) and not value and value not in known:
        return "one value or more"
    known = [number for each in known for number in _numbers(each)]
    for number in _numbers(value):
        whole = isinstance(number, int)
        kind, zero = ("a whole number", 0 in known or not known) if whole else ("a number", True)
        least = limits.get("least", -math.inf if min(known, default=0) < 0 else int(not zero))
        most = limits.get("most", math.inf)
        if not math.isfinite(number) and number not in known:
            return f"{kind} that is finite"
        if not least <= number <= most:
            above = "" if least == -math.inf else f" >= {least}"
            return kind + (above if most == math.inf else f" from {least} to {most}")
    return ""


def _numbers(value: Any) -> list[int | float]:
    """The numbers in a value: itself, or those of a tuple or list."""
    if isinstance(value, tuple | list):
        return [number for each in value for number in _numbers(each)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
