"""One cell of a sweep: our GPT of some width, trained on some tokens by one recipe, evaluated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import sweep
from library.types import Array
from research.scaling_laws import noise_scale as noise
from research.transformers import losses, models, mup, published

VMAP_WIDTH = 32  # widest model whose seeds run faster together than in turn on 2 cores
INIT_STD = 0.1  # about width^-1/2
EVALUATED = 512  # windows of one evaluation call


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all runs of a sweep share.

    Attributes:
        vocab_size, length, depth: of the model.
        head_dim: features of a head.
        base_width: of muP; the learning rate is that of this width.
        batch_size: windows an update.
        warmup: share of the updates with a rising learning rate; a cosine to zero follows.
        steps_per_call: updates of one compiled call.
    """

    vocab_size: int
    length: int
    depth: int = 2
    head_dim: int = 8
    base_width: int = 16
    batch_size: int = 16
    warmup: float = 0.1
    steps_per_call: int = 20

    def model(self, width: int) -> models.DecoderConfig:
        """The GPT of a width, in muP."""
        return mup.widened(self.plain(width), self.plain(self.base_width))

    def num_parameters(self, width: int) -> int:
        """All matrices, the output one (tied to the embedding) included, without positions."""
        return 12 * self.depth * width**2 + self.vocab_size * width

    def num_steps(self, width: int, flops: float) -> int:
        """Updates that cost 6 N D = `flops`, to whole calls."""
        tokens = self.steps_per_call * self.batch_size * self.length
        calls = flops / (6 * self.num_parameters(width) * tokens)
        return self.steps_per_call * max(round(calls), 1)

    def plain(self, width: int) -> models.DecoderConfig:
        """The GPT of a width without muP."""
        heads = max(width // self.head_dim, 1)
        return plain(self.vocab_size, self.depth, width, heads, self.length)


def plain(
    vocab_size: int, depth: int, width: int, num_heads: int, length: int
) -> models.DecoderConfig:
    """nanoGPT's model with matrices of the size that widths of some tens want."""
    return published.nano_gpt(
        vocab_size, depth, width, num_heads, length, init_std=INIT_STD, unroll=depth
    )


def train(
    recipe: Recipe, width: int, windows: np.ndarray, rates: Sequence[float], seeds: Sequence[int]
) -> tuple[models.DecoderConfig, object]:
    """Trains R runs of one width on the same windows.

    Args:
        recipe: what they share.
        width: of the model.
        windows: [steps * batch_size, T + 1] int, each seen once; steps as `num_steps` rounds them.
        rates: [R] peak learning rates at the base width.
        seeds: [R] of their parameters.
    Returns:
        The config and the parameters, leaves [R, ...].
    """
    config, m = recipe.model(width), width / recipe.base_width
    stages = compiled(config, m, m, recipe.warmup, None if width <= VMAP_WIDTH else 1)
    batches = windows.reshape(-1, recipe.batch_size, windows.shape[1])
    return config, advance(stages, batches, recipe.steps_per_call, rates, seeds)


def advance(
    stages: tuple[Callable, Callable],
    batches: np.ndarray,
    steps_per_call: int,
    rates: Sequence[float],
    seeds: Sequence[int],
) -> object:
    """Parameters, leaves [R, ...], after one update on each of the batches [steps, B, T + 1]."""
    start, go_on = stages
    hyper = {
        "rate": np.asarray(rates, np.float32),
        "num_steps": np.full(len(rates), len(batches), np.float32),
    }
    states = start(jax.vmap(jax.random.key)(jnp.asarray(seeds)), hyper)
    for first in range(0, len(batches), steps_per_call):
        some = jnp.asarray(batches[first : first + steps_per_call])
        states, losses = go_on(states, {"tokens": some}, hyper)
        losses.block_until_ready()
    return states.params


@functools.cache
def compiled(
    config: models.DecoderConfig,
    init_multiplier: float,
    rate_multiplier: float,
    warmup: float,
    at_once: int | None,
) -> tuple[Callable, Callable]:
    """`sweep.compile_stages` of a model, for runs of any length.

    Args:
        config: of the model.
        init_multiplier, rate_multiplier: m of muP, by which the inner matrices' initial variance
            and learning rate are divided.
        warmup: share of the updates with a rising learning rate; a cosine to zero follows.
        at_once: see `sweep.train_many`.
    """
    model = models.Decoder(config)

    def init(rng: Array) -> object:
        params = model.init(rng, jnp.zeros((1, 1), jnp.int32))
        return mup.rescale(params, init_multiplier)

    def optimizer(rate: Array, num_steps: Array) -> optax.GradientTransformation:
        def schedule(step: Array) -> Array:
            rise = jnp.maximum(warmup * num_steps, 1.0)
            share = jnp.clip((step - rise) / (num_steps - rise), 0.0, 1.0)
            return rate * jnp.minimum((step + 1) / rise, 0.5 + 0.5 * jnp.cos(jnp.pi * share))

        return optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(0.9, 0.99),
            mup.scale_updates(rate_multiplier),
            optax.scale_by_learning_rate(schedule),
        )

    return sweep.compile_stages(init, losses.next_token(model.apply), optimizer, at_once=at_once)


def evaluate(config: models.DecoderConfig, params: object, windows: np.ndarray) -> np.ndarray:
    """[R] mean loss of each run over all windows, nats a token."""
    batches = windows[: len(windows) // EVALUATED * EVALUATED].reshape(
        -1, EVALUATED, windows.shape[1]
    )
    return np.asarray(_evaluate(config, params, jnp.asarray(batches)), np.float64)


def noise_scale(
    config: models.DecoderConfig, params: object, windows: np.ndarray, small: int
) -> noise.NoiseScale:
    """The gradient noise scale of the first run, in windows: pieces of `small` in draws of 16."""
    size = 16 * small
    draws = jnp.asarray(windows[: len(windows) // size * size].reshape(-1, size, windows.shape[1]))
    norms = _squared_norms(config, small, params, draws)
    return noise.from_two_batches(*jax.device_get(norms), small, size)


def vertex(rates: Sequence[float], values: Sequence[float]) -> float:
    """Where the parabola in log rate through the lowest value and its neighbours is lowest.

    At an end of the grid, that end.
    """
    x, y = np.log(rates), np.asarray(values, float)
    i = int(np.nanargmin(y))
    if i in (0, len(x) - 1) or not np.all(np.isfinite(y[i - 1 : i + 2])):
        return float(rates[i])
    bend, slope, _ = np.polyfit(x[i - 1 : i + 2] - x[i], y[i - 1 : i + 2], 2)
    return float(np.exp(x[i] - slope / (2 * bend)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _squared_norms(
    config: models.DecoderConfig, small: int, params: object, draws: Array
) -> tuple[Array, Array]:
    loss_fn = losses.next_token(models.Decoder(config).apply)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    loss = lambda params, tokens: loss_fn(params, {}, None, {"tokens": tokens})[0]  # noqa: E731
    return jax.lax.map(lambda d: noise.squared_norms(loss, first, d, small), draws)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(config: models.DecoderConfig, params: object, batches: Array) -> Array:
    loss = losses.next_token(models.Decoder(config).apply)

    def mean(params: object) -> Array:
        return jax.lax.map(
            lambda tokens: loss(params, {}, None, {"tokens": tokens})[0], batches
        ).mean()

    return jax.lax.map(mean, params)
