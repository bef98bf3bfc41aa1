"""Digits of 16 x 16 pixels, a first stage of them, and a classifier whose features judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import decomposition

from library import training
from library.data.sets import mnist
from library.types import Array, Aux, Key, Params
from research.text_to_image import first_stage
from research.vae.networks import autoencoder

SIZE = 16  # pixels of a side


def read(split: str, num: int) -> dict[str, np.ndarray]:
    """The first digits: {"images": [num, 16, 16, 1] in [-1, 1], "labels": [num]}.

    MNIST with a margin of two pixels, by means of 2 x 2 pixels.
    """
    data = mnist.arrays(split)
    images = np.pad(data["image"][:num], [(0, 0), (2, 2), (2, 2), (0, 0)]).astype(np.float32)
    images = images.reshape(-1, SIZE, 2, SIZE, 2, 1).mean((2, 4))
    return {"images": images * np.float32(2 / 255) - 1, "labels": data["label"][:num]}


@dataclasses.dataclass(frozen=True)
class Networks:
    """The autoencoder of latent diffusion on patches of 4 x 4 pixels: latents [4, 4, latent_dim].

    Attributes:
        width: channels.
        latent_dim: numbers of a patch.
    """

    width: int
    latent_dim: int

    @property
    def module(self) -> autoencoder.Autoencoder:
        """The module, of one resolution: of patches, which it sees all at once."""
        groups = min(8, self.width)
        shape = dict(image_channels=16, num_groups=groups)
        return autoencoder.Autoencoder((self.width,), 1, self.latent_dim, **shape)

    def init(self, rng: Key) -> Params:
        """Parameters."""
        return first_stage.init(self.module, rng, jnp.zeros((1, 4, 4, 16)))

    def objective(self, **options) -> first_stage.Objective:
        """Of images [B, R, R, 1] with R a multiple of 4; the options are of `Objective`."""
        own = first_stage.networks(self.module)
        encode = lambda params, x: own["encode"](params, to_patches(x))
        decode = lambda params, z: to_images(own["decode"](params, z))
        return first_stage.Objective(encode, decode, **options)


def to_patches(images: Array) -> Array:
    """[B, 4 h, 4 w, 1] -> [B, h, w, 16]."""
    batch, height, width, _ = images.shape
    cells = images.reshape(batch, height // 4, 4, width // 4, 4)
    return cells.transpose(0, 1, 3, 2, 4).reshape(batch, height // 4, width // 4, 16)


def to_images(patches: Array) -> Array:
    """[B, h, w, 16] -> [B, 4 h, 4 w, 1]."""
    batch, height, width, _ = patches.shape
    cells = patches.reshape(batch, height, width, 4, 4).transpose(0, 1, 3, 2, 4)
    return cells.reshape(batch, 4 * height, 4 * width, 1)


def pca_error(train: np.ndarray, test: np.ndarray, num_floats: int) -> float:
    """Mean square error of held-out images from as many principal components of the others."""
    train, test = (x.reshape(len(x), -1).astype(np.float64) for x in (train, test))
    pca = decomposition.PCA(min(num_floats, *train.shape), svd_solver="full").fit(train)
    return float(np.square(pca.inverse_transform(pca.transform(test)) - test).mean())


def decibels(error: float) -> float:
    """Peak signal over noise of images in [-1, 1], dB."""
    return float(10 * np.log10(4 / error))


class ConvNet(nn.Module):
    """Two convolutions with pooling and a layer of features."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[list[Array], Array, Array]:
        """[B, H, W, 1] in [-1, 1] -> maps of both convolutions, features [B, F], logits [B, 10]."""
        maps = []
        for factor in (1, 2):
            maps.append(nn.relu(nn.Conv(factor * self.width, (3, 3))(x)))
            x = nn.max_pool(maps[-1], (2, 2), (2, 2))
        features = nn.relu(nn.Dense(4 * self.width)(x.reshape(len(x), -1)))
        return maps, features, nn.Dense(10)(features)


def shifted(rng: Key, images: Array, most: int) -> Array:
    """Images [B, H, W, C], each moved by up to `most` pixels along each axis; -1 comes in."""
    if most == 0:
        return images
    padded = jnp.pad(images, [(0, 0), (most, most), (most, most), (0, 0)], constant_values=-1)
    corners = jax.random.randint(rng, (len(images), 2), 0, 2 * most + 1)
    cut = lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), images.shape[1:])
    return jax.vmap(cut)(padded, corners)


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained classifier, which never saw a sample.

    Attributes:
        maps: images -> maps of its convolutions, pure, for `first_stage.feature_distance`.
        features: images [N, 16, 16, 1] -> [N, F]; distances in them compare with no published FID.
        accuracy: on held-out images.
        labels: images -> [N], the likeliest classes.
    """

    maps: Callable[[Array], list[Array]]
    features: Callable[[np.ndarray], np.ndarray]
    accuracy: float
    labels: Callable[[np.ndarray], np.ndarray]


def judge(data, test, *, width: int, num_steps: int, seed: int, shift: int = 0) -> Judge:
    """A `ConvNet` after Adam at 2e-3, falling by half a cosine, on batches of 128.

    Args:
        data, test: {"images": [N, 16, 16, C], "labels": [N]}.
        width, num_steps, seed: of the network and its training.
        shift: most pixels by which each image is moved along each axis, anew in each update.
    """
    net = ConvNet(width)

    def loss_fn(params, model_state, rng, batch):
        logits = net.apply({"params": params}, shifted(rng, batch["images"], shift))[2]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return losses.mean(), Aux(batch["labels"].size)

    params = training.quick(
        loss_fn, optax.adam(optax.cosine_decay_schedule(2e-3, num_steps)),
        lambda rng: net.init(rng, jnp.zeros((1, *data["images"].shape[1:])))["params"],
        training.batches(data, min(128, len(data["labels"])), seed), num_steps=num_steps,
        rng=jax.random.key(seed),
    )  # fmt: skip
    apply = lambda images: net.apply({"params": params}, images)
    both = jax.jit(lambda images: apply(images)[1:])
    in_blocks = lambda images, which: np.concatenate(
        [np.asarray(both(images[i : i + 500])[which]) for i in range(0, len(images), 500)]
    )
    labels = lambda images: in_blocks(images, 1).argmax(1)
    right = float((labels(test["images"]) == test["labels"]).mean())
    return Judge(lambda x: apply(x)[0], lambda images: in_blocks(images, 0), right, labels)
