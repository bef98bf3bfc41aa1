"""Perceptrons with one or more stochastic layers: the networks of the IWAE paper.

Burda et al. 2016, arXiv:1509.00519, section 5 and appendix: tanh, one layer of 50 latents between
two hidden layers of 200, or a second one of 100 latents below two hidden layers of 100.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key, Params
from research.vae import gaussians, likelihoods
from research.vae.checks import whole_levels
from research.vae.networks import heads, single


class Perceptron(nn.Module):
    """x -> z_1 -> .. -> z_L by the encoder, z_L -> .. -> z_1 -> x by the decoder.

    Attributes:
        image_shape: (H, W, C) or any other shape of an example.
        latent_dims: numbers of z_1 .. z_L, from the data up.
        hidden: widths of the hidden layers below each; the decoder has them reversed.
        head: what the decoder ends in.
        num_classes: labels that encoder and decoder see beside their input; None for none.
    """

    image_shape: tuple[int, ...]
    latent_dims: tuple[int, ...] = (50,)
    hidden: tuple[tuple[int, ...], ...] = ((200, 200),)
    head: heads.Head = heads.BERNOULLI
    num_classes: int | None = None

    def setup(self):
        if not self.latent_dims or len(self.latent_dims) != len(self.hidden):
            raise ValueError(
                f"latent_dims={self.latent_dims}, hidden={self.hidden}: expected hidden layers "
                "for each stochastic one, and one of these at least"
            )
        pairs = list(zip(self.latent_dims, self.hidden, strict=True))
        self.encoders = [Diagonal(dim, hidden) for dim, hidden in pairs]
        below = zip(self.latent_dims[:-1], self.hidden[1:], strict=True)
        self.decoders = [Diagonal(dim, hidden[::-1]) for dim, hidden in below]
        self.trunk = Tanh(self.hidden[0][::-1])
        self.output = nn.Dense(math.prod(self.image_shape) * self.head.count, kernel_init=_glorot)

    def encode(self, x: Array, labels: Array | None = None) -> tuple[Array, Array]:
        """Mean and log variance [B, latent_dims[0]] of z_1, of data [B, *image_shape]."""
        if x.shape[1:] != tuple(self.image_shape):
            raise ValueError(f"x {list(x.shape)}: expected [B, {str(self.image_shape)[1:-1]}]")
        return self.encoders[0](self._beside(self.head.see(x).reshape(len(x), -1), labels))

    def decode(self, z: Array, labels: Array | None = None) -> Any:
        """The likelihood of data, of z_1 [B, latent_dims[0]]."""
        out = self.output(self.trunk(self._beside(z, labels)))
        return self.head(out.reshape(*z.shape[:-1], *self.image_shape[:-1], -1))

    def terms(self, x: Array, rng: Key, num: int = 1, labels: Array | None = None) -> single.Terms:
        """The terms of the bound, a group a stochastic layer; see `single.terms`.

        The divergence of the top layer is in closed form, those below it are log ratios at the
        draw: the encoder draws them first.

        Args:
            x: [B, *image_shape] data, as the head expects them.
            rng: [B] keys, one an example.
            num: K, draws of all layers.
            labels: [B] int, with `num_classes` only.
        Raises:
            ValueError: if x has another shape, or there is not one key an example.
        """
        checks.count("num", num, of="draws")
        single.one_key_each(rng, x)
        keys = jax.vmap(lambda key: jax.random.split(key, len(self.latent_dims)))(rng)  # [B, L]
        draws, posteriors = [], []
        mean, log_var = (jnp.broadcast_to(a[None], (num, *a.shape)) for a in self.encode(x, labels))
        for level in range(len(self.latent_dims)):
            if level:
                mean, log_var = self.encoders[level](self._beside(draws[-1], labels))
            noise = jax.vmap(
                lambda key, dim=self.latent_dims[level]: jax.random.normal(key, (num, dim)),
                out_axes=1,
            )(keys[:, level])
            draws.append(mean + jnp.exp(log_var / 2) * noise)  # [K, B, latent]
            posteriors.append((mean, log_var))
        kl, ratio = [], []
        for level, (z, posterior) in enumerate(zip(draws, posteriors, strict=True)):
            top = level == len(self.latent_dims) - 1
            above = None if top else self._beside(draws[level + 1], labels)
            prior = (0.0, 0.0) if top else self.decoders[level](above)
            ratio.append(
                (gaussians.log_prob(z, *posterior) - gaussians.log_prob(z, *prior)).sum(-1)
            )
            # Below the top the prior hangs on a draw that was made from z: no closed form is right.
            kl.append(gaussians.kl(*posterior).sum(-1) if top else ratio[-1])
        log_prob = jax.vmap(lambda z: self.decode(z, labels).log_prob(x))(draws[0])
        return single.Terms(
            log_likelihood=likelihoods.sum_pixels(log_prob, batch_axes=2),
            kl=jnp.stack(kl, -1),
            log_ratio=jnp.stack(ratio, -1),
        )

    def sample(self, rng: Key, labels: Array | None = None) -> Any:
        """The likelihoods of one image for each of the keys [B], drawn from the prior down."""
        keys = jax.vmap(lambda key: jax.random.split(key, len(self.latent_dims)))(rng)
        normal = lambda level: jax.vmap(
            lambda key: jax.random.normal(key, (self.latent_dims[level],))
        )(keys[:, level])
        z = normal(len(self.latent_dims) - 1)
        for level in reversed(range(len(self.latent_dims) - 1)):
            mean, log_var = self.decoders[level](self._beside(z, labels))
            z = mean + jnp.exp(log_var / 2) * normal(level)
        return self.decode(z, labels)

    def _beside(self, h: Array, labels: Array | None) -> Array:
        """h [..., B, D] with the label's one-hot vector, or as it is."""
        one_hot = label_vectors(labels, self.num_classes, h.shape[-2])
        if one_hot is None:
            return h
        shape = (*h.shape[:-1], self.num_classes)
        return jnp.concatenate([h, jnp.broadcast_to(one_hot.astype(h.dtype), shape)], -1)


