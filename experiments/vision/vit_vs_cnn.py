"""Without pre-training, from how many labels on is a vision transformer as good as a small ResNet?

Claims: on MNIST the ResNet reaches 99.2 % and the ViT 97.5 %; on 8x8 digits the ResNet leads over
all numbers of labels, and augmentation narrows its lead. Cost: 15 minutes on 2 CPU cores.
    python -m experiments vision.vit_vs_cnn

Pairs of equal size, the same optimizer, schedule and batches; labelled subsets drawn anew by each
of five seeds. Augmentation is a random crop of the padded image (on MNIST always on). ResNet: He et
al. 2016, arXiv:1512.03385; ViT: Dosovitskiy et al. 2021, arXiv:2010.11929.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.vision import _classifiers as classifiers
from library import plots, report
from library.data import digits, mnist
from research.vision import augmentation, resnet, vit

PEERS = "two convolutions in the table of zalandoresearch/fashion-mnist"


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, how long, how often."""

    labels: tuple[int, ...] = (50, 100, 200, 500, 1497)  # labelled digits, at most 1497
    cnn_blocks: tuple[int, ...] = (1, 1)  # residual blocks in each stage of the digits' ResNet
    vit_width: int = 32  # features of a patch in the digits' ViT
    num_seeds: int = 5  # repetitions on the digits, each with its own subset
    digit_steps: int = 400  # updates on the digits
    mnist_steps: int = 4000  # updates on MNIST, where it is at hand; 0 leaves it out
    batch_size: int = 128  # images per update on MNIST; half of that on the digits
    learning_rate: float = 3e-3  # peak of the warm-up and cosine schedule


PRESETS = {
    "smoke": Config(
        labels=(50,),
        cnn_blocks=(1,),
        vit_width=8,
        num_seeds=1,
        digit_steps=2,
        mnist_steps=0,
        batch_size=16,
    ),
    "default": Config(),
    "accelerator": Config(mnist_steps=20_000, digit_steps=2000, num_seeds=20),
}

MNIST = {
    "CNN": classifiers.cnn(resnet.ResNet(num_classes=10, num_blocks=(1, 1, 1), width=16)),
    "ViT": classifiers.transformer(
        vit.ViT(num_classes=10, patch=4, width=48, depth=3, num_heads=4, mlp_dim=144)
    ),
}


def run(config: Config, out: report.RunDir) -> report.Result:
    """Accuracies on both sets, the lead of the ResNet, pictures of attention."""
    if not config.labels or max(config.labels) > digits.SPLITS["train"] or min(config.labels) < 1:
        raise ValueError(f"labels={config.labels}: expected 1 to {digits.SPLITS['train']}")
    model, learners = _learners(config)
    results, params = _digits(config, learners)  # (name, augmented) -> [labels, seeds]
    out.figure("attention", _attention(model, params))
    lead = {on: (results["CNN", on] - results["ViT", on]).mean() for on in (False, True)}
    metrics = {
        f"digits_{name}_{'augmented' if on else 'plain'}_{count}_{what}": float(value)
        for (name, on), values in results.items()
        for count, row in zip(config.labels, values)
        for what, value in (("mean", row.mean()), ("std", row.std()))
    }
    sizes = {name: learner.num_parameters((8, 8, 1)) for name, learner in learners.items()}
    metrics |= {f"digits_{name}_parameters": size for name, size in sizes.items()}
    claims = [
        report.Claim(
            "digits: parameters, ViT / CNN",
            sizes["ViT"] / sizes["CNN"],
            1.0,
            "within",
            0.1,
            "a fair pair",
        ),
        report.Claim(
            "digits: lead of the CNN without augmentation, points, mean over labels and seeds",
            lead[False],
            0.0,
            ">",
            0.0,
            "the ViT of equal size, same run; expected by Dosovitskiy et al. 2021, section 4.3",
        ),
        report.Claim(
            "digits: lead of the CNN with augmentation, points",
            lead[True],
            lead[False],
            "<",
            0.0,
            "its lead without augmentation, same run",
        ),
    ]
    if config.mnist_steps and mnist.local_files():
        scores = _mnist(config)
        metrics |= {f"mnist_{name}": score for name, score in scores.items()}
        claims += [
            report.Claim("MNIST: CNN, test %", scores["CNN"], 99.2, ">=", 0.0, PEERS),
            report.Claim("MNIST: ViT, test %", scores["ViT"], 97.5, ">=", 0.0, "our own target"),
        ]
    out.figure("labels", _figure(config, results))
    return report.Result(metrics=metrics, claims=claims)


