"""What `speed.cores` times: updates of five models on a mesh, and digits that are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from library import sharding
from library.train_step import init_state, make_train_step
from library.types import Aux, Batch, Key, LossFn, Params
from research import transformers, vision
from research.diffusion import losses, predictions, processes, samplers, unet

PROCESS = processes.vp()
NAMES = ("digits", "images", "vit", "decoder", "perceptron", "draws")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its data."""

    loss_fn: LossFn
    init: Callable[[Key], Params]
    batch: Batch


def training(batch_size: int, channels: tuple[int, ...], width: int) -> dict[str, Case]:
    """By name, the convolutional ones first."""
    half, tenth = max(batch_size // 2, 2), max(batch_size // 10 // 2 * 2, 2)
    wider = (*channels[:-1], 2 * channels[-1])
    images = np.random.default_rng(0).normal(size=(half, 32, 32, 3)).astype(np.float32)
    tokens = np.random.default_rng(0).integers(0, 65, (tenth, 129)).astype(np.int32)
    hidden = [f for _ in range(4) for f in (nn.Dense(width), nn.relu)]
    rows = np.random.default_rng(0).normal(size=(batch_size, width)).astype(np.float32)
    head_dim = max(width // 16, 2)
    decoder = transformers.published.llama(65, 4, 4 * head_dim, width, 4, 4)
    vit = vision.ViT(10, patch=4, width=4 * head_dim, depth=4, num_heads=4)
    return {
        "digits": _score(8, channels, batch_size),
        "images": _score(28, wider, half),
        "vit": _squared(vit, images),
        "decoder": _next_token(transformers.Decoder(decoder), tokens),
        "perceptron": _squared(nn.Sequential([*hidden, nn.Dense(1)]), rows),
    }


def updates(case: Case, mesh: Mesh, num_steps: int) -> Callable[[], object]:
    """Several updates by Adam, each waited for as the loop does."""
    optimizer = optax.adam(1e-3)

    def make_state():
        return init_state(case.init(jax.random.key(0)), optimizer, jax.random.key(1), ema=True)

    step = make_train_step(case.loss_fn, optimizer, ema_decay=0.999)
    compiled = sharding.compile_step(step, jax.eval_shape(make_state), mesh)
    state = sharding.init_on_mesh(make_state, mesh)

    def run() -> object:
        nonlocal state
        for _ in range(num_steps):
            state, metrics = compiled(state, case.batch)
            jax.block_until_ready(metrics)
        return metrics

    return run


def draws(
    channels: tuple[int, ...], num_samples: int, num_steps: int
) -> dict[int, Callable[[], object]]:
    """{number of devices: digits of an untrained network drawn on them}."""
    model = _unet(channels)
    x = jnp.zeros((1, 8, 8, 1))
    params = jax.jit(model.init)(jax.random.key(0), x, jnp.full(1, 0.5))

    @jax.jit
    def draw(params: Params, indices: jax.Array) -> jax.Array:
        apply = lambda x, t: model.apply(params, x, t, indices % 10)  # noqa: E731
        score = predictions.to_score(PROCESS, apply, "noise")
        return samplers.sample(
            score,
            PROCESS,
            jax.random.key(2),
            (len(indices), 8, 8, 1),
            solver=samplers.dpm_solver_pp(),
            grid=samplers.karras_grid(num_steps, t_end=1e-3, to_zero=True),
        )[0]

    indices = np.arange(num_samples)
    return {
        1: lambda: draw(params, indices),
        jax.device_count(): lambda: draw(*sharding.split_over_devices(params, indices)),
    }


def _unet(channels: tuple[int, ...]) -> unet.UNet:
    return unet.UNet(1, num_classes=10, channels=channels, attention_sizes=(4,))


def _score(size: int, channels: tuple[int, ...], batch_size: int) -> Case:
    model = _unet(channels)
    images = np.random.default_rng(0).normal(size=(batch_size, size, size, 1))
    batch = {"image": images.astype(np.float32), "label": np.zeros(batch_size, np.int32)}
    x = jnp.zeros((1, size, size, 1))
    return Case(
        losses.denoising_score_matching(PROCESS, model.apply, kind="noise"),
        lambda rng: model.init(rng, x, jnp.full(1, 0.5)),
        batch,
    )


def _squared(model: nn.Module, x: np.ndarray) -> Case:
    """Outputs drawn to zero."""

    def loss_fn(params, model_state, rng, batch):
        return jnp.square(model.apply(params, batch)).mean(), Aux(len(batch))

    return Case(loss_fn, lambda rng: model.init(rng, x[:1]), x)


def _next_token(model: nn.Module, tokens: np.ndarray) -> Case:
    def loss_fn(params, model_state, rng, batch):
        logits = model.apply(params, batch[:, :-1])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:])
        return loss.mean(), Aux(loss.size)

    return Case(loss_fn, lambda rng: model.init(rng, tokens[:1, :-1]), tokens)
