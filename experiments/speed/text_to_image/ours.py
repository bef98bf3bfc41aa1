"""Our side: the model that is timed, and two compiled loops over its network."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library.data import shapes
from library.types import Params
from research.text_to_image import (
    configs,
    denoising,
    model,
    schedules,
    text_encoder,
    training,
    unet,
    vocabularies,
)
from research.vae.networks import autoencoder


def build(width: int, size: int, published: bool) -> tuple[model.Model, Params]:
    """The model of `question.Config` and random parameters."""
    tokenizer = vocabularies.learn(shapes.caption(shapes.scene(i)) for i in range(100))
    schedule = schedules.Schedule()
    if published:
        shape = configs.STABLE_DIFFUSION_1_5
        made = model.Model(
            shape.unet, shape.vae, shape.text_encoder, tokenizer, schedule,
            sample_size=(shape.sample_size,) * 2,
        )  # fmt: skip
    else:
        made = model.Model(
            unet.UNet(
                channels=(width, 2 * width), num_blocks=1, depths=(1, 1),
                num_heads=max(1, width // 8), context_dim=2 * width, num_groups=min(8, width),
            ),
            autoencoder.Autoencoder((width, width), num_blocks=1, num_groups=min(8, width)),
            text_encoder.clip(2, 2 * width, max(1, width // 8), vocab_size=len(tokenizer)),
            tokenizer, schedule, sample_size=(size, size),
        )  # fmt: skip
    networks = ("unet", "text_encoder", "vae")
    outline = jax.eval_shape(lambda rng: training.init(made, rng, networks), jax.random.key(0))
    rng = np.random.default_rng(0)
    dtype = jnp.bfloat16 if published else np.float32
    draw = lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), dtype)
    return made, jax.tree.map(draw, outline)


def loops(
    made: model.Model, params: Params, batch: int, num_steps: int
) -> dict[str, Callable[[], float]]:
    """Two programs on the same batches: guided sampling, and the network as often."""
    height, width = made.sample_size
    shape = (batch, height, width, made.unet.out_channels)
    noise = jax.random.normal(jax.random.key(1), shape)
    tokens = made.tokens(["a red circle"] * batch + [""] * batch)
    context = jax.jit(made.encode_text)(params, tokens)
    steps = schedules.timesteps(made.schedule, num_steps)
    plan = denoising.Plan(made.schedule, tuple(steps.tolist()), schedules.solver(made.schedule))
    rngs = jax.random.split(jax.random.key(0), batch)

    def network(params, x, t):
        return made.predict(params, x.astype(context.dtype), t, context)

    @jax.jit
    def sample(params, noise):
        guidance = denoising.Guidance(jnp.float32(4), jnp.float32(0))
        of = lambda x, t: network(params, x, t)
        return denoising.run(plan, of, guidance, noise, rngs)

    @jax.jit
    def alone(params, noise):
        x = jnp.concatenate([noise, noise])
        body = lambda x, t: (network(params, x, jnp.full(len(x), t)).astype(x.dtype), None)
        return jax.lax.scan(body, x, jnp.asarray(steps, jnp.float32))[0]

    return {
        "latents": lambda: float(sample(params, noise).sum()),
        "bare": lambda: float(alone(params, noise).sum()),
    }
