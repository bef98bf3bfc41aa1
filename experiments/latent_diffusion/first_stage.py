"""What does the weight of the KL term buy a first stage, and what does diffusion then reach?

Claims: at the smallest weight reconstructions beat as many principal components by 3 dB; scaled
latents have unit variance within 1 %; a larger weight costs fewer nats and more error; at every
weight decoded samples of a latent diffusion model are nearer to held-out digits than decoded noise;
the critic stands still until its start and moves after; tiles err no more at their seams.
Cost: 10 minutes on 2 CPU cores.
    python -m experiments latent_diffusion.first_stage

MNIST at 16 x 16 (means of 2 x 2 pixels); the autoencoder of Rombach et al. 2022 on patches of 4 x 4
pixels. Distances are Frechet distances in the features of a classifier trained here.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from experiments.latent_diffusion import _first_stage, _images
from library import claims, report, training

PCA = claims.baseline("as many principal components of the training digits")
UNIT = claims.theorem("scale = 1 / standard deviation of the whole set's sampled latents")
LIGHTER = claims.baseline("the same autoencoder at the smallest weight")
NOISE = claims.baseline("N(0, I) in the scaled space through the same decoder")
LATE = claims.theorem("a loss of 0 has no gradient, and Adam no step")
MOVED = claims.bar("diffusers issue 10605: a critic's loss without an update trains nothing")
SEAMS = claims.bar("1.2 times the error inside tiles; memory of one tile")


@dataclasses.dataclass(frozen=True)
class Config:
    """The autoencoders, the diffusion model, the critic, and what judges them."""

    kl_weights: tuple[float, ...] = (1e-4, 1e-2, 1e-1)  # of KL / 256 pixels, ascending
    width: int = 64  # channels of the autoencoder
    latent_dim: int = 1  # numbers of each of 4 x 4 latents
    num_steps: int = 2000  # updates of each autoencoder
    batch_size: int = 64  # digits per update
    learning_rate: float = 3e-3  # peak of the warm-up and cosine schedule
    diffusion_width: int = 256  # of the perceptron in the latents
    diffusion_steps: int = 3000  # its updates
    num_rounds: int = 200  # with a critic, which starts halfway
    critic_width: int = 16  # channels of the critic
    judge_width: int = 16  # channels of the classifiers
    judge_steps: int = 1000  # their updates
    num_train: int = 60_000  # training digits, the first ones
    num_test: int = 2000  # held-out digits, and as many samples
    run: training.RunOptions = training.RunOptions(
        log_every=100, checkpoint_every=1000, steps_per_call=20
    )


PRESETS = {
    "smoke": Config(
        kl_weights=(1e-4, 1e-1), width=2, num_steps=2, batch_size=4, diffusion_width=4,
        diffusion_steps=2, num_rounds=2, critic_width=1, judge_width=1, judge_steps=2,
        num_train=20, num_test=16,
        run=training.RunOptions(log_every=2, checkpoint_every=2, steps_per_call=1),
    ),
    "default": Config(),
    "accelerator": Config(
        kl_weights=(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), width=128, num_steps=30_000,
        batch_size=256, diffusion_width=1024, diffusion_steps=30_000, num_rounds=4000,
        judge_steps=5000, num_test=10_000,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """An autoencoder for each weight, judged; a critic beside the lightest; tiles of it."""
    if len(config.kl_weights) < 2 or list(config.kl_weights) != sorted(config.kl_weights):
        raise ValueError(f"kl_weights={config.kl_weights}: expected two or more, ascending")
    if config.num_rounds < 2:
        raise ValueError(f"num_rounds={config.num_rounds}: expected 2 or more, half with a critic")
    seed, networks = config.run.seed, _images.Networks(config.width, config.latent_dim)
    train, test = _images.read("train", config.num_train), _images.read("test", config.num_test)
    judge, seen = (
        _images.judge(train, test, width=config.judge_width, num_steps=config.judge_steps, seed=s)
        for s in (seed, seed + 1)
    )
    found, rows, stages = {}, {"held out": test["images"]}, {}
    for weight in config.kl_weights:
        objective = networks.objective(distance=jnp.square, kl_weight=weight)
        folder = report.RunDir(out.path / f"kl_{weight:g}")
        state = training.train(
            objective.loss, _first_stage.optimizer(config.learning_rate, config.num_steps),
            networks.init, training.batches({"images": train["images"]}, config.batch_size, seed),
            num_steps=config.num_steps, run=config.run, out=folder, rng_per_example=True,
        )  # fmt: skip
        params = jax.device_get(state.params)
        stages[weight] = params
        found[weight], shown = _first_stage.judged(
            networks, params, train["images"], test["images"], judge, folder.path / "latents",
            width=config.diffusion_width, num_steps=config.diffusion_steps, seed=seed,
        )  # fmt: skip
        rows |= {f"{name}, {weight:g}": images for name, images in shown.items()}
    lightest = stages[config.kl_weights[0]]
    played = _first_stage.play(
        networks, networks.objective(features=seen.maps, kl_weight=config.kl_weights[0]), lightest,
        train["images"], test["images"], judge, report.RunDir(out.path / "critic"),
        num_rounds=config.num_rounds, batch_size=config.batch_size, width=config.critic_width,
        run=config.run,
    )  # fmt: skip
    seams = _first_stage.tiles(networks.objective(), lightest, test["images"])
    floats = 16 * config.latent_dim
    pca = _images.decibels(_images.pca_error(train["images"], test["images"], floats))
    out.figure("first_stage", _first_stage.curves(found, pca))
    out.figure("samples", _first_stage.picture(rows))
    metrics = {"judge_accuracy": judge.accuracy, "pca_decibels": pca}
    return claims.Result(metrics, []) + _claims(found, pca) + _played(played, seams)


def _claims(found: dict[float, _first_stage.Trained], pca: float) -> claims.Result:
    metrics, stated, first = {}, [], next(iter(found.values()))
    for weight, each in found.items():
        metrics |= {f"{k}_{weight:g}": v for k, v in dataclasses.asdict(each).items()}
        name = f"KL weight {weight:g}"
        stated += [
            claims.within(f"{name}: variance of scaled latents", each.variance, 1, 0.01, UNIT),
            claims.below(f"{name}: distance of samples", each.diffused, each.noise, NOISE),
        ]
    last = list(found.values())[-1]
    stated += [
        claims.at_least("smallest weight: decibels above PCA", first.decibels - pca, 3.0, PCA),
        claims.below("largest weight: rate, nats", last.rate, first.rate, LIGHTER),
        claims.below("largest weight: decibels", last.decibels, first.decibels, LIGHTER),
    ]
    return claims.Result(metrics, stated)


def _played(played: _first_stage.Played, seams: tuple[float, float]) -> claims.Result:
    stated = [
        claims.exactly("critic before its start: relative change", played.before, 0, LATE),
        claims.above("critic after its start: relative change", played.after, 0.01, MOVED),
        claims.at_most("tiles: error at seams over that inside", seams[0], 1.2, SEAMS),
        claims.at_most("tiles: power of memory in cells", seams[1], 0.05, SEAMS),
    ]
    metrics = {f"critic_{k}": v for k, v in dataclasses.asdict(played).items()}
    return claims.Result(metrics, stated)
