"""Mixtures in the plane, games of perceptrons on them, and the modes that samples find."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from library.types import Array, Key
from research.gan import losses, training


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Equal Gaussians of one standard deviation.

    Attributes:
        means: [M, 2].
        scale: standard deviation of each along each axis.
    """

    means: np.ndarray
    scale: float


def ring(num: int, radius: float = 1.0, scale: float = 0.02) -> Mixture:
    """Modes evenly on a circle."""
    angles = 2 * np.pi * np.arange(num) / num
    return Mixture(radius * np.stack([np.cos(angles), np.sin(angles)], 1), scale)


def grid(side: int, half: float = 1.0, scale: float = 0.025) -> Mixture:
    """side^2 modes evenly in the square of that half width."""
    line = np.linspace(-half, half, side)
    return Mixture(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2), scale)


@dataclasses.dataclass(frozen=True)
class Rules:
    """A loss and whether either penalty is on."""

    loss: losses.Loss
    r1: bool = False
    r2: bool = False


@dataclasses.dataclass(frozen=True)
class Count:
    """What samples found.

    Attributes:
        num_modes: modes with a tenth or more of their share of good samples.
        high_quality: share of samples within four standard deviations of a mode.
    """

    num_modes: int
    high_quality: float


def count(samples: np.ndarray, mixture: Mixture) -> Count:
    """Modes found and share of good samples among points [N, 2]."""
    apart = np.linalg.norm(samples[:, None] - mixture.means[None], axis=-1)  # [N, M]
    nearest = apart.argmin(1)
    good = apart.min(1) <= 4 * mixture.scale
    hits = np.bincount(nearest[good], minlength=len(mixture.means))
    least = max(0.1 * len(samples) / len(mixture.means), 1)
    return Count(int((hits >= least).sum()), float(good.mean()))


class Perceptron(nn.Module):
    """Three hidden layers of leaky ReLU."""

    width: int
    out: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, D] -> [B, out]."""
        for _ in range(3):
            init = nn.initializers.he_normal()
            x = nn.leaky_relu(nn.Dense(self.width, kernel_init=init)(x), 0.2)
        return nn.Dense(self.out)(x)


LATENT = 8  # numbers of z


def play(
    rules: Rules,
    mixture: Mixture,
    *,
    num_seeds: int,
    num_steps: int,
    batch_size: int,
    width: int,
    learning_rate: float,
    gamma: float,
    num_samples: int,
    rng: Key,
) -> np.ndarray:
    """Samples [num_seeds, num_samples, 2] of the average generators of as many games."""
    generator, critic = Perceptron(width, 2), Perceptron(width, 1)

    def generate(params, model_state, rng, batch):
        z = training.latents(rng, len(batch), LATENT)
        return generator.apply(params, z), model_state

    def discriminate(params, model_state, rng, x, batch):
        return critic.apply(params, x)[:, 0], model_state

    schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
    optimizer = optax.adam(schedule, b1=0.0, b2=0.99)
    step = training.make_round(
        rules.loss, generate, discriminate, optimizer, optimizer,
        r1=gamma * rules.r1, r2=gamma * rules.r2, ema_decay=0.999,
    )  # fmt: skip
    means = jnp.asarray(mixture.means, jnp.float32)

    def draw(rng: Key) -> Array:
        which, noise = jax.random.split(rng)
        rows = jax.random.randint(which, (batch_size,), 0, len(means))
        return means[rows] + mixture.scale * jax.random.normal(noise, (batch_size, 2))

    def one(rng: Key) -> Array:
        init_rng, train_rng, data_rng, sample_rng = jax.random.split(rng, 4)
        g_rng, d_rng = jax.random.split(init_rng)
        params = {
            "generator": generator.init(g_rng, jnp.zeros((1, LATENT))),
            "discriminator": critic.init(d_rng, jnp.zeros((1, 2))),
        }
        optimizers = training.Optimizers(optimizer, optimizer)
        state = training.init_state(params, optimizers, train_rng, ema=True)
        body = lambda state, t: (step(state, draw(jax.random.fold_in(data_rng, t)))[0], None)
        state, _ = jax.lax.scan(body, state, jnp.arange(num_steps))
        z = jax.random.normal(sample_rng, (num_samples, LATENT))
        return generator.apply(state.ema["generator"], z)

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(rng, num_seeds)))
