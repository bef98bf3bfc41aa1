"""Claims as sentences: what a run measured, and the number it is held against.

    claims.within("error, %", measured, 0.83, 0.1, source=claims.paper("Author 2020, table 1"))
    claims.at_least("test accuracy, %", accuracy, 97.5, source=claims.baseline("a linear model"))

A source says of what kind its number is: of a `paper`, of a `theorem`, of a `baseline` that was
measured or named, or a `bar`, which somebody set beforehand. Everything a run found is a `Result`,
and results add up: `return accuracy + distances`.
"""

from __future__ import annotations

import dataclasses
import fractions
import math
from collections.abc import Mapping, Sequence

KINDS = ("paper", "theorem", "baseline", "bar")
UNKNOWN = "unknown"  # the kind of a source that was recorded without one; none is made so

_RELATIONS = {
    "<": lambda measured, bound, slack: measured < bound + slack,
    "<=": lambda measured, bound, slack: measured <= bound + slack,
    ">": lambda measured, bound, slack: measured > bound - slack,
    ">=": lambda measured, bound, slack: measured >= bound - slack,
    "==": lambda measured, value, _: measured == value,
    "within": lambda measured, value, slack: abs(measured - value) <= slack,
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an expected number comes from; made by `paper`, `theorem`, `baseline` or `bar`."""

    text: str
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, UNKNOWN):
            raise ValueError(f"source of kind {self.kind!r}: expected one of {', '.join(KINDS)}")
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError(f"source {self.text!r}: expected a text that says where to look")


def paper(text: str) -> Source:
    """A number that was published: authors, year, identifier, table or figure."""
    return Source(text, "paper")


def theorem(text: str) -> Source:
    """A number that follows: a closed form, a bound, an order of convergence, an identity."""
    return Source(text, "theorem")


def baseline(text: str) -> Source:
    """A number that a named other method gives, measured in the same run or by its authors."""
    return Source(text, "baseline")


def bar(text: str) -> Source:
    """A number that was set beforehand as good enough, with the reason for it."""
    return Source(text, "bar")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A number of a paper or a theorem, or a named baseline, beside what this run measured.

    Attributes:
        name: what is measured, with its unit.
        measured: this run's number.
        expected: the number it is held against.
        relation: "<", "<=", ">", ">=", "==" or "within", between measured and expected.
        source: where the expected number comes from, and of which kind it is.
        tolerance: >= 0, absolute: "within" accepts |measured - expected| <= tolerance, the
            inequalities give way by it, "==" takes none. Numbers are compared as the decimals that
            they are written as, so that 1.1 is within 0.1 of 1 and 0.7 at least 0.8 - 0.1.
        judged: False for a number that is shown but never counted.
    """

    name: str
    measured: float
    expected: float
    relation: str
    source: Source
    tolerance: float = 0.0
    judged: bool = True

    def __post_init__(self) -> None:
        for field in ("measured", "expected", "tolerance"):
            try:
                object.__setattr__(self, field, float(getattr(self, field)))
            except (TypeError, ValueError):
                raise ValueError(
                    f"claim {self.name!r}: {field} is {getattr(self, field)!r}: expected a number"
                ) from None
        if self.relation not in _RELATIONS:
            raise ValueError(
                f"claim {self.name!r} has relation {self.relation!r}: "
                f"expected one of {', '.join(_RELATIONS)}"
            )
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"claim {self.name!r} has tolerance {self.tolerance}: expected >= 0")
        if self.relation == "==" and self.tolerance:
            raise ValueError(f"claim {self.name!r} is exact: use 'within' for a tolerance")
        if not self.name:
            raise ValueError("a claim without a name: expected what is measured, with its unit")
        if not isinstance(self.source, Source):
            raise ValueError(
                f"claim {self.name!r} has source {self.source!r}: expected claims.paper(...), "
                "claims.theorem(...), claims.baseline(...) or claims.bar(...)"
            )

    @property
    def holds(self) -> bool:
        """Whether the relation is true; never between numbers that are not finite.

        An overflow is above every bound and a diverged baseline above everything: neither is
        evidence.
        """
        if not (math.isfinite(self.measured) and math.isfinite(self.expected)):
            return False
        # In binary 1.1 - 1 > 0.1: the edge of a tolerance would depend on the last bit.
        numbers = (self.measured, self.expected, self.tolerance)
        return _RELATIONS[self.relation](*(fractions.Fraction(repr(value)) for value in numbers))


