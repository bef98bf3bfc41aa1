"""Our side of the parity: what a folder gives here, and how far it is from what is given there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Params
from research.text_to_image import model, pipeline, schedules

PROMPTS = ["a red circle", "Two blue squares, it's 12 o'clock! " + "word " * 90]
STEPS, GUIDANCE = 10, 7.5
PIECES = ("context", "pooled", "predict", "mean", "log_var", "decode")


def pieces(made: model.Model, params: Params, given: Mapping[str, np.ndarray]) -> dict:
    """Each network's output for the inputs of `peer.run`, in the floats of the parameters."""
    dtype = jax.tree.leaves(params)[0].dtype
    cast = lambda name: jnp.asarray(given[name], dtype)
    tokens = made.tokens(PROMPTS)
    found = {"context": jax.jit(made.encode_text)(params, tokens)}
    added = ()
    if "pooled" in given:
        found["pooled"] = jax.jit(made.pooled_text)(params, tokens)
        added = (cast("pooled"), cast("sizes"))
    found["predict"] = jax.jit(made.predict)(
        params, cast("latents"), given["t"], cast("context"), *added
    )
    found["mean"], found["log_var"] = jax.jit(made.encode)(params, cast("images"))
    found["decode"] = jax.jit(made.decode)(params, cast("z"))
    return found


def ddim(made: model.Model, params: Params, given: Mapping[str, np.ndarray], spacing: str):
    """Latents after ten guided DDIM steps on Stable Diffusion's table."""
    schedule = schedules.Schedule(kind=made.schedule.kind)
    made = dataclasses.replace(made, schedule=schedule)
    dtype = jax.tree.leaves(params)[0].dtype
    return pipeline.generate(
        made, params, PROMPTS, jax.random.key(0), STEPS, GUIDANCE, spacing=spacing,
        latents=np.asarray(given["noise"], dtype),
    )[1].latents  # fmt: skip


def gap(ours, theirs: np.ndarray) -> float:
    """Largest difference over the largest number."""
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max())
