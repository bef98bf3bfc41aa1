"""Mixtures in the plane, the modes that samples find, and the verdicts on them."""

import jax
import numpy as np
import pytest

from experiments.gan import _plane, modes
from research.gan import losses


def test_rings_and_grids():
    ring = _plane.ring(8)
    np.testing.assert_allclose(np.linalg.norm(ring.means, axis=1), 1)
    np.testing.assert_allclose(ring.means[2], [0, 1], atol=1e-12)
    assert ring.scale == 0.02 and _plane.ring(3, 2.0, 0.1).scale == 0.1
    np.testing.assert_allclose(np.linalg.norm(_plane.ring(3, 2.0).means, axis=1), 2)
    grid = _plane.grid(5)
    assert grid.means.shape == (25, 2) and grid.scale == 0.025
    assert {tuple(row) for row in grid.means} == {
        (x, y) for x in np.linspace(-1, 1, 5) for y in np.linspace(-1, 1, 5)
    }
    assert (
        np.abs(_plane.grid(2, 3.0, 0.5).means).min() == 3 and _plane.grid(2, 3.0, 0.5).scale == 0.5
    )
    assert modes.SETS["ring"][1] == 8 and modes.SETS["grid"][1] == 24


def test_a_mode_takes_a_tenth_of_its_share_of_good_points():
    ring = _plane.ring(4)  # a share is 100 of 400, a tenth is 10
    points = np.concatenate(
        [
            np.repeat(ring.means[:2], 180, axis=0),
            np.repeat(ring.means[2:3], 10, axis=0),
            np.repeat(ring.means[3:], 9, axis=0),
            np.repeat(ring.means[3:] * (1 + 4.01 * ring.scale), 21, axis=0),  # beyond 4 deviations
        ]
    )
    found = _plane.count(points, ring)
    assert found.num_modes == 3
    assert found.high_quality == pytest.approx(379 / 400)
    edge = ring.means[:1] * (1 + 3.99 * ring.scale)
    assert _plane.count(edge, ring) == _plane.Count(1, 1.0)  # one point is the least of a mode


def test_games_are_played_by_their_rules():
    """Two seeds differ; the same seed is the same game; penalties and losses make another one."""
    options = dict(
        num_seeds=2, num_steps=3, batch_size=8, width=4, learning_rate=0.1, gamma=1.0,
        num_samples=5, rng=jax.random.key(0),
    )  # fmt: skip
    ring = _plane.ring(3)
    games = {
        "plain": _plane.Rules(losses.non_saturating),
        "R1": _plane.Rules(losses.non_saturating, r1=True),
        "R2": _plane.Rules(losses.non_saturating, r2=True),
    }
    found = {name: _plane.play(rules, ring, **options) for name, rules in games.items()}
    assert found["plain"].shape == (2, 5, 2)
    assert np.abs(found["plain"][0] - found["plain"][1]).max() > 1e-3
    for name in ("R1", "R2"):
        assert np.abs(found[name] - found["plain"]).max() > 1e-5
    assert np.abs(found["R1"] - found["R2"]).max() > 1e-6
    assert modes.GAMES["R1"] == games["R1"]
    assert modes.GAMES["relativistic, R1 and R2"] == _plane.Rules(losses.relativistic, True, True)


def test_verdicts_on_modes():
    seeds = [_plane.Count(25, 0.95), _plane.Count(24, 0.91), _plane.Count(23, 0.99)]
    result = modes.judged("grid, R1", seeds, 24, plain=False)
    assert list(result.metrics.values()) == [23, 0.91, 2]
    assert [claim.holds for claim in result.claims] == [False, True]
    result = modes.judged("grid, R1", seeds[:2], 24, plain=False)
    assert [claim.holds for claim in result.claims] == [True, True]
    assert [claim.measured for claim in result.claims] == [24, 0.91]
    low = [_plane.Count(25, 0.9)]  # not more than 90 %
    assert not modes.judged("grid, R1", low, 24, plain=False).claims[1].holds
    assert modes.judged("ring, plain", low + seeds[:1], 24, plain=True).claims[0].holds
    assert not modes.judged("ring, plain", seeds[:2], 24, plain=True).claims[0].holds


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(sets=()), r"sets=\(\): expected some of ring, grid"),
        (dict(sets=("circle",)), "expected some of ring, grid"),
        (dict(games=("R3",)), "expected some of plain, R1, relativistic, R1 and R2"),
    ],
)
def test_bad_choices(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        modes.run(modes.Config(**options), None)
