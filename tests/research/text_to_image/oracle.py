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


def embedding(params, features):
    """A linear map, a swish, a linear map."""
    return dense(silu(dense(features, params["dense0"])), params["dense1"])


def residual(params, x, condition, num_groups, epsilon=1e-5):
    """[H, W, C], [E]: the shortcut and two convolutions, the condition between them."""
    h = conv(silu(group_norm(x, params["norm0"], num_groups, epsilon)), params["conv0"])
    h = h + dense(condition, params["time"])
    h = conv(silu(group_norm(h, params["norm1"], num_groups, epsilon)), params["conv1"])
    return h + (dense(x, params["short"]) if "short" in params else x)


def attention(params, x, memory, num_heads):
    """[N, C], [T, D]: all heads' mixtures, through a last map."""
    heads = [
        dense(source, params[name]).reshape(len(source), num_heads, -1)
        for name, source in (("query", x), ("key", memory), ("value", memory))
    ]
    return dense(attend(*heads).reshape(x.shape), params["out"])


def gated_perceptron(params, x):
    """GEGLU: the first half of the wide map times the GELU of the second."""
    wide = dense(x, params["up"])
    half = wide.shape[-1] // 2
    return dense(wide[..., :half] * gelu(wide[..., half:]), params["down"])


def pixel_transformer(params, x, context, num_heads, num_groups):
    """[H, W, C], [T, D]: layers over pixels between two maps, added to x."""
    h = group_norm(x, params["norm"], num_groups, 1e-6).reshape(-1, x.shape[-1])
    h = dense(h, params["into"])
    for index in range(sum(name.startswith("layer") for name in params)):
        layer = params[f"layer{index}"]
        normed = layer_norm(h, layer["attention_norm"])
        h = h + attention(layer["attention"], normed, normed, num_heads)
        normed = layer_norm(h, layer["cross_norm"])
        h = h + attention(layer["cross"], normed, context, num_heads)
        h = h + gated_perceptron(layer["mlp"], layer_norm(h, layer["mlp_norm"]))
    return x + dense(h, params["out"]).reshape(x.shape)


def doubled(x):
    """Every pixel of [H, W, C] as a block of 2x2."""
    return x.repeat(2, 0).repeat(2, 1)


def unet(params, net, latents, t, context, pooled=None, sizes=None):
    """The whole network for one example; `net` gives the sizes."""
    groups, last = net.num_groups, len(net.channels) - 1
    condition = embedding(params["time"], sines(t, net.channels[0]))
    if pooled is not None:
        features = np.concatenate([pooled, *(sines(size, net.size_dim) for size in sizes)])
        condition = condition + embedding(params["added"], features)
    condition = silu(condition)

    def block(h, name, index, heads):
        h = residual(params[f"{name}_block{index}"], h, condition, groups)
        if f"{name}_attention{index}" in params:
            attending = params[f"{name}_attention{index}"]
            h = pixel_transformer(attending, h, context, heads, groups)
        return h

    h = conv(latents, params["stem"])
    skips = [h]
    for level in range(last + 1):
        for index in range(net.num_blocks):
            h = block(h, f"down{level}", index, net.heads[level])
            skips.append(h)
        if level < last:
            h = conv(h, params[f"down{level}"], stride=2)
            skips.append(h)
    h = residual(params["middle_block0"], h, condition, groups)
    h = pixel_transformer(params["middle_attention"], h, context, net.heads[-1], groups)
    h = residual(params["middle_block1"], h, condition, groups)
    for level in range(last, -1, -1):
        for index in range(net.num_blocks + 1):
            h = np.concatenate([h, skips.pop()], -1)
            h = block(h, f"up{level}", index, net.heads[level])
        if level:
            h = conv(doubled(h), params[f"up{level}"])
    return conv(silu(group_norm(h, params["norm"], groups, 1e-5)), params["head"])
