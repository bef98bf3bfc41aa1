"""A text-to-image model from nothing: words, a first stage, its scale, diffusion in its latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import muon, report, training
from library.types import Batch, Params
from research.diffusion import latent
from research.text_to_image import (
    first_stage,
    model,
    schedules,
    text_encoder,
    unet,
    vocabularies,
)
from research.text_to_image import training as diffusing
from research.vae.networks import autoencoder


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The networks of a chain.

    Attributes:
        channels: of the first stage, finest first; each but the last halves the image.
        num_blocks: residual blocks of a resolution of it.
        latent_dim: channels of the latents.
        width: channels of the U-Net at its finest resolution, doubled at each coarser one.
        depth: its resolutions; the finest of two or more does not attend to the text.
        text_width, text_depth: of the text encoder.
    """

    channels: tuple[int, ...] = (16, 32, 32)
    num_blocks: int = 1
    latent_dim: int = 4
    width: int = 48
    depth: int = 2
    text_width: int = 64
    text_depth: int = 2


SMALLEST = Sizes(channels=(2, 2), width=8, depth=1, text_width=8, text_depth=1)


def build(sizes: Sizes, size: int, texts: Sequence[str], max_length: int) -> model.Model:
    """The model for images of `size` pixels and texts of a small world; its scale is still 1.

    v prediction on squared cosines; images are sampled by 30 DDIM steps to zero noise.

    Raises:
        ValueError: for a size that the networks cannot halve.
    """
    factor = 2 ** (len(sizes.channels) - 1)
    whole = factor * 2 ** (sizes.depth - 1)
    if size % whole:
        raise ValueError(f"size={size}: expected a multiple of {whole} pixels")
    tokenizer = vocabularies.learn(texts, max_length)
    return model.Model(
        unet=_network(sizes),
        vae=autoencoder.Autoencoder(
            sizes.channels, sizes.num_blocks, sizes.latent_dim, num_groups=min(4, sizes.channels[0])
        ),
        text_encoder=text_encoder.clip(
            sizes.text_depth, sizes.text_width, max(1, sizes.text_width // 16),
            vocab_size=len(tokenizer), max_length=max_length,
        ),
        tokenizer=tokenizer,
        schedule=schedules.Schedule(
            table="squaredcos_cap_v2", kind="v", spacing="trailing", to_zero=True
        ),
        scale=1.0,
        sample_size=(size // factor, size // factor),
    )  # fmt: skip


def train_first_stage(
    made: model.Model,
    batch_at: Callable[[int], Batch],
    out: report.RunDir,
    *,
    num_steps: int,
    learning_rate: float,
    run: training.RunOptions,
) -> Params:
    """The first stage's {"params": ...}, after squared distances and a light KL term.

    Args:
        made: the model.
        batch_at: {"image": [B, H, W, 3] uint8}.
        out: its run's folder.
        num_steps, learning_rate: of Adam; the rate warms up and falls by half a cosine.
        run: the shared options.
    """
    objective = first_stage.Objective(
        lambda params, images: made.encode({"vae": params}, images),
        lambda params, z: made.decode({"vae": params}, z),
        distance=jnp.square,
        kl_weight=1e-6,
    )

    def loss_fn(params, model_state, rng, batch):
        return objective.loss(params, model_state, rng, {"images": to_range(batch["image"])})

    state = training.train(
        loss_fn, optimizer(learning_rate, num_steps),
        lambda rng: {"autoencoder": diffusing.init(made, rng, ["vae"])["vae"]}, batch_at,
        num_steps=num_steps, run=run, out=out, rng_per_example=True,
    )  # fmt: skip
    return jax.device_get(state.params["autoencoder"])


def to_latents(
    made: model.Model, vae: Params, images: np.ndarray, block: int = 250
) -> tuple[model.Model, np.ndarray]:
    """The model with its measured scale, and a scaled latent of each image, drawn [N, h, w, C]."""
    encode = jax.jit(lambda images: made.encode({"vae": vae}, to_range(images)))
    blocks = [images[start : start + block] for start in range(0, len(images), block)]
    encoded = [jax.device_get(encode(jnp.asarray(each))) for each in blocks]
    scaling = latent.measure(lambda pair: pair, encoded)
    made = dataclasses.replace(made, scale=scaling.scale, shift=scaling.shift)
    mean, log_var = (np.concatenate(each) for each in zip(*encoded))
    noise = np.random.default_rng(0).standard_normal(mean.shape, np.float32)
    z = mean + np.exp(log_var / 2) * noise
    return made, (z - scaling.shift) * scaling.scale


def train_diffusion(
    made: model.Model,
    data: Batch,
    out: report.RunDir,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    run: training.RunOptions,
) -> Params:
    """Averaged {"unet", "text_encoder"} of a model, trained together on latents and tokens.

    By `orthogonal`: at equal cost Adam draws the right outline half as often.

    Args:
        made: the model, with its scale.
        data: {"image": scaled latents [N, h, w, C], "label": tokens [N, T]}.
        out, num_steps, batch_size, learning_rate, run: as `train_first_stage`.
    """
    state = training.train(
        diffusing.loss(made), orthogonal(learning_rate, num_steps),
        lambda rng: diffusing.init(made, rng), training.batches(data, batch_size, run.seed),
        num_steps=num_steps, run=run, out=out, rng_per_example=True,
        ema_decay=training.ema_warmup(0.999),
    )  # fmt: skip
    return jax.device_get(state.ema)


@dataclasses.dataclass(frozen=True)
class FirstStage:
    """What a first stage does to held-out images.

    Attributes:
        decibels: peak signal to noise of reconstructions from the posterior's mean.
        pca: that of as many principal components of the training images.
        variance: of scaled latents, drawn from the posterior.
    """

    decibels: float
    pca: float
    variance: float


def judge_first_stage(
    made: model.Model, vae: Params, train: np.ndarray, test: np.ndarray
) -> FirstStage:
    """Reconstructions of `test` [N, H, W, 3] uint8 beside principal components of `train`."""
    from sklearn import decomposition

    stage = diffusing.first_stage(made, {"vae": vae})
    x = np.asarray(to_range(test))

    @jax.jit
    def both(x, rng):
        return stage.to_image(stage.to_latent(x)), stage.to_latent(x, rng)

    mean, drawn = jax.device_get(both(x, jax.random.key(0)))
    flat = lambda images: np.asarray(to_range(images)).reshape(len(images), -1)
    floats = min(drawn[0].size, min(len(train), 5000) - 1)
    pca = decomposition.PCA(floats, svd_solver="randomized", random_state=0).fit(flat(train[:5000]))
    back = pca.inverse_transform(pca.transform(flat(test)))
    return FirstStage(
        _decibels(np.mean((mean - x) ** 2)), _decibels(np.mean((back - flat(test)) ** 2)),
        float(drawn.var()),
    )  # fmt: skip


def losses_by_captions(
    made: model.Model, params: Params, test: Batch, repeats: int = 8
) -> tuple[float, float]:
    """The diffusion's loss of images under their captions, and under the next images'.

    Args:
        made, params: the model, all of its networks.
        test: {"image": [N, H, W, 3] uint8, "caption": [N] str}.
        repeats: draws of times and noise, the same for both.
    """
    stage = diffusing.first_stage(made, params)
    loss_fn = diffusing.loss(made, drop_rate=0.0)

    @jax.jit
    def of(images, tokens):
        z = stage.to_latent(to_range(images))
        rngs = jax.random.split(jax.random.key(0), repeats)
        batch = {"image": z, "label": tokens}
        return jnp.stack([loss_fn(params, {}, rng, batch)[0] for rng in rngs]).mean()

    tokens = made.tokenizer.encode(test["caption"].tolist())
    return float(of(test["image"], tokens)), float(of(test["image"], np.roll(tokens, 1, axis=0)))


def _decibels(error: float) -> float:
    """Of a mean square error of numbers in [-1, 1]."""
    return float(10 * np.log10(4 / error))


def to_range(images):
    """Bytes as floats in [-1, 1]."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def _network(sizes: Sizes) -> unet.UNet:
    widths = tuple(sizes.width * 2**level for level in range(sizes.depth))
    attends = [0 if level == 0 and sizes.depth > 1 else 1 for level in range(sizes.depth)]
    return unet.UNet(
        sizes.latent_dim, sizes.latent_dim, channels=widths, num_blocks=1, depths=tuple(attends),
        num_heads=max(1, sizes.width // 16), context_dim=sizes.text_width,
        num_groups=min(8, sizes.width),
    )  # fmt: skip


def optimizer(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Adam on a clipped gradient; the rate warms up and falls by half a cosine."""
    return training.warmup_cosine(learning_rate, num_steps, min(100, num_steps - 1), clip=1.0)


def orthogonal(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Muon; the rate warms up and falls by half a cosine."""
    return training.warmup_cosine(
        learning_rate, num_steps, min(100, num_steps - 1), optimizer=muon.muon
    )
