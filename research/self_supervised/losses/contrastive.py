"""Losses that tell the other view of an example from views of other examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from library.types import Array
from research.self_supervised import checks, layout


def nt_xent(z1: Array, z2: Array, temperature: float = 0.5, axis_name: str | None = None) -> Array:
    """SimCLR's loss: which of the other 2B - 1 views is the same example's?

    -log exp(cos(z, z+) / tau) / sum over others exp(cos(z, z') / tau), Chen et al. 2020,
    arXiv:2002.05709, eq. (1). With D >= B - 1 its minimum is
    ln(1 + (2B - 2) exp(-B / ((B - 1) tau))); embeddings that are all equal give ln(2B - 1).

    Args:
        z1, z2: [B, D] float, the two views of each example, not yet normalised.
        temperature: tau > 0.
        axis_name: mapped axis over which the batch is split; None has it whole.
    Returns:
        [] float, nats, mean over the 2B views.
    Raises:
        ValueError: for two shapes, a batch of one example, a temperature that is not positive.
    """
    checks.pair("z1", z1, "z2", z2)
    rows = layout.places(len(z1), axis_name)
    everyone = jnp.arange(layout.size(len(z1), axis_name))
    same = rows[:, None] == everyone[None, :]  # [b, B]
    return _contrast(jnp.stack(checks.wide(z1, z2)), same, temperature, axis_name)


def sup_con(
    z: Array, labels: Array, temperature: float = 0.1, axis_name: str | None = None
) -> Array:
    """Supervised contrastive loss: all views of all examples of the same label are positives.

    The mean over positives stands outside the logarithm: L_out of Khosla et al. 2020,
    arXiv:2004.11362, eq. (2), without the factor that their code has, temperature / 0.07. With two
    views and labels that are all different it is `nt_xent`.

    Args:
        z: [V, B, D] float, V >= 2 views, not yet normalised.
        labels: [B] int.
        temperature: tau > 0.
        axis_name: mapped axis over which the batch is split; None has it whole.
    Returns:
        [] float, nats, mean over the V B views.
    Raises:
        ValueError: for one view, labels of another batch or no integers, a batch of one example, a
            temperature that is not positive.
    """
    checks.views("z", z)
    labels = jnp.asarray(labels)
    if labels.shape != z.shape[1:2] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels {labels.dtype}{list(labels.shape)}: expected integers [{z.shape[1]}]"
        )
    same = labels[:, None] == layout.gather(labels, axis_name)[None, :]  # [b, B]
    return _contrast(*checks.wide(z), same, temperature, axis_name)


def info_nce(queries: Array, keys: Array, negatives: Array, temperature: float = 0.2) -> Array:
    """MoCo's loss: which of 1 + Q keys is the query's? He et al. 2020, arXiv:1911.05722, eq. (1).

    Args:
        queries: [B, D] float, not yet normalised.
        keys: [B, D] float, the positives; no gradient.
        negatives: [Q, D] float, e.g. `queue.keys`; no gradient.
        temperature: tau > 0.
    Returns:
        [] float, nats, mean over B: the mean over devices of a split batch is that of the whole.
    Raises:
        ValueError: for shapes that don't fit, or a temperature that is not positive.
    """
    checks.positive("temperature", temperature)
    checks.pair("queries", queries, "keys", keys)
    if jnp.ndim(negatives) != 2 or negatives.shape[1] != queries.shape[1] or not len(negatives):
        raise ValueError(
            f"negatives have shape {jnp.shape(negatives)}: expected [Q, {queries.shape[1]}]"
        )
    queries, keys, negatives = map(checks.unit, checks.wide(queries, keys, negatives))
    keys, negatives = jax.lax.stop_gradient((keys, negatives))
    positive = jnp.einsum("bd,bd->b", queries, keys) / temperature
    others = jnp.einsum("bd,qd->bq", queries, negatives) / temperature
    total = jax.nn.logsumexp(jnp.concatenate([positive[:, None], others], axis=1), axis=1)
    return (total - positive).mean()


def moco_v3(
    queries: Array, keys: Array, temperature: float = 0.2, axis_name: str | None = None
) -> Array:
    """MoCo v3's symmetric loss, times 2 tau: Chen et al. 2021, arXiv:2104.02057, algorithm 1.

    The query of one view looks for its example among the keys that all examples have for the other.

    Args:
        queries: [2, B, D] float, predictions of the network for both views, not yet normalised.
        keys: [2, B, D] float, the teacher's projections of the same views; no gradient.
        temperature: tau > 0.
        axis_name: mapped axis over which the batch is split; None has it whole.
    Returns:
        [] float, 2 tau times the sum of both directions, each a mean over B.
    Raises:
        ValueError: for other than two views, two shapes, a batch of one example, a temperature that
            is not positive.
    """
    checks.positive("temperature", temperature)
    checks.views("queries", queries, exactly=2)
    checks.pair("queries", queries, "keys", keys, "[2, B, D]")
    size = queries.shape[1]
    total = checks.batch(size, axis_name, "negatives")
    queries, keys = map(checks.unit, checks.wide(queries, keys))
    keys = layout.gather(jax.lax.stop_gradient(keys), axis_name, axis=1)[::-1]  # [2, B, D]
    logits = jnp.einsum("vbd,vcd->vbc", queries, keys) / temperature  # [2, b, B]
    own = layout.places(size, axis_name)[:, None] == jnp.arange(total)[None, :]
    log_p = jnp.where(own[None], jax.nn.log_softmax(logits, axis=-1), 0).sum(-1)  # [2, b]
    return layout.mean(-2 * temperature * log_p.mean(1).sum(), axis_name)


def spectral(z1: Array, z2: Array, axis_name: str | None = None) -> Array:
    """The spectral contrastive loss, HaoChen et al. 2021, arXiv:2106.04156, eq. (6).

    -2 E z1 . z2 + E over pairs i != j of (z1_i . z2_j)^2. In the limit of many examples its minimum
    is minus the sum of the squares of the D largest eigenvalues of the normalised augmentation
    graph, see `research.self_supervised.graphs`.

    Args:
        z1, z2: [B, D] float, the two views, used as they are.
        axis_name: mapped axis over which the batch is split; None has it whole.
    Returns:
        [] float.
    Raises:
        ValueError: for two shapes or a batch of one example.
    """
    checks.pair("z1", z1, "z2", z2)
    total = checks.batch(len(z1), axis_name, "pairs of different examples")
    z1, z2 = checks.wide(z1, z2)
    products = jnp.einsum("bd,cd->bc", z1, layout.gather(z2, axis_name))  # [b, B]
    own = layout.places(len(z1), axis_name)[:, None] == jnp.arange(total)[None, :]
    agree = jnp.einsum("bd,bd->b", z1, z2).mean()
    repel = jnp.where(own, 0, jnp.square(products)).sum(1).mean() / (total - 1)
    return layout.mean(repel - 2 * agree, axis_name)


def _contrast(z: Array, same: Array, temperature: float, axis_name: str | None) -> Array:
    """-mean over views of mean over its positives of log softmax among all views but itself.

    z is [V, b, D], `same` [b, B] says which examples are positives, an example itself among them.
    """
    checks.positive("temperature", temperature)
    num_views, size, _ = z.shape
    total = checks.batch(size, axis_name, "negatives")
    z = checks.unit(z)
    everyone = layout.gather(z, axis_name, axis=1)  # [V, B, D]
    logits = jnp.einsum("vbd,wcd->vbwc", z, everyone) / temperature  # [V, b, V, B]
    here = layout.places(size, axis_name)[:, None] == jnp.arange(total)[None, :]
    itself = jnp.eye(num_views, dtype=bool)[:, None, :, None] & here[None, :, None, :]
    log_total = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, logits), axis=(2, 3), keepdims=True)
    positives = same[None, :, None, :] & ~itself  # [V, b, V, B]
    log_p = jnp.where(positives, logits - log_total, 0).sum((2, 3))
    return layout.mean(-(log_p / positives.sum((2, 3))).mean(), axis_name)