def _learners(config: Config) -> tuple[vit.ViT, dict[str, classifiers.Learner]]:
    """The ViT for the digits, and it and its rival as learners."""
    model = vit.ViT(
        num_classes=10,
        patch=2,
        width=config.vit_width,
        depth=2,
        num_heads=4,
        mlp_dim=5 * config.vit_width // 2,
    )
    rival = resnet.ResNet(num_classes=10, num_blocks=config.cnn_blocks, width=16, small_images=True)
    return model, {"CNN": classifiers.cnn(rival), "ViT": classifiers.transformer(model)}


def _digits(config: Config, learners: dict[str, classifiers.Learner]):
    """Test accuracies in %, [labels, seeds], by classifier and augmentation; a trained ViT."""
    train, test = (_unit(digits.arrays(split), digits.MAX_VALUE) for split in ("train", "test"))
    results = {}
    for name, learner in learners.items():
        fit = classifiers.make_fit(
            learner,
            train,
            augmentation.crop(1),
            num_steps=config.digit_steps,
            batch_size=config.batch_size // 2,
            learning_rate=config.learning_rate,
        )
        for augmented in (False, True):
            states = [
                [fit(seed, count, augmented) for seed in range(config.num_seeds)]
                for count in config.labels
            ]
            results[name, augmented] = np.array(
                [[classifiers.accuracy(learner, state, test) for state in row] for row in states]
            )
    return results, states[-1][0].params


def _mnist(config: Config) -> dict[str, float]:
    """Test accuracies in %, all labels, one seed."""
    train, test = (_unit(mnist.arrays(split), mnist.MAX_VALUE) for split in ("train", "test"))
    scores = {}
    for name, learner in MNIST.items():
        fit = classifiers.make_fit(
            learner,
            train,
            augmentation.crop(2),
            num_steps=config.mnist_steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
        )
        state = fit(0, len(train["label"]), True)
        scores[name] = classifiers.accuracy(learner, state, test)
    return scores


def _unit(data: dict[str, np.ndarray], max_value: int) -> dict[str, np.ndarray]:
    """Images in [0, 1]."""
    return {**data, "image": data["image"].astype(np.float32) / np.float32(max_value)}


def _attention(model: vit.ViT, params: dict):
    """Ten digits, and where the class token looks in the last block, mean over heads."""
    test = _unit(digits.arrays("test"), digits.MAX_VALUE)
    first = np.array([np.flatnonzero(test["label"] == label)[0] for label in range(10)])
    images = test["image"][first]
    maps = jax.jit(lambda params, x: vit.attention_maps(model, params, x))(params, images)
    looks = np.asarray(maps[-1][:, :, 0, 1:].mean(1)).reshape(10, 4, 4, 1)
    looks = looks / looks.max((1, 2, 3), keepdims=True)
    looks = looks.repeat(2, axis=1).repeat(2, axis=2)
    return plots.image_grid(
        np.concatenate([images, looks]),
        2,
        10,
        title="Digits, and where the class token looks",
        row_labels=("image", "attention"),
    )


def _figure(config: Config, results: dict[tuple[str, bool], np.ndarray]):
    names = {key: f"{key[0]}{', augmented' if key[1] else ''}" for key in results}
    records = [
        {"labels": count} | {names[key]: values[i].mean() for key, values in results.items()}
        for i, count in enumerate(config.labels)
    ]
    figure = plots.curves(
        records,
        list(names.values()),
        x="labels",
        log_x=len(config.labels) > 1,
        title="8x8 digits: accuracy by number of labels",
        x_label="labelled examples",
        y_label="test accuracy, %",
    )
    axes = figure.axes[0]
    for index, values in enumerate(results.values()):
        low, high = values.mean(1) - values.std(1), values.mean(1) + values.std(1)
        colour = plots.PALETTE[index % len(plots.PALETTE)]
        axes.fill_between(config.labels, low, high, color=colour, alpha=0.15, linewidth=0)
    return figure
