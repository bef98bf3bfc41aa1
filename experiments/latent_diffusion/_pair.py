"""Diffusion in the latents of a first stage beside diffusion in pixels: trained, counted, judged.

Both models are U-Nets that predict v (Salimans and Ho 2022, arXiv:2202.00512) given the class,
which is hidden from one example in ten, so that samples can be guided (Ho and Salimans 2022,
arXiv:2207.12598). Floating-point operations of a training are those of its loss and gradient by
XLA's count before optimisation, so they do not depend on the machine.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.latent_diffusion import _first_stage, _images
from library import claims, plots, report, sharding, training
from library.types import Array, Batch, Key, LossFn, Params
from research.diffusion import guidance, latent, losses, predictions, processes, samplers, unet
from research.sample_quality import frechet
from research.text_to_image import first_stage
from research.vae.networks import autoencoder
from research.vision import patches

NUM_CLASSES, COLUMNS = 10, 10
PROCESS = processes.vp(beta_min=0.1, beta_max=20.0)
KIND = "v"
BLOCK = 2000  # images that are encoded or decoded at a time

EQUAL = claims.bar("equal training within 5 %, by floating-point operations")
PIXELS = claims.baseline("diffusion in pixels, trained by as many operations, same run")

Rows = dict[str, np.ndarray]  # images by the name of their row
Draw = Callable[[Params, np.ndarray, float, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Stage:
    """The autoencoder of Rombach et al. 2022, on patches, and its training."""

    channels: tuple[int, ...] = (64,)  # of its resolutions; each but the last halves the sides
    patch: int = 4  # pixels of a side that its finest resolution sees as one
    num_blocks: int = 1  # residual blocks of a resolution
    latent_dim: int = 4  # numbers of a cell of the latents
    kl_weight: float = 0.01  # of KL over the numbers of an image, beside the mean L1 distance
    num_steps: int = 1500  # updates
    learning_rate: float = 3e-3  # peak of the warm-up and cosine schedule


@dataclasses.dataclass(frozen=True)
class Model:
    """A U-Net and its training."""

    channels: tuple[int, ...]  # by resolution, the finest first
    num_steps: int  # updates
    patch: int = 1  # numbers of a side that its finest resolution sees as one
    num_blocks: int = 1  # residual blocks of a resolution
    attention_sizes: tuple[int, ...] = ()  # heights of maps that attend; the lowest does anyway
    learning_rate: float = 2e-3  # peak of the warm-up and cosine schedule


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is drawn from either model."""

    num_samples: int = 1000  # with weight 1, and as many guided ones
    num_steps: int = 20  # of DPM-Solver++
    scale: float = 3.0  # guidance weight of the guided samples; 1 is the conditional model itself


