"""Do more stochastic layers make images likelier at the same size, and is one the plain VAE?

Claims: at equal numbers of parameters a ladder of ten stochastic blocks needs fewer bits a
dimension of held-out digits than one of four, and that fewer than a single one, which is the plain
VAE (Child 2021, arXiv:2011.10650: bits fall with depth); all stay above zero and below
independent pixels with their histograms.
Cost: 10 minutes on 2 CPU cores.
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

from experiments.vae import _ladders, _pixels
from library import checks, claims, figure_style, report, training
from library.data.sets import digits
from library.types import Aux
from research.vae import bounds
from research.vae.networks import Ladder

DEPTH = claims.paper("Child 2021, arXiv:2011.10650: deeper is likelier, whatever the size")
PIXELS = claims.baseline("independent pixels, each by its histogram on the training set, same run")
SIZE = claims.bar("as many parameters, within a tenth")


@dataclasses.dataclass(frozen=True)
class Config:
    """The ladders and their training."""

    shapes: tuple[str, ...] = tuple(_ladders.SHAPES)  # which are trained
    width: float = 1.0  # factor of their widths
    depth: float = 1.0  # factor of the numbers of their blocks, each at least 1
    latent_dim: int = 4  # channels of a latent image
    components: int = 3  # logistics of a pixel
    num_steps: int = 3000  # updates of each
    batch_size: int = 32  # images per update
    learning_rate: float = 2e-3  # peak of the warm-up and cosine schedule
    num_draws: int = 64  # of the bound that scores held-out digits
    run: training.RunOptions = training.RunOptions(log_every=250, checkpoint_every=1500)


PRESETS = {
    "smoke": Config(
        shapes=("1 level",), width=0.1, depth=0.1, latent_dim=1, components=1, num_steps=2,
        batch_size=8, num_draws=2, run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(width=4.0, num_steps=30_000, batch_size=256, num_draws=1000),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains each ladder, scores it, draws the divergence of each of its blocks."""
    _check(config)
    train, test = (digits.arrays(split)["image"] for split in ("train", "test"))
    found, sizes, groups = {}, {}, {}
    for name in sorted(config.shapes, key=list(_ladders.SHAPES).index):  # each against a shallower
        model = _ladders.network(
            name, config.width, config.depth, config.latent_dim, config.components
        )
        params = _train(config, model, train, report.RunDir(out.path / name.replace(" ", "_")))
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(params))
        found[name], groups[name] = _score(config, model, params, test)
    out.figure("ladder", _draw(groups))
    independent = _pixels.histogram_bits(train, test, num_levels=17)
    metrics = {f"bits_{name}": bits for name, bits in found.items()}
    metrics |= {f"parameters_{name}": size for name, size in sizes.items()}
    metrics["bits_independent_pixels"] = independent
    return claims.Result(metrics, _claims(found, sizes, independent))


def _train(config: Config, model: Ladder, images: np.ndarray, out: report.RunDir):
    def loss(params, model_state, rng, batch):
        x = batch["image"].astype(jnp.int32)
        terms = model.apply({"params": params}, x, rng, method="terms")
        bound, kl = bounds.average(terms.elbo[0]), terms.kl.sum(-1).mean()
        metrics = {"bits": -bound / (64 * math.log(2)), "kl": kl}
        return -bound, Aux(weight=jnp.float32(len(x)), metrics=metrics)

    def init(rng):
        x, keys = jnp.zeros((1, 8, 8, 1), jnp.int32), jax.random.split(rng, 1)
        return model.init(rng, x, keys, method="terms")["params"]

    optimizer = training.warmup_cosine(
        config.learning_rate, config.num_steps, min(100, config.num_steps - 1), clip=200.0
    )
    state = training.train(
        loss, optimizer, init,
        training.batches({"image": images}, config.batch_size, config.run.seed),
        num_steps=config.num_steps, run=config.run, out=out, rng_per_example=True,
        ema_decay=training.ema_warmup(0.995),
    )  # fmt: skip
    return jax.device_get(state.ema)


def _score(config: Config, model: Ladder, params, images: np.ndarray):
    """Bits a dimension of held-out images, and the mean divergence of each block in nats."""

    @jax.jit  # of arguments: what is constant XLA computes while it compiles, for minutes
    def draw(params, x, rng):
        terms = model.apply({"params": params}, x, jax.random.split(rng, len(x)), method="terms")
        return terms.log_weights[0], terms.kl[0].mean(0)

    x = jnp.asarray(images, jnp.int32)
    rngs = jax.random.split(jax.random.key(config.run.seed), config.num_draws)
    log_weights, groups = zip(*(draw(params, x, rng) for rng in rngs), strict=True)
    bound = bounds.average(bounds.iwae(jnp.stack(log_weights)))
    return -float(bound) / (64 * math.log(2)), np.mean(groups, 0)


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
    figure_style.legend(axes)
    return figure


def _check(config: Config) -> None:
    if not config.shapes or set(config.shapes) - set(_ladders.SHAPES):
        raise ValueError(f"shapes={config.shapes}: expected some of {', '.join(_ladders.SHAPES)}")
    checks.count("num_draws", config.num_draws, of="draws")
