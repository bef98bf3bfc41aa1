"""The study of the smallest game: its closed forms beside the sheet's numbers, its paths."""

import numpy as np
import pytest

from experiments.gan import dirac


@pytest.mark.parametrize(
    "loss, game, value",
    [
        ("non-saturating", "none", 0.5j),
        ("Wasserstein", "none", 1j),
        ("relativistic", "R1", -0.15 + 0.4769696j),
        ("non-saturating", "R1 and R2", -0.3 + 0.4j),
        ("non-saturating", "instance noise", -0.25 + 0.4330127j),
        ("hinge", "instance noise", 1j),
        ("non-saturating", "consensus", -0.2 + 0.5j),
        ("least squares", "instance noise", -1 + np.sqrt(0.75)),
    ],
)
def test_closed_forms(loss, game, value):
    found = dirac.expected(loss, game)
    np.testing.assert_allclose(found[1], value, atol=1e-7)
    np.testing.assert_allclose(found.sum().imag, 0, atol=1e-12)


def test_paths_start_where_asked_and_follow_their_regulariser():
    import jax

    config = dirac.Config(step_size=0.2, num_steps=300, start=(0.6, -0.3))
    with jax.enable_x64(True):
        ends = {}
        for game, (_, converges) in dirac.GAMES.items():
            points = dirac.path(game, config)
            assert points.shape == (301, 2)
            np.testing.assert_array_equal(points[0], [0.6, -0.3])
            ends[game] = np.linalg.norm(points[-1]) < 0.05
            assert ends[game] == converges, game
        plain = dirac.path("none", config)
        slope = lambda t: 1 / (1 + np.exp(-t))  # of the critic's softplus
        psi = -0.3 - 0.2 * 0.6 * slope(-0.3 * 0.6)
        theta = 0.6 + 0.2 * psi * slope(psi * 0.6)
        np.testing.assert_allclose(plain[1], [theta, psi], rtol=1e-12)


def test_what_is_known_to_converge():
    assert [game for game, (_, converges) in dirac.GAMES.items() if converges] == [
        "R1", "R1 and R2", "instance noise", "consensus",
    ]  # fmt: skip
