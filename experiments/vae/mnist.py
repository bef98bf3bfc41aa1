"""How likely do the networks of the IWAE paper make binarised MNIST, with 1, 5 and 50 draws?

Claims: test log-likelihood, by 5,000 draws, of at least -88.5 nats for one draw within ten minutes
on 2 CPU cores; on an accelerator within 0.3 nats of -86.76, -85.54 and -84.78 for 1, 5 and 50 draws
(Burda et al. 2016, arXiv:1509.00519, table 1) or better.
Cost: 6 minutes on 2 CPU cores.
    python -m experiments vae.mnist

Dynamic binarisation: a pixel is 1 with the probability of its grey value, anew in every update; the
test images are binarised once, with a fixed key. One stochastic layer of 50 between tanh layers of
200, trained on the bound of as many draws. All test images are scored by a few draws; what 5,000
add is measured on some of them, which leaves a standard error of some hundredths of a nat.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.vae import _pixels
from library import claims, plots, report, training
from library.data.sets import mnist
from library.types import Aux
from research.vae import bounds, diagnostics
from research.vae.networks import Perceptron, perceptrons

SHOWN = 20  # images in a row of the figure
PUBLISHED = {1: -86.76, 5: -85.54, 50: -84.78}
TABLE = claims.paper("Burda et al. 2016, arXiv:1509.00519, table 1, one stochastic layer")
THEOREM = claims.theorem("the bound of one draw lies below that of many, Burda et al., eq. (8)")
PATIENCE = claims.bar("ten minutes on 2 CPU cores; the paper takes 3,280 passes")


@dataclasses.dataclass(frozen=True)
class Config:
    """Draws, training and test."""

    num_draws: tuple[int, ...] = (1,)  # K of the bound, a training each
    num_steps: int = 150_000  # updates of each
    batch_size: int = 100  # images per update
    learning_rate: float = 1e-3  # peak of the warm-up and cosine schedule
    as_published: bool = False  # whether to hold the numbers against the paper's
    num_test: int = 10_000  # test images that are scored
    num_fine: int = 1000  # of them, those that get all draws
    coarse_draws: int = 64  # draws for every test image
    fine_draws: int = 5000  # draws for some of them
    run: training.RunOptions = training.RunOptions(
        log_every=1000, checkpoint_every=10_000, steps_per_call=50
    )


PRESETS = {
    "smoke": Config(
        num_steps=2, batch_size=8, num_test=20, num_fine=10, coarse_draws=1, fine_draws=2,
        run=training.RunOptions(log_every=2, checkpoint_every=2, steps_per_call=2),
    ),
    "default": Config(),
    "accelerator": Config(  # 3,280 passes in batches of 100; the paper's are of 20
        num_draws=(1, 5, 50), num_steps=1_968_000, as_published=True, num_fine=10_000,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains for each number of draws, scores the test set, shows reconstructions and samples."""
    _check(config)
    train, test = (mnist.arrays(split)["image"] for split in ("train", "test"))
    model = Perceptron((28, 28, 1))
    test = _pixels.binarised(jax.random.key(0), test[: config.num_test])
    result, images = claims.Result(), []
    for num in config.num_draws:
        folder = out if len(config.num_draws) == 1 else report.RunDir(out.path / f"draws{num}")
        params = _train(config, model, train, num, folder)
        result += _judge(config, model, params, test, num)
        keys = jax.random.split(jax.random.key(config.run.seed + 1), SHOWN)
        images.append(model.apply({"params": params}, keys, method="sample").mean)
    grid = np.concatenate([np.asarray(test[:SHOWN]), *map(np.asarray, images)])
    labels = ["test", *(f"K = {num}" for num in config.num_draws)]
    title = "Binarised test images, and means of images drawn from the models"
    out.figure("mnist", plots.image_grid(grid, len(labels), SHOWN, title=title, row_labels=labels))
    return result


def _train(config: Config, model: Perceptron, images: np.ndarray, num: int, out: report.RunDir):
    """Parameters trained on the bound of `num` draws."""
    mean = images.mean(0) / 255

    def loss(params, model_state, rng, batch):
        keys = jax.vmap(jax.random.split)(rng)  # [B, 2]
        x = _pixels.binarise(keys[:, 0], batch["image"])
        terms = model.apply({"params": params}, x, keys[:, 1], num, method="terms")
        bound = terms.elbo[0] if num == 1 else bounds.iwae(terms.log_weights)
        bound, kl = bounds.average(bound), terms.kl.sum(-1).mean()
        return -bound, Aux(weight=jnp.float32(len(x)), metrics={"bound": bound, "kl": kl})

    def init(rng):
        x, keys = jnp.zeros((1, 28, 28, 1), bool), jax.random.split(rng, 1)
        return perceptrons.start_at_mean(model.init(rng, x, keys, method="terms")["params"], mean)

    state = training.train(
        loss,
        training.warmup_cosine(
            config.learning_rate, config.num_steps, min(500, config.num_steps - 1),
            optimizer=functools.partial(optax.adam, eps=1e-4),
        ),
        init, training.batches({"image": images}, config.batch_size, config.run.seed),
        num_steps=config.num_steps, run=config.run, out=out, rng_per_example=True,
    )  # fmt: skip
    return jax.device_get(state.params)


def _judge(config: Config, model: Perceptron, params, test, num: int) -> claims.Result:
    """Bound and log-likelihood of the test set, and how many latents are used."""

    def weights(x, key, num):
        keys = jax.random.split(key, len(x))
        return model.apply({"params": params}, x, keys, num, method="terms").log_weights

    found = _pixels.log_likelihood(
        weights, test, num_fine=config.num_fine, coarse_draws=config.coarse_draws,
        fine_draws=config.fine_draws, rng=jax.random.key(config.run.seed),
    )  # fmt: skip
    mean, _ = model.apply({"params": params}, test, method="encode")
    metrics = {
        f"log_likelihood_{num}": found.value, f"standard_error_{num}": found.standard_error,
        f"bound_{num}": found.bound,
        f"active_units_{num}": int(diagnostics.active_units(mean).sum()),
    }  # fmt: skip
    name, stated = f"K = {num}: test log-likelihood, nats", []
    if config.as_published and num in PUBLISHED:
        stated.append(claims.at_least(name, found.value, PUBLISHED[num], TABLE, tolerance=0.3))
    elif num == 1:
        stated.append(claims.at_least(name, found.value, -88.5, PATIENCE))
    name = f"K = {num}: bound of one draw"
    stated.append(claims.at_most(name, found.bound, found.value, THEOREM))
    return claims.Result(metrics, stated)


def _check(config: Config) -> None:
    if not config.num_draws or min(config.num_draws) < 1:
        raise ValueError(f"num_draws={config.num_draws}: expected one or more numbers >= 1")
    if not SHOWN <= config.num_test <= mnist.SPLITS["test"]:
        raise ValueError(f"num_test={config.num_test}: expected {SHOWN} to {mnist.SPLITS['test']}")
    if not 2 <= config.num_fine <= config.num_test:
        raise ValueError(f"num_fine={config.num_fine}: expected 2 to {config.num_test}, num_test")
