"""Images from text with a latent diffusion model: generate, image to image, inpaint.

    images, info = pipeline.generate(model, params, ["a red circle"], jax.random.key(0))

Everything between tokens and images is one compiled program for a model, a list of steps, a size
and a batch: another prompt, guidance, seed or `first_index` compiles nothing. Example i draws all
its noise from fold_in(rng, first_index + i), so it can be made again alone, in another batch or on
other devices. Guidance evaluates the network once a step, on both prompts as one batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from library import checks as library_checks
from library.types import Array, Key, Params, at_least_float32
from research.diffusion.sampling import samplers
from research.text_to_image import checks, denoising, schedules
from research.text_to_image.model import Model

Prompts = str | Sequence[str]


@flax.struct.dataclass
class Info:
    """What a generation reports beside its images.

    Attributes:
        latents: [B, h, w, C], in the U-Net's space (scaled), of which the images are decoded.
        noise: [B, h, w, C], that the sampling drew; given as `latents` it gives the same images.
        steps: the steps of the table that were done, falling.
    """

    latents: Array
    noise: Array
    steps: tuple[int, ...] = flax.struct.field(pytree_node=False)


def generate(
    model: Model,
    params: Params,
    prompts: Prompts,
    rng: Key,
    num_steps: int = 30,
    guidance: float = 7.5,
    negative: Prompts | None = None,
    solver: samplers.Solver | None = None,
    spacing: str | None = None,
    latents: Array | None = None,
    first_index: int = 0,
    dtype: Any = None,
    *,
    size: int | tuple[int, int] | None = None,
    rescale: float = 0.0,
    interval: tuple[int, int] | None = None,
    mesh: Mesh | None = None,
) -> tuple[Array, Info]:
    """Images of prompts.

    Args:
        model, params: from `weights.load`, or trained here.
        prompts: B texts, or one.
        rng: [] key.
        num_steps: of the schedule's table.
        guidance: weight w of Ho and Salimans 2022, arXiv:2207.12598, u + w (c - u); at 1 the
            negative prompt is not asked, which is a program of its own.
        negative: what guidance leads away from, one text or one a prompt; None is "", or what the
            model has for it.
        solver: e.g. `samplers.dpm_solver_pp()`; None is the schedule's own.
        spacing: "leading", "trailing" or "linspace"; None is the schedule's own.
        latents: [B, h, w, C], the noise to start from, of standard deviation 1; None draws it.
        first_index: of the first image among all of `rng`.
        dtype: that the networks compute in; None is that of the U-Net's parameters. In float16 the
            first stage computes in float32: the published one of XL leaves float16's range.
        size: pixels of a side, or (height, width); None is the model's.
        rescale: amount of `guidance.rescale`, in [0, 1].
        interval: steps (low, high) of the table between which guidance acts, ends included
            (Kynkaanniemi et al. 2024, arXiv:2404.07724); None for all.
        mesh: over whose axis "data" the images are split, the parameters being put on all of it;
            None is where the parameters are.
    Returns:
        [B, H, W, 3] float32 or wider in [-1, 1], and `Info`.
    Raises:
        ValueError: for lists of other lengths, an inpainting network, a size that the networks
            cannot halve, latents of another shape, or a value out of its range, by its name.
    """
    checks.text_network(model)
    texts = checks.prompts(prompts)
    shape = (len(texts), *checks.latent_size(model, size), model.unet.out_channels)
    request, ask = _request(
        model, params, texts, shape, num_steps=num_steps, guidance=guidance, negative=negative,
        solver=solver, spacing=spacing, latents=latents, first_index=first_index, dtype=dtype,
        rescale=rescale, interval=interval, mesh=mesh,
    )  # fmt: skip
    return _run(request, params, rng, ask)


def image_to_image(
    model: Model,
    params: Params,
    prompts: Prompts,
    rng: Key,
    images: Array,
    strength: float = 0.6,
    **options: Any,
) -> tuple[Array, Info]:
    """Images led towards prompts, Meng et al. 2022, arXiv:2108.01073, in latents.

    Of the list's steps the last floor(strength num_steps) are done, from the image noised to the
    first of them. Strength 1 does all, and is `generate` where the first step holds no signal.

    Args:
        images: [B, H, W, 3] float in [-1, 1], one a prompt.
        strength: in [0, 1]; 0 returns decode(encode(images)), of the posterior's mean.
        options: as `generate`, without `size`.
    Raises:
        ValueError: for another strength, images of another number, size or range; as `generate`.
    """
    checks.text_network(model)
    return _edited(model, params, prompts, rng, images, None, strength, options)


def inpaint(
    model: Model,
    params: Params,
    prompts: Prompts,
    rng: Key,
    images: Array,
    mask: Array,
    strength: float = 1.0,
    **options: Any,
) -> tuple[Array, Info]:
    """Images painted anew where a mask is true, so that they fit their prompts.

    A network of nine channels reads the mask and the latents of the masked image. With any other
    the known latents, noised, are put back after every step, the replacement of
    `diffusion.inverse_problems`: biased, since what is drawn never learns that it does not fit.
    Either way latents outside the mask end as they were.

    Args:
        images: [B, H, W, 3] float in [-1, 1], one a prompt.
        mask: [H, W] or [B, H, W], bool or 0 and 1; true is painted. A latent pixel is painted if
            any of its pixels is.
        strength: in [0, 1]; below 1 the painted part starts from the noised image.
        options: as `generate`, without `size`.
    Raises:
        ValueError: for a mask of another shape or values; as `image_to_image`.
    """
    if mask is None:
        raise ValueError("mask=None: expected [H, W] or [B, H, W]")
    return _edited(model, params, prompts, rng, images, mask, strength, options)


@dataclasses.dataclass(frozen=True)
class _Request:
    """What a program is compiled for."""

    model: Model
    shape: tuple[int, ...]
    plan: denoising.Plan
    zero_negative: bool  # the negative prompt's features are zeros
    from_noise: bool  # what is painted begins with noise alone
    dtype: Any
    mesh: Mesh | None


@flax.struct.dataclass
class _Ask:
    """What the program is given: tokens [B, T] (a pair for two encoders), numbers, noise."""

    tokens: Any
    negative: Any
    guidance: denoising.Guidance
    first_index: Array
    noise: Array | None


def _request(
    model: Model,
    params: Params,
    texts: list[str],
    shape: tuple[int, ...],
    *,
    strength: float = 1.0,
    num_steps: int = 30,
    guidance: float = 7.5,
    negative: Prompts | None = None,
    solver: samplers.Solver | None = None,
    spacing: str | None = None,
    latents: Array | None = None,
    first_index: int = 0,
    dtype: Any = None,
    rescale: float = 0.0,
    interval: tuple[int, int] | None = None,
    mesh: Mesh | None = None,
) -> tuple[_Request, _Ask]:
    """The arguments of `generate`, checked, and cut into what is compiled for and what is given."""
    schedule = model.schedule
    library_checks.share("strength", strength)
    checks.weights(guidance, rescale)
    steps = schedules.timesteps(schedule, num_steps, spacing)
    start_std = schedules.start_std(schedule, steps, spacing)
    done = math.floor(strength * len(steps) + 1e-9)  # 0.29 * 100 is below 29
    plan = denoising.Plan(
        schedule,
        tuple(steps[len(steps) - done :].tolist()),
        checks.solver(schedules.solver(schedule) if solver is None else solver),
        start_std,
        guided=bool(guidance != 1),
        rescaled=bool(rescale),
        interval=checks.interval(interval, schedule.num_train_steps),
    )
    against = checks.negative(negative, len(texts))
    zero = negative is None and model.zero_negative
    checks.mesh(mesh, len(texts))
    noise = checks.latents(latents, shape)
    index = checks.first_index(first_index, len(texts))
    checks.params(model, params)
    given = checks.dtype(jax.tree.leaves(params["unet"])[0].dtype if dtype is None else dtype)
    dtype = jax.dtypes.canonicalize_dtype(given)
    request = _Request(model, shape, plan, zero, strength == 1, dtype, mesh)
    numbers = denoising.Guidance(jnp.asarray(guidance, float), jnp.asarray(rescale, float))
    return request, _Ask(model.tokens(texts), model.tokens(against), numbers, index, noise)


def _edited(model, params, prompts, rng, images, mask, strength, options) -> tuple[Array, Info]:
    texts = checks.prompts(prompts)
    images = checks.images(model, images, len(texts))
    mask = None if mask is None else checks.mask(mask, images.shape[:3])
    shape = (len(texts), *checks.latent_size(model, images.shape[1:3]), model.unet.out_channels)
    request, ask = _request(model, params, texts, shape, strength=strength, **options)
    return _run(request, params, rng, ask, images, mask)


def _run(
    request: _Request,
    params: Params,
    rng: Key,
    ask: _Ask,
    images: Array | None = None,
    mask: Array | None = None,
) -> tuple[Array, Info]:
    """The images of a request, on its mesh."""
    checks.key(rng)
    rows = (ask.tokens, ask.negative, ask.noise, images, mask)
    if request.mesh is not None:
        whole, split = (NamedSharding(request.mesh, P(*axes)) for axes in ((), ("data",)))
        params, rng, ask = jax.device_put((params, rng, ask), whole)
        rows = jax.device_put(rows, split)
    tokens, negative, noise, images, mask = rows
    ask = ask.replace(tokens=tokens, negative=negative, noise=noise)
    images, z, noise = _program(request, params, rng, ask, images, mask)
    return images, Info(z, noise, request.plan.steps)


@functools.partial(jax.jit, static_argnums=0)
def _program(
    request: _Request,
    params: Params,
    rng: Key,
    ask: _Ask,
    images: Array | None = None,
    mask: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Images, their latents and the noise of a request."""
    model, plan = request.model, request.plan
    first = jnp.float32 if request.dtype == jnp.float16 else request.dtype  # the first stage's
    cast = lambda tree, dtype: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
    params = {**cast(params, request.dtype), "vae": cast(params["vae"], first)}
    rngs = samplers.sample_rngs(rng, request.shape[0], ask.first_index)
    noise = ask.noise
    if noise is None:
        noise = samplers.prior_states(model.schedule.process, rngs, request.shape[1:])
    if request.mesh is not None:
        noise = jax.lax.with_sharding_constraint(noise, NamedSharding(request.mesh, P("data")))
    wide = lambda x: x.astype(at_least_float32(x.dtype))
    encode = lambda x: model.scale * (wide(model.encode(params, x.astype(first))[0]) - model.shift)
    known = None if images is None else encode(images)
    cells = None if mask is None else _cells(mask, model.factor)
    further = None
    if mask is not None and model.inpaints:
        masked = encode(jnp.where(mask[..., None], 0, images))
        further = jnp.concatenate([cells.astype(masked.dtype), masked], -1)
    network = _network(request, params, ask, further)
    x = denoising.run(
        plan, network, ask.guidance, noise, rngs,
        start=None if mask is not None and request.from_noise else known,
        replace=None if further is not None or cells is None else (cells, known),
    )  # fmt: skip
    if cells is not None:
        x = jnp.where(cells, x, known)
    z = x / model.scale + model.shift
    images = wide(model.decode(params, z.astype(first)))
    return jnp.clip(images, -1, 1), x, noise


