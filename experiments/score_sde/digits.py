"""Does a score-based model of 8x8 digits beat classical density models of the same data?

Claim: 1,000 samples are closer to held-out digits, by energy distance, than those of a Gaussian and
of scikit-learn's 10-component mixture; they are no copies. Cost: 5 minutes on 2 CPU cores.
    python -m experiments score_sde.digits

Variance-preserving SDE (Song et al. 2021, arXiv:2011.13456), a small U-Net that predicts the noise
given the class (dropped from every tenth example, Ho and Salimans 2022, arXiv:2207.12598), samples
of all classes alike by DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) on the probability-flow ODE.
Distances are means over draws of 1,000 samples, for the model and the baselines alike.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import training
from experiments.score_sde import _pictures, _quality
from library import report
from library.data import digits, pipeline, transforms
from library.types import Array, Key, Params
from research.diffusion import losses, predictions, processes, samplers, unet

PROCESS = processes.vp(beta_min=0.1, beta_max=20.0)
NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, for how long, and how it is sampled."""

    num_steps: int = 2000  # updates
    batch_size: int = 128  # images per update
    learning_rate: float = 3e-3  # peak of the warm-up and cosine schedule
    channels: tuple[int, ...] = (32, 32)  # of the U-Net, by resolution
    dropout: float = 0.0  # rate inside residual blocks
    ema_decay: float = 0.999  # of the averaged parameters that are sampled
    label_dropout: float = 0.1  # rate at which training hides the class
    num_samples: int = 1000  # samples of a draw, as many of each class; at least 100
    num_draws: int = 6  # draws that the judged distances are means over
    sampler_steps: int = 20  # evaluations of the network per sample
    run: training.RunOptions = training.RunOptions()


PRESETS = {
    "smoke": Config(
        num_steps=8,
        batch_size=8,
        channels=(8, 8),
        num_samples=100,
        num_draws=2,
        sampler_steps=2,
        run=training.RunOptions(log_every=2, checkpoint_every=4),
    ),
    "default": Config(),
    "accelerator": Config(num_steps=30_000, batch_size=256, channels=(96, 192), dropout=0.1),
}


def run(config: Config, out: report.RunDir) -> report.Result:
    """Trains, samples, draws the pictures and states the claims."""
    if config.num_samples < 100:
        raise ValueError(f"num_samples={config.num_samples}: expected at least 100")
    train, test = (_data(split) for split in ("train", "test"))
    model = unet.UNet(
        out_channels=1,
        num_classes=NUM_CLASSES,
        channels=config.channels,
        attention_sizes=(4,),
        dropout=config.dropout,
    )
    params = _train(config, out, model, train)
    draws, reverse = _sample(config, model, params)
    _pictures.draw(out, PROCESS, draws[0], reverse, train["image"], test["image"])
    return _quality.compare(draws, train["image"], test["image"])


def _data(split: str) -> dict[str, np.ndarray]:
    """{"image": [N, 8, 8, 1] float32 in [-1, 1], "label": [N] int32}."""
    return transforms.to_unit_range(digits.MAX_VALUE)(digits.arrays(split))


def _train(
    config: Config, out: report.RunDir, model: unet.UNet, train: dict[str, np.ndarray]
) -> Params:
    """The averaged parameters after training."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(200, config.num_steps // 4), config.num_steps
    )
    apply = losses.drop_labels(model.apply, null_label=NUM_CLASSES, rate=config.label_dropout)
    state = training.train(
        losses.denoising_score_matching(PROCESS, apply, kind="noise", stratified=True),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
        lambda rng: model.init(rng, jnp.zeros((1, 8, 8, 1)), jnp.zeros(1)),
        pipeline.array_batch_at(
            train,
            config.batch_size,
            seed=config.run.seed,
            shard=(jax.process_index(), jax.process_count()),
        ),
        num_steps=config.num_steps,
        run=config.run,
        out=out,
        # A short run averages over less: the first parameters must not linger.
        ema_decay=lambda step: jnp.minimum(config.ema_decay, (1.0 + step) / (10.0 + step)),
        rng_per_example=True,
    )
    return state.ema


def _sample(config: Config, model: unet.UNet, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Draws [R, N, 8, 8, 1], ten of a class in turn, and three on their way, [3, T, 8, 8, 1]."""
    labels = jnp.arange(config.num_samples) // 10 % NUM_CLASSES

    @functools.partial(jax.jit, static_argnames="every")
    def draw(params: Params, rng: Key, labels: Array, every: int | None) -> tuple:
        predict = functools.partial(model.apply, params, labels=labels)
        return samplers.sample(
            predictions.to_score(PROCESS, predict, kind="noise"),
            PROCESS,
            rng,
            (*labels.shape, 8, 8, 1),
            solver=samplers.dpm_solver_pp(),
            grid=samplers.karras_grid(config.sampler_steps, t_end=1e-3, to_zero=True),
            every=every,
        )

    rng = jax.random.fold_in(jax.random.key(config.run.seed), 1)
    rngs = jax.random.split(rng, config.num_draws)
    draws = [np.asarray(draw(params, key, labels, every=None)[0]) for key in rngs]
    _, info = draw(params, rng, jnp.array([0, 4, 8]), every=max(config.sampler_steps // 10, 1))
    return np.stack(draws), np.moveaxis(np.asarray(info.trajectory), 0, 1)
