"""What tests of all networks share: random parameters, and that examples keep apart."""

import jax
import numpy as np


def random_params(net, *args, seed=0):
    """Parameters of no structure: at init the heads are zero and would hide everything."""
    noise = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: 0.3 * noise.standard_normal(leaf.shape),
        jax.eval_shape(lambda rng: net.init(rng, *args), jax.random.key(0)),
    )


def assert_examples_keep_apart(net, shape):
    """Three examples of a network of three classes; label 3 is the null class."""
    x = np.random.default_rng(1).standard_normal(shape)
    t, labels, order = np.array([0.2, 0.5, 0.9]), np.array([0, 3, 1]), np.array([2, 0, 1])
    params = random_params(net, x, t)
    apply = jax.jit(net.apply)
    out = np.asarray(apply(params, x, t, labels))
    shuffled = apply(params, x[order], t[order], labels[order])
    np.testing.assert_allclose(shuffled, out[order], rtol=1e-10)
    plain = apply(params, x, t, np.full(3, 3))
    np.testing.assert_allclose(out[1], plain[1], rtol=1e-10)
    np.testing.assert_allclose(jax.jit(net.apply)(params, x, t), plain, rtol=1e-10)
    assert np.abs(out[0] - plain[0]).max() > 1e-3
