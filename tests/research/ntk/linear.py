"""Networks that are linear in their parameters: infinite kernels that finite networks have exactly.

The tangent kernel of a layer with one output channel does not depend on its weights, and with all
weights of variance one (not in the standard parameterisation) the NNGP kernel equals it.
"""

import jax
import jax.numpy as jnp
import numpy as np

AFFINE = {"weight_std": 1.4, "bias_std": 0.3}


def tangents(outputs, params):
    """Outputs and their tangent kernel: [N, *S] and [N, *S, N, *S]."""
    jacobians = jax.tree.leaves(jax.jacrev(outputs)(params))
    values = outputs(params)
    rows = jnp.concatenate([j.reshape(values.size, -1) for j in jacobians], 1)
    return values, (rows @ rows.T).reshape(*values.shape, *values.shape)


def of_linear(net, x):
    """Both kernels of a linear network, and its finite tangent kernel, [N, M, s1, t1, ...]."""
    params = jax.eval_shape(lambda rng: net.init(rng, x.shape[1:]), jax.random.key(0))
    params = jax.tree.map(lambda p: jnp.zeros(p.shape, x.dtype), params)
    theta = tangents(lambda p: net.apply(p, x)[..., 0], params)[1]  # [N, *S, M, *S]
    num = (theta.ndim - 2) // 2
    order = [0, 1 + num, *(axis for i in range(num) for axis in (1 + i, 2 + num + i))]
    return net.kernel(x, positions="all"), theta.transpose(order)


def assert_exact(cases):
    """{name: (network, shape of an input)}: both kernels at all positions, in one compilation."""
    x = {n: np.random.default_rng(1).normal(size=(2, *shape)) for n, (_, shape) in cases.items()}
    out = jax.jit(lambda x: {n: of_linear(net, x[n]) for n, (net, _) in cases.items()})(x)
    for name, (kernels, theta) in jax.device_get(out).items():
        tight = {"rtol": 1e-10, "atol": 1e-12, "err_msg": name}
        np.testing.assert_allclose(kernels.ntk, theta, **tight)
        if "standard" not in name:
            np.testing.assert_allclose(kernels.nngp, theta, **tight)
