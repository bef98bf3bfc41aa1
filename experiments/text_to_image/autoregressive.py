"""Does DALL-E's route draw what it is told, on the scenes and the budget of `text_to_image.shapes`?

Claims: codes keep what a judge of scenes sees, on 90 % of them; one decoder of text and codes draws
shape, colour, size and number right far more often than by chance, more often with guidance on its
logits than without, and more often again as the best of several by a scorer trained here.
Cost: 10 minutes on 2 CPU cores.
    python -m experiments text_to_image.autoregressive

Ramesh et al. 2021: an autoencoder with a codebook makes an image 8 x 8 codes; a transformer of text
tokens, then codes, learns both; the samples of a caption are ranked by a small CLIP.
"""

from __future__ import annotations

import dataclasses

from experiments.text_to_image import _judge, _scenes, _tokens
from library import claims, report, training

RENDERED = claims.bar("a judge is trusted that is right on 99 of 100 rendered scenes")
KEPT = claims.bar("what the codes lose, no decoder of codes can draw")
RIGHT = claims.bar("number, shape, colour and size as asked, by the judge")
GUIDED = claims.baseline("the same decoder without guidance")
RANKED = claims.baseline("one guided sample of the same decoder")


@dataclasses.dataclass(frozen=True)
class Config:
    """The scenes, the networks, their training, and what is asked of them."""

    size: int = 32  # pixels of a side: 32 or 64
    channels: tuple[int, ...] = (16, 32, 32)  # of the autoencoder, finest first
    code_dim: int = 8  # numbers of a code
    num_codes: int = 256  # of the codebook
    width: int = 96  # of the decoder
    depth: int = 3  # its layers
    first_steps: int = 1600  # updates of the autoencoder
    first_batch: int = 16  # scenes of each
    num_steps: int = 4500  # updates of the decoder
    batch_size: int = 32  # rows of each
    learning_rate: float = 2e-3  # peak of either; falls by half a cosine
    score_steps: int = 600  # updates of the scorer
    score_batch: int = 100  # pairs that it tells apart
    score_width: int = 16  # channels of its first layer
    best_of: int = 8  # samples that are ranked
    judge_steps: int = 2500  # updates of the judge
    judge_width: int = 32  # channels of its first layer
    num_train: int = 12_000  # scenes that decoder and scorer learn from
    num_judged: int = 250  # samples for each question asked
    guidance: float = 2.0  # weight that the claims are judged at
    guidances: tuple[float, ...] = (1.0, 4.0)  # further weights; 1 is none
    least_right: float = 0.3  # bar on one object; 1/210 by chance
    run: training.RunOptions = training.RunOptions(log_every=100, checkpoint_every=1000)


PRESETS = {
    "smoke": Config(
        channels=(2, 2), code_dim=2, num_codes=4, width=8, depth=1, first_steps=2, first_batch=4,
        num_steps=2, batch_size=4, score_steps=2, score_batch=4, score_width=1, best_of=2,
        judge_steps=2, judge_width=2, num_train=16, num_judged=4, guidances=(1.0,),
        run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        size=64, channels=(64, 128, 256), num_codes=1024, width=512, depth=12, first_steps=20_000,
        first_batch=64, num_steps=50_000, batch_size=256, learning_rate=3e-4, score_steps=10_000,
        score_batch=1000, score_width=32, best_of=32, judge_steps=10_000, judge_width=64,
        num_train=200_000, num_judged=2000, least_right=0.9,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains codes, decoder, scorer and judge, asks for scenes, and shows what comes."""
    seed = config.run.seed
    sizes = _tokens.Sizes(
        config.channels, config.code_dim, config.num_codes, config.width, config.depth,
        config.score_width,
    )  # fmt: skip
    steps = {"learning_rate": config.learning_rate, "run": config.run}
    model = _tokens.build(sizes, config.size)
    codes = _tokens.train_codes(
        model, config.size, _scenes.batch_at(config.first_batch, config.size, seed),
        report.RunDir(out.path / "codes"), num_steps=config.first_steps, **steps,
    )  # fmt: skip
    scenes = _scenes.many(config.num_train, config.size, seed)
    labels = model.tokenizer.encode(scenes["caption"].tolist())
    data = {"label": labels, "codes": _tokens.to_codes(model, codes, scenes["image"])}
    decoder = _tokens.train_decoder(
        model, data, out, num_steps=config.num_steps, batch_size=config.batch_size, **steps
    )
    ranker = _tokens.train_scorer(
        model.tokenizer, {"image": scenes["image"], "label": labels}, config.score_width,
        num_steps=config.score_steps, batch_size=config.score_batch, seed=seed,
    )  # fmt: skip
    judge = _judge.train(
        config.size, num_steps=config.judge_steps, width=config.judge_width, seed=seed
    )
    rendered = _judge.accuracy(judge, config.size, 4 * config.num_judged)
    test = _scenes.many(config.num_judged, config.size, seed + 1)
    back = _tokens.to_images(model, codes, _tokens.to_codes(model, codes, test["image"]))
    kept = {name: float(each.mean()) for name, each in judge.right(back, test).items()}
    params = {"decoder": decoder, "first_stage": codes}
    asked = _tokens.Asked(model, params, judge, ranker, config.size, config.num_judged)
    found = {weight: asked.all(weight) for weight in (config.guidance, *config.guidances)}
    ranked = asked.all(config.guidance, config.best_of)
    out.figure("autoregressive", _scenes.picture(asked, config.guidance, scenes))
    out.figure("guidance", _scenes.curves(found))
    return _result(config, rendered, kept, found, ranked)


def _result(config: Config, rendered, kept, found, ranked) -> claims.Result:
    metrics = {f"judge_{name}": value for name, value in rendered.items()}
    metrics |= {f"codes_{name}": value for name, value in kept.items()}
    every = {f"at_{weight:g}": each for weight, each in found.items()}
    for where, each in {**every, f"best_of_{config.best_of}": ranked}.items():
        for kind, right in each.items():
            metrics |= {f"{kind}_{name}_{where}": value for name, value in right.items()}
    share = lambda each: each["one"]["all"]
    guided, plain = share(found[config.guidance]), share(found[1.0])
    stated = [
        claims.at_least("judge: share of rendered scenes", rendered["all"], 0.99, RENDERED),
        claims.at_least("codes: all right of what they decode to", kept["all"], 0.9, KEPT),
        claims.at_least("one object: all right", guided, config.least_right, RIGHT),
        claims.above("one object: all right, above the unguided", guided, plain, GUIDED),
        claims.above("one object: all right, best of several", share(ranked), guided, RANKED),
    ]
    return claims.Result(metrics, stated)
