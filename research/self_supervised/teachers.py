"""Networks that follow another slowly: momentum, moving averages, centre and temperature.

All are functions of arrays; what they update lives in `model_state`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from library import checks as library_checks
from library.types import Array, PyTree, at_least_float32
from research.self_supervised import checks, layout


def momentum(step: Array | int, num_steps: int, start: float = 0.996) -> Array:
    """1 - (1 - start) (cos(pi step / num_steps) + 1) / 2: from `start` to 1 along half a cosine.

    Grill et al. 2020, arXiv:2006.07733, section 3.2.

    Args:
        step: [] number of updates done; past `num_steps` the teacher stands still.
        num_steps: of the whole run.
        start: momentum at step 0, in [0, 1].
    Returns:
        [] float.
    Raises:
        ValueError: for a count that is not positive, or a start outside [0, 1].
    """
    library_checks.count("num_steps", num_steps, of="updates")
    library_checks.share("start", start)
    return 1 - (1 - start) * (jnp.cos(jnp.pi * _done(step, num_steps)) + 1) / 2


def warmup(step: Array | int, num_steps: int, start: float = 0.04, end: float = 0.07) -> Array:
    """A temperature that goes from `start` to `end` in a line, and stays there.

    Caron et al. 2021, arXiv:2104.14294, appendix A, where it takes 30 epochs.

    Args:
        step: [] number of updates done.
        num_steps: of the warm-up.
        start, end: > 0; where training collapses, lower them.
    Returns:
        [] float.
    Raises:
        ValueError: for a count or a temperature that is not positive.
    """
    library_checks.count("num_steps", num_steps, of="updates")
    checks.positive("start", start)
    checks.positive("end", end)
    return start + (end - start) * _done(step, num_steps)


def follow(teacher: PyTree, student: PyTree, momentum: Array | float) -> PyTree:
    """momentum * teacher + (1 - momentum) * student, leaf by leaf, without gradient.

    Args:
        teacher: pytree of float arrays, float32 at least: in half precision it would stand still.
        student: of the same structure, in any precision.
        momentum: [] in [0, 1].
    Returns:
        The new teacher, in its own dtypes.
    Raises:
        ValueError: for a teacher in half precision, another structure, or other shapes; for a
            number outside [0, 1].
    """
    if isinstance(momentum, int | float):
        library_checks.share("momentum", momentum)
    if jax.tree.structure(teacher) != jax.tree.structure(student):
        raise ValueError(
            f"the student is {jax.tree.structure(student)}: expected the teacher's "
            f"{jax.tree.structure(teacher)}"
        )

    def mix(old: Array, new: Array) -> Array:
        if jnp.shape(old) != jnp.shape(new):
            raise ValueError(f"a leaf of the student is {new.shape}: the teacher has {old.shape}")
        if at_least_float32(old) != old.dtype:
            raise ValueError(f"the teacher is kept in {old.dtype}: expected float32 at least")
        # In this form a teacher that equals its student stays equal to the bit.
        return old + (1 - jnp.asarray(momentum, old.dtype)) * (new.astype(old.dtype) - old)

    return jax.lax.stop_gradient(jax.tree.map(mix, teacher, student))


def centre(
    centre: Array, teacher: Array, momentum: float = 0.9, axis_name: str | None = None
) -> Array:
    """The running mean of the teacher's logits, moved *after* the loss that used the old one.

    Caron et al. 2021, arXiv:2104.14294, eq. (4).

    Args:
        centre: [K] float, float32 at least.
        teacher: [..., K] float, the teacher's logits for all its views and examples; no gradient.
        momentum: share of the old centre, in [0, 1].
        axis_name: mapped axis over which the batch is split: the mean is over all devices.
    Returns:
        [K] float.
    Raises:
        ValueError: for another K, or a momentum outside [0, 1].
    """
    library_checks.share("momentum", momentum)
    if jnp.ndim(centre) != 1 or jnp.ndim(teacher) < 2 or teacher.shape[-1] != len(centre):
        raise ValueError(
            f"teacher {jnp.shape(teacher)}, centre {jnp.shape(centre)}: expected [..., K] and [K]"
        )
    (teacher,) = checks.wide(jax.lax.stop_gradient(teacher))
    mean = layout.mean(teacher.reshape(-1, len(centre)).mean(0), axis_name)
    return momentum * centre + (1 - momentum) * mean.astype(centre.dtype)


def _done(step: Array | int, num_steps: int) -> Array:
    """The share of the steps that are done, in [0, 1]."""
    return jnp.clip(jnp.asarray(step, jnp.result_type(float)) / num_steps, 0, 1)
