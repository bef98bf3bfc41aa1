"""An autoencoder of patches through a codebook, whose codes learn in one of three ways."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Aux, Key, LossFn, Params
from research.vae import quantize
from research.vision.patches import to_patches


def patches(images: np.ndarray) -> np.ndarray:
    """Digits [N, 8, 8, 1] in 0..16 as patches [N, 16, 4] of 2x2 pixels in [-1, 1]."""
    return np.asarray(to_patches(images.astype(np.float32) / 8 - 1, 2))


class Autoencoder(nn.Module):
    """Patches to vectors and back, by one hidden layer each."""

    width: int
    dim: int

    def setup(self):
        self.down = nn.Sequential([nn.Dense(self.width), nn.silu, nn.Dense(self.dim)])
        self.up = nn.Sequential([nn.Dense(self.width), nn.silu, nn.Dense(4)])

    def encode(self, x: Array) -> Array:
        """[..., 4] -> [..., dim]."""
        return self.down(x)

    def decode(self, z: Array) -> Array:
        """[..., dim] -> [..., 4]."""
        return self.up(z)

    def __call__(self, x: Array) -> Array:
        """Both, for `init`."""
        return self.decode(self.encode(x))


@dataclasses.dataclass(frozen=True)
class Codes:
    """How the codes learn.

    Attributes:
        kind: "gradient" of their distance, moving "average", or the same with "restart" of codes
            without vectors.
        num_codes: K.
        decay: of the averages.
        commitment: weight of the encoder's distance.
    """

    kind: str
    num_codes: int
    decay: float
    commitment: float


def init(model: Autoencoder, codes: Codes, rng: Key, shape: tuple[int, ...]) -> Params:
    """Networks, and the codebook where gradients move it."""
    net_rng, code_rng = jax.random.split(rng)
    params = {"net": model.init(net_rng, jnp.zeros((1, *shape)))["params"]}
    if codes.kind == "gradient":
        params["codebook"] = jax.random.normal(code_rng, (codes.num_codes, model.dim))
    return params


def codebook(codes: Codes, params: Params, state: quantize.Codebook) -> Array:
    """[K, dim]."""
    return params["codebook"] if codes.kind == "gradient" else state.codebook


def loss(model: Autoencoder, codes: Codes) -> LossFn:
    """Square error of the patches, summed over pixels, and the distances to the codes."""

    def loss_fn(params: Params, state: quantize.Codebook, rng: Key, batch) -> tuple[Array, Aux]:
        x = batch["patches"]
        z = model.apply({"params": params["net"]}, x, method="encode")
        if codes.kind == "restart":
            state = quantize.restart(rng, state, z)
        book = codebook(codes, params, state)
        indices = quantize.nearest(book, z)
        q = book[indices]
        shown = model.apply(
            {"params": params["net"]}, quantize.straight_through(z, q), method="decode"
        )
        error = jnp.square(shown - x).sum((1, 2)).mean()
        total = error + codes.commitment * quantize.commitment(z, q).sum(1).mean()
        if codes.kind == "gradient":
            total += quantize.commitment(q, z).sum(1).mean()
        else:
            state = quantize.ema_update(state, z, indices, codes.decay)
        metrics = {"error": error, "perplexity": quantize.perplexity(indices, codes.num_codes)}
        return total, Aux(weight=jnp.float32(len(x)), metrics=metrics, model_state=state)

    return loss_fn


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a codebook does.

    Attributes:
        error: square error of a test image, summed over pixels.
        dead: share of codes that no patch has.
        perplexity: of the codes over the whole set.
    """

    error: float
    dead: float
    perplexity: float


def judge(
    model: Autoencoder, params: Params, book: Array, every: np.ndarray, test: np.ndarray
) -> tuple[Usage, np.ndarray]:
    """Usage over the whole set [N, 16, 4], error on the test set, share of patches by code [K]."""

    @jax.jit
    def seen(x: Array) -> tuple[Array, Array]:
        z = model.apply({"params": params["net"]}, x, method="encode")
        indices = quantize.nearest(book, z)
        shown = model.apply({"params": params["net"]}, jnp.asarray(book)[indices], method="decode")
        return indices, jnp.square(shown - x).sum((1, 2)).mean()

    num = len(book)
    indices, _ = seen(every)
    usage = Usage(
        error=float(seen(test)[1]),
        dead=float(1 - quantize.usage(indices, num)),
        perplexity=float(quantize.perplexity(indices, num)),
    )
    return usage, np.bincount(np.asarray(indices).ravel(), minlength=num) / indices.size
