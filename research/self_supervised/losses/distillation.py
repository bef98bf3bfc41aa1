"""Losses of a student that follows a teacher's distribution over prototypes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from library import checks as library_checks
from library.types import Array
from research.self_supervised import checks, layout


def dino(
    student: Array,
    teacher: Array,
    centre: Array,
    student_temperature: float = 0.1,
    teacher_temperature: float | Array = 0.04,
) -> Array:
    """DINO's loss, Caron et al. 2021, arXiv:2104.14294, algorithm 1.

    Cross-entropy of softmax(student / tau_s) from softmax((teacher - centre) / tau_t), over all
    pairs of a teacher's view and *another* view of the student. Uniform outputs give ln K.

    Args:
        student: [V, B, K] float, logits of all views, those of the teacher first.
        teacher: [T, B, K] float, logits of the first T <= V views (the global crops); no gradient.
        centre: [K] float (or [1, K]), the running mean of the teacher's logits, see
            `teachers.centre`; no gradient.
        student_temperature, teacher_temperature: > 0; the second may be an array, as
            `teachers.warmup` gives it.
    Returns:
        [] float, nats, mean over pairs and B: the mean over devices of a split batch is that of the
        whole.
    Raises:
        ValueError: for shapes that don't fit, or a temperature that is not positive.
    """
    checks.positive("student_temperature", student_temperature)
    checks.positive("teacher_temperature", teacher_temperature)
    if jnp.ndim(teacher) != 3 or jnp.size(centre) != teacher.shape[-1]:
        raise ValueError(
            f"teacher {jnp.shape(teacher)}, centre {jnp.shape(centre)}: expected [T, B, K] and [K]"
        )
    teacher, centre = checks.wide(teacher, centre)
    logits = (teacher - centre.reshape(1, 1, -1)) / teacher_temperature
    return view_cross_entropy(student, jax.nn.softmax(logits, axis=-1), student_temperature)


def view_cross_entropy(student: Array, targets: Array, temperature: float = 0.1) -> Array:
    """Cross-entropy of the student's views from the teacher's other views.

    Args:
        student: [V, B, K] float, logits of all views, those of the teacher first.
        targets: [T, B, K] float, probabilities for the first T <= V views, e.g. `sinkhorn` of the
            teacher's logits; no gradient.
        temperature: of the student, > 0.
    Returns:
        [] float, nats, mean over the pairs of different views and B.
    Raises:
        ValueError: for one view, shapes that don't fit, or a temperature that is not positive.
    """
    checks.positive("temperature", temperature)
    checks.views("student", student)
    num_views, size, _ = student.shape
    if jnp.ndim(targets) != 3 or targets.shape[1:] != student.shape[1:]:
        raise ValueError(
            f"teacher {jnp.shape(targets)}, student {student.shape}: expected [T, B, K], [V, B, K]"
        )
    if not 1 <= len(targets) <= num_views:
        raise ValueError(f"{len(targets)} views of the teacher for {num_views} of the student")
    student, targets = checks.wide(student, targets)
    log_p = jax.nn.log_softmax(student / temperature, axis=-1)
    entropies = -jnp.einsum("tbk,vbk->tv", jax.lax.stop_gradient(targets), log_p) / size
    other = ~jnp.eye(len(targets), num_views, dtype=bool)
    return jnp.where(other, entropies, 0).sum() / (len(targets) * (num_views - 1))


def sinkhorn(
    logits: Array,
    temperature: float = 0.05,
    num_iterations: int = 3,
    axis_name: str | None = None,
) -> Array:
    """Assignments to prototypes that use all of them: Sinkhorn-Knopp, without gradient.

    exp(logits / tau), whose columns and rows are normalised in turn, rows last: Caron et al. 2020,
    arXiv:2006.09882, eq. (3) to (5). In the limit columns sum to B / K.

    Args:
        logits: [B, K] float, the teacher's.
        temperature: tau > 0.
        num_iterations: of both normalisations, >= 1.
        axis_name: mapped axis over which the batch is split; None has it whole.
    Returns:
        [B, K] float, probabilities: rows sum to 1.
    Raises:
        ValueError: for another shape, a temperature or a count that is not positive.
    """
    checks.positive("temperature", temperature)
    library_checks.count("num_iterations", num_iterations)
    if jnp.ndim(logits) != 2:
        raise ValueError(f"logits have shape {jnp.shape(logits)}: expected [B, K]")
    (logits,) = checks.wide(jax.lax.stop_gradient(logits))

    def normalise(_: int, log_q: Array) -> Array:
        log_q -= _logsumexp_of_all(log_q, axis_name)
        return log_q - jax.nn.logsumexp(log_q, axis=1, keepdims=True)

    return jnp.exp(jax.lax.fori_loop(0, num_iterations, normalise, logits / temperature))


def koleo(z: Array, axis_name: str | None = None) -> Array:
    """Minus the mean log of the distance to the nearest neighbour, which spreads a batch out.

    Sablayrolles et al. 2019, arXiv:1806.03198, section 3.2. Distances are of normalised vectors,
    and not below 1e-8 inside the logarithm, so that duplicates in a batch give neither inf nor nan.

    Args:
        z: [B, D] float.
        axis_name: mapped axis over which the batch is split; None has it whole.
    Returns:
        [] float, nats, mean over B.
    Raises:
        ValueError: for another shape or a batch of one example.
    """
    if jnp.ndim(z) != 2:
        raise ValueError(f"z has shape {jnp.shape(z)}: expected [B, D]")
    total = checks.batch(len(z), axis_name, "a nearest neighbour")
    z = checks.unit(*checks.wide(z))
    everyone = layout.gather(z, axis_name)  # [B, D]
    own = layout.places(len(z), axis_name)[:, None] == jnp.arange(total)[None, :]
    products = jnp.where(own, -jnp.inf, jnp.einsum("bd,cd->bc", z, everyone))
    nearest = everyone[jax.lax.stop_gradient(products).argmax(1)]  # [b, D]
    squares = jnp.square(z - nearest).sum(1)
    return layout.mean(-jnp.log(jnp.maximum(squares, 1e-16)).mean() / 2, axis_name)


def _logsumexp_of_all(x: Array, axis_name: str | None) -> Array:
    """log sum exp over the rows of all devices, [1, K]."""
    top = x.max(0, keepdims=True)
    top = top if axis_name is None else jax.lax.pmax(top, axis_name)
    total = jnp.exp(x - top).sum(0, keepdims=True)
    return top + jnp.log(total if axis_name is None else jax.lax.psum(total, axis_name))
