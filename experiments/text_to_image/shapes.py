"""Does a text-to-image model that is trained from nothing in ten minutes draw what it is told?

Claims: a judge that is right on 99 % of rendered scenes finds shape, colour, size and number right
on 80 % of guided samples of one object (95 % of the accelerator's); pairs of shape and colour that
no training image shows, and relations of two objects, come out far more often than by chance; the
first stage beats as many principal components by 3 dB. Cost: 10 minutes on 2 CPU cores.
    python -m experiments text_to_image.shapes

Scenes of one or two coloured shapes with captions (`library.data.shapes`): a vocabulary of their
words, an autoencoder, latents of measured scale, a text encoder and a U-Net trained together in
them, classifier-free guidance. `text_to_image.generate --model RUN/model` draws more, and so does
diffusers.
"""

from __future__ import annotations

import dataclasses

from experiments.text_to_image import _chain, _judge, _scenes
from library import claims, report, training
from research.text_to_image import weights

RENDERED = claims.bar("a judge is trusted that is right on 99 of 100 rendered scenes")
RIGHT = claims.bar("number, shape, colour and size as asked, by the judge")
PCA = claims.baseline("as many principal components of the training images")
UNIT = claims.theorem("scale = 1 / standard deviation of the training images' latents")
GUIDED = claims.baseline("the same model without guidance")


@dataclasses.dataclass(frozen=True)
class Config:
    """The scenes, the networks, their training, and what is asked of them."""

    size: int = 32  # pixels of a side: 32 or 64
    channels: tuple[int, ...] = (16, 32, 32)  # of the first stage, finest first
    latent_dim: int = 4  # channels of the latents
    width: int = 48  # of the U-Net at its finest resolution
    depth: int = 2  # its resolutions
    text_width: int = 64  # of the text encoder of two layers
    first_steps: int = 1500  # updates of the first stage
    first_batch: int = 16  # scenes of each
    first_rate: float = 2e-3  # peak of Adam's; falls by half a cosine
    num_steps: int = 1600  # updates of the diffusion
    batch_size: int = 64  # latents of each
    learning_rate: float = 3e-3  # peak of Muon's; falls by half a cosine
    judge_steps: int = 2500  # updates of the judge
    judge_width: int = 32  # channels of its first layer
    num_train: int = 12_000  # scenes that the diffusion learns from
    num_judged: int = 250  # samples for each question asked
    guidance: float = 2.0  # weight that the claims are judged at
    guidances: tuple[float, ...] = (1.0, 4.0)  # further weights; 1 is none
    sample_steps: int = 20  # of DDIM
    least_right: float = 0.8  # bar on one object
    least_held_out: float = 0.6  # bar on one object of a held-out pair; 1/120 by chance
    least_relation: float = 0.5  # bar on a relation; 1/4 by chance
    run: training.RunOptions = training.RunOptions(log_every=100, checkpoint_every=1000)


PRESETS = {
    "smoke": Config(
        channels=(2, 2), width=8, depth=1, text_width=8, first_steps=2, first_batch=4, num_steps=2,
        batch_size=4, judge_steps=2, judge_width=2, num_train=16, num_judged=4, guidances=(1.0,),
        sample_steps=2, run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        size=64, channels=(64, 128, 256), width=128, depth=3, text_width=256,
        first_steps=20_000, first_batch=64, first_rate=5e-4, num_steps=100_000, batch_size=256,
        learning_rate=1e-3,
        judge_steps=10_000, judge_width=64, num_train=200_000, num_judged=2000, sample_steps=50,
        least_right=0.95, least_relation=0.75,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains the chain and the judge, asks for scenes, and shows what comes."""
    seed = config.run.seed
    sizes = _chain.Sizes(
        channels=config.channels, latent_dim=config.latent_dim, width=config.width,
        depth=config.depth, text_width=config.text_width,
    )  # fmt: skip
    model = _chain.build(sizes, config.size, _scenes.sentences(), _scenes.MAX_LENGTH)
    vae = _chain.train_first_stage(
        model, _scenes.batch_at(config.first_batch, config.size, seed),
        report.RunDir(out.path / "first_stage"), num_steps=config.first_steps,
        learning_rate=config.first_rate, run=config.run,
    )  # fmt: skip
    scenes = _scenes.many(config.num_train, config.size, seed)
    model, z = _chain.to_latents(model, vae, scenes["image"])
    tokens = model.tokenizer.encode(scenes["caption"].tolist())
    params = _chain.train_diffusion(
        model, {"image": z, "label": tokens}, out, num_steps=config.num_steps,
        batch_size=config.batch_size, learning_rate=config.learning_rate, run=config.run,
    )  # fmt: skip
    params = {**params, "vae": vae}
    weights.save(out.path / "model", model, params)
    judge = _judge.train(
        config.size, num_steps=config.judge_steps, width=config.judge_width, seed=seed
    )
    rendered = _judge.accuracy(judge, config.size, 4 * config.num_judged)
    asked = _scenes.Asked(model, params, judge, config.size, config.num_judged, config.sample_steps)
    found = {weight: asked.all(weight) for weight in (config.guidance, *config.guidances)}
    test = _scenes.many(min(500, config.num_train), config.size, seed + 1)
    first = _chain.judge_first_stage(model, vae, scenes["image"], test["image"])
    out.figure("shapes", _scenes.picture(asked, config.guidance, scenes))
    out.figure("guidance", _scenes.curves(found))
    return _result(config, rendered, first, found)


def _result(config: Config, rendered, first, found) -> claims.Result:
    guided = found[config.guidance]
    metrics = {f"judge_{name}": value for name, value in rendered.items()}
    metrics |= {f"first_stage_{k}": v for k, v in dataclasses.asdict(first).items()}
    for weight, each in found.items():
        for kind, right in each.items():
            metrics |= {f"{kind}_{name}_at_{weight:g}": value for name, value in right.items()}
    stated = [
        claims.at_least("judge: share of rendered scenes", rendered["all"], 0.99, RENDERED),
        claims.at_least("first stage: decibels above PCA", first.decibels - first.pca, 3.0, PCA),
        claims.within("variance of scaled latents", first.variance, 1.0, 0.01, UNIT),
        claims.at_least("one object: all right", guided["one"]["all"], config.least_right, RIGHT),
        claims.at_least(
            "held-out pairs, one object: all right", guided["held_out"]["all"],
            config.least_held_out, RIGHT,
        ),
        claims.at_least(
            "two objects: relation", guided["two"]["relation"], config.least_relation, RIGHT
        ),
    ]  # fmt: skip
    if 1.0 in found:
        plain = found[1.0]["one"]["all"]
        stated.append(
            claims.above(
                "one object: all right, above the unguided", guided["one"]["all"], plain, GUIDED
            )
        )
    return claims.Result(metrics, stated)
