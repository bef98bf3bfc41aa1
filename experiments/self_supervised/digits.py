"""With ten labels a class, what is pre-training on unlabelled digits worth, method by method?

Claims: the best method, fine-tuned, beats the same network from scratch by 3 points, the 95 %
interval over five seeds above 0; no method has collapsed. Which is best is chosen on training
images that no label was taken from. Cost: 12 minutes on 2 CPU cores (reckoned).
    python -m experiments self_supervised.digits

1,497 images of 8x8 pixels; a small residual network of its own for every method and seed, the same
number of updates for all. Probes on all labels, of one penalty, stand beside it.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.self_supervised import _labels, _pretrain
from library import claims, figure_style, report, training
from library.data.sets import digits
from library.statistics import paired
from research.self_supervised import diagnostics, views

SCRATCH = claims.baseline("the same network and labels, from scratch")
HEALTHY = claims.bar("a method that works does not collapse")


@dataclasses.dataclass(frozen=True)
class Config:
    """The methods, the networks, their training, and the labels."""

    methods: tuple[str, ...] = _pretrain.NAMES  # compared; names as in the README
    num_seeds: int = 5  # runs of each, with labels of their own
    width: int = 16  # channels of the encoder's first stage
    num_blocks: tuple[int, ...] = (1, 1)  # residual blocks of each stage
    num_steps: int = 400  # updates of pre-training
    batch_size: int = 128  # images of each
    learning_rate: float = 3e-3  # peak of Adam's
    per_class: int = 10  # labels of each class for fine-tuning
    tune_steps: int = 150  # updates of fine-tuning
    tune_rate: float = 3e-3  # peak of AdamW's
    least_gain: float = 3.0  # bar, points
    seed: int = 0  # the first


PRESETS = {
    "smoke": Config(
        methods=("byol",), num_seeds=2, width=8, num_blocks=(1,), num_steps=2, batch_size=8,
        tune_steps=10, per_class=1,
    ),
    "default": Config(),
    "accelerator": Config(num_seeds=20, width=64, num_steps=4000, batch_size=512, tune_steps=500),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Data:
    """Images as floats in [0, 1], and labels."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Pre-trains and fine-tunes by every method and seed, beside no pre-training at all."""
    unknown = [name for name in config.methods if name not in _pretrain.NAMES]
    if unknown or not config.methods:
        raise ValueError(f"methods={config.methods}: expected some of {', '.join(_pretrain.NAMES)}")
    data = Data(*((d["image"] / np.float32(16), d["label"]) for d in map(digits.arrays, _SPLITS)))
    seeds = range(config.seed, config.seed + config.num_seeds)
    found = {
        name: {key: np.asarray([each[key] for each in runs]) for key in runs[0]}
        for name in ("scratch", *config.methods)
        for runs in [[_one(config, data, name, seed) for seed in seeds]]
    }
    best = max(config.methods, key=lambda name: found[name]["rest"].mean())
    gains = {name: 100 * (found[name]["test"] - found["scratch"]["test"]) for name in found}
    out.figure("digits", _draw(found))
    metrics = {
        f"{name}_{key}": float(values.mean())
        for name, each in found.items()
        for key, values in each.items()
    }
    metrics |= {f"{name}_gain": float(gain.mean()) for name, gain in gains.items()}
    stated = [
        claims.at_least(
            "best method: points above scratch", gains[best].mean(), config.least_gain, SCRATCH
        ),
        claims.at_most(
            "best method: chance of such a gain without an effect",
            paired.t_test(gains[best], 0 * gains[best], "greater").p_value, 0.025, SCRATCH,
        ),
        claims.exactly(
            "runs that collapsed", sum(each["collapsed"].sum() for each in found.values()), 0,
            HEALTHY,
        ),
    ]  # fmt: skip
    return claims.Result({**metrics, "best": float(config.methods.index(best))}, stated)


_SPLITS = ("train", "test")


def _one(config: Config, data: Data, name: str, seed: int) -> dict[str, float]:
    """What one run of a method is worth: by probes, and fine-tuned on a few labels."""
    sizes = _pretrain.Sizes((8, 8, 1), config.width, config.num_blocks)
    crops = views.uncoloured(8)
    scratch = name == "scratch"
    pre = _pretrain.pretraining("simclr" if scratch else name, sizes, crops, config.num_steps)
    rng = jax.random.key(seed)
    params, state = pre.init_params(rng), pre.init_state(rng)
    images, labels = data.train
    if not scratch:
        end = training.quick_state(
            pre.loss_fn,
            training.warmup_cosine(config.learning_rate, config.num_steps, config.num_steps // 10),
            pre.init_params, training.batches({"images": images}, config.batch_size, seed),
            num_steps=config.num_steps, rng=rng, rng_per_example=True, model_state=state,
        )  # fmt: skip
        params, state = end.params, end.model_state
    part = pre.networks.encoder
    encoder = params["encoder"], state["batch_stats"]["encoder"]
    worth = _pretrain.worth(part, *encoder, data.train, data.test, l2=1e-3)
    rows = _labels.few(labels, config.per_class, seed)
    rest = np.setdiff1d(np.arange(len(labels)), rows)
    on_rest, on_test = _labels.finetuned(
        part, encoder, (images[rows], labels[rows]), [(images[rest], labels[rest]), data.test],
        num_steps=config.tune_steps, learning_rate=config.tune_rate, batch_size=50, seed=seed,
    )  # fmt: skip
    keys = jax.random.split(rng, 256)
    apply = jax.jit(lambda x: part.apply(*encoder, x, False, None)[0])
    made = diagnostics.report(*(np.asarray(apply(view)) for view in crops(keys, images[:256])))
    return {
        "linear": worth.linear, "knn": worth.knn, "rest": on_rest, "test": on_test,
        "rank": made.effective_rank, "collapsed": float(made.collapsed != "none"),
    }  # fmt: skip


def _draw(found):
    figure, (axes,) = figure_style.row(1, width=1.2 * figure_style.WIDTH)
    names = sorted(found, key=lambda name: found[name]["test"].mean())
    for place, name in enumerate(names):
        shares = 100 * found[name]["test"]
        colour = figure_style.PALETTE[1 if name == "scratch" else 0]
        axes.plot(shares, np.full(len(shares), place), "o", alpha=0.5, color=colour)
        axes.plot(shares.mean(), place, "|", markersize=16, color=figure_style.INK)
    axes.set_yticks(range(len(names)), names)
    figure_style.style(axes, "Fine-tuned on ten labels a class", "test accuracy, %", "")
    return figure
