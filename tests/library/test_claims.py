"""Claims judge, sources say of what kind they are, and results add up."""

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest

from library import claims
from tests.library.report.runs import PEANO, claim


@pytest.mark.parametrize(
    "relation, tolerance, holds_at",  # measured 1, 2, 3, 4 against 2 or with slack 1
    [
        ("<", 0, [1]),
        ("<=", 0, [1, 2]),
        (">", 0, [3, 4]),
        (">=", 0, [2, 3, 4]),
        ("==", 0, [2]),
        ("within", 0, [2]),
        ("<", 1, [1, 2]),
        ("<=", 1, [1, 2, 3]),
        (">", 1, [2, 3, 4]),
        (">=", 1, [1, 2, 3, 4]),
        ("within", 1, [1, 2, 3]),
    ],
)
def test_each_relation(relation, tolerance, holds_at):
    held = [x for x in (1, 2, 3, 4) if claim(x, 2, relation, tolerance).holds]
    assert held == holds_at


@pytest.mark.parametrize(
    "measured, expected, relation, tolerance, holds",
    [
        (1.1, 1.0, "within", 0.1, True),  # 1.1 - 1 is 0.10000000000000009 in binary
        (0.9, 1.0, "within", 0.1, True),
        (0.3, 0.2, "within", 0.1, True),
        (0.30000000000000004, 0.2, "within", 0.1, False),  # a unit of the last place beyond
        (1.1000000000000003, 1.0, "within", 0.1, False),
        (0.7, 0.8, ">=", 0.1, True),  # 0.8 - 0.1 is 0.7000000000000001 in binary
        (0.7, 0.8, ">", 0.1, False),
        (0.3, 0.1, "<=", 0.2, True),
        (0.3, 0.1, "<", 0.2, False),  # 0.1 + 0.2 is 0.30000000000000004 in binary
        (1e300, 1.0, "within", 0.1, False),
        (1 + 1e-15, 1.0, "==", 0, False),
    ],
)
def test_edges_are_those_of_the_decimals_as_they_are_written(
    measured, expected, relation, tolerance, holds
):
    assert claim(measured, expected, relation, tolerance).holds is holds


@pytest.mark.parametrize("relation", ["<", "<=", ">", ">=", "==", "within"])
def test_nothing_holds_between_numbers_that_are_not_finite(relation):
    values = (math.nan, math.inf, -math.inf)
    pairs = [(x, 1.0) for x in values] + [(1.0, x) for x in values]
    pairs += itertools.product(values, values)
    assert [pair for pair in pairs if claim(*pair, relation).holds] == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"relation": "~"}, "expected one of <, <=, >, >=, ==, within"),
        ({"tolerance": -1}, "tolerance -1.0: expected >= 0"),
        ({"tolerance": math.nan}, "tolerance nan"),
        ({"relation": "==", "tolerance": 0.1}, "use 'within'"),
        ({"source": "Peano 1889"}, "has source 'Peano 1889': expected claims.paper(...)"),
        ({"name": ""}, "a claim without a name"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(claim(), **change)


@pytest.mark.parametrize(
    "make, relation, holds_at",  # measured 1, 2, 3, 4 against 2, with slack 1 where there is one
    [
        (claims.above, ">", [2, 3, 4]),
        (claims.at_least, ">=", [1, 2, 3, 4]),
        (claims.below, "<", [1, 2]),
        (claims.at_most, "<=", [1, 2, 3]),
    ],
)
def test_sentences_are_inequalities_with_slack(make, relation, holds_at):
    made = [make("error, %", x, 2, PEANO, tolerance=1) for x in (1, 2, 3, 4)]
    assert [c.measured for c in made if c.holds] == holds_at
    assert made[0] == claims.Claim("error, %", 1.0, 2.0, relation, PEANO, 1.0)
    assert make("a", 1, 2, source=PEANO).tolerance == 0
    assert not make("a", 1, 2, source=PEANO, judged=False).judged


def test_within_and_exactly():
    found = claims.within("error", 0.8, 0.83, 0.1, source=PEANO, judged=False)
    assert found == claims.Claim("error", 0.8, 0.83, "within", PEANO, 0.1, judged=False)
    assert found.holds and not claims.within("error", 0.8, 0.83, 0.02, source=PEANO).holds
    assert claims.exactly("count", 3, 3, source=PEANO).holds
    near = claims.exactly("count", 3, 3 + 1e-15, source=PEANO, judged=False)
    assert (near.relation, near.holds, near.judged) == ("==", False, False)


def test_the_largest_is_that_of_absolute_values():
    found = claims.largest("errors", np.array([[0.1, -0.4], [0.2, 0.0]]), 0.3, source=PEANO)
    assert (found.measured, found.expected, found.relation) == (0.4, 0.3, "<=")
    assert not found.holds and claims.largest("errors", [-0.3], 0.3, source=PEANO).holds
    assert not claims.largest("errors", [0.0, math.nan], 0.3, source=PEANO).holds
    assert not claims.largest("errors", [0.0], 0.3, source=PEANO, judged=False).judged
    with pytest.raises(ValueError, match="claim 'errors' has no values"):
        claims.largest("errors", [], 0.3, source=PEANO)


@pytest.mark.parametrize("kind", ["paper", "theorem", "baseline", "bar"])
def test_a_source_says_of_what_kind_it_is(kind):
    found = getattr(claims, kind)("Author 2020, table 1")
    assert (found.kind, found.text) == (kind, "Author 2020, table 1")
    for text in ("", "  ", None):
        with pytest.raises(ValueError, match="expected a text that says where to look"):
            getattr(claims, kind)(text)


def test_a_source_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="'hope': expected one of paper, theorem, baseline, bar"):
        claims.Source("my own", "hope")


def test_results_add_up_in_order():
    one = claims.Result({"a": 1.0, "gap": math.nan}, [claim(1.0)])
    two = claims.Result({"b": 2.0, "gap": math.nan}, [claim(2.0), claim(3.0)])
    both = one + two
    assert list(both.metrics) == ["a", "gap", "b"] and both.metrics["b"] == 2.0
    assert [c.measured for c in both.claims] == [1.0, 2.0, 3.0]
    assert (one.metrics.keys(), len(one.claims)) == ({"a", "gap"}, 1)  # as they were
    total = sum([one, two], claims.Result())
    assert (total.metrics.keys(), total.claims) == (both.metrics.keys(), both.claims)
    with pytest.raises(ValueError, match=r"metric 'a' is both 1.0 and 1.5"):
        one + claims.Result({"a": 1.5})
    with pytest.raises(TypeError):
        one + {"a": 1.0}


def test_complex_errors_have_a_size():
    assert not claims.largest("a", [9j, 0.1], 0.5, claims.theorem("x")).holds
    assert claims.largest("a", [0.3 + 0.4j], 0.5, claims.theorem("x")).measured == 0.5


@pytest.mark.parametrize("value", [None, "x", [1.0, 2.0]])
def test_what_is_no_number_is_named(value):
    with pytest.raises(ValueError, match="claim 'a': measured is"):
        claims.at_most("a", value, 1.0, claims.theorem("x"))
    with pytest.raises(ValueError, match="metric 'm' is"):
        claims.Result({"m": value})