def _network(request: _Request, params: Params, ask: _Ask, further: Array | None):
    """(x [B or 2B, ...], steps [B or 2B]) -> the prediction; two halves if it is guided."""
    model, (batch, height, width, _) = request.model, request.shape
    context, pooled = _conditions(request, params, ask)
    sizes = None
    if pooled is not None:
        pixels = [height * model.factor, width * model.factor]
        sizes = jnp.asarray([[*pixels, 0, 0, *pixels]], request.dtype)
        sizes = jnp.broadcast_to(sizes, (len(context), 6))

    def network(x: Array, steps: Array) -> Array:
        if further is not None:
            x = jnp.concatenate([x, jnp.tile(further, (len(x) // batch, 1, 1, 1))], -1)
        x = x.astype(request.dtype)
        return model.predict(params, x, steps, context, pooled, sizes)

    return network


def _conditions(request: _Request, params: Params, ask: _Ask) -> tuple[Array, Array | None]:
    """Hidden states and pooled text, of the negative prompts behind those of the prompts."""
    model = request.model

    def of(tokens: Any) -> tuple[Array, Array | None]:
        pooled = model.pooled_text(params, tokens) if model.unet.pooled_dim else None
        return model.encode_text(params, tokens), pooled

    positive = of(ask.tokens)
    if not request.plan.guided:
        return positive
    negative = jax.tree.map(jnp.zeros_like, positive) if request.zero_negative else of(ask.negative)
    return jax.tree.map(lambda *both: jnp.concatenate(both), positive, negative)


def _cells(mask: Array, factor: int) -> Array:
    """[B, H/f, W/f, 1] bool: where any pixel of a cell is true."""
    batch, height, width = mask.shape
    tiled = mask.reshape(batch, height // factor, factor, width // factor, factor)
    return tiled.any((2, 4))[..., None]
