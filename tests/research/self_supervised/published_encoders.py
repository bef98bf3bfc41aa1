"""DINOv2, ViT-MAE and residual networks in NumPy, from the tensors of `transformers` by name.

Written after their code, with loops for blocks and float64 throughout.
"""

import numpy as np
import scipy.special


def tensors_of(shapes, seed=0):
    """Random tensors of these shapes; variances are positive."""
    rng = np.random.default_rng(seed)
    made = {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}
    return {name: x**2 + 0.5 if name.endswith("running_var") else x for name, x in made.items()}


def layer_shapes(prefix, width, hidden, names):
    """Of one block; `names` are those of the two norms, of the MLP's two maps and of its scales."""
    first_norm, second_norm, up, down, *scales = names
    shapes = {}
    for name in ("query", "key", "value"):
        shapes[f"{prefix}.attention.attention.{name}"] = (width, width)
    shapes[f"{prefix}.attention.output.dense"] = (width, width)
    shapes |= {f"{prefix}.{up}": (hidden, width), f"{prefix}.{down}": (width, hidden)}
    out = {}
    for name, shape in shapes.items():
        out |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in (first_norm, second_norm):
        out |= {f"{prefix}.{name}.weight": (width,), f"{prefix}.{name}.bias": (width,)}
    return out | {f"{prefix}.{name}.lambda1": (width,) for name in scales}


DINOV2 = ("norm1", "norm2", "mlp.fc1", "mlp.fc2", "layer_scale1", "layer_scale2")
GATED = ("norm1", "norm2", "mlp.weights_in", "mlp.weights_out", "layer_scale1", "layer_scale2")
MAE = ("layernorm_before", "layernorm_after", "intermediate.dense", "output.dense")


def embedding_shapes(prefix, width, patch, places):
    return {
        f"{prefix}.cls_token": (1, 1, width),
        f"{prefix}.position_embeddings": (1, 1 + places, width),
        f"{prefix}.patch_embeddings.projection.weight": (width, 3, patch, patch),
        f"{prefix}.patch_embeddings.projection.bias": (width,),
    }


def dinov2_shapes(width=12, depth=2, patch=4, places=9):
    shapes = embedding_shapes("embeddings", width, patch, places)
    shapes |= {"embeddings.mask_token": (1, width)}
    for index in range(depth):
        shapes |= layer_shapes(f"encoder.layer.{index}", width, 4 * width, DINOV2)
    return shapes | {"layernorm.weight": (width,), "layernorm.bias": (width,)}


def mae_shapes(decoder_layer, width=12, depth=2, patch=4, places=16, narrow=8):
    shapes = embedding_shapes("vit.embeddings", width, patch, places)
    shapes |= {"vit.layernorm.weight": (width,), "vit.layernorm.bias": (width,)}
    for index in range(depth):
        shapes |= layer_shapes(f"vit.encoder.layer.{index}", width, 20, MAE)
        shapes |= layer_shapes(decoder_layer.format(index), narrow, 16, MAE)
    pixels = patch**2 * 3
    return shapes | {
        "decoder.mask_token": (1, 1, narrow),
        "decoder.decoder_pos_embed": (1, 1 + places, narrow),
        "decoder.decoder_embed.weight": (narrow, width),
        "decoder.decoder_embed.bias": (narrow,),
        "decoder.decoder_norm.weight": (narrow,),
        "decoder.decoder_norm.bias": (narrow,),
        "decoder.decoder_pred.weight": (pixels, narrow),
        "decoder.decoder_pred.bias": (pixels,),
    }


def linear(x, t, name):
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def norm(x, t, name, epsilon):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return x * t[f"{name}.weight"] + t[f"{name}.bias"]


def attention_weights(x, t, name, heads):
    """[B, H, T, T], and the values [B, T, H, K]."""
    split = lambda y: y.reshape(*y.shape[:2], heads, -1)
    parts = ("query", "key", "value")
    q, k, v = (split(linear(x, t, f"{name}.attention.{part}")) for part in parts)
    scores = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(q.shape[-1])
    return scipy.special.softmax(scores, axis=-1), v


def attention(x, t, name, heads):
    weights, v = attention_weights(x, t, name, heads)
    mixed = np.einsum("bhts,bshk->bthk", weights, v).reshape(x.shape)
    return linear(mixed, t, f"{name}.output.dense")


def block(x, t, prefix, heads, names, epsilon):
    first_norm, second_norm, up, down, *scales = names
    one, two = (t[f"{prefix}.{name}.lambda1"] for name in scales) if scales else (1.0, 1.0)
    h = norm(x, t, f"{prefix}.{first_norm}", epsilon)
    x = x + one * attention(h, t, f"{prefix}.attention", heads)
    h = linear(norm(x, t, f"{prefix}.{second_norm}", epsilon), t, f"{prefix}.{up}")
    h = h * (1 + scipy.special.erf(h / np.sqrt(2))) / 2
    return x + two * linear(h, t, f"{prefix}.{down}")


def patch_grid(images, patch):
    """[B, H/p, W/p, p, p, C]."""
    batch, height, width, channels = images.shape
    grid = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5)


def embed(images, t, prefix):
    kernel = t[f"{prefix}.patch_embeddings.projection.weight"]  # [D, C, p, p]
    grid = patch_grid(images, kernel.shape[-1])
    x = np.einsum("bhwijc,dcij->bhwd", grid, kernel)
    x = x + t[f"{prefix}.patch_embeddings.projection.bias"]
    return x.reshape(len(images), -1, x.shape[-1])


