"""Edits of given images by a latent model: image to image by strength, inpainting.

For continuous processes; nothing here knows what the first stage or the score is made of. As in
`samplers.sample`, example i draws all its noise from fold_in(rng, first_index + i).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Key
from research.diffusion import inverse_problems
from research.diffusion.curves import expand
from research.diffusion.inverse_problems import Measurement
from research.diffusion.latent.first_stages import FirstStage
from research.diffusion.predictions import Score
from research.diffusion.processes import Process
from research.diffusion.sampling import samplers
from research.diffusion.sampling.grids import Grid
from research.diffusion.sampling.solvers import Solver

# (process, score, measurement) -> the score given the measurement
Guide = Callable[[Process, Score, Measurement], Score]


@flax.struct.dataclass
class Edit:
    """Edited images.

    Attributes:
        images: [B, ...].
        latents: [B, ...], scaled, of which they are.
        nfe: evaluations of the score.
    """

    images: Array
    latents: Array
    nfe: int


def image_to_image(
    first_stage: FirstStage,
    score: Score,
    process: Process,
    rng: Key,
    x: Array,
    *,
    strength: float,
    solver: Solver,
    grid: Grid,
    first_index: int | Array = 0,
) -> Edit:
    """Images noised to a time of the grid and carried on from there, SDEdit in latents.

    Meng et al. 2022, arXiv:2108.01073. Of the grid's N steps the last floor(strength N) are run,
    from alpha z + sigma noise at their first time. The noise is that of `samplers.sample`, so that
    strength 1 is its sample exactly where alpha(t_max) is 0; elsewhere it sees a rest of the image.

    Args:
        first_stage: whose posterior means are edited.
        score: of scaled latents.
        process: the noising process of the score.
        rng: [] key.
        x: [B, ...] images.
        strength: in [0, 1]; 0 returns decode(encode(x)).
        solver: how to step; not `adaptive`, which has no steps to leave out.
        grid: where a full run would step; of concrete times.
        first_index: index of the first example among all of `rng`.
    Raises:
        ValueError: for a strength outside [0, 1]; as `samplers.sample`.
    """
    checks.share("strength", strength)
    if not isinstance(grid, Grid):
        raise ValueError(f"grid={grid!r}: expected a grid such as samplers.log_snr_grid(40)")
    z = first_stage.to_latent(x)
    num_steps = math.floor(strength * grid.num_steps + 1e-9)  # 0.29 * 100 is below 29
    if not num_steps:
        return Edit(first_stage.to_image(z), z, 0)
    rest = _last(grid, process, num_steps)
    rngs = samplers.sample_rngs(rng, len(z), first_index)
    noise = samplers.prior_states(process, rngs, z.shape[1:]).astype(z.dtype) / process.prior_std
    t = jnp.full(len(z), rest.ends(process)[0], z.dtype)
    start = expand(process.alpha(t), z) * z + expand(process.sigma(t), z) * noise
    z, info = samplers.solve(score, process, start, solver=solver, grid=rest, rngs=rngs)
    return Edit(first_stage.to_image(z), z, info.nfe)


def inpaint(
    first_stage: FirstStage,
    score: Score,
    process: Process,
    rng: Key,
    x: Array,
    mask: np.ndarray,
    *,
    solver: Solver,
    grid: Grid,
    guide: Guide | None = None,
    first_index: int | Array = 0,
) -> Edit:
    """Images drawn anew where a mask is true; elsewhere their latents stay as they are.

    By default by `inverse_problems.replacement`: the known part of the state is overwritten at
    every step. It is biased even with an exact score, since the rest never learns that it does not
    fit: of two latents of correlation 0.8 (200 Euler steps) it moves the mean by 0.43 of what the
    known one says, and the variance is 1.63 times that of the conditional. With `guide` the score
    itself is conditioned; by `posterior_mean_guidance` with the covariance of the
    latents the law is the exact conditional on a Gaussian.

    Args:
        first_stage: whose posterior means are kept.
        score: of scaled latents.
        process: the noising process of the score.
        rng: [] key.
        x: [B, ...] images.
        mask: bool, [h, w, ...] of one latent, or without its channels; true is drawn anew.
        solver, grid: as for `samplers.sample`.
        guide: (process, score, measurement) -> score, e.g. `inverse_problems.
            posterior_mean_guidance`; None is replacement.
        first_index: index of the first example among all of `rng`.
    Raises:
        ValueError: for a mask of another shape, or true everywhere or nowhere; as `sample`.
    """
    z = first_stage.to_latent(x)
    mask = _whole_mask(mask, z.shape[1:])
    known = inverse_problems.inpainting(~mask, np.zeros(mask.shape, np.float32))
    measurement = lambda y: dataclasses.replace(known, observed=y)
    observed = known.observe(z)  # [B, M]
    one = lambda function: jax.vmap(lambda y, *args: function(y, *(a[None] for a in args))[0])
    if guide is None:
        replace = one(lambda y, *args: inverse_problems.replacement(process, measurement(y))(*args))
        used, project = score, lambda x, t, rngs: replace(observed, x, t, rngs)
    else:
        guided = one(lambda y, *args: guide(process, score, measurement(y))(*args))
        used, project = lambda x, t: guided(observed, x, t), None
    drawn, info = samplers.sample(
        used, process, rng, z.shape, solver=solver, grid=grid, first_index=first_index,
        project=project,
    )  # fmt: skip
    z = jnp.where(mask[None], drawn, z)  # the last step leaves the known part a little noise
    return Edit(first_stage.to_image(z), z, info.nfe)


def to_latent_mask(mask: np.ndarray, factor: int) -> np.ndarray:
    """[H/f, W/f] bool of a mask of pixels [H, W]: true where any pixel of a cell is.

    Raises:
        ValueError: if the factor does not divide the sides.
    """
    checks.count("factor", factor)
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.shape[0] % factor or mask.shape[1] % factor:
        raise ValueError(f"mask {list(mask.shape)}: expected [H, W], multiples of {factor}")
    height, width = (side // factor for side in mask.shape)
    return mask.astype(bool).reshape(height, factor, width, factor).any((1, 3))


def _last(grid: Grid, process: Process, num_steps: int) -> Grid:
    """The last steps of a grid as one of their own; the grid itself for all of them."""
    if num_steps == grid.num_steps:
        return grid
    with jax.ensure_compile_time_eval():
        times = np.asarray(grid.times(process), np.float64)
    return samplers.times_grid(times[grid.num_steps - num_steps :], to_zero=grid.to_zero)


def _whole_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of one latent, with all of its channels."""
    mask = np.asarray(mask)
    given = mask.shape
    if given == shape[:-1] and len(shape) > 1:
        mask = np.broadcast_to(mask[..., None], shape)
    if mask.shape != shape or mask.dtype != bool or mask.all() or not mask.any():
        raise ValueError(
            f"mask {mask.dtype}{list(given)}, {mask.mean():.3g} of it true: expected bool of "
            f"{list(shape)} or without its channels, true and false somewhere"
        )
    return mask