@dataclasses.dataclass(frozen=True)
class Trained:
    """Parameters, averaged over updates, and what they cost.

    Attributes:
        params: on one device.
        flops: of all updates.
        seconds: of processors, compilation included; of a resumed run, since it went on.
    """

    params: Params
    flops: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a classifier says of one model's samples.

    Attributes:
        distance, guided_distance: in its features, of samples with weight 1 and of guided ones to
            held-out images.
        named, guided_named: share of them whose asked class it names.
        trained: flops of all that was trained, the first stage included.
        seconds: of processors, likewise.
    """

    distance: float
    guided_distance: float
    named: float
    guided_named: float
    trained: float
    seconds: float


def fit(
    loss_fn: LossFn,
    init: Callable[[Key], Params],
    data: Batch,
    out: report.RunDir,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    run: training.RunOptions,
) -> Trained:
    """Adam that climbs for a twentieth and falls by half a cosine, with averaged parameters."""
    started, batch_at = time.process_time(), training.batches(data, batch_size, run.seed)
    state = training.train(
        loss_fn, training.warmup_cosine(learning_rate, num_steps, num_steps // 20, clip=1.0), init,
        batch_at, num_steps=num_steps, run=run, out=out, ema_decay=training.ema_warmup(0.999),
        rng_per_example=True,
    )  # fmt: skip
    params = jax.block_until_ready(sharding.on_one_device(state.ema))
    seconds = time.process_time() - started
    return Trained(params, num_steps * flops(loss_fn, init, batch_at(0)), seconds)


def flops(loss_fn: LossFn, init: Callable[[Key], Params], batch: Batch) -> float:
    """Floating-point operations of a loss and its gradient on a batch; nothing is compiled."""
    rngs = jax.random.split(jax.random.key(0), len(jax.tree.leaves(batch)[0]))
    value = lambda params, rngs, batch: loss_fn(params, None, rngs, batch)[0]
    params = jax.eval_shape(init, jax.random.key(0))
    lowered = jax.jit(jax.value_and_grad(value)).lower(params, rngs, batch)
    return float(lowered.cost_analysis()["flops"])


@dataclasses.dataclass(frozen=True)
class Coder:
    """An autoencoder of images [B, H, W, C], which it sees in patches.

    Attributes:
        options: of its networks.
        image_channels: C.
    """

    options: Stage
    image_channels: int

    @functools.cached_property
    def module(self) -> autoencoder.Autoencoder:
        """Of one image of patches to another."""
        channels = self.options.channels
        return autoencoder.Autoencoder(
            channels, self.options.num_blocks, self.options.latent_dim,
            self.options.patch**2 * self.image_channels, num_groups=min(8, *channels),
        )  # fmt: skip

    def init(self, rng: Key) -> Params:
        """Parameters, which no size of images enters."""
        side = 2 ** (len(self.options.channels) - 1)
        blank = jnp.zeros((1, side, side, self.module.image_channels))
        return first_stage.init(self.module, rng, blank)

    def objective(self) -> first_stage.Objective:
        """L1 distance and KL of images."""
        own, patch = first_stage.networks(self.module), self.options.patch
        encode = lambda params, x: own["encode"](params, patches.to_patch_grid(x, patch))
        decode = lambda params, z: patches.from_patch_grid(own["decode"](params, z), patch)
        return first_stage.Objective(encode, decode, kl_weight=self.options.kl_weight)


def network(options: Model, out_channels: int) -> unet.UNet:
    """The U-Net of these options, with classes."""
    return unet.UNet(
        out_channels, options.channels, options.num_blocks, options.attention_sizes,
        num_groups=min(8, *options.channels), num_classes=NUM_CLASSES, patch=options.patch,
    )  # fmt: skip


def diffusion_loss(net: unet.UNet) -> LossFn:
    """Mean square error of v, with the class hidden from one example in ten."""
    apply = losses.drop_labels(net.apply, null_label=NUM_CLASSES, rate=0.1)
    return losses.denoising_score_matching(PROCESS, apply, KIND)


def sampler(
    net: unet.UNet, shape: tuple[int, ...], num_steps: int, decode: Callable[[Array], Array]
) -> Draw:
    """A function (params, labels [N], guidance weight, seed) -> decoded samples [N, H, W, C].

    Compiled once: the weight is an argument. Sample i has its own noise.
    """

    @jax.jit
    def draw(params: Params, labels: Array, scale: Array, rng: Key, first: Array) -> Array:
        apply = functools.partial(net.apply, params)
        given = predictions.to_score(PROCESS, functools.partial(apply, labels=labels), KIND)
        free = predictions.to_score(PROCESS, apply, KIND)
        score = guidance.classifier_free(PROCESS, given, free, scale)
        x, _ = samplers.sample(
            score, PROCESS, rng, (len(labels), *shape), solver=samplers.dpm_solver_pp(2),
            grid=samplers.karras_grid(num_steps, t_end=1e-3, to_zero=True), first_index=first,
        )  # fmt: skip
        return jnp.clip(decode(x), -1, 1)

    def draw_all(params: Params, labels: np.ndarray, scale: float, seed: int) -> np.ndarray:
        size = min(500, len(labels))
        rows, rng = np.arange(-(-len(labels) // size) * size) % len(labels), jax.random.key(seed)
        blocks = [
            np.asarray(draw(params, labels[block], scale, rng, index * size))
            for index, block in enumerate(rows.reshape(-1, size))
        ]
        return np.concatenate(blocks)[: len(labels)]

    return draw_all


@dataclasses.dataclass(frozen=True)
class Study:
    """Data and what both models are trained and judged by.

    Attributes:
        train, test: {"images": [N, H, W, C] in [-1, 1], "labels": [N]}.
        judge: the classifier.
        batch_size: of all trainings.
        sampling: what is drawn.
        run, out: the shared options, and the run's folder.
    """

    train: Batch
    test: Batch
    judge: _images.Judge
    batch_size: int
    sampling: Sampling
    run: training.RunOptions
    out: report.RunDir

    @property
    def shape(self) -> tuple[int, ...]:
        """[H, W, C] of an image."""
        return self.train["images"].shape[1:]

    def in_latents(self, stage: Stage, model: Model) -> tuple[Judged, float, Rows]:
        """A first stage, then a model of its latents.

        Returns:
            The verdict; the distance of the first stage's reconstructions to held-out images; and
            ten images by row.
        """
        coder = Coder(stage, self.shape[-1])
        objective = coder.objective()
        images = {"images": self.train["images"]}
        coded = self._fit(objective.loss, coder.init, images, stage, "first_stage")
        own, started = coded.params["autoencoder"], time.process_time()
        encode, decode = jax.jit(objective.encode), jax.jit(objective.decode)
        scaling, moments = _first_stage.scaled(
            encode, own, self.train["images"], self.out.path / "latents", block=BLOCK
        )
        seconds = coded.seconds + time.process_time() - started
        frozen = _first_stage.of_moments(scaling.scale, scaling.shift)
        shape, net = (*moments.shape[1:3], stage.latent_dim), network(model, stage.latent_dim)
        data = {"image": moments, "label": self.train["labels"]}
        loss_fn = latent.on_latents(diffusion_loss(net), frozen)
        fitted = self._fit(loss_fn, starts(net, shape), data, model, "latent")
        to_images = lambda z: objective.decode(own, frozen.unscaled(z))
        draw = sampler(net, shape, self.sampling.num_steps, to_images)
        verdict, shown = self._judged("latents", draw, fitted, coded.flops, seconds)
        again = lambda block: np.clip(decode(own, encode(own, block)[0]), -1, 1)
        held_out = self.test["images"]
        blocks = [again(held_out[i : i + BLOCK]) for i in range(0, len(held_out), BLOCK)]
        back = np.concatenate(blocks)
        return verdict, self._distance(back), {"first stage": back[self._one_of_each()], **shown}

    def in_pixels(self, model: Model) -> tuple[Judged, Rows]:
        """A model of the images themselves: the verdict, and ten images by row."""
        net = network(model, self.shape[-1])
        data = {"image": self.train["images"], "label": self.train["labels"]}
        fitted = self._fit(diffusion_loss(net), starts(net, self.shape), data, model, "pixel")
        draw = sampler(net, self.shape, self.sampling.num_steps, lambda x: x)
        return self._judged("pixels", draw, fitted, 0.0, 0.0)

    def held_out(self) -> Rows:
        """A held-out image of each class there is, as a row."""
        return {"held out": self.test["images"][self._one_of_each()]}

    def floor(self) -> float:
        """Distance of as many training images as there are samples to the held-out ones."""
        return self._distance(self.train["images"][: self.sampling.num_samples])

    def _fit(self, loss_fn, init, data: Batch, options: Stage | Model, name: str) -> Trained:
        return fit(
            loss_fn, init, data, report.RunDir(self.out.path / name), run=self.run,
            num_steps=options.num_steps, batch_size=self.batch_size,
            learning_rate=options.learning_rate,
        )  # fmt: skip

    def _judged(
        self, name: str, draw: Draw, fitted: Trained, flops: float, seconds: float
    ) -> tuple[Judged, Rows]:
        """The verdict on samples of classes in turn; flops and seconds are added to training's."""
        asked = np.arange(self.sampling.num_samples) % NUM_CLASSES
        plain, guided = (
            draw(fitted.params, asked, weight, self.run.seed)
            for weight in (1.0, self.sampling.scale)
        )
        named = lambda images: float((self.judge.labels(images) == asked).mean())
        verdict = Judged(
            distance=self._distance(plain), guided_distance=self._distance(guided),
            named=named(plain), guided_named=named(guided),
            trained=fitted.flops + flops, seconds=fitted.seconds + seconds,
        )  # fmt: skip
        rows = {f"{name}, guided": guided, f"{name}, guided, more": guided[COLUMNS:]}
        return verdict, {f"{name}": plain, **rows}

    def _distance(self, images: np.ndarray) -> float:
        return frechet.distance(self.judge.features(images), self._target)

    @functools.cached_property
    def _target(self) -> np.ndarray:
        return self.judge.features(self.test["images"])

    def _one_of_each(self) -> np.ndarray:
        """The first held-out image of each class there is."""
        return np.unique(self.test["labels"], return_index=True)[1]


