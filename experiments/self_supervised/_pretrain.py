"""The methods on small residual networks, and what their frozen features are worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from library.types import ModelState, Params
from research.self_supervised import heads, methods, networks, probes, teachers, training
from research.vision import patches, resnet

NAMES = (
    "simclr", "moco", "moco_v3", "spectral", "byol", "simsiam", "barlow", "vicreg", "dino",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Encoder and heads.

    Attributes:
        image_shape: (H, W, C).
        width: channels of the first stage, doubled in each.
        num_blocks: residual blocks of each stage.
        hidden: hidden width of projector and predictor.
        dim: of projections; DINO's prototypes are 4 times as many.
        queue_size: of MoCo's keys.
        momentum: at which a teacher starts; it rises to 1 by a cosine.
        patch: side of the squares of pixels that the encoder takes as one, with all their values
            as its channels; it divides height and width.
        temperature: of SimCLR's loss.
        batch_free: whether all methods have norms of one example, as MoCo always has.
    """

    image_shape: tuple[int, int, int]
    width: int
    num_blocks: tuple[int, ...]
    hidden: int = 128
    dim: int = 64
    queue_size: int = 1024
    momentum: float = 0.99
    patch: int = 1
    temperature: float = 0.5
    batch_free: bool = False


def pretraining(
    name: str, sizes: Sizes, views: training.Views, num_steps: int
) -> training.Pretraining:
    """One of `NAMES` with the networks that it needs.

    MoCo's encoder has group norm, as its queue's keys must not know the batch; all others have
    batch norm.

    Args:
        name: of the method.
        sizes: of its networks.
        views: two views of images.
        num_steps: of the training, for the teacher's momentum.
    Raises:
        ValueError: for another name.
    """
    momentum = lambda step: teachers.momentum(step, num_steps, sizes.momentum)
    made = {
        "simclr": lambda: methods.SimCLR(sizes.temperature),
        "moco": lambda: methods.MoCoV2(sizes.queue_size, momentum=sizes.momentum),
        "moco_v3": lambda: methods.MoCoV3(momentum=momentum),
        "spectral": lambda: methods.Spectral(radius=1.0),
        "byol": lambda: methods.BYOL(momentum),
        "simsiam": methods.SimSiam,
        "barlow": methods.BarlowTwins,
        "vicreg": methods.VICReg,
        "dino": lambda: methods.DINO(momentum=momentum),
    }
    if name not in made:
        raise ValueError(f"method {name!r}: expected one of {', '.join(NAMES)}")
    method = made[name]()
    batch_free = sizes.batch_free or name == "moco"
    norm = "layer" if batch_free else "batch"
    widths = (sizes.hidden, sizes.dim)
    if name == "dino":
        projector = heads.Prototypes(4 * sizes.dim, (sizes.hidden,), sizes.dim)
    else:
        projector = heads.Perceptron(widths, norm, last_norm=name in ("simsiam", "moco_v3"))
    predictor = networks.of_module(heads.Perceptron(widths, norm))
    parts = networks.Networks(
        encoder(sizes, batch_free), networks.of_module(projector),
        predictor if method.needs.predictor else None,
    )  # fmt: skip
    return training.Pretraining(method, parts, sizes.image_shape, views)


def encoder(sizes: Sizes, batch_free: bool = False) -> networks.Part:
    """A residual network for small images, of batch or group norm.

    Raises:
        ValueError: for patches that do not divide the images.
    """
    model = resnet.ResNet(
        None, sizes.num_blocks, width=sizes.width, small_images=True,
        num_groups=min(8, sizes.width) if batch_free else None,
    )  # fmt: skip
    part = networks.resnet(model)
    if sizes.patch == 1:
        return part
    if any(side % sizes.patch for side in sizes.image_shape[:2]):
        raise ValueError(f"patch={sizes.patch} does not divide images of {sizes.image_shape}")
    cut = lambda x: patches.to_patch_grid(x, sizes.patch)
    return networks.Part(
        lambda rng, x: part.init(rng, cut(x)),
        lambda params, stats, x, train, axis: part.apply(params, stats, cut(x), train, axis),
    )


@dataclasses.dataclass(frozen=True)
class Worth:
    """What frozen features know of the labels.

    Attributes:
        linear, knn: shares of test examples that the probes get right.
        fingerprint: of the encoder's bytes.
    """

    linear: float
    knn: float
    fingerprint: str


def worth(
    part: networks.Part,
    params: Params,
    stats: ModelState,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    k: int = 200,
    l2: float | None = None,
    to_floats: Callable = lambda images: images,
) -> Worth:
    """The probes of an encoder on train and test (images, labels)."""
    before = probes.fingerprint((params, stats))
    apply = lambda images: part.apply(params, stats, to_floats(images), False, None)[0]
    run = jax.jit(apply)
    x, y = (probes.features(run, images) for images, _ in (train, test))
    found = Worth(
        probes.linear(x, train[1], y, test[1], l2).accuracy,
        probes.knn(x, train[1], y, test[1], k).accuracy,
        probes.fingerprint((params, stats)),
    )
    if found.fingerprint != before:
        raise RuntimeError("the probes moved the encoder")
    return found