class Tanh(nn.Module):
    """Hidden layers under tanh."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., D] -> [..., widths[-1]]."""
        for width in self.widths:
            x = jnp.tanh(nn.Dense(width, kernel_init=_glorot)(x))
        return x


class Diagonal(nn.Module):
    """Hidden layers, then the mean and the log variance of a Gaussian."""

    dim: int
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[..., D] -> two of [..., dim]."""
        h = Tanh(self.hidden, name="hidden")(x)
        dense = lambda name: nn.Dense(self.dim, kernel_init=_glorot, name=name)
        return dense("mean")(h), dense("log_var")(h)


def start_at_mean(params: Params, mean: Array, low: float = 1e-3) -> Params:
    """Parameters whose decoder starts at the mean image: logits of it as output biases.

    Args:
        params: of a `Perceptron` under `heads.BERNOULLI`.
        mean: [*image_shape] in [0, 1], of the training data.
        low: means are kept this far from 0 and 1.
    """
    mean = jnp.clip(jnp.ravel(mean), low, 1 - low)
    output = {**params["output"], "bias": jnp.log(mean) - jnp.log1p(-mean)}
    if output["bias"].shape != params["output"]["bias"].shape:
        raise ValueError(f"mean has {mean.size} pixels: expected {params['output']['bias'].size}")
    return {**params, "output": output}


def label_vectors(labels: Array | None, num_classes: int | None, batch: int) -> Array | None:
    """One-hot vectors [B, num_classes], or None where there are no classes.

    Raises:
        ValueError: for labels without classes, classes without labels, or labels that are not [B]
            integers in 0 .. num_classes - 1, as far as they are known; an unknown one gives nan.
    """
    if num_classes is None:
        if labels is not None:
            raise ValueError("labels are given to a network with num_classes=None")
        return None
    if labels is None:
        raise ValueError(f"labels are missing: expected int [B] in 0 .. {num_classes - 1}")
    if labels.shape != (batch,):
        raise ValueError(f"labels {list(labels.shape)}: expected [{batch}], one an example")
    labels = whole_levels("labels", labels, num_classes)
    return jnp.take(jnp.eye(num_classes), jnp.where(labels < 0, num_classes, labels), axis=0)


_glorot = nn.initializers.glorot_uniform()
