"""How well does a character GPT of nanoGPT's sizes predict Shakespeare?

Claim: validation loss <= 1.90 nats a character after 2,000 updates of 0.8 million parameters
(nanoGPT's README: 1.88), and below an interpolated trigram model of the same text. On an
accelerator: <= 1.4697 within 5,000 updates of 10.65 million. Cost: 4 minutes on 2 CPU cores.
    python -m experiments transformers.shakespeare

The text is `text/tinyshakespeare.txt` in the folder that ANSATZ_DATA names. Split, sizes and
schedule are those of github.com/karpathy/nanoGPT: its CPU configuration by default,
`train_shakespeare_char` on an accelerator (there without dropout on attention weights). The loss
is over the whole validation text in windows that do not overlap, not over a sample of it.
"""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import training
from experiments.transformers import _ngrams
from library import evaluate, files, fit, plots, report
from library.data import finite, pipeline, text
from library.types import TrainState
from research.transformers import losses, models, sizes


@dataclasses.dataclass(frozen=True)
class Config:
    """The model, its data and its training."""

    text: str = "text/tinyshakespeare.txt"  # file under ANSATZ_DATA; empty: Python's own help texts
    num_steps: int = 2000  # updates
    batch_size: int = 12  # windows per update
    length: int = 64  # characters that are predicted in a window
    depth: int = 4  # layers
    width: int = 128  # features of a token
    num_heads: int = 4  # attention heads
    dropout: float = 0.0  # rate on embeddings and branches
    unroll: int = 4  # layers per iteration of the scan over layers
    learning_rate: float = 1e-3  # after the warm-up; a tenth at the end
    warmup: int = 100  # updates of linear warm-up
    bar: float = 1.90  # nats a character that the validation loss must not exceed
    bar_source: str = "nanoGPT README, CPU configuration: 1.88"  # where the bar comes from
    evaluate_every: int = 250  # updates between two evaluations
    run: training.RunOptions = training.RunOptions()


PRESETS = {
    "smoke": Config(
        text="",
        num_steps=4,
        batch_size=2,
        length=512,
        depth=1,
        width=8,
        num_heads=2,
        warmup=1,
        evaluate_every=2,
        run=training.RunOptions(log_every=2, checkpoint_every=4),
    ),
    "default": Config(),
    "accelerator": Config(
        num_steps=5000,
        batch_size=64,
        length=256,
        depth=6,
        width=384,
        num_heads=6,
        dropout=0.2,
        unroll=6,
        bar=1.4697,
        bar_source="nanoGPT README, train_shakespeare_char on one A100: best 1.4697",
    ),
}


def run(config: Config, out: report.RunDir) -> report.Result:
    """Trains, evaluates on the way, and states the claims."""
    characters = text.read(config.text) if config.text else text.pydoc_topics()
    vocabulary = text.Vocabulary.of(characters)
    train, validation = text.split(vocabulary.encode(characters))
    model = models.Decoder(
        sizes.nano_gpt(
            len(vocabulary),
            config.depth,
            config.width,
            config.num_heads,
            config.length,
            config.dropout,
            unroll=config.unroll,
        )
    )
    validate = _Validation(config, out, model, validation)
    _train(config, out, model, train, validate)
    records = validate.records()
    last, best = records[-1], min(records, key=lambda record: record["validation"])
    trigram = _ngrams.trigram_loss(train, validation, len(vocabulary))
    figure = plots.curves(
        [{**record, "trigram": trigram} for record in records],
        {"validation": "validation", "trigram": "trigram model"},
        title="Loss of the validation text",
        x_label="update",
        y_label="nats per character",
    )
    out.figure("loss", figure)
    claims = [
        report.Claim(
            "validation, best evaluation, nats a character", best["validation"], config.bar, "<=",
            0.0, config.bar_source,
        ),
        report.Claim(
            "validation, last evaluation, nats a character", last["validation"], config.bar, "<=",
            0.0, config.bar_source,
        ),
        report.Claim(
            "validation, last evaluation, against a trigram model", last["validation"], trigram,
            "<", 0.0, "interpolated counts of the same training text",
        ),
    ]  # fmt: skip
    metrics = {
        "validation": last["validation"],
        "best_validation": best["validation"],
        "best_step": best["step"],
        "trigram": trigram,
        "validation_characters": last["characters"],
    }
    return report.Result(metrics=metrics, claims=claims)


def _train(
    config: Config,
    out: report.RunDir,
    model: models.Decoder,
    train: np.ndarray,
    validate: _Validation,
) -> None:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        config.warmup,
        config.num_steps,
        config.learning_rate / 10,
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, 0.9, 0.99, weight_decay=0.1, mask=models.matrices),
    )
    training.train(
        losses.next_token(model.apply, dropout=config.dropout > 0),
        optimizer,
        lambda rng: model.init(rng, jnp.zeros((1, 1), jnp.int32)),
        pipeline.array_batch_at(
            text.Windows(train, config.length),
            config.batch_size,
            seed=config.run.seed,
            shard=(jax.process_index(), jax.process_count()),
        ),
        num_steps=config.num_steps,
        run=config.run,
        out=out,
        hooks=[fit.OnState(config.evaluate_every, validate)],
    )


class _Validation:
    """The hook that evaluates: a line of `validation.jsonl` each time, kept by a resumed run."""

    def __init__(
        self, config: Config, out: report.RunDir, model: models.Decoder, tokens: np.ndarray
    ):
        windows = text.Windows(tokens, config.length, stride=config.length)
        self._batches = finite.FiniteBatches(windows, 8 * config.batch_size)
        self._evaluate = evaluate.make_evaluator(losses.next_token(model.apply))
        self._path = out.path / "validation.jsonl"

    def __call__(self, step: int, state: TrainState) -> None:
        means = self._evaluate(state.params, {}, state.rng, self._batches)
        record = {"step": step, "validation": means["loss"], "characters": means["weight"]}
        if files.is_writer():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict[str, float]]:
        """One record a step, in order; of a step evaluated twice, the last."""
        lines = self._path.read_text(encoding="utf-8").splitlines()
        by_step = {record["step"]: record for record in map(json.loads, lines)}
        return [by_step[step] for step in sorted(by_step)]
