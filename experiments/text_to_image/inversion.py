"""Can a model learn a new word from five images, with nothing but the word's own row in motion?

Claims: the frozen networks are equal to the bit after training with weight decay; asked by the
learned word for colours that the five images do not show, the model draws the word's shape on half
of the samples at least, and more often than by the word whose row it started from.
Cost: 8 minutes on 2 CPU cores.
    python -m experiments text_to_image.inversion

Textual inversion, Gal et al. 2022, arXiv:2208.01618. The small chain of `text_to_image.shapes`
learns scenes of one object whose captions never name a star: each star, and each second of the
other objects, is "a shape". `text_to_image.generate --model RUN/model` knows the new word, <star>.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.text_to_image import _chain, _judge, _scenes, _words
from library import claims, report, training
from library.data import shapes
from library.types import Batch
from research.text_to_image import inversion, pipeline, weights

WORD, KNOWN = "<star>", _words.KNOWN
FROZEN = claims.theorem("no optimizer sees what is model state")
DRAWN = claims.bar("one in two; one in three scenes that captions call a shape is a star")
START = claims.baseline("the word whose row it started from")


@dataclasses.dataclass(frozen=True)
class Config:
    """The chain, the word's images, and what is asked."""

    channels: tuple[int, ...] = (16, 32, 32)  # of the first stage, finest first
    width: int = 48  # of the U-Net at its finest resolution
    depth: int = 2  # its resolutions
    text_width: int = 64  # of the text encoder of two layers
    first_steps: int = 400  # updates of the first stage
    num_steps: int = 1200  # updates of the diffusion
    batch_size: int = 64  # scenes of each
    learning_rate: float = 2e-3  # peak of either; falls by half a cosine
    num_train: int = 6000  # scenes that the diffusion learns from
    num_images: int = 5  # of the new word, each of another colour
    repeats: int = 4  # of each of them in a batch, with noise of its own
    word_steps: int = 500  # updates of its row
    word_rate: float = 5e-3  # peak of AdamW's, which has a weight decay of 0.01
    judge_steps: int = 1500  # updates of the judge
    judge_width: int = 32  # channels of its first layer
    num_judged: int = 200  # samples of each word
    guidance: float = 2.0  # weight
    sample_steps: int = 20  # of DDIM
    run: training.RunOptions = training.RunOptions(log_every=100, checkpoint_every=1000)


PRESETS = {
    "smoke": Config(
        channels=(2, 2), width=8, depth=1, text_width=8, first_steps=2, num_steps=2, batch_size=4,
        num_train=16, num_images=2, repeats=1, word_steps=2, judge_steps=2, judge_width=2,
        num_judged=4, sample_steps=2, run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        channels=(64, 128, 256), width=128, text_width=256, first_steps=10_000, num_steps=50_000,
        batch_size=256, learning_rate=5e-4, num_train=100_000, repeats=20, word_steps=2000,
        judge_steps=10_000, judge_width=64, num_judged=2000, sample_steps=50,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains the chain, then the word; asks for stars by it and by the word that it started as."""
    seed = config.run.seed
    sizes = _chain.Sizes(
        channels=config.channels, width=config.width, depth=config.depth,
        text_width=config.text_width,
    )  # fmt: skip
    scenes = shapes.batch(np.arange(config.num_train), num_objects=1, seed=seed)
    captions = _words.unnamed(scenes, seed)
    model = _chain.build(sizes, 32, captions, _scenes.MAX_LENGTH)
    steps = {"learning_rate": config.learning_rate, "run": config.run}
    vae = _chain.train_first_stage(
        model, training.batches({"image": scenes["image"]}, config.batch_size, seed),
        report.RunDir(out.path / "first_stage"), num_steps=config.first_steps, **steps,
    )  # fmt: skip
    model, z = _chain.to_latents(model, vae, scenes["image"])
    data = {"image": z, "label": model.tokenizer.encode(captions)}
    params = _chain.train_diffusion(
        model, data, report.RunDir(out.path / "chain"), num_steps=config.num_steps,
        batch_size=config.batch_size, **steps,
    )  # fmt: skip
    params = {**params, "vae": vae}
    few = _words.stars(config.num_images, 10**8)
    row, moved = _learn(config, out, model, params, few)
    model, params = inversion.learned(model, params, row, WORD)
    weights.save(out.path / "model", model, params)
    asked = _words.stars(config.num_judged, _scenes.ASKED, without=few["colour"][:, 0])
    judge = _judge.train(32, num_steps=config.judge_steps, width=config.judge_width, seed=seed)
    found, rows = {}, {"the word's images": (few["image"], _words.worded(few, WORD))}
    for word in (WORD, KNOWN):
        texts = _words.worded(asked, word)
        images, _ = pipeline.generate(
            model, params, texts, jax.random.key(seed), config.sample_steps, config.guidance
        )
        right = judge.right(np.asarray(images), asked)
        found[word] = {name: float(each.mean()) for name, each in right.items()}
        rows[f"asked by {word}"] = (_scenes.bytes_of(np.asarray(images[:5])), texts[:5])
    out.figure("inversion", _scenes.captioned(rows))
    metrics = {f"{word}_{name}": found[w][name] for w, word in ((WORD, "new"), (KNOWN, "start"))
               for name in ("shape", "colour", "size", "all")}  # fmt: skip
    metrics["judge_all"] = _judge.accuracy(judge, 32, 4 * config.num_judged)["all"]
    share, start = found[WORD]["shape"], found[KNOWN]["shape"]
    stated = [
        claims.exactly("frozen networks: leaves that moved", moved, 0, FROZEN),
        claims.at_least("new colours: shape right by the new word", share, 0.5, DRAWN),
        claims.above("new colours: shape right, above the word it started as", share, start, START),
    ]
    return claims.Result(metrics, stated)


def _learn(config, out, model, params, few: Batch) -> tuple[np.ndarray, int]:
    """The word's row [D], and how many leaves of the frozen networks are no longer the same."""
    encode = lambda images: model.encode(params, _chain.to_range(images))[0]
    z = np.asarray((jax.jit(encode)(few["image"]) - model.shift) * model.scale)
    labels = model.tokenizer.add_tokens(WORD).encode(_words.worded(few, WORD))
    batch = {
        "image": np.tile(z, (config.repeats, 1, 1, 1)),
        "label": np.tile(labels, (config.repeats, 1)),
    }
    frozen = {name: params[name] for name in ("unet", "text_encoder")}
    state = training.train(
        inversion.loss(model),
        training.warmup_cosine(
            config.word_rate, config.word_steps, config.word_steps // 10,
            optimizer=functools.partial(optax.adamw, weight_decay=0.01),
        ),
        lambda rng: inversion.init(model, params, KNOWN), lambda step: batch,
        num_steps=config.word_steps, run=config.run, out=out, rng_per_example=True,
        model_state=jax.tree.map(jnp.asarray, frozen),
    )  # fmt: skip
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), state.model_state, frozen)
    moved = sum(not each for each in jax.tree.leaves(same))
    return np.asarray(state.params["row"]), moved
