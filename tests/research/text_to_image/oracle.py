"""The networks' parts written out in NumPy, float64, one example at a time."""

import math

import numpy as np


def layer_norm(x, params, epsilon=1e-5):
    """Over the last axis of [T, D]."""
    centred = x - x.mean(-1, keepdims=True)
    size = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return centred / size * params["scale"] + params["bias"]


def group_norm(x, params, num_groups, epsilon):
    """Over pixels and channels of a group of [H, W, C]."""
    height, width, channels = x.shape
    groups = x.reshape(height * width, num_groups, channels // num_groups)
    centred = groups - groups.mean((0, 2), keepdims=True)
    normed = centred / np.sqrt((centred**2).mean((0, 2), keepdims=True) + epsilon)
    return normed.reshape(x.shape) * params["scale"] + params["bias"]


def dense(x, params):
    """[..., D] through a kernel, with a vector where there is one."""
    return x @ params["kernel"] + params.get("bias", 0.0)


def attend(query, key, value, causal=False):
    """[T, H, K], [S, H, K], [S, H, K] -> [T, H, K], head by head, query by query."""
    out = np.zeros((*query.shape[:2], value.shape[-1]))
    for head in range(query.shape[1]):
        for t in range(len(query)):
            seen = t + 1 if causal else len(key)
            logits = key[:seen, head] @ query[t, head] / math.sqrt(query.shape[-1])
            weights = np.exp(logits - logits.max())
            out[t, head] = weights / weights.sum() @ value[:seen, head]
    return out


def gelu(x):
    """x Phi(x)."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


def silu(x):
    return x / (1 + np.exp(-x))


def conv(x, params, stride=1, padding=1):
    """[H, W, C] through a kernel [h, w, C, F], zeros outside."""
    kernel = params["kernel"]
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    height, width = (
        (size - kernel.shape[axis]) // stride + 1 for axis, size in enumerate(x.shape[:2])
    )
    out = np.zeros((height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = x[i * stride :, j * stride :][: kernel.shape[0], : kernel.shape[1]]
            out[i, j] = np.einsum("hwc,hwcf->f", window, kernel)
    return out + params["bias"]


def sines(t, dim):
    """dim features of a number, cosines first: frequencies 10,000^(-2 i / dim)."""
    angles = [t * 10_000 ** (-2 * i / dim) for i in range(dim // 2)]
    return np.array([math.cos(a) for a in angles] + [math.sin(a) for a in angles])


def to_numpy(tree):
    """A tree of float64 arrays, as nested dictionaries."""
    return {
        key: to_numpy(value) if isinstance(value, dict) else np.asarray(value, np.float64)
        for key, value in tree.items()
    }