def starts(net: unet.UNet, shape: tuple[int, ...]) -> Callable[[Key], Params]:
    """Parameters of a network for images of this shape, as a function of a key."""
    blank = (jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, int))
    return lambda rng: net.init(rng, *blank)


def judged(latents: Judged, pixels: Judged, first: float, floor: float) -> claims.Result:
    """Claims that both studies share, and all numbers."""
    metrics = {"distance_first_stage": first, "distance_training_images": floor}
    for name, each in (("latent", latents), ("pixel", pixels)):
        metrics |= {f"{key}_{name}": value for key, value in dataclasses.asdict(each).items()}
    stated = [
        claims.within(
            "operations of training, pixels over latents with first stage",
            pixels.trained / latents.trained, 1, 0.05, EQUAL,
        ),
        claims.at_most(
            "latents: feature distance of samples", latents.distance, pixels.distance, PIXELS
        ),
        claims.at_most(
            "latents: feature distance of guided samples", latents.guided_distance,
            pixels.guided_distance, PIXELS,
        ),
    ]  # fmt: skip
    return claims.Result(metrics, stated)


def picture(rows: Rows, title: str):
    """The first ten images of each row, white where there are fewer, with its name beside it."""
    shape = next(iter(rows.values())).shape[1:]
    blank = np.ones((COLUMNS, *shape), np.float32)
    images = [np.concatenate([row, blank])[:COLUMNS] for row in rows.values()]
    return plots.image_grid(
        np.concatenate(images), len(rows), COLUMNS, value_range=(-1, 1), title=title,
        row_labels=tuple(rows),
    )  # fmt: skip
