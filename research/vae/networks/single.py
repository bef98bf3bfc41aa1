"""Terms of the bound, of any encoder and decoder; `terms` is for one stochastic layer.

The encoder is a function x [B, ...] -> (mean, log_var) [B, ...], the decoder z [B, ...] ->
likelihood. Labels and parameters are theirs to hold:

    encode = lambda x: model.apply(params, x, labels, method="encode")
    decode = lambda z: model.apply(params, z, labels, method="decode")
    bound = single.terms(encode, decode, x, keys).elbo  # [1, B]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax

from library import checks
from library.types import Array, Key
from research.vae import gaussians, likelihoods


@flax.struct.dataclass
class Terms:
    """What bounds are made of: K draws for each of B examples, G groups of latents.

    Attributes:
        log_likelihood: [K, B] nats, log p(x | z), pixels summed.
        kl: [K, B, G] nats, KL(q, p) of each group given the draws before it, where that has a
            closed form, else as `log_ratio`; the means of both over draws agree.
        log_ratio: [K, B, G] nats, log q - log p at the draw.
    """

    log_likelihood: Array
    kl: Array
    log_ratio: Array

    @property
    def elbo(self) -> Array:
        """[K, B] nats, with divergences in closed form as far as there is one."""
        return self.log_likelihood - self.kl.sum(-1)

    @property
    def log_weights(self) -> Array:
        """[K, B] nats, log p(x, z) - log q(z | x), for `bounds`."""
        return self.log_likelihood - self.log_ratio.sum(-1)


def terms(
    encode: Callable[[Array], tuple[Array, Array]],
    decode: Callable[[Array], Any],
    x: Array,
    rng: Key,
    num: int = 1,
) -> Terms:
    """The terms under a standard normal prior; the whole latent is one group.

    Args:
        encode: x -> mean and log variance [B, ...].
        decode: z -> a likelihood of `likelihoods`, of images like x.
        x: [B, ...] data, as the likelihood expects them.
        rng: [B] keys, one an example.
        num: K, draws.
    Raises:
        ValueError: if there is not one key an example, or no draw.
    """
    checks.count("num", num, of="draws")
    one_key_each(rng, x)
    mean, log_var = encode(x)
    draw = lambda key, mean, log_var: gaussians.sample(key, mean, log_var, (num,))
    z = jax.vmap(draw, out_axes=1)(rng, mean, log_var)  # [K, B, ...]
    log_prob = jax.vmap(lambda z: decode(z).log_prob(x))(z)
    ratio = jax.vmap(lambda z: gaussians.log_prob(z, mean, log_var) - gaussians.log_prob(z))(z)
    kl = likelihoods.sum_pixels(gaussians.kl(mean, log_var))
    return Terms(
        log_likelihood=likelihoods.sum_pixels(log_prob, batch_axes=2),
        kl=jax.numpy.broadcast_to(kl[None, :, None], (num, len(kl), 1)),
        log_ratio=likelihoods.sum_pixels(ratio, batch_axes=2)[..., None],
    )


def one_key_each(rng: Key, x: Array) -> None:
    """Raises ValueError unless `rng` is [B] keys for x [B, ...]."""
    if not jax.numpy.issubdtype(rng.dtype, jax.dtypes.prng_key) or rng.shape != x.shape[:1]:
        raise ValueError(
            f"rng {rng.dtype}{list(rng.shape)}: expected {x.shape[0]} keys, one an example, as "
            "jax.random.split gives"
        )
