"""How many hidden characters of a novel does a small BERT find?

Claim: at the characters that it reads as [MASK] it is right more often than the counts of the same
training text: unigrams, trigrams of what came before, and trigrams of both neighbours. Cost: 18
minutes on 2 CPU cores.
    python -m experiments transformers.masked_lm

The masked-language loss of Devlin et al. 2018, arXiv:1810.04805, section 3.1, on characters of
eleven novels (`text/gutenberg_novels.txt.gz` in the folder that ANSATZ_DATA names); the last tenth
of the text is kept for validation. The counts read the true neighbours of every judged character,
which the model does not see where they are hidden too. Characters that are chosen but left, or
replaced by others, are trained on and not judged: there the model would read the answer.

With BERT's learned positions alone a model of this size did not leave the unigram level in 750
updates (norms after the branches; 500 with norms before them). So ALiBi's bias, under which each
head starts out looking near, and rotations are added to them, and norms come before the branches.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.transformers import _options
from experiments.transformers.masked_lm import judged
from library import claims, plots, report, training
from library.data import text
from research.attention import positions
from research.transformers import losses, models, published

CONTEXTS = {"unigram": (), "trigram": (-2, -1), "two-sided trigram": (-1, 1)}
COUNTS = claims.baseline("counts of the same training text at the same characters")


@dataclasses.dataclass(frozen=True)
class Config:
    """The model, its data and its training."""

    text: str = "text/gutenberg_novels.txt.gz"  # file under ANSATZ_DATA; empty: Python's help texts
    num_steps: int = 4000  # updates
    length: int = 64  # characters of a window
    size: _options.Size = _options.Size()  # of the encoder
    fit: _options.Fit = _options.Fit(32, 2e-3)  # its training; the rate ends at zero
    num_judged: int = 1024  # windows of the validation text, evenly spaced
    evaluate_every: int = 500  # updates between two evaluations
    run: training.RunOptions = training.RunOptions(steps_per_call=5)


PRESETS = {
    "smoke": Config(
        text="",
        num_steps=4,
        length=16,
        size=_options.Size(depth=1, width=8, num_heads=2),
        fit=_options.Fit(2, 2e-3, warmup=1),
        num_judged=32,
        evaluate_every=2,
        run=training.RunOptions(log_every=2, checkpoint_every=4),
    ),
    "default": Config(),
    "accelerator": Config(
        num_steps=40_000,
        length=256,
        size=_options.Size(depth=8, width=384, num_heads=6),
        fit=_options.Fit(128, 5e-4, warmup=2000),
        num_judged=4096,
        evaluate_every=2000,
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains, judges on the way, and compares with counts at the same characters."""
    characters = text.read(config.text) if config.text else text.pydoc_topics()
    vocabulary = text.Vocabulary.of(characters)
    train, validation = text.split(vocabulary.encode(characters))
    model = _model(config, len(vocabulary))
    # Hidden characters become one of the vocabulary, never the mask token, where they are random.
    masking = losses.Masking(mask_token=len(vocabulary), vocab_size=len(vocabulary))
    held_out = judged.Judged.of(validation, masking, config.num_judged, config.length)
    _train(config, out, model, masking, train, held_out)
    found = {name: training.evaluations(out, f"eval/{name}") for name in judged.NAMES}
    counts = {name: held_out.counts(train, offsets) for name, offsets in CONTEXTS.items()}
    out.figure("accuracy", _figure(found["accuracy"], counts))
    last = {name: float(curve[-1, 1]) for name, curve in found.items()}
    return sum(
        (_against(name, last, values) for name, values in counts.items()),
        claims.Result({**last, "characters": held_out.count}),
    )


def _model(config: Config, num_characters: int) -> models.Encoder:
    """BERT as the library publishes it, with the changes that the head of this file explains."""
    bert = published.bert(
        *dataclasses.astuple(config.size),
        num_characters + 1,
        max_length=config.length,
        num_segments=1,
        masked_lm=True,
    )
    stack = dataclasses.replace(
        bert.stack,
        pre_norm=True,
        alibi=True,
        rope=positions.Rope(),
        init_std=config.size.width**-0.5,
        unroll=config.size.depth,
    )
    return models.Encoder(dataclasses.replace(bert, stack=stack))


def _train(
    config: Config,
    out: report.RunDir,
    model: models.Encoder,
    masking: losses.Masking,
    train: np.ndarray,
    held_out: judged.Judged,
) -> None:
    windows = text.Windows(train, config.length - 1)
    training.train(
        losses.masked_tokens(model.apply, masking),
        config.fit.optimizer(config.num_steps, 0.98, weight_decay=0.01),
        lambda rng: model.init(rng, jnp.zeros((1, 1), jnp.int32)),
        training.batches(windows, config.fit.batch_size, config.run.seed),
        num_steps=config.num_steps,
        run=config.run,
        out=out,
        evaluate=training.Every(config.evaluate_every, held_out.evaluation(model)),
    )


def _against(name: str, model: dict[str, float], counts: dict[str, float]) -> claims.Result:
    """The model's accuracy and loss against those of counts of that name."""
    metrics = {f"{name.replace(' ', '_')}_{what}": value for what, value in counts.items()}
    right = claims.above(
        f"accuracy at [MASK] against a {name}", model["accuracy"], counts["accuracy"], COUNTS
    )
    loss = claims.below(
        f"loss at [MASK] against a {name}, nats", model["loss"], counts["loss"], COUNTS
    )
    return claims.Result(metrics, [right, loss])


def _figure(accuracy: np.ndarray, counts: dict[str, dict[str, float]]) -> plots.Figure:
    """Accuracy [evaluations, 2] over the training, and that of the counts."""
    flat = {name: 100 * values["accuracy"] for name, values in counts.items()}
    return plots.curves(
        [{"step": step, "BERT": 100 * share, **flat} for step, share in accuracy],
        ["BERT", *CONTEXTS],
        title="Hidden characters found",
        x_label="update",
        y_label="accuracy at [MASK], %",
    )
