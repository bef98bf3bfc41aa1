"""Average pooling after padded convolutions against the kernel of explicit patches."""

import jax
import jax.numpy as jnp
import numpy as np

from research.ntk import layers

WEIGHT, BIAS = 1.4, 0.2


def by_patches(x):
    """NNGP kernel and NTK of one SAME 3 x 3 convolution, ReLU, average pooling, one output."""
    n, h, w, c = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    patches = np.stack(windows, -1).reshape(n * h * w, 9 * c)
    q = WEIGHT**2 * patches @ patches.T / (9 * c) + BIAS**2
    scale = np.sqrt(np.outer(np.diag(q), np.diag(q)))
    angle = np.arccos(np.clip(q / scale, -1, 1))
    relu = scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    step = (np.pi - angle) / (2 * np.pi)

    def pool(kernel):
        return WEIGHT**2 * kernel.reshape(n, h * w, n, h * w).mean((1, 3))

    nngp = pool(relu) + BIAS**2
    return nngp, nngp + pool(step * q)


def test_average_pool_after_same_convolution(x64):
    weights = dict(weight_std=WEIGHT, bias_std=BIAS)
    conv = layers.conv(1, (3, 3), padding="SAME", **weights)
    last = layers.dense(1, **weights)
    net = layers.serial(conv, layers.relu(), layers.global_average_pool(), last)
    # A constant part, as of images' background, makes the border count.
    x = jax.random.normal(jax.random.key(0), (3, 4, 5, 2), jnp.float64) * 0.3 - 1
    found = net.kernel(x)
    nngp, ntk = by_patches(np.asarray(x))
    np.testing.assert_allclose(found.nngp, nngp, rtol=1e-7)  # arccos near 1 takes half the digits
    np.testing.assert_allclose(found.ntk, ntk, rtol=1e-7)
