"""Small Flax networks of every kind that the kernels of this topic are tested on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from library import testing


class Residual(nn.Module):
    """Convolutions with stride, groups, dilation, residuals, group norm, pooling."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=2)(x)
        y = nn.relu(nn.GroupNorm(num_groups=2)(x))
        x = x + nn.Conv(4, (3, 3), feature_group_count=2, kernel_dilation=2)(y)
        return nn.Dense(3)(nn.relu(x).mean((1, 2)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(6)(nn.LayerNorm()(x))))


class Transformer(nn.Module):
    """Embedding, learned positions, one block, output weights tied to the embedding."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, 4)
        x = embed(tokens)
        x = Block()(x + self.param("positions", nn.initializers.normal(), (1, *x.shape[1:])))
        return embed.attend(x).mean(1)


class ViT(nn.Module):
    """Patches by a strided convolution, a class token, one block."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (2, 2), strides=2)(x)
        x = x.reshape(x.shape[0], -1, 4)
        token = self.param("token", nn.initializers.normal(), (1, 1, 4))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        return nn.Dense(3)(nn.LayerNorm()(Block()(x)[:, 0]))


class UNet(nn.Module):
    """Down, up by a transposed convolution, a skip connection, image-shaped output."""

    @nn.compact
    def __call__(self, x):
        skip = nn.silu(nn.Conv(3, (3, 3))(x))
        y = nn.silu(nn.Conv(4, (3, 3), strides=2)(skip))
        y = nn.ConvTranspose(3, (2, 2), strides=(2, 2))(y)
        return nn.Conv(1, (3, 3))(jnp.concatenate([skip, y], axis=-1))


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (5, 6):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(3)(x)


def normal(seed, *shape):
    """Drawn by NumPy in float64: no program is compiled for it."""
    return np.random.default_rng(seed).normal(size=shape)


def images(seed, num, size=4):
    return normal(seed, num, size, size, 2)


def tokens(seed, num):
    return np.random.default_rng(seed).integers(0, 7, size=(num, 3), dtype=np.int32)


def vectors(seed, num):
    return normal(seed, num, 4)


NETWORKS = {
    "mlp": (MLP(), vectors),
    "residual": (Residual(), images),
    "transformer": (Transformer(), tokens),
    "vit": (ViT(), images),
    "unet": (UNet(), images),
}


def build(name, num1=3, num2=2):
    """apply, float64 parameters without zeros, and two sets of inputs."""
    model, inputs = NETWORKS[name]
    x1, x2 = inputs(1, num1), inputs(2, num2)
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        gain = path[-1].key == "scale"  # of a norm
        return gain + 0.5 * rng.normal(size=leaf.shape)

    shapes = jax.eval_shape(model.init, jax.random.key(0), x1)
    return model.apply, jax.tree_util.tree_map_with_path(draw, shapes), x1, x2


def plain_mlp(seed=0, sizes=(4, 6, 5, 3)):
    """apply and parameters of a plain function, in the float of the session."""
    shapes = jax.eval_shape(lambda rng: testing.mlp_init(rng, sizes), jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def draw(leaf):
        width = leaf.shape[0] if leaf.ndim == 2 else 100  # small biases
        return (rng.normal(size=leaf.shape) / width**0.5).astype(leaf.dtype)

    return testing.mlp_apply, jax.tree.map(draw, shapes)
