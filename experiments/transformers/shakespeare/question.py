"""How well does a character GPT of nanoGPT's sizes predict Shakespeare?

Claim: validation loss <= 1.90 nats a character after 2,000 updates of 0.8 million parameters, mean
of 5 seeds (nanoGPT's README: 1.88), and below an interpolated trigram model of the same text. On an
accelerator: <= 1.4697 within 5,000 updates of 10.65 million. Cost: 46 minutes on 2 CPU
cores.
    python -m experiments transformers.shakespeare

The text is `text/tinyshakespeare.txt` in the folder that ANSATZ_DATA names. Split, sizes and
schedule are those of github.com/karpathy/nanoGPT: its CPU configuration by default,
`train_shakespeare_char` on an accelerator (there without dropout on attention weights). So is the
learning rate there; the default's is chosen on held-out training text. The loss is over the whole
validation text in windows that do not overlap, not over a sample of it.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.transformers import _options
from experiments.transformers.shakespeare import picture
from library import claims, evaluate, report, training
from library.data import padded_batches, text
from library.types import TrainState
from research.language_models import ngrams
from research.transformers import losses, models, published

COUNTS = claims.baseline("interpolated counts of the same training text")


@dataclasses.dataclass(frozen=True)
class Config:
    """The model, its data and its training."""

    text: str = "text/tinyshakespeare.txt"  # file under ANSATZ_DATA; empty: Python's own help texts
    num_steps: int = 2000  # updates
    length: int = 64  # characters that are predicted in a window
    size: _options.Size = _options.Size()  # of the decoder
    # rate on embeddings and branches
    dropout: float = dataclasses.field(default=0.0, metadata={"most": 1})
    unroll: int = 4  # layers per iteration of the scan over layers
    fit: _options.Fit = _options.Fit(12, 6e-3)  # its training; the rate ends at a tenth
    bar: float = 1.90  # nats a character that the validation loss must not exceed
    bar_source: str = "nanoGPT README, CPU configuration: 1.88"  # where the bar comes from
    evaluate_every: int = 250  # updates between two evaluations
    num_seeds: int = 5  # runs, of the seeds run.seed, run.seed + 1, ...
    run: training.RunOptions = training.RunOptions()


PRESETS = {
    "smoke": Config(
        text="",
        num_steps=4,
        length=512,
        size=_options.Size(depth=1, width=8, num_heads=2),
        fit=_options.Fit(2, 6e-3, warmup=1),
        evaluate_every=2,
        num_seeds=1,
        run=training.RunOptions(log_every=2, checkpoint_every=4),
    ),
    "default": Config(),
    "accelerator": Config(
        num_steps=5000,
        length=256,
        size=_options.Size(depth=6, width=384, num_heads=6),
        dropout=0.2,
        unroll=6,
        fit=_options.Fit(64, 1e-3),
        num_seeds=1,
        bar=1.4697,
        bar_source="nanoGPT README, train_shakespeare_char on one A100: best 1.4697",
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains, evaluates on the way, and states the claims."""
    if config.num_seeds < 1:
        raise ValueError(f"num_seeds={config.num_seeds}: expected at least 1")
    characters = text.read(config.text) if config.text else text.pydoc_topics()
    vocabulary = text.Vocabulary.of(characters)
    train, validation = text.split(vocabulary.encode(characters))
    size = dataclasses.astuple(config.size)
    architecture = published.nano_gpt(
        len(vocabulary), *size, config.length, config.dropout, unroll=config.unroll
    )
    model = models.Decoder(architecture)
    seeds = [config.run.seed + index for index in range(config.num_seeds)]
    curves = np.stack([_curve(config, out, model, train, validation, seed) for seed in seeds])
    steps, by_seed = curves[0, :, 0], curves[..., 1]  # [evaluations], [seeds, evaluations]
    trigram = ngrams.trigram_loss(train, validation, len(vocabulary))
    out.figure("loss", picture.draw(steps, by_seed, trigram))
    return _result(config, by_seed, trigram)


def _curve(
    config: Config,
    out: report.RunDir,
    model: models.Decoder,
    train: np.ndarray,
    validation: np.ndarray,
    seed: int,
) -> np.ndarray:
    """[evaluations, 2]: step, loss of the validation text; one seed in a folder of its own."""
    windows = text.Windows(validation, config.length, stride=config.length)
    batches = padded_batches.FiniteBatches(windows, 8 * config.fit.batch_size)
    evaluator = evaluate.make_evaluator(losses.next_token(model.apply))

    def validate(state: TrainState) -> dict[str, float]:
        return {"eval/loss": evaluator(state.params, {}, state.rng, batches)["loss"]}

    part = report.RunDir(out.path / f"seed{seed}")
    training.train(
        losses.next_token(model.apply, dropout=config.dropout > 0),
        config.fit.optimizer(
            config.num_steps, 0.99, weight_decay=0.1, end=config.fit.learning_rate / 10
        ),
        lambda rng: model.init(rng, jnp.zeros((1, 1), jnp.int32)),
        training.batches(text.Windows(train, config.length), config.fit.batch_size, seed),
        num_steps=config.num_steps,
        run=dataclasses.replace(config.run, seed=seed),
        out=part,
        evaluate=training.Every(config.evaluate_every, validate),
    )
    return training.evaluations(part, "eval/loss")


def _result(config: Config, losses_of: np.ndarray, trigram: float) -> claims.Result:
    """Of validation losses [seeds, evaluations]."""
    last, best = losses_of[:, -1], losses_of.min(1)
    readme = claims.paper(f"{config.bar_source}; here the mean of {config.num_seeds} seeds")
    unit, trigrams = "nats a character", "worst seed, against a trigram model"
    stated = [
        claims.at_most(f"validation, best evaluation, {unit}", best.mean(), config.bar, readme),
        claims.at_most(f"validation, last evaluation, {unit}", last.mean(), config.bar, readme),
        claims.below(f"validation, last evaluation, {trigrams}", last.max(), trigram, COUNTS),
    ]
    metrics = {
        "validation": last.mean(),
        "validation_std_over_seeds": last.std(ddof=1) if len(last) > 1 else 0.0,
        "best_validation": best.mean(),
        "trigram": trigram,
    } | {f"validation_seed_{config.run.seed + i}": loss for i, loss in enumerate(last)}
    return claims.Result(metrics, stated)
