"""Can a small model learn your images by their captions?

Claims: held-out images are denoised better under their own captions than under each other's; the
scaled latents have unit variance within 1 %. Cost: 4 minutes on 2 CPU cores for 8x8 digits.
    python -m experiments text_to_image.train --images FOLDER --captions captions.csv --size 32

captions.csv has the columns file (relative to FOLDER) and caption. Without it 8x8 digits are learnt
by sentences such as "a handwritten three". A vocabulary of the captions' words, a first stage, and
a U-Net in its latents; one image in ten is held out. model/ is a folder for
`text_to_image.generate` and for diffusers.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.text_to_image import _chain, _scenes
from library import claims, report, training
from library.data import captions, images
from library.data.sets import digits
from library.types import Batch
from research.text_to_image import pipeline, weights

OTHERS = claims.baseline("the same model under captions of other images")
UNIT = claims.theorem("scale = 1 / standard deviation of the training images' latents")


@dataclasses.dataclass(frozen=True)
class Config:
    """The images, the networks and their training."""

    images: str = ""  # the folder that the captions' files lie in; empty: 8x8 digits
    captions: str = ""  # a .csv file with the columns file and caption
    size: int = 8  # pixels of a side; the largest central square of each image
    max_length: int = 0  # tokens of a caption, start and end included; 0: the longest's
    channels: tuple[int, ...] = (16, 32)  # of the first stage, finest first
    latent_dim: int = 4  # channels of the latents
    width: int = 32  # of the U-Net at its finest resolution
    depth: int = 2  # its resolutions
    text_width: int = 64  # of the text encoder
    first_steps: int = 1000  # updates of the first stage
    num_steps: int = 2000  # updates of the diffusion
    batch_size: int = 32  # images of each
    learning_rate: float = 2e-3  # peak of either
    guidance: float = 2.0  # of the samples that are shown
    run: training.RunOptions = training.RunOptions(log_every=100, checkpoint_every=1000)


PRESETS = {
    "smoke": Config(
        channels=(2, 2), width=8, depth=1, text_width=8, first_steps=2, num_steps=2, batch_size=4,
        run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        channels=(64, 128), width=128, text_width=256, first_steps=20_000, num_steps=50_000,
        batch_size=256, learning_rate=5e-4,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains the chain, scores held-out images under right and wrong captions, shows samples."""
    data = read(config)
    train, test = _split(data, config.run.seed)
    sizes = _chain.Sizes(
        channels=config.channels, latent_dim=config.latent_dim, width=config.width,
        depth=config.depth, text_width=config.text_width,
    )  # fmt: skip
    texts = data["caption"].tolist()
    length = config.max_length or _longest(texts)
    made = _chain.build(sizes, config.size, texts, length)
    batches = training.batches({"image": train["image"]}, config.batch_size, config.run.seed)
    steps = {"learning_rate": config.learning_rate, "run": config.run}
    vae = _chain.train_first_stage(
        made,
        batches,
        report.RunDir(out.path / "first_stage"),
        num_steps=config.first_steps,
        **steps,
    )
    made, z = _chain.to_latents(made, vae, train["image"])
    tokens = made.tokenizer.encode(train["caption"].tolist())
    params = _chain.train_diffusion(
        made, {"image": z, "label": tokens}, out, num_steps=config.num_steps,
        batch_size=config.batch_size, **steps,
    )  # fmt: skip
    params = {**params, "vae": vae}
    weights.save(out.path / "model", made, params)
    first = _chain.judge_first_stage(made, vae, train["image"], test["image"])
    own, others = _chain.losses_by_captions(made, params, test)
    shown = test["caption"][:6].tolist()
    drawn, _ = pipeline.generate(
        made, params, shown, jax.random.key(config.run.seed), 20, config.guidance
    )
    rows = {"held out": (test["image"][:6], shown), "drawn": (_scenes.bytes_of(drawn), shown)}
    out.figure("train", _scenes.captioned(rows))
    stated = [
        claims.below("loss of held-out images by their captions", own, others, OTHERS),
        claims.within("variance of scaled latents", first.variance, 1.0, 0.01, UNIT),
    ]
    metrics = {
        "decibels": first.decibels,
        "pca_decibels": first.pca,
        "vocabulary": float(len(made.tokenizer)),
    }
    return claims.Result(metrics, stated)


def read(config: Config) -> Batch:
    """{"image": [N, H, W, 3] uint8, "caption": [N] str}."""
    if bool(config.images) != bool(config.captions):
        raise ValueError(
            f"images={config.images!r}, captions={config.captions!r}: expected both or none"
        )
    if not config.images:
        both = [digits.arrays(name) for name in ("train", "test")]
        grey = np.concatenate([each["image"] for each in both])
        labels = np.concatenate([each["label"] for each in both])
        colours = np.repeat(np.rint(grey * (255 / 16)).astype(np.uint8), 3, axis=-1)
        return {"image": colours, "caption": captions.of_classes(captions.DIGITS, labels)}
    found = captions.read(config.captions, config.images)
    arrays = images.read_files(list(found), config.size)
    return {"image": arrays, "caption": np.asarray(list(found.values()), object)}


def _split(data: Batch, seed: int) -> tuple[Batch, Batch]:
    """Nine of ten examples, and the rest."""
    order = np.random.default_rng(seed).permutation(len(data["caption"]))
    num = max(1, len(order) // 10)
    if len(order) < 4:
        raise ValueError(f"{len(order)} images: expected at least 4")
    part = lambda rows: {name: leaf[rows] for name, leaf in data.items()}
    return part(order[num:]), part(order[:num])


def _longest(texts: list[str]) -> int:
    """Tokens of the longest text where every word is one, and room for marks."""
    return 2 + max(len(text.replace(",", " , ").split()) for text in texts) + 4
