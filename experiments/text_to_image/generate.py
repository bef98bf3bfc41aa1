"""What does a text-to-image model draw for your words?

Claims: an image made again alone, by its seed and index, is the one of the batch.
Cost: 3 minutes on 2 CPU cores for the small chain; a model of your own as it is large.
    python -m experiments text_to_image.generate --model FOLDER --prompt "..." --num-images 4

FOLDER is one of diffusers' (Stable Diffusion 1, 2 or XL as safetensors) or the model/ of a run of
this study. Without one a small chain of `text_to_image.shapes` is trained first. images/ holds a
PNG for each image and beside it what made it: the same command with its `first_index` makes it
again.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib

import jax
import numpy as np

from experiments.text_to_image import _chain, _scenes
from library import claims, report, training
from library.storage import files
from library.types import Params
from research.text_to_image import checks, model, pipeline, schedules, weights

AGAIN = claims.theorem("noise i is drawn from fold_in(seed, i), whatever the batch")


@dataclasses.dataclass(frozen=True)
class Config:
    """The model, the words, and how to sample."""

    model: str = ""  # a folder; empty trains a small chain
    prompt: str = "a large red circle left of a small blue square"  # what to draw
    negative: str = ""  # what to lead away from
    num_images: int = 8  # of the prompt
    first_index: int = 0  # of the first image among all of the seed
    batch_size: int = 4  # images at a time
    sample_steps: int = 30  # of the schedule's table
    guidance: float = 4.0  # weight; 1 is none
    spacing: str = ""  # of leading, trailing and linspace; empty: the file's
    size: int = 0  # pixels of a side; 0: the model's
    dtype: str = "float32"  # that the networks compute in
    train_steps: int = 800  # updates of the small chain's diffusion, twice those of its first stage
    run: training.RunOptions = training.RunOptions(log_every=100, checkpoint_every=400)


PRESETS = {
    "smoke": Config(
        num_images=2, batch_size=2, sample_steps=2, train_steps=2,
        run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(num_images=64, batch_size=16, dtype="bfloat16", train_steps=20_000),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Draws, writes, and draws the last image once more."""
    if config.spacing not in ("", *schedules.SPACINGS):
        expected = ", ".join(schedules.SPACINGS)
        raise ValueError(f"spacing={config.spacing}: expected some of {expected}")
    checks.dtype(config.dtype)
    checks.first_index(config.first_index, config.num_images)
    if config.run.seed >= 2**32:  # a key has no more of it
        raise ValueError(f"--run.seed={config.run.seed}: expected a whole number below 2^32")
    made, params = weights.load(config.model) if config.model else _small(config, out)
    indices = np.arange(config.first_index, config.first_index + config.num_images)
    groups = np.split(indices, np.arange(config.batch_size, len(indices), config.batch_size))
    drawn = [_draw(config, made, params, group) for group in groups]
    images, noise = (np.concatenate(each) for each in zip(*drawn))
    alone, own = _draw(config, made, params, indices[-1:])
    for index, image in zip(indices, images):
        _write(out.path / "images", config, int(index), image)
    columns = min(4, len(images))
    rows = {
        f"from {start}": (_scenes.bytes_of(images[start : start + columns]), [""] * columns)
        for start in range(0, min(len(images), 16), columns)
    }
    out.figure("generate", _scenes.captioned(rows))
    stated = [
        claims.exactly("alone: largest change of its noise", _gap(own, noise), 0, AGAIN),
        claims.at_most("alone: largest change of the image", _gap(alone, images), 1e-5, AGAIN),
    ]
    return claims.Result({"num_images": len(images)}, stated)


def _draw(config: Config, made: model.Model, params: Params, indices: np.ndarray):
    images, info = pipeline.generate(
        made, params, [config.prompt] * len(indices), jax.random.key(config.run.seed),
        config.sample_steps, config.guidance, config.negative or None,
        spacing=config.spacing or None, first_index=int(indices[0]), dtype=config.dtype,
        size=config.size or None,
    )  # fmt: skip
    return np.asarray(images), np.asarray(info.noise)


def _small(config: Config, out: report.RunDir) -> tuple[model.Model, Params]:
    """A chain of a few thousand scenes."""
    sizes = _chain.Sizes() if config.train_steps > 2 else _chain.SMALLEST
    made = _chain.build(sizes, 32, _scenes.sentences(), _scenes.MAX_LENGTH)
    scenes = _scenes.many(min(4000, 100 * config.train_steps), 32)
    steps = {"run": config.run, "learning_rate": 2e-3}
    vae = _chain.train_first_stage(
        made, _scenes.batch_at(16, 32), report.RunDir(out.path / "first_stage"),
        num_steps=config.train_steps // 2, **steps,
    )  # fmt: skip
    made, z = _chain.to_latents(made, vae, scenes["image"])
    data = {"image": z, "label": made.tokenizer.encode(scenes["caption"].tolist())}
    params = _chain.train_diffusion(
        made, data, out, num_steps=config.train_steps, batch_size=64, **steps
    )
    return made, {**params, "vae": vae}


def _write(folder: pathlib.Path, config: Config, index: int, image: np.ndarray) -> None:
    """A PNG, and the settings that made it."""
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(_scenes.bytes_of(image)).save(png, "png")
    files.write_atomic(folder / f"{index:05d}.png", png.getvalue())
    settings = dataclasses.asdict(config)
    settings["seed"] = settings.pop("run")["seed"]
    files.write_json(folder / f"{index:05d}.json", {**settings, "first_index": index})


def _gap(alone: np.ndarray, batch: np.ndarray) -> float:
    return float(np.abs(alone[-1] - batch[-1]).max())
