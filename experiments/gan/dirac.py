"""Which losses and regularisers make a game of two parameters converge?

Claims: eigenvalues of every loss under every regulariser are their closed forms; exactly R1, R2,
instance noise and consensus converge (Mescheder et al. 2018, arXiv:1801.04406), not the plain game
nor the gradient penalty; simultaneous steps spiral outwards by sqrt(1 + h^2 f'^2), alternating ones
neither in nor out.
Cost: 30 seconds on 2 CPU cores.
    python -m experiments gan.dirac

Data are one point at 0, the generator is a point theta, the critic the line psi x. In float64.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from library import claims, figure_style, report
from research.gan import dirac, losses

LOSSES = {
    "non-saturating": losses.non_saturating,
    "relativistic": losses.relativistic,
    "hinge": losses.hinge,
    "Wasserstein": losses.wasserstein,
    "least squares": losses.least_squares,
}
# Of the critic's loss in its logit where it is undecided: slope f', and curvature f'' up to sign.
SLOPES = {"hinge": (1.0, 0.0), "Wasserstein": (1.0, 0.0), "least squares": (0.5, 1.0)}
LOGISTIC = (0.5, 0.25)
# Regulariser by name: options of `dirac.field`, and whether the game converges under it.
GAMES = {
    "none": ({}, False),
    "R1": ({"r1": 0.3}, True),
    "R1 and R2": ({"r1": 0.3, "r2": 0.3}, True),
    "instance noise": ({"instance_noise": 1.0}, True),
    "consensus": ({"consensus": 0.8}, True),
    "gradient penalty": ({"gradient_penalty": 0.3}, False),
}
CLOSED = claims.theorem("the trace and the determinant of the game, research.gan.dirac.jacobian")
CONVERGENT = claims.paper("Mescheder et al. 2018, arXiv:1801.04406, sections 2 to 4")
STEPS = claims.theorem("eigenvalues of one step: 1 +- i h f', and of modulus 1 if alternating")


@dataclasses.dataclass(frozen=True)
class Config:
    """The steps whose paths are drawn and judged."""

    step_size: float = 0.1  # h, of both players
    num_steps: int = 4000  # updates of a path
    start: tuple[float, float] = (1.0, 0.5)  # theta and psi


PRESETS = {
    "smoke": Config(num_steps=20),
    "default": Config(),
    "accelerator": Config(step_size=0.05, num_steps=20_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Eigenvalues, radii of steps and paths, and a panel for each regulariser."""
    with jax.enable_x64(True):
        result = _eigenvalues() + _radii(config.step_size)
        paths = {name: path(name, config) for name in GAMES}
    ends = {name: float(np.linalg.norm(points[-1])) for name, points in paths.items()}
    start = float(np.linalg.norm(config.start))
    stated = [
        claims.exactly(
            f"{name}: comes within 1 % of the start", int(end < 0.01 * start),
            int(GAMES[name][1]), CONVERGENT,
        )
        for name, end in ends.items()
    ]  # fmt: skip
    out.figure("dirac", _draw(paths))
    return result + claims.Result({f"end_{name}": end for name, end in ends.items()}, stated)


def expected(loss: str, game: str) -> np.ndarray:
    """Both eigenvalues [2] of a game in closed form, by slope and curvature of its loss."""
    slope, curvature = SLOPES.get(loss, LOGISTIC)
    options, _ = GAMES[game]
    shared = options.get("consensus", 0.0) * slope**2
    noise = 2 * curvature * options.get("instance_noise", 0.0) ** 2
    damping = options.get("r1", 0.0) + options.get("r2", 0.0) + noise
    root = np.sqrt(complex(damping**2 / 4 - slope**2))
    return np.array([-damping / 2 - root, -damping / 2 + root]) - shared


def _eigenvalues() -> claims.Result:
    """The largest distance of a computed eigenvalue to its closed form, for each regulariser."""
    games = [game for game in GAMES if game != "gradient penalty"]  # no derivative at 0
    of = lambda loss: {game: dirac.jacobian(loss, **GAMES[game][0]) for game in games}
    matrices = jax.jit(lambda: {name: of(loss) for name, loss in LOSSES.items()})()
    stated = []
    for game in games:
        off = []
        for name in LOSSES:
            found = np.sort_complex(np.linalg.eigvals(matrices[name][game]))
            off.append(np.abs(found - np.sort_complex(expected(name, game))).max())
        what = f"{game}: eigenvalues of {len(LOSSES)} losses, largest error"
        stated.append(claims.largest(what, off, 1e-10, CLOSED))
    return claims.Result({}, stated)


def _radii(step_size: float) -> claims.Result:
    """How much one step of either kind multiplies a small distance by, without regulariser."""
    field = dirac.field(losses.non_saturating)
    updates = dirac.simultaneous(field, step_size), dirac.alternating(field, step_size)
    outward, around = map(float, jax.jit(lambda: [dirac.radius(each) for each in updates])())
    exact = float(np.sqrt(1 + (step_size * LOGISTIC[0]) ** 2))
    stated = [
        claims.within(f"simultaneous steps of {step_size:g}: radius", outward, exact, 1e-10, STEPS),
        claims.within(f"alternating steps of {step_size:g}: radius", around, 1.0, 1e-10, STEPS),
    ]
    return claims.Result({}, stated)


def path(game: str, config: Config) -> np.ndarray:
    """Points [T + 1, 2] of alternating steps of the non-saturating game under a regulariser.

    The plain game is played as a zero-sum one: where the generator does not saturate it comes in
    slower than any exponential, which is no convergence at a rate.
    """
    plain = game in ("none", "gradient penalty")
    field = dirac.field(losses.minimax if plain else losses.non_saturating, **GAMES[game][0])
    update = dirac.alternating(field, config.step_size)
    start = jnp.asarray(config.start, jnp.float64)
    return np.asarray(jax.jit(lambda x: dirac.trajectory(update, x, config.num_steps))(start))


def _draw(paths: dict[str, np.ndarray]):
    figure = figure_style.empty(1.56 * figure_style.WIDTH, 1.6 * figure_style.HEIGHT)
    panels = figure.subplots(2, 3, sharex=True, sharey=True).ravel()
    for axes, colour, (name, points) in zip(
        panels, figure_style.PALETTE, paths.items(), strict=True
    ):
        axes.plot(*points[:600].T, color=colour, linewidth=1)
        axes.plot(*points[0], "o", color=colour, mec="white")
        axes.plot(0, 0, "+", color=figure_style.INK, markersize=10)
        axes.set_aspect("equal")
        figure_style.style(axes, name, "theta", "psi")
    return figure
