"""An adaptive likelihood inside jit beside the same flow given to SciPy on the host.

The host's way is that of the reference implementations (Song et al. 2021, arXiv:2011.13456): states
of the whole batch and their log densities flattened into one float64 vector, integrated in t by
`scipy.integrate.solve_ivp`, one round trip to the device an evaluation. Here the field and its
divergence are one jitted function, which already is cheaper than the two calls they make. Both
sides use the method of Dormand and Prince.
"""

from __future__ import annotations

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import integrate

from library import timing
from library.train_step import init_state, make_train_step, scan_steps
from library.types import Array
from research.diffusion import divergence, likelihood, losses, mlp, predictions
from research.diffusion.processes import Process

TOLERANCE = 1e-5  # absolute and relative, on both sides


def compare(
    process: Process, width: int, num_steps: int, batch: int, rounds: int
) -> dict[str, float]:
    """The gain in time, evaluations of both sides, and how far their log densities differ.

    Args:
        process: noising process, variance preserving.
        width: of a perceptron, trained here on eight Gaussians on a ring.
        num_steps: updates of its training.
        batch: points whose log density is evaluated.
        rounds: alternations that are counted.
    """
    model = mlp.MLP(width, depth=3)
    params = _trained(process, model, num_steps)
    score = predictions.to_score(process, lambda x, t: model.apply(params, x, t), "noise")
    points = _ring(jax.random.key(1), batch)
    steps = likelihood.adaptive(TOLERANCE, TOLERANCE, method=diffrax.Dopri5())
    ours = jax.jit(lambda x: likelihood.estimate(score, process, x, steps=steps))
    host = _on_host(process, score)
    times = timing.alternate(
        {"ours": lambda: ours(points).log_prob, "host": lambda: host(points)[0]}, rounds
    )
    estimate, (value, nfe) = ours(points), host(points)
    return {
        "likelihood_gain": timing.median_ratio(times, "host", "ours"),
        "likelihood_milliseconds_ours": float(1e3 * np.median(times["ours"])),
        "likelihood_milliseconds_host": float(1e3 * np.median(times["host"])),
        "likelihood_evaluations_ours": float(np.max(estimate.nfe)),
        "likelihood_evaluations_host": float(nfe),
        "likelihood_largest_difference_nats": float(np.abs(estimate.log_prob - value).max()),
    }


def _on_host(process: Process, score: predictions.Score) -> Callable[[Array], tuple]:
    """points [B, 2] -> log densities [B] and the number of evaluations."""

    @jax.jit
    def field(flat: Array, t: Array) -> Array:
        x = flat.reshape(-1, 3)[:, :2]
        times = jnp.full(x.shape[:1], t)

        def flow(x: Array) -> Array:
            square = process.diffusion(times)[:, None] ** 2
            return process.drift(x, times) - 0.5 * square * score(x, times)

        velocity, trace = divergence.exact(flow, x)
        return jnp.concatenate([velocity, trace[:, None]], -1).reshape(-1)

    def solve(points: Array) -> tuple[np.ndarray, int]:
        start = np.concatenate([np.asarray(points), np.zeros((len(points), 1))], 1).reshape(-1)
        solution = integrate.solve_ivp(
            lambda t, y: np.asarray(field(y.astype(np.float32), t), np.float64),
            (process.t_min, process.t_max),
            start.astype(np.float64),
            method="RK45",
            rtol=TOLERANCE,
            atol=TOLERANCE,
        )
        end = solution.y[:, -1].reshape(-1, 3)
        prior = process.prior_log_prob(jnp.asarray(end[:, :2], jnp.float32))
        return np.asarray(prior) + end[:, 2], solution.nfev

    return solve


def _trained(process: Process, model: mlp.MLP, num_steps: int) -> dict:
    """Parameters after a few seconds of denoising score matching."""
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))
    step = make_train_step(losses.denoising_score_matching(process, model.apply), optimizer)

    @jax.jit
    def train() -> dict:
        init = model.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
        state = init_state(init, optimizer, jax.random.key(2))
        batches = jax.vmap(lambda rng: {"image": _ring(rng, 256)})(
            jax.random.split(jax.random.key(3), num_steps)
        )
        return scan_steps(step)(state, batches)[0].params

    return train()


def _ring(rng: Array, num: int) -> Array:
    """[N, 2] draws from eight Gaussians of standard deviation 0.15 on the unit circle."""
    label_rng, noise_rng = jax.random.split(rng)
    angle = jax.random.randint(label_rng, (num,), 0, 8) * (jnp.pi / 4)
    centres = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return centres + 0.15 * jax.random.normal(noise_rng, (num, 2))
