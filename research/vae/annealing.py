"""Annealed importance sampling: the evidence between a lower and an upper stochastic bound.

Neal 2001, arXiv:physics/9803008; the reverse chain as in Grosse et al. 2015, arXiv:1511.02543, and
for decoders in Wu et al. 2017, arXiv:1611.04273. A path of densities start^(1 - b) end^b leads from
the prior to the joint density of latents and one image; Hamiltonian steps with a test of acceptance
leave each density of the path as it is. Every weight is exact in expectation, however badly the
steps mix: what bad steps cost is the width between the bounds, which is therefore seen.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Key
from research.vae.checks import positive, wide

LogDensity = Callable[[Array], Array]  # latents [K, B, L] -> [K, B] nats, need not be normalised


@flax.struct.dataclass
class Annealed:
    """A run of K chains for each of B examples.

    Attributes:
        log_weights: [K, B] nats. Their `bounds.iwae` is a lower bound on log Z of the end relative
            to the start after `forward`; after `reverse` it is one on minus that.
        z: [K, B, L], where the chains ended: near the posterior after `forward`.
        acceptance: [T] in [0, 1], the share of steps accepted at each place of the path.
        step_sizes: [T], as used; see `tune`.
    """

    log_weights: Array
    z: Array
    acceptance: Array
    step_sizes: Array


def sigmoidal_path(num_steps: int, steepness: float = 4.0) -> Array:
    """[T + 1] from 0 to 1, slow at both ends: rescaled sigmoids of evenly spaced numbers.

    Args:
        num_steps: T.
        steepness: the sigmoid's argument runs from minus to plus this; near 0 the path is even.
    Raises:
        ValueError: if a number is not positive.
    """
    checks.count("num_steps", num_steps)
    positive("steepness", steepness)
    # In tanh(x / 2) the sigmoid is symmetric about 0, and the ends are exact.
    curve = jnp.tanh(jnp.linspace(-steepness, steepness, num_steps + 1) / 2)
    return (0.5 + 0.5 * curve / curve[-1]).at[0].set(0)


def forward(
    rng: Key,
    log_start: LogDensity,
    log_end: LogDensity,
    z: Array,
    path: Array,
    step_size: Array | float,
    num_leapfrog: int = 10,
) -> Annealed:
    """Weights for log Z(end) - log Z(start), a lower bound in expectation.

    Args:
        rng: key of the steps.
        log_start, log_end: [K, B, L] -> [K, B] nats; for the evidence the prior and the joint.
        z: [K, B, L] exact draws of the start, one a chain.
        path: [T + 1] rising from 0 to 1, e.g. `sigmoidal_path(1000)`.
        step_size: [] or [T] > 0, of the leapfrog steps at each place; fixed before the run, since
            a size that follows the chains breaks the bound.
        num_leapfrog: leapfrog steps before each test of acceptance.
    Raises:
        ValueError: if the path does not rise from 0 to 1, z is not [K, B, L], or a size or a count
            is not positive.
    """
    path, step_sizes, z = _checked(path, step_size, z, num_leapfrog)

    def move(carry: tuple[Array, Array], inputs: tuple[Array, ...]):
        z, log_weights = carry
        key, before, after, size = inputs
        log_weights += (after - before) * (log_end(z) - log_start(z))
        z, accepted = _hamiltonian_step(
            key, _between(log_start, log_end, after), z, size, num_leapfrog
        )
        return (z, log_weights), accepted.mean()

    keys = jax.random.split(rng, len(step_sizes))
    start = z, jnp.zeros(z.shape[:2], z.dtype)
    (z, log_weights), acceptance = jax.lax.scan(
        move, start, (keys, path[:-1], path[1:], step_sizes)
    )
    return Annealed(log_weights, z, acceptance, step_sizes)


def reverse(
    rng: Key,
    log_start: LogDensity,
    log_end: LogDensity,
    z: Array,
    path: Array,
    step_size: Array | float,
    num_leapfrog: int = 10,
) -> Annealed:
    """Weights for log Z(start) - log Z(end): minus their bound is an upper bound.

    The chain of `forward` backwards, from exact draws of the end. Of a model they are had with
    its own images: the latents that an image was drawn from are one draw of its posterior.

    Args:
        rng, log_start, log_end, path, step_size, num_leapfrog: as in `forward`.
        z: [K, B, L] exact draws of the end, one a chain.
    Returns:
        `Annealed`, of T steps from the end to the start.
    Raises:
        ValueError: as `forward`.
    """
    path, step_sizes, z = _checked(path, step_size, z, num_leapfrog)

    def move(carry: tuple[Array, Array], inputs: tuple[Array, ...]):
        z, log_weights = carry
        key, before, after, size = inputs
        z, accepted = _hamiltonian_step(
            key, _between(log_start, log_end, after), z, size, num_leapfrog
        )
        log_weights -= (after - before) * (log_end(z) - log_start(z))
        return (z, log_weights), accepted.mean()

    keys = jax.random.split(rng, len(step_sizes))
    start = z, jnp.zeros(z.shape[:2], z.dtype)
    (z, log_weights), acceptance = jax.lax.scan(
        move, start, (keys, path[:-1], path[1:], step_sizes), reverse=True
    )
    return Annealed(log_weights, z, acceptance, step_sizes)


def tune(
    rng: Key,
    log_start: LogDensity,
    log_end: LogDensity,
    z: Array,
    path: Array,
    step_size: float = 0.1,
    num_leapfrog: int = 10,
    acceptance: float = 0.65,
) -> Array:
    """Step sizes [T] for the path, by a run that is thrown away: sizes follow its acceptance.

    After each place the size grows by 2 % where more than the wanted share was accepted, else it
    shrinks by 2 %. The bounds hold for the sizes it returns, since `forward` and `reverse` draw
    afresh. 0.65 is best in high dimension, Beskos et al. 2013, arXiv:1001.4460.

    Args:
        rng, log_start, log_end, z, path, num_leapfrog: as in `forward`.
        step_size: where the sizes start.
        acceptance: the share to reach.
    Raises:
        ValueError: as `forward`, and for a share outside [0, 1].
    """
    checks.share("acceptance", acceptance)
    path, step_sizes, z = _checked(path, step_size, z, num_leapfrog)

    def move(carry: tuple[Array, Array], inputs: tuple[Array, Array]):
        z, size = carry
        key, after = inputs
        density = _between(log_start, log_end, after)
        z, accepted = _hamiltonian_step(key, density, z, size, num_leapfrog)
        factor = jnp.where(accepted.mean() > acceptance, 1.02, 1 / 1.02).astype(size.dtype)
        return (z, size * factor), size

    keys = jax.random.split(rng, len(step_sizes))
    return jax.lax.scan(move, (z, step_sizes[0]), (keys, path[1:]))[1]


def _between(log_start: LogDensity, log_end: LogDensity, place: Array) -> LogDensity:
    return lambda z: (1 - place) * log_start(z) + place * log_end(z)


def _hamiltonian_step(
    rng: Key, log_density: LogDensity, z: Array, size: Array, num_leapfrog: int
) -> tuple[Array, Array]:
    """One Hamiltonian move of every chain and whether it was accepted, [K, B, L] and [K, B] bool.

    Neal 2011, arXiv:1206.1901, fig. 2, with unit masses.
    """
    rng_momentum, rng_accept = jax.random.split(rng)
    slope = jax.grad(lambda z: log_density(z).sum())

    def leap(carry: tuple[Array, Array, Array], _: None):
        z, momentum, force = carry
        momentum += 0.5 * size * force
        z += size * momentum
        force = slope(z)
        return (z, momentum + 0.5 * size * force, force), None

    momentum = jax.random.normal(rng_momentum, z.shape, z.dtype)
    start = z, momentum, slope(z)
    (end, momentum_end, _), _ = jax.lax.scan(leap, start, None, length=num_leapfrog)
    gain = log_density(end) - log_density(z)
    gain += 0.5 * (jnp.square(momentum) - jnp.square(momentum_end)).sum(-1)
    threshold = jnp.log(jax.random.uniform(rng_accept, gain.shape, gain.dtype))
    accepted = threshold < gain  # a move to nan is refused
    return jnp.where(accepted[..., None], end, z), accepted


def _checked(
    path: Array, step_size: Array | float, z: Array, num_leapfrog: int
) -> tuple[Array, Array, Array]:
    """path [T + 1], step sizes [T] and z in one dtype, float32 or wider."""
    checks.count("num_leapfrog", num_leapfrog)
    positive("step_size", step_size)
    if z.ndim != 3:
        raise ValueError(f"z has shape {z.shape}: expected [K, B, L], chains first")
    known = not isinstance(path, jax.core.Tracer)
    if jnp.ndim(path) != 1 or len(path) < 2 or (known and not _rises(path)):
        raise ValueError(f"path={path}: expected [T + 1] numbers rising from 0 to 1")
    if jnp.shape(step_size) not in ((), (len(path) - 1,)):
        raise ValueError(
            f"step_size has shape {jnp.shape(step_size)}: expected [] or [T] = {(len(path) - 1,)}"
        )
    z, path, step_sizes = wide(z, path, step_size)
    return path, jnp.broadcast_to(step_sizes, len(path) - 1), z


def _rises(path: Array) -> bool:
    path = np.asarray(path)  # on the host: JAX would trace it inside a caller's jit
    return bool(path[0] == 0 and path[-1] == 1 and (np.diff(path) >= 0).all())
