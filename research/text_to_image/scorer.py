"""How well images fit texts, by two encoders that learn to find each other: a small CLIP.

Radford et al. 2021, arXiv:2103.00020, figure 3. A score is the cosine of an image's and a text's
features. Trained here, it ranks samples of one text (Ramesh et al. 2021, arXiv:2102.12092, sec.
2.6); its numbers are those of its networks, and no published CLIP's.

    order = scorer.rank(model, params, tokens, images)  # images [B, k, H, W, C], best first
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from library import train_step
from library.types import Array, Aux, Batch, Key, LossFn, ModelState, Params, at_least_float32
from research.text_to_image import text_encoder
from research.transformers import losses
from research.vision import patches

TEMPERATURE = 0.07  # that training starts from
_LARGEST = math.log(100.0)  # of the logits' factor


class ImageEncoder(nn.Module):
    """Patches of 2 x 2 pixels, strided convolutions, one layer over all places.

    Attributes:
        width: channels of the first convolution, doubled at each that follows and halves the sides.
        dim: P.
        depth: convolutions.
    """

    width: int
    dim: int
    depth: int = 3

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[B, H, W, C] in [-1, 1] -> [B, P]."""
        x = patches.to_patch_grid(images, 2)
        for level in range(self.depth):
            stride = 1 if level == 0 else 2
            x = nn.relu(nn.Conv(self.width * 2**level, (3, 3), (stride, stride))(x))
        return nn.Dense(self.dim)(x.reshape(len(x), -1))


@dataclasses.dataclass(frozen=True)
class Model:
    """Both encoders as one value; parameters {"text", "image", "log_scale" []}.

    Attributes:
        text: with a projection, to the width of the image's features.
        image: `apply(params, images)` -> [B, P].
    Raises:
        ValueError: for a text encoder without a projection.
    """

    text: text_encoder.TextEncoder
    image: nn.Module

    def __post_init__(self) -> None:
        if self.text.projection_dim is None:
            raise ValueError("a text encoder without projection_dim: expected the images' width")

    def encode_text(self, params: Params, tokens: Array) -> Array:
        """Features [B, P] of length 1 of tokens [B, T]."""
        return _unit(self.text.apply(params["text"], tokens)[1])

    def encode_image(self, params: Params, images: Array) -> Array:
        """Features [B, P] of length 1 of images [B, H, W, C] in [-1, 1]."""
        return _unit(self.image.apply(params["image"], images))


def init(model: Model, rng: Key, tokens: Array, images: Array) -> Params:
    """Fresh parameters for such tokens [B, T] and images [B, H, W, C]; the temperature is 0.07."""
    text_rng, image_rng = jax.random.split(rng)
    return {
        "text": model.text.init(text_rng, tokens),
        "image": model.image.init(image_rng, images),
        "log_scale": jnp.log(1 / TEMPERATURE),
    }


def info_nce(logits: Array) -> Array:
    """-1/2 [log softmax over columns + log softmax over rows] of the diagonal, the mean over it.

    The loss of van den Oord et al. 2018, arXiv:1807.03748, eq. (4), both ways; ln N if all logits
    are equal.

    Args:
        logits: [N, N] float, of image i and text j.
    Returns:
        [] nats, float32 or wider.
    Raises:
        ValueError: for logits that are not square.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"logits {list(logits.shape)}: expected [N, N]")
    own = jnp.arange(len(logits))
    ways = [losses.cross_entropy(each, own).mean() for each in (logits, logits.T)]
    return (ways[0] + ways[1]) / 2


def loss(model: Model) -> LossFn:
    """`info_nce` of cosines over the learned temperature, whose inverse is at most 100.

    There it has no gradient, and stays.

    A batch is {"image": [B, H, W, C] in [-1, 1], "label": tokens [B, T]}; each image's own text is
    told from the others of the batch, so that a part of a batch has another loss: see `make_step`.
    Metric "accuracy": how often an image's own text is the likeliest.
    """

    def loss_fn(
        params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        of_text = model.encode_text(params, batch["label"])
        of_image = model.encode_image(params, batch["image"])
        scale = jnp.exp(jnp.minimum(params["log_scale"], _LARGEST)).astype(of_image.dtype)
        logits = scale * jnp.einsum("ip,tp->it", of_image, of_text)
        right = jnp.argmax(logits, 1) == jnp.arange(len(logits))
        accuracy = right.mean(dtype=logits.dtype)
        return info_nce(logits), Aux(float(len(logits)), {"accuracy": accuracy})

    return loss_fn


def make_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    accumulate: int = 1,
    axis_name: str | None = None,
    **options: Any,
) -> train_step.TrainStep:
    """The shared step for a loss that mixes a batch, for `training.train(make_step=...)`.

    Arguments and errors as `train_step.make_train_step`.

    Raises:
        ValueError: where the step would sum over parts of a batch: microbatches, or the devices of
            pmap; under jit a batch may lie on several devices.
    """
    if accumulate != 1:
        raise ValueError(
            f"accumulate={accumulate}: the loss tells the examples of a batch apart, and its parts "
            "are not the whole; expected 1"
        )
    if axis_name is not None:
        raise ValueError(
            f"axis_name={axis_name}: the loss tells the examples of a batch apart, and those of a "
            "device are not the whole; expected None, by --run.parallel jit"
        )
    return train_step.make_train_step(loss_fn, optimizer, **options)


def scores(model: Model, params: Params, tokens: Array, images: Array) -> Array:
    """Cosines [B, k], float32 or wider, of texts and each of their images.

    Args:
        model, params: trained.
        tokens: [B, T] int.
        images: [B, k, H, W, C] in [-1, 1].
    Raises:
        ValueError: for another number of texts than of groups of images.
    """
    if images.ndim != 5 or len(images) != len(tokens):
        raise ValueError(
            f"images {list(images.shape)}: expected [{len(tokens)}, k, H, W, C], k for each text"
        )
    of_image = model.encode_image(params, images.reshape(-1, *images.shape[2:]))
    of_image = of_image.reshape(*images.shape[:2], -1)  # [B, k, P]
    return jnp.einsum("bp,bkp->bk", model.encode_text(params, tokens), of_image)


def rank(model: Model, params: Params, tokens: Array, images: Array) -> Array:
    """The images of each text, best first: [B, k] int; arguments and errors as `scores`."""
    return jnp.argsort(scores(model, params, tokens, images), axis=1, descending=True)


def _unit(x: Array) -> Array:
    """Vectors of length 1, float32 or wider."""
    x = x.astype(at_least_float32(x.dtype))
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
