"""What tells one smoke's numbers and claims from another's."""

import numpy as np
import pytest

from library import claims, figure_style
from tests.experiments import published, smokes

KNOWN = {"metrics": {"a": 1.0, "time": None}, "figures": {"f": [[2, 3.0]]}}


@pytest.mark.parametrize(
    "found, where",
    [
        ({"metrics": {"a": 1.001, "time": 7}, "figures": {"f": [[2, 3.0]]}}, None),
        ({"metrics": {"a": 1.003, "time": 7}, "figures": {"f": [[2, 3.0]]}}, "/metrics/a: 1.003"),
        ({"metrics": {"a": 1.0}, "figures": {"f": [[2, 3.0]]}}, "/metrics: ['a']"),
        ({"metrics": {"a": 1.0, "time": 7}, "figures": {"f": [[2, 3.0], [1]]}}, "f: 2 entries"),
        ({"metrics": {"a": 1.0, "time": 7}, "figures": {"f": [[2, -3.0]]}}, "/figures/f/0/1: -3.0"),
        ({"metrics": {"a": 1.0, "time": 7}, "figures": {}}, "/figures: []"),
    ],
)
def test_numbers_that_differ_are_found(found, where):
    lines = smokes.differences(found, KNOWN)
    assert (lines == []) if where is None else (len(lines) == 1 and where in lines[0])
    assert smokes.differences(found, smokes._merged(found, KNOWN)) == []
    assert smokes._merged(found, KNOWN)["metrics"].get("time") is None


def draw(x, y, *, log=False, label="a"):
    figure, axes = figure_style.single("title", "", "")
    axes.plot(x, y, label=label)
    axes.fill_between([0, 1], 0, 1)
    if log:
        axes.set_xscale("log")
    axes.legend()
    return smokes.data_of(figure)


def test_data_of_figures_tell_points_order_scale_and_words():
    first = draw([1, 2, 4], [3, 5, 9])
    assert first == draw([1, 2, 4], [3, 5, 9]) and first[0][-1] == len("title") + 1
    others = [
        draw([1, 2, 4], [3, 9, 5]), draw([1, 2, 4.1], [3, 5, 9]), draw([1, 2], [3, 5]),
        draw([1, 2, 4], [3, 5, 9], log=True), draw([1, 2, 4], [3, 5, 9], label="ab"),
    ]  # fmt: skip
    assert all(other != first for other in others)


def test_a_mean_weighs_later_points_more_and_leaves_out_what_is_missing():
    assert smokes._mean(np.array([1.0, 4.0]), "linear") == pytest.approx((1 + 2 * 4) / 3)
    values = np.array([1.0, np.nan, np.e])
    assert smokes._mean(values, "log") == pytest.approx(2 / 3)
    assert smokes._mean(np.array([-1.0, 0.0]), "log") == 0


def test_clocks_count_their_readings():
    clock = smokes.Clock()
    assert [clock.perf_counter() for _ in range(3)] == pytest.approx([1e-3, 3e-3, 6e-3])
    assert clock.monotonic() > 0


def stated(**change):
    claim = claims.within("error, %", 0.7, 0.83, 0.1, claims.paper("x"))
    fields = {"name": claim.name, "relation": claim.relation, "expected": claim.expected,
              "tolerance": claim.tolerance, "kind": claim.source.kind}  # fmt: skip
    return fields | change


@pytest.mark.parametrize(
    "change, same",
    [
        ({}, True),
        ({"name": "error"}, False),
        ({"relation": "<="}, False),
        ({"expected": 0.831}, False),
        ({"tolerance": 0.2}, False),
        ({"kind": "bar"}, False),
    ],
)
def test_claims_that_are_not_as_published_are_found(change, same):
    line = "error, % | within 0.83 +- 0.1 | paper"
    assert (published.misstated(stated(**change), line) == "") == same


@pytest.mark.parametrize(
    "text, number, same",
    [("1.06", 1.06, True), ("1.06", 1.061, False), ("~0.835", 0.8347, True),
     ("~0.835", 0.8357, False), ("measured", 7.0, True), ("-0.5", 0.5, False)],
)  # fmt: skip
def test_numbers_are_as_printed(text, number, same):
    assert published.says(text, number) == same


def test_claims_are_in_the_order_of_the_file():
    rows = [stated(name=name) for name in ("b", "a")]
    published.lines()["made.up"] = [f"{name} | within 0.83 +- 0.1 | paper" for name in "ab"]
    try:
        assert len(published.differences("made.up", rows)) == 1
        assert published.differences("made.up", rows[::-1]) == []
        assert published.differences("made.up", rows[:1], complete=False) == []
    finally:
        del published.lines()["made.up"]
