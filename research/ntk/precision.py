"""float64 for the small linear algebra of this topic, whatever the session computes in.

A kernel in float32 has entries right to 1e-7, but its inverse multiplies what the linear algebra
loses by the condition number. So kernels are computed in the dtype of their inputs, float32 at
least, and everything after them in float64. Under a JAX transformation the dtypes stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library.types import PyTree


def wide(function: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """function(*args) with floats as float64; NumPy results, which keep it in any session."""
    if traced(args):
        return function(*args)
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(*jax.tree.map(_widen, args)))


def narrow(tree: PyTree) -> PyTree:
    """The tree in the default float dtype: float64 where JAX has it switched on, else float32."""
    if traced(tree):
        return tree
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, default_float()), tree)


def default_float() -> Any:
    """float64 where JAX has it switched on, else float32."""
    return jnp.float64 if jax.config.jax_enable_x64 else jnp.float32


def traced(tree: PyTree) -> bool:
    """Whether a leaf is being traced: its value is not known yet."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _widen(leaf: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return jnp.asarray(np.asarray(leaf), jnp.float64)
    return leaf
