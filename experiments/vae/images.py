"""How many bits does a variational autoencoder need for images of your own?

Claims: fewer bits a dimension of held-out images, by a bound, than independent pixels with their
histograms need; the bound of many draws is the tighter one. Cost: 2 minutes on 2 CPU cores.
    python -m experiments vae.images --images FOLDER --size 32
    python -m experiments vae.images --images FILE.npz --channels 1

A folder of image files or an .npz file of one array [N, H, W, C] (bytes, or floats in [0, 1]);
without --images 8x8 digits. One image in ten is held out. Strided convolutions, a mixture of
discretised logistics a pixel and channel: a probability of bytes, so that its bits can be compared
with those of other models of the same images. The decoder's parameters are in checkpoints/.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.vae import _pixels
from library import claims, plots, report, training
from library.data import images as image_files
from library.data.sets import digits
from library.types import Aux
from research.vae import bounds
from research.vae.networks import Convolutional, heads, single

PIXELS = claims.baseline("independent pixels, each by its histogram on the training images")
THEOREM = claims.theorem("the bound rises with the draws, Burda et al. 2016, arXiv:1509.00519")


@dataclasses.dataclass(frozen=True)
class Config:
    """The images, the network and its training."""

    images: str = ""  # a folder of images or an .npz file; empty: 8x8 digits
    size: int = 32  # pixels of a side, a multiple of 2 for each entry of `channels_inside`
    channels: int = 3  # 1 grey, 3 colours
    channels_inside: tuple[int, ...] = (32, 64)  # of each halved resolution, finest first
    width: int = 256  # dense units beside the latent
    latent_dim: int = 32  # numbers of a latent
    components: int = 5  # logistics of a pixel and channel
    beta: float = 1.0  # weight of the divergence; only 1 trains the bound that is reported
    num_steps: int = 3000  # updates
    batch_size: int = 64  # images per update
    learning_rate: float = 1e-3  # peak of the warm-up and cosine schedule
    num_draws: int = 64  # of the bound that scores held-out images
    run: training.RunOptions = training.RunOptions(log_every=250, checkpoint_every=1000)


PRESETS = {
    "smoke": Config(
        channels_inside=(4,), width=8, latent_dim=2, components=1, num_steps=2, batch_size=8,
        num_draws=2, run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        channels_inside=(64, 128, 256), width=1024, latent_dim=128, components=10,
        num_steps=100_000, batch_size=256, num_draws=1000,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains, scores held-out images, shows them, their reconstructions, and samples."""
    data, levels = read(config)
    train, test = _pixels.split(data, config.run.seed)
    model = Convolutional(
        data.shape[1:], config.latent_dim, config.channels_inside, config.width,
        heads.logistics(config.components, levels),
    )  # fmt: skip
    params = _train(config, model, train, out)
    few, many = _score(config, model, params, test)
    independent = _pixels.histogram_bits(train, test, levels)
    _show(config, model, params, test, levels, out)
    metrics = {"bits_one_draw": few, "bits": many, "bits_independent_pixels": independent}
    stated = [
        claims.below("bits a dimension of held-out images", many, independent, PIXELS),
        claims.at_most("bits by many draws, below one draw's", many, few, THEOREM),
    ]
    return claims.Result({**metrics, "held_out": len(test), "trained_on": len(train)}, stated)


def read(config: Config) -> tuple[np.ndarray, int]:
    """Images [N, H, W, C] of whole levels, and the number of levels."""
    if not config.images:
        both = [digits.arrays(name)["image"] for name in ("train", "test")]
        return np.concatenate(both), 17
    factor = 2 ** len(config.channels_inside)
    if config.size % factor:
        raise ValueError(f"size={config.size}: expected a multiple of {factor}")
    return image_files.read(config.images, config.size, config.channels), 256


def _terms(model: Convolutional, params, x, keys, num: int = 1) -> single.Terms:
    encode = lambda x: model.apply({"params": params}, x, method="encode")
    decode = lambda z: model.apply({"params": params}, z, method="decode")
    return single.terms(encode, decode, x, keys, num)


def _train(config: Config, model: Convolutional, images: np.ndarray, out: report.RunDir):
    def loss(params, model_state, rng, batch):
        x = batch["image"].astype(jnp.int32)
        terms = _terms(model, params, x, rng)
        objective = bounds.beta_elbo(terms.log_likelihood[0], terms.kl[0], config.beta)
        bits = -bounds.average(terms.elbo[0]) / (math.prod(x.shape[1:]) * math.log(2))
        metrics = {"bits": bits, "kl": terms.kl.sum(-1).mean()}
        return -bounds.average(objective), Aux(weight=jnp.float32(len(x)), metrics=metrics)

    optimizer = training.warmup_cosine(
        config.learning_rate, config.num_steps, min(100, config.num_steps - 1), clip=1000.0
    )
    shape = jnp.zeros((1, *images.shape[1:]), jnp.int32)
    state = training.train(
        loss, optimizer, lambda rng: model.init(rng, shape)["params"],
        training.batches({"image": images}, config.batch_size, config.run.seed),
        num_steps=config.num_steps, run=config.run, out=out, rng_per_example=True,
        ema_decay=training.ema_warmup(0.999),
    )  # fmt: skip
    return jax.device_get(state.ema)


def _score(config: Config, model: Convolutional, params, images) -> tuple[float, float]:
    """Bits a dimension of held-out images, by one draw and by many."""
    weights = lambda x, key, num: (
        _terms(model, params, x, jax.random.split(key, len(x)), num).log_weights
    )
    found = _pixels.log_likelihood(
        weights, jnp.asarray(images, jnp.int32), num_fine=len(images),
        coarse_draws=1, fine_draws=config.num_draws, rng=jax.random.key(config.run.seed), chunk=16,
    )  # fmt: skip
    unit = -1 / (math.prod(images.shape[1:]) * math.log(2))
    return found.bound * unit, found.value * unit


def _show(config: Config, model: Convolutional, params, images, levels: int, out: report.RunDir):
    num = min(12, len(images))
    encode = jax.jit(lambda x: model.apply({"params": params}, x, method="encode"))
    decode = jax.jit(lambda z: model.apply({"params": params}, z, method="decode").mean)
    mean, _ = encode(images[:num])
    z = jax.random.normal(jax.random.key(config.run.seed + 1), (num, config.latent_dim))
    rows = np.concatenate([images[:num], decode(mean), decode(z)]) / (levels - 1)
    labels = ("held out", "from its mean", "drawn")
    title = "Held-out images, their reconstructions, and samples"
    out.figure("images", plots.image_grid(rows, 3, num, title=title, row_labels=labels))
