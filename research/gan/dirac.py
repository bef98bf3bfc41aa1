"""The Dirac game: data at 0, one generated point theta, the critic D(x) = psi x.

Mescheder et al. 2018, arXiv:1801.04406, sec. 2. A whole training algorithm is a vector field or a
map of the plane (theta, psi) with its fixed point at 0, and its two eigenvalues there say whether
it converges, before anything is trained:

    field = dirac.field(losses.hinge, r1=0.3)
    path = dirac.trajectory(dirac.alternating(field, 0.1), start, num_steps=500)

Critics here are larger for data, as in `losses`; in the paper they are larger for samples, which
turns the sign of psi and leaves eigenvalues and convergence alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array
from research.gan.losses import Loss

Field = Callable[[Array], Array]  # (theta, psi) [2] -> its velocity [2]
Update = Callable[[Array], Array]  # (theta, psi) [2] -> the next one [2]


def field(
    loss: Loss,
    r1: float = 0.0,
    r2: float = 0.0,
    instance_noise: float = 0.0,
    consensus: float = 0.0,
    gradient_penalty: float = 0.0,
    target: float = 1.0,
) -> Field:
    """How both players move, each down its own loss: (-dL_G/dtheta, -dL_D/dpsi).

    Args:
        loss: of the game, see `research.gan.losses`; the critic says `loss.undecided` + psi x.
        r1: gamma, weight of gamma/2 |dD/dx|^2 at the data.
        r2: the same at the sample. As D is linear they are the same here, and add.
        instance_noise: standard deviation of the Gaussian noise that is added to data and samples
            (Sonderby et al. 2017, arXiv:1610.04490); by quadrature.
        consensus: gamma, weight of gamma/2 |field|^2 in the losses of both, the field being that of
            all other terms (Mescheder et al. 2017, arXiv:1705.10461).
        gradient_penalty: gamma, weight of gamma/2 (|dD/dx| - target)^2, not differentiable at 0.
        target: slope that the gradient penalty draws the critic to.
    Returns:
        The field, a function of (theta, psi) [2].
    Raises:
        ValueError: for a weight, a target or a standard deviation that is no number >= 0.
    """
    given = {
        "r1": r1, "r2": r2, "instance_noise": instance_noise, "consensus": consensus,
        "gradient_penalty": gradient_penalty, "target": target,
    }  # fmt: skip
    for name, value in given.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: expected a finite number >= 0")
    real, fake, shares = _noise(instance_noise)

    def expected(player: Callable[[Array, Array], Array], theta: Array, psi: Array) -> Array:
        on = lambda x: loss.undecided + psi * x[None]
        pairs = lambda noise, other: player(on(jnp.asarray(noise)), on(theta + jnp.asarray(other)))
        return jnp.dot(jax.vmap(pairs)(jnp.asarray(real), jnp.asarray(fake)), jnp.asarray(shares))

    def critic_loss(psi: Array, theta: Array) -> Array:
        penalty = (r1 + r2) * psi**2
        if gradient_penalty:
            penalty += gradient_penalty * (jnp.abs(psi) - target) ** 2
        return expected(loss.discriminator, theta, psi) + penalty / 2

    generator_loss = lambda theta, psi: expected(loss.generator, theta, psi)

    def velocity(x: Array) -> Array:
        theta, psi = x
        return -jnp.stack([jax.grad(generator_loss)(theta, psi), jax.grad(critic_loss)(psi, theta)])

    if not consensus:
        return velocity
    energy = lambda x: jnp.sum(jnp.square(velocity(x))) / 2
    return lambda x: velocity(x) - consensus * jax.grad(energy)(x)


def jacobian(
    loss: Loss,
    r1: float = 0.0,
    r2: float = 0.0,
    instance_noise: float = 0.0,
    consensus: float = 0.0,
) -> Array:
    """The derivative of `field` at the equilibrium, by automatic differentiation of the losses.

    With f' the slope and f'' the curvature of the critic's loss in its logit, up to signs,

        [[-gamma f'^2, f'], [-f', 2 f'' s^2 - r1 - r2 - gamma f'^2]]

    for instance noise s and consensus gamma, where only one of the regularisers is there.

    Args:
        loss, r1, r2, instance_noise, consensus: see `field`.
    Returns:
        [2, 2], rows and columns in the order (theta, psi); float64 where that is enabled.
    Raises:
        ValueError: as `field`.
    """
    regularized = field(loss, r1, r2, instance_noise, consensus)
    return jax.jacfwd(regularized)(jnp.zeros(2))


def simultaneous(velocity: Field, step_size: float) -> Update:
    """One step of both players from where both stood: Euler's method of the flow."""
    return lambda x: x + step_size * velocity(x)


def alternating(velocity: Field, step_size: float) -> Update:
    """One step of the critic, then one of the generator that sees it."""

    def update(x: Array) -> Array:
        x = x.at[1].add(step_size * velocity(x)[1])
        return x.at[0].add(step_size * velocity(x)[0])

    return update


def flow(velocity: Field, duration: float, num_substeps: int = 32) -> Update:
    """The flow of a duration, by that many steps of the classical Runge-Kutta method.

    Raises:
        ValueError: for no step.
    """
    checks.count("num_substeps", num_substeps, of="Runge-Kutta steps")
    h = duration / num_substeps

    def step(_: int, x: Array) -> Array:
        k1 = velocity(x)
        k2 = velocity(x + h / 2 * k1)
        k3 = velocity(x + h / 2 * k2)
        k4 = velocity(x + h * k3)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    return lambda x: jax.lax.fori_loop(0, num_substeps, step, x)


def trajectory(update: Update, start: Array, num_steps: int) -> Array:
    """The points that updates lead to, the start first.

    Args:
        update: `simultaneous`, `alternating` or `flow` of a field.
        start: [2], (theta, psi).
        num_steps: updates.
    Returns:
        [num_steps + 1, 2].
    Raises:
        ValueError: for another start, or a negative number of steps.
    """
    checks.count("num_steps", num_steps, least=0, of="updates")
    start = jnp.asarray(start, jnp.result_type(float))
    if start.shape != (2,):
        raise ValueError(f"start has shape {start.shape}: expected (theta, psi), [2]")

    def body(x: Array, _: None) -> tuple[Array, Array]:
        new = update(x)
        return new, new

    _, points = jax.lax.scan(body, start, None, num_steps)
    return jnp.concatenate([start[None], points])


def radius(update: Update) -> Array:
    """[] spectral radius of an update at the equilibrium: it converges there if below 1."""
    matrix = jax.jacfwd(update)(jnp.zeros(2))
    half = jnp.trace(matrix) / 2
    product = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    square = half**2 - product  # below 0 both eigenvalues have the same modulus
    real = jnp.abs(half) + jnp.sqrt(jnp.maximum(square, 0))
    return jnp.where(square < 0, jnp.sqrt(jnp.maximum(product, 0)), real)


_NUM_NODES = 16  # of each variable: moments of Gaussian noise are exact up to the 31st


def _noise(std: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of noise on data and on samples, [N] each, and their probabilities [N]."""
    if not std:
        return np.zeros(1), np.zeros(1), np.ones(1)
    nodes, shares = np.polynomial.hermite_e.hermegauss(_NUM_NODES)
    shares = shares / shares.sum()
    real, fake = (std * axis.ravel() for axis in np.meshgrid(nodes, nodes))
    return real, fake, np.outer(shares, shares).ravel()
