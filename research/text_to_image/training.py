"""Training a text-to-image model: the loss on latents of a table's steps, with prompts left out.

A batch is {"image": scaled latents [B, h, w, C], "label": tokens [B, T]}, and if wanted "mask" [B].
`diffusion.latent.on_latents(loss_fn, first_stage)` makes it a loss on images.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Aux, Batch, Key, LossFn, ModelState, Params
from research.diffusion import draws, latent
from research.diffusion.curves import expand
from research.text_to_image.model import Model


def loss(model: Model, null: Array | None = None, drop_rate: float = 0.1) -> LossFn:
    """Mean squared error of the model's prediction at a uniform step of its whole table.

    Ho et al. 2020, arXiv:2006.11239, eq. (14), for what the schedule says is predicted; of a table
    without terminal signal the last step is trained too. Prompts are replaced by `null` at a rate,
    for guidance (Ho and Salimans 2022, arXiv:2207.12598).

    The parameters are {"unet": ..., "text_encoder": ...}; a network that is not among them is read
    from the model state, where nothing is trained.

    Args:
        model: the networks and the schedule.
        null: [T] tokens of the empty prompt; None is that of the model's tokeniser.
        drop_rate: share of prompts that are replaced, in [0, 1].
    Returns:
        `LossFn`, a mean over examples.
    Raises:
        ValueError: for a rate outside [0, 1], or a model of two encoders.
    """
    checks.share("drop_rate", drop_rate)
    if model.text_encoder_2 is not None:
        raise ValueError("a model of two text encoders: expected one")
    null = jnp.asarray(model.tokens([""])[0] if null is None else null, jnp.int32)
    bar = model.schedule.alpha_bar
    alpha, sigma = np.sqrt(bar), np.sqrt(1 - bar)

    def loss_fn(
        params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        networks = {**model_state, **params}
        z = draws.floats(batch["image"])
        keys = draws.example_keys(rng, len(z), 3)
        steps = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(bar)))(keys[0])
        noise = draws.normals(keys[1], z)
        dropped = jax.vmap(jax.random.uniform)(keys[2]) < drop_rate
        tokens = jnp.where(dropped[:, None], null[None], batch["label"])
        a, s = (expand(jnp.asarray(row, z.dtype)[steps], z) for row in (alpha, sigma))
        target = {"noise": noise, "data": z, "v": a * noise - s * z}[model.schedule.kind]
        context = model.encode_text(networks, tokens)
        out = model.predict(networks, (a * z + s * noise).astype(z.dtype), steps, context)
        return draws.masked_mean(draws.mean_square(draws.floats(out) - target), batch.get("mask"))

    return loss_fn


def first_stage(model: Model, params: Params) -> latent.FirstStage:
    """The model's first stage with its scale, for `diffusion.latent`.

    Args:
        params: with "vae"; e.g. a model state.
    """
    return latent.FirstStage(
        lambda images: model.encode(params, images),
        lambda z: model.decode(params, z),
        model.scale,
        model.shift,
    )


def init(model: Model, rng: Key, networks: Sequence[str] = ("unet", "text_encoder")) -> Params:
    """Fresh parameters of the named networks; may be traced.

    Raises:
        ValueError: for another name.
    """
    height, width = model.sample_size
    tokens = jnp.zeros((1, model.tokenizer.max_length), jnp.int32)
    z = jnp.zeros((1, height, width, model.unet.in_channels))
    pixels = (1, model.factor * height, model.factor * width, model.vae.image_channels)
    context = jnp.zeros((1, model.tokenizer.max_length, model.unet.context_dim))
    args = {
        "unet": (model.unet, z, jnp.zeros(1), context),
        "text_encoder": (model.text_encoder, tokens),
        "vae": (model.vae, jnp.zeros(pixels)),
    }
    for name in networks:
        if name not in args:
            raise ValueError(f"network {name!r}: expected some of {', '.join(args)}")
    rngs = dict(zip(args, jax.random.split(rng, len(args))))
    return {name: args[name][0].init(rngs[name], *args[name][1:]) for name in networks}
