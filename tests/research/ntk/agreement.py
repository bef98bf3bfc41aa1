"""The structured method against full Jacobians, for networks of every kind."""

import jax
import jax.numpy as jnp
import numpy as np

from research import ntk
from research.ntk import checks, finite
from research.ntk.jacobians import jaxprs, structured


def agree(apply, params, x, how):
    """Structured equals Jacobian in all entries, by the treatment expected of each parameter."""
    with jax.enable_x64(True):
        to_float64 = lambda leaf: np.asarray(leaf, np.float64)
        params = jax.tree.map(to_float64, params)
        x = to_float64(x) if jnp.issubdtype(x.dtype, jnp.floating) else x
        program = jaxprs.trace(checks.one_example(apply), params, checks.first(x))
        treated = finite.treatment(structured.plan(program), params)
        for path, expected in how.items():
            assert treated[path].startswith(expected), (path, treated[path])

        @jax.jit
        def kernels(params, x):
            kernel = lambda method, outputs: ntk.empirical(
                apply, params, x, x[:2], method=method, outputs=outputs
            )
            return (
                kernel("jacobian", "full"),
                kernel("structured", "full"),
                kernel("structured", "trace"),
            )

        full, found, trace = kernels(params, x)
        scale = jnp.abs(full).max()
        assert scale > 1e-3
        np.testing.assert_allclose(found, full, rtol=1e-10, atol=1e-12 * scale)
        np.testing.assert_allclose(
            trace, jnp.einsum("nmcc->nm", full), rtol=1e-10, atol=1e-12 * scale
        )


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)
