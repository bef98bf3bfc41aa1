"""Weights divided by their largest singular value, Miyato et al. 2018, arXiv:1802.05957.

The singular value comes from power iteration on a vector u that is carried from step to step, one
iteration each (algorithm 1). `norm` is the pure function; `Conv`, `Dense` and `Embed` are layers
whose vectors live in the Flax collection "spectral", beside the parameters and never trained:

    variables = critic.init(rng, images)                        # {"params": ..., "spectral": ...}
    logits = critic.apply(variables, images)                    # vectors are used, none changes
    logits, new = critic.apply(variables, images, mutable=["spectral"])  # with update=True inside

A kernel [h, w, C_in, C_out] is the matrix [h w C_in, C_out], an embedding [N, D] is itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key, at_least_float32

COLLECTION = "spectral"
EPSILON = 1e-6  # BigGAN's; the smallest norm that anything is divided by

_INIT = nn.initializers.orthogonal()


def init(rng: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """The state before the first iteration: a random unit vector u, [N] for a matrix [M, N].

    Args:
        rng: key of the draw.
        shape: of the matrix, (M, N).
        dtype: of u.
    Raises:
        ValueError: if the shape is not that of a matrix.
    """
    shape = tuple(shape)
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape={shape}: expected that of a matrix, (M, N)")
    return _unit(jax.random.normal(rng, shape[1:], dtype), EPSILON)


def norm(
    matrix: Array, state: Array, num_iterations: int = 1, epsilon: float = EPSILON
) -> tuple[Array, Array]:
    """The largest singular value by power iteration, v' W u with v = W u, u = W' v made unit.

    It nears the largest singular value from below, by the square of the ratio of the second to it
    in each iteration. Its gradient is v u', vectors held constant, as that of the true norm.

    Args:
        matrix: [M, N].
        state: [N], u of the previous call or of `init`.
        num_iterations: of the power method, >= 1.
        epsilon: smallest length that vectors are divided by.
    Returns:
        sigma [] and the new u [N], float32 at least.
    Raises:
        ValueError: for a matrix of another rank, a state of another shape, or no iteration.
    """
    checks.count("num_iterations", num_iterations, of="power iterations")
    if jnp.ndim(matrix) != 2:
        raise ValueError(f"matrix has shape {jnp.shape(matrix)}: expected [M, N]")
    if jnp.shape(state) != matrix.shape[1:]:
        raise ValueError(
            f"state has shape {jnp.shape(state)}: expected {matrix.shape[1:]}, a vector u [N] for "
            f"the matrix {matrix.shape}"
        )
    dtype = at_least_float32(matrix, state)
    matrix = jnp.asarray(matrix, dtype)
    fixed = jax.lax.stop_gradient(matrix)
    u = jax.lax.stop_gradient(jnp.asarray(state, dtype))

    def iterate(u: Array) -> tuple[Array, Array]:
        v = _unit(jnp.einsum("mn,n->m", fixed, u), epsilon)
        return v, _unit(jnp.einsum("mn,m->n", fixed, v), epsilon)

    u = jax.lax.fori_loop(0, num_iterations - 1, lambda _, u: iterate(u)[1], u)
    v, u = iterate(u)
    return jnp.einsum("m,mn,n->", v, matrix, u), u


def normalized(
    module: nn.Module, kernel: Array, update: bool, num_iterations: int, epsilon: float
) -> Array:
    """A parameter [..., N] over its spectral norm, with the vector "u" of `module`.

    An iteration is made in any case; with `update` its vector is kept. So a call whose changes are
    thrown away sees the same weights as the one whose changes are kept.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    dtype = at_least_float32(kernel)
    start = lambda: init(module.make_rng("params"), matrix.shape, dtype)
    u = module.variable(COLLECTION, "u", start)
    sigma, new = norm(matrix, u.value, num_iterations, epsilon)
    if update and not module.is_initializing():
        u.value = new
    return (kernel.astype(dtype) / jnp.maximum(sigma, epsilon)).astype(kernel.dtype)


class Dense(nn.Module):
    """[..., D] -> [..., features], the kernel [D, features] over its spectral norm.

    Attributes:
        features: outputs.
        use_bias: whether a bias is added, which is not normalised.
        kernel_init: of the kernel; orthogonal as in BigGAN.
        num_iterations: of the power method at every call.
        epsilon: smallest norm that is divided by.
    """

    features: int
    use_bias: bool = True
    kernel_init: Callable[..., Array] = _INIT
    num_iterations: int = 1
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Array, update: bool = False) -> Array:
        """[..., D] -> [..., features]; `update` keeps the iterated vector."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        kernel = normalized(self, kernel, update, self.num_iterations, self.epsilon)
        y = jnp.einsum("...d,df->...f", x, kernel.astype(x.dtype))
        return _with_bias(self, y) if self.use_bias else y


class Conv(nn.Module):
    """[B, H, W, C] -> [B, H', W', features], the kernel over the norm of [h w C, features].

    Attributes:
        features: channels out.
        kernel_size: (h, w).
        strides: along height and width.
        padding: "SAME", "VALID" or pairs (before, after) of height and width.
        use_bias, kernel_init, num_iterations, epsilon: as `Dense`.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: Any = "SAME"
    use_bias: bool = True
    kernel_init: Callable[..., Array] = _INIT
    num_iterations: int = 1
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Array, update: bool = False) -> Array:
        """[B, H, W, C] -> [B, H', W', features]; `update` keeps the iterated vector."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        kernel = normalized(self, kernel, update, self.num_iterations, self.epsilon)
        y = jax.lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            self.strides,
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return _with_bias(self, y) if self.use_bias else y


class Embed(nn.Module):
    """Labels [...] -> [..., features], rows of a table that is divided by its spectral norm.

    Attributes:
        num_embeddings: rows.
        features: columns.
        embedding_init: of the table; orthogonal as in BigGAN.
        num_iterations, epsilon: as `Dense`.
    """

    num_embeddings: int
    features: int
    embedding_init: Callable[..., Array] = _INIT
    num_iterations: int = 1
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, labels: Array, update: bool = False) -> Array:
        """int [...] -> [..., features]; `update` keeps the iterated vector."""
        shape = (self.num_embeddings, self.features)
        table = self.param("embedding", self.embedding_init, shape)
        table = normalized(self, table, update, self.num_iterations, self.epsilon)
        return jnp.take(table, labels, axis=0)


def _with_bias(module: nn.Module, y: Array) -> Array:
    bias = module.param("bias", nn.initializers.zeros, y.shape[-1:])
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def _unit(vector: Array, epsilon: float) -> Array:
    return vector / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(vector))), epsilon)