def within(
    name: str,
    measured: float,
    expected: float,
    tolerance: float,
    source: Source,
    judged: bool = True,
) -> Claim:
    """The claim |measured - expected| <= tolerance; arguments as `Claim`'s."""
    return Claim(name, measured, expected, "within", source, tolerance, judged)


def at_least(
    name: str,
    measured: float,
    expected: float,
    source: Source,
    tolerance: float = 0.0,
    judged: bool = True,
) -> Claim:
    """The claim measured >= expected - tolerance; arguments as `Claim`'s."""
    return Claim(name, measured, expected, ">=", source, tolerance, judged)


def at_most(
    name: str,
    measured: float,
    expected: float,
    source: Source,
    tolerance: float = 0.0,
    judged: bool = True,
) -> Claim:
    """The claim measured <= expected + tolerance; arguments as `Claim`'s."""
    return Claim(name, measured, expected, "<=", source, tolerance, judged)


def above(
    name: str,
    measured: float,
    expected: float,
    source: Source,
    tolerance: float = 0.0,
    judged: bool = True,
) -> Claim:
    """The claim measured > expected - tolerance; arguments as `Claim`'s."""
    return Claim(name, measured, expected, ">", source, tolerance, judged)


def below(
    name: str,
    measured: float,
    expected: float,
    source: Source,
    tolerance: float = 0.0,
    judged: bool = True,
) -> Claim:
    """The claim measured < expected + tolerance; arguments as `Claim`'s."""
    return Claim(name, measured, expected, "<", source, tolerance, judged)


def exactly(
    name: str, measured: float, expected: float, source: Source, judged: bool = True
) -> Claim:
    """The claim measured == expected: counts, indices, bits; arguments as `Claim`'s."""
    return Claim(name, measured, expected, "==", source, 0.0, judged)


def largest(
    name: str, values: Sequence[float], bound: float, source: Source, judged: bool = True
) -> Claim:
    """The claim that the largest absolute value, e.g. of errors, is at most `bound`.

    Raises:
        ValueError: if there are no values.
    """
    import numpy as np  # here: the list of all questions and claims is to need no NumPy

    values = np.abs(np.asarray(values))  # complex errors have a size too
    if values.size == 0:
        raise ValueError(f"claim {name!r} has no values: expected one or more")
    return at_most(name, float(np.max(values)), bound, source, judged=judged)


@dataclasses.dataclass(frozen=True)
class Result:
    """What `run` returns: numbers by name, and the claims they bear on.

    `a + b` holds the metrics and claims of both, those of `a` first.
    """

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    claims: Sequence[Claim] = ()

    def __post_init__(self) -> None:
        for name, value in self.metrics.items():
            try:
                float(value)
            except (TypeError, ValueError):
                raise ValueError(f"metric {name!r} is {value!r}: expected a number") from None

    def __add__(self, other: Result) -> Result:
        """Raises ValueError if both name a metric and differ in its value."""
        if not isinstance(other, Result):
            return NotImplemented
        for name in self.metrics.keys() & other.metrics.keys():
            mine, theirs = float(self.metrics[name]), float(other.metrics[name])
            if mine != theirs and not (math.isnan(mine) and math.isnan(theirs)):
                raise ValueError(f"metric {name!r} is both {mine} and {theirs}")
        return Result({**self.metrics, **other.metrics}, [*self.claims, *other.claims])
