"""Do more stochastic layers make images likelier at the same size, and is one the plain VAE?

Claims: at equal numbers of parameters a ladder of ten stochastic blocks needs fewer bits a
dimension of held-out digits than one of four, and that fewer than a single one, which is the plain
VAE (Child 2021, arXiv:2011.10650, table 1: bits fall with depth); all stay above zero and below
independent pixels with their histograms.
Cost: 6 minutes on 2 CPU cores.
    python -m experiments vae.ladder

8x8 digits of 17 grey levels, a mixture of discretised logistics a pixel, so that bits are those of
a probability. The bound of 64 draws scores held-out digits. Updates whose gradient is above its
usual size are clipped, none is skipped.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.vae import _pixels
from library import claims, figure_style, report, training
from library.data.sets import digits
from library.types import Aux
from research.vae import bounds
from research.vae.networks import Ladder, heads

DEPTH = claims.paper("Child 2021, arXiv:2011.10650, table 1: deeper is likelier at equal size")
PIXELS = claims.baseline("independent pixels, each by its histogram on the training set, same run")
SIZE = claims.bar("as many parameters, within a tenth")
# Name: sizes of the images inside, blocks of the encoder and stochastic blocks at each, width.
SHAPES = {
    "1 level": ((8,), (6,), (1,), 84),
    "4 levels": ((4, 8), (3, 3), (2, 2), 60),
    "10 levels": ((2, 4, 8), (2, 3, 3), (2, 4, 4), 45),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The ladders and their training."""

    shapes: tuple[str, ...] = tuple(SHAPES)  # which are trained
    width: float = 1.0  # factor of their widths
    latent_dim: int = 4  # channels of a latent image
    components: int = 3  # logistics of a pixel
    num_steps: int = 3000  # updates of each
    batch_size: int = 32  # images per update
    learning_rate: float = 2e-3  # peak of the warm-up and cosine schedule
    num_draws: int = 64  # of the bound that scores held-out digits
    run: training.RunOptions = training.RunOptions(log_every=250, checkpoint_every=1500)


PRESETS = {
    "smoke": Config(
        shapes=("1 level",), width=0.1, latent_dim=1, components=1, num_steps=2, batch_size=8,
        num_draws=2, run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(width=4.0, num_steps=30_000, batch_size=256, num_draws=1000),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains each ladder, scores it, draws samples and the divergence of each level."""
    if not config.shapes or set(config.shapes) - set(SHAPES):
        raise ValueError(f"shapes={config.shapes}: expected some of {', '.join(SHAPES)}")
    train, test = (digits.arrays(split)["image"] for split in ("train", "test"))
    found, sizes, groups = {}, {}, {}
    for name in config.shapes:
        model = network(config, name)
        params = _train(config, model, train, report.RunDir(out.path / name.replace(" ", "_")))
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(params))
        found[name], groups[name] = _score(config, model, params, test)
    out.figure("ladder", _draw(groups))
    independent = _pixels.histogram_bits(train, test, num_levels=17)
    metrics = {f"bits_{name}": bits for name, bits in found.items()}
    metrics |= {f"parameters_{name}": size for name, size in sizes.items()}
    metrics["bits_independent_pixels"] = independent
    return claims.Result(metrics, _claims(found, sizes, independent))


def network(config: Config, name: str) -> Ladder:
    """The ladder of that name."""
    sizes, num_blocks, num_latents, width = SHAPES[name]
    return Ladder(
        (8, 8, 1), sizes, num_blocks, num_latents, width=max(4, round(width * config.width)),
        latent_dim=config.latent_dim, head=heads.logistics(config.components, num_levels=17),
    )  # fmt: skip


def _train(config: Config, model: Ladder, images: np.ndarray, out: report.RunDir):
    def loss(params, model_state, rng, batch):
        x = batch["image"].astype(jnp.int32)
        terms = model.apply({"params": params}, x, rng, method="terms")
        bound = terms.elbo[0]
        metrics = {
            "bits": -bounds.average(bound) / (64 * math.log(2)),
            "kl": terms.kl.sum(-1).mean(),
        }
        return -bounds.average(bound), Aux(weight=jnp.float32(len(x)), metrics=metrics)

    def init(rng):
        x, keys = jnp.zeros((1, 8, 8, 1), jnp.int32), jax.random.split(rng, 1)
        return model.init(rng, x, keys, method="terms")["params"]

    optimizer = training.warmup_cosine(
        config.learning_rate, config.num_steps, min(100, config.num_steps - 1), clip=200.0
    )
    state = training.train(
        loss, optimizer, init,
        training.batches({"image": images}, config.batch_size, config.run.seed),
        num_steps=config.num_steps, run=config.run, out=out, rng_per_example=True, ema_decay=0.995,
    )  # fmt: skip
    return jax.device_get(state.ema)


def _score(config: Config, model: Ladder, params, images: np.ndarray):
    """Bits a dimension of held-out images, and the mean divergence of each level in nats."""
    x = jnp.asarray(images, jnp.int32)

    def weights(x, key, num):
        draw = lambda key: model.apply(
            {"params": params}, x, jax.random.split(key, len(x)), method="terms"
        ).log_weights[0]
        return jax.lax.map(draw, jax.random.split(key, num))

    score = jax.jit(
        lambda x, key: bounds.log_likelihood(weights, x, key, config.num_draws, config.num_draws)
    )
    rng = jax.random.key(config.run.seed)
    log_prob = np.asarray(score(x, rng), np.float64).mean()
    terms = jax.jit(lambda keys: model.apply({"params": params}, x, keys, method="terms"))
    groups = np.asarray(terms(jax.random.split(rng, len(x))).kl)[0].mean(0)
    return -log_prob / (64 * math.log(2)), groups


def _claims(
    found: dict[str, float], sizes: dict[str, int], independent: float
) -> list[claims.Claim]:
    names, stated = list(found), []
    for fewer, more in zip(names[:-1], names[1:], strict=True):
        what = f"{more}: bits a dimension, below {fewer}"
        stated.append(claims.below(what, found[more], found[fewer], DEPTH))
        ratio = sizes[more] / sizes[fewer]
        stated.append(claims.within(f"{more}: parameters / {fewer}", ratio, 1.0, 0.1, SIZE))
    what = f"{names[0]}: bits a dimension, below independent pixels"
    return [claims.below(what, found[names[0]], independent, PIXELS), *stated]


def _draw(groups: dict[str, np.ndarray]):
    figure, axes = figure_style.single(
        "Divergence of each stochastic block, coarsest first", "block", "nats"
    )
    for colour, (name, values) in zip(figure_style.PALETTE, groups.items(), strict=False):
        places = np.arange(len(values)) + 1
        axes.plot(places, values, "o-", color=colour, markersize=5, label=name)
    axes.set_xticks(range(1, max(map(len, groups.values())) + 1))
    axes.legend(frameon=False, fontsize=figure_style.FONT_SIZE - 1)
    return figure
