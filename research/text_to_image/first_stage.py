"""What an image autoencoder minimises: distances, features, its posterior's rate or its codes.

    objective = mean |x - y| + feature_weight d(x, y) + kl_weight KL / D + weight g(y)

of images x of D numbers, their reconstructions y, a distance d in the features of a frozen network
and the loss g of a critic, which comes in with `first_stage_game`. Rombach et al. 2022,
arXiv:2112.10752, appendix G (posterior); Esser et al. 2021, arXiv:2012.09841, sec. 3.1 (codebook).
Where they sum distances and KL over an image, here both are divided by D: their ratio is the same,
and a weight means the same at any size.

The parameters of the autoencoder are {"autoencoder": ..., "codebook": [K, L] if there is one}.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Aux, Batch, Key, Metrics, ModelState, Params, at_least_float32
from research.diffusion import latent
from research.gan import games, penalties
from research.vae import gaussians, likelihoods, quantize
from research.vae.networks import autoencoder

Features = Callable[[Array], list[Array]]  # images [B, ...] -> maps [B, h, w, C], frozen


@flax.struct.dataclass
class Terms:
    """What an autoencoder's objective is made of, for each image.

    Attributes:
        images: [B, H, W, C], reconstructions.
        distance: [B], the mean over the numbers of an image.
        features: [B], `feature_distance`, 0 without features.
        rate: [B] nats, KL of the posterior from N(0, I), 0 for vectors.
        quantisation: [B], mean square distance of vectors to their codes, 0 for a posterior.
    """

    images: Array
    distance: Array
    features: Array
    rate: Array
    quantisation: Array


@dataclasses.dataclass(frozen=True)
class Objective:
    """An autoencoder and what it minimises; without a critic it is a loss, see `loss`.

    Attributes:
        encode: (params, images) -> mean and log variance, or vectors [B, h, w, L].
        decode: (params, latents) -> images.
        distance: of a difference, elementwise: `jnp.abs` (L1), `jnp.square` (L2).
        features: a frozen network for `feature_distance`; None for none.
        feature_weight: of that distance.
        kl_weight: of KL / D; 1e-6 leaves the posterior far from N(0, I), as is meant.
        codebook_weight: of the codes' way to the vectors, (code - stop(vector))^2.
        commitment_weight: of the vectors' way to the codes, van den Oord et al. 2017, eq. (3).
    Raises:
        ValueError: for a weight that is negative or not finite.
    """

    encode: Callable[[Params, Array], tuple[Array, Array] | Array]
    decode: Callable[[Params, Array], Array]
    distance: Callable[[Array], Array] = jnp.abs
    features: Features | None = None
    feature_weight: float = 1.0
    kl_weight: float = 1e-6
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25

    def __post_init__(self) -> None:
        for name in ("feature_weight", "kl_weight", "codebook_weight", "commitment_weight"):
            check_weight(name, getattr(self, name))

    def terms(self, params: Params, rng: Key, images: Array) -> Terms:
        """Reconstructions and terms of images [B, H, W, C]; rng is a key, or one an image [B]."""
        own = params["autoencoder"]
        encoded, num = self.encode(own, images), len(images)
        rate = quantisation = jnp.zeros(num, at_least_float32(images))
        if isinstance(encoded, tuple):
            keys = penalties.each_key(rng, num)
            z = jax.vmap(gaussians.sample)(keys, *encoded)
            rate = likelihoods.sum_pixels(gaussians.kl(*encoded))
        else:
            codes = codes_of(params, encoded)
            z = quantize.straight_through(encoded, codes)
            mean = lambda x: x.mean(range(1, x.ndim)) / encoded.shape[-1]
            to_codes = mean(quantize.commitment(encoded, codes))
            to_vectors = mean(quantize.commitment(codes, encoded))
            quantisation = self.codebook_weight * to_vectors + self.commitment_weight * to_codes
        decoded = self.decode(own, z)
        if decoded.shape != images.shape:
            raise ValueError(f"decode gives {decoded.shape}: expected {images.shape}, the images'")
        wide = at_least_float32(images, decoded)
        gaps = self.distance(images.astype(wide) - decoded.astype(wide))
        distance = gaps.mean(range(1, images.ndim))
        features = jnp.zeros_like(distance)
        if self.features is not None:
            features = feature_distance(self.features, images, decoded)
        return Terms(decoded, distance, features, rate, quantisation)

    def reconstruction(self, terms: Terms) -> Array:
        """[] distance and features, the mean over images: what a critic's weight is measured by."""
        return jnp.mean(terms.distance + self.feature_weight * terms.features)

    def regulariser(self, terms: Terms) -> Array:
        """[] what keeps the latents in bounds: weighted rate or quantisation."""
        num = terms.images[0].size
        return jnp.mean(self.kl_weight / num * terms.rate + terms.quantisation)

    def loss(
        self, params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        """The objective without a critic, a `LossFn`."""
        images = games.images_of(batch)
        terms = self.terms(params, rng, images)
        value = self.reconstruction(terms) + self.regulariser(terms)
        return value, Aux(float(len(images)), metrics_of(terms))


def feature_distance(features: Features, x: Array, y: Array) -> Array:
    """Sum over maps of the mean over pixels of |f(x) - f(y)|^2, each pixel's vector of length 1.

    Zhang et al. 2018, arXiv:1801.03924, eq. (1), with all learned weights 1 and a network that is
    given: its numbers are those of that network, and no LPIPS.

    Args:
        features: images -> maps [B, h, w, C]; nothing in it is trained.
        x, y: [B, ...] images.
    Returns:
        [B] float32 or wider.
    """
    total = jnp.zeros(len(x), at_least_float32(x))
    for of_x, of_y in zip(features(x), features(y), strict=True):
        gap = _unit(of_x) - _unit(of_y)
        total = total + jnp.square(gap).sum(-1).mean(range(1, gap.ndim - 1))
    return total


def codes_of(params: Params, vectors: Array) -> Array:
    """The nearest code of each vector [..., L]; ValueError without a codebook."""
    if "codebook" not in params:
        raise ValueError("encode gives vectors: expected a codebook in the parameters")
    indices = jax.lax.stop_gradient(quantize.nearest(params["codebook"], vectors))
    return params["codebook"][indices]


def networks(model: autoencoder.Autoencoder) -> dict[str, Callable]:
    """`encode` and `decode` of a module, for `Objective(**networks(model), ...)`."""
    apply = lambda params, x, method: model.apply({"params": params}, x, method=method)
    return {
        "encode": lambda params, x: apply(params, x, "encode"),
        "decode": lambda params, z: apply(params, z, "decode"),
    }


LAST = ("autoencoder", "decoder", "head", "kernel")  # of `vae.networks.autoencoder.Autoencoder`


def init(
    model: autoencoder.Autoencoder, rng: Key, images: Array, num_codes: int | None = None
) -> Params:
    """Parameters of a module for images [B, H, W, C], with a codebook for one that gives vectors.

    Codes are uniform within 1 / K of 0, as Esser et al. start them.

    Raises:
        ValueError: for a codebook beside a posterior, or vectors without one.
    """
    if model.gaussian != (num_codes is None):
        raise ValueError(f"num_codes={num_codes}, gaussian={model.gaussian}: expected one of both")
    rng, code_rng = jax.random.split(rng)
    params = {"autoencoder": model.init(rng, images)["params"]}
    if num_codes is not None:
        shape, end = (checks.count("num_codes", num_codes), model.latent_dim), 1 / num_codes
        params["codebook"] = jax.random.uniform(code_rng, shape, minval=-end, maxval=end)
    return params


def frozen(
    objective: Objective, params: Params, scale: float | Array = 1.0, shift: float | Array = 0.0
) -> latent.FirstStage:
    """The trained autoencoder for a latent model; one of vectors quantises when it decodes."""
    own = params["autoencoder"]
    code = (lambda z: codes_of(params, z)) if "codebook" in params else lambda z: z
    return latent.FirstStage(
        lambda x: objective.encode(own, x), lambda z: objective.decode(own, code(z)), scale, shift
    )


def metrics_of(terms: Terms) -> Metrics:
    """Means of the terms over images."""
    names = ("distance", "features", "rate", "quantisation")
    return {name: getattr(terms, name).mean() for name in names}


def _unit(maps: Array) -> Array:
    """Vectors of length 1, or 0; float32 or wider."""
    maps = maps.astype(at_least_float32(maps))
    return maps / jnp.sqrt(jnp.square(maps).sum(-1, keepdims=True) + 1e-10)


def check_weight(name: str, value: float) -> None:
    """Raises ValueError for a weight that is negative or not finite."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}={value}: expected a finite number >= 0")