def dinov2(t, images, heads=3, epsilon=1e-6):
    """Tokens [B, 1 + N, D], and attention of the last block [B, H, 1 + N, 1 + N]."""
    x = embed(images, t, "embeddings")
    first = np.broadcast_to(t["embeddings.cls_token"], (len(x), 1, x.shape[-1]))
    x = np.concatenate([first, x], 1) + t["embeddings.position_embeddings"]
    for index in range(2):
        h = norm(x, t, f"encoder.layer.{index}.norm1", epsilon)
        maps, _ = attention_weights(h, t, f"encoder.layer.{index}.attention", heads)
        x = block(x, t, f"encoder.layer.{index}", heads, DINOV2, epsilon)
    return norm(x, t, "layernorm", epsilon), maps


def mae_tokens(t, images, keep, heads=3, epsilon=1e-12):
    """Tokens [B, 1 + L, D] of the kept patches [B, L]."""
    table = t["vit.embeddings.position_embeddings"]
    x = embed(images, t, "vit.embeddings") + table[:, 1:]
    x = np.stack([row[kept] for row, kept in zip(x, keep)])
    first = t["vit.embeddings.cls_token"] + table[:, :1]
    x = np.concatenate([np.broadcast_to(first, (len(x), *first.shape[1:])), x], 1)
    for index in range(2):
        x = block(x, t, f"vit.encoder.layer.{index}", heads, MAE, epsilon)
    return norm(x, t, "vit.layernorm", epsilon)


def mae(t, images, noise, decoder_layer, ratio=0.75, normalise=False, epsilon=1e-12):
    """Prediction [B, N, P], mask [B, N] and loss."""
    order = np.argsort(noise, axis=1)
    count = order.shape[1] - round(ratio * order.shape[1])
    tokens = linear(
        mae_tokens(t, images, order[:, :count], epsilon=epsilon), t, "decoder.decoder_embed"
    )
    x = np.broadcast_to(t["decoder.mask_token"], (*noise.shape, tokens.shape[-1])).copy()
    mask = np.ones(noise.shape)
    for row, kept in enumerate(order[:, :count]):
        x[row, kept], mask[row, kept] = tokens[row, 1:], 0
    x = np.concatenate([tokens[:, :1], x], 1) + t["decoder.decoder_pos_embed"]
    for index in range(2):
        x = block(x, t, decoder_layer.format(index), 2, MAE, epsilon)
    x = norm(x, t, "decoder.decoder_norm", epsilon)
    prediction = linear(x, t, "decoder.decoder_pred")[:, 1:]
    grid = patch_grid(images, t["vit.embeddings.patch_embeddings.projection.weight"].shape[-1])
    target = grid.reshape(prediction.shape)
    if normalise:
        spread = np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
        target = (target - target.mean(-1, keepdims=True)) / spread
    errors = ((prediction - target) ** 2).mean(-1)
    return prediction, mask, errors[mask == 1].mean()


def resnet_shapes(depths=(2, 1), bottleneck=False, width=4, labels=5):
    """Of a classifier."""
    shapes = {}

    def convolution(name, inputs, outputs, size):
        shapes[f"{name}.convolution.weight"] = (outputs, inputs, size, size)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.normalization.{leaf}"] = (outputs,)

    convolution("resnet.embedder.embedder", 3, width, 7)
    inputs = width
    for stage, depth in enumerate(depths):
        inner = width * 2**stage
        outputs = inner * (4 if bottleneck else 1)
        for index in range(depth):
            name = f"resnet.encoder.stages.{stage}.layers.{index}"
            sizes = [(inner, 1), (inner, 3), (outputs, 1)] if bottleneck else [(inner, 3)] * 2
            if inputs != outputs or (stage and not index):
                convolution(f"{name}.shortcut", inputs, outputs, 1)
            for number, (channels, size) in enumerate(sizes):
                convolution(f"{name}.layer.{number}", inputs, channels, size)
                inputs = channels
    return shapes | {"classifier.1.weight": (labels, inputs), "classifier.1.bias": (labels,)}


def windows(x, size, stride, fill=0.0):
    """[B, h, w, C, size, size] of x [B, H, W, C], padded by half a window."""
    half = size // 2
    x = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)), constant_values=fill)
    cut = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return cut[:, ::stride, ::stride]


def convolved(x, t, name, stride=1):
    kernel = t[f"{name}.convolution.weight"]
    x = np.einsum("bhwcij,dcij->bhwd", windows(x, kernel.shape[-1], stride), kernel)
    mean, variance, scale, shift = (
        t[f"{name}.normalization.{leaf}"]
        for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def resnet(t, images, depths=(2, 1), bottleneck=False):
    """The last map [B, h, w, D] and logits [B, C]."""
    relu = lambda x: np.maximum(x, 0)
    x = relu(convolved(images, t, "resnet.embedder.embedder", 2))
    x = windows(x, 3, 2, -np.inf).max((-1, -2))
    for stage, depth in enumerate(depths):
        for index in range(depth):
            name = f"resnet.encoder.stages.{stage}.layers.{index}"
            stride = 2 if stage and not index else 1
            h = x
            for number in range(3 if bottleneck else 2):
                own = stride if number == bottleneck else 1
                h = convolved(h, t, f"{name}.layer.{number}", own)
                h = h if number == (2 if bottleneck else 1) else relu(h)
            if f"{name}.shortcut.convolution.weight" in t:
                x = convolved(x, t, f"{name}.shortcut", stride)
            x = relu(x + h)
    return x, linear(x.mean((1, 2)), t, "classifier.1")
