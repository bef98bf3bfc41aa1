"""How many hidden characters of a novel does a small BERT find?

Claim: at the characters that it reads as [MASK] it is right more often than the counts of the same
training text: unigrams, trigrams of what came before, and trigrams of both neighbours. Cost: 18
minutes on one CPU core.
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
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import claims, fit, plots, report, training
from library.data import text
from library.storage import files
from library.types import Array, Params, TrainState
from research.attention import positions
from research.language_models import ngrams
from research.transformers import losses, models, published

CONTEXTS = {"unigram": (), "trigram": (-2, -1), "two-sided trigram": (-1, 1)}


@dataclasses.dataclass(frozen=True)
class Config:
    """The model, its data and its training."""

    text: str = "text/gutenberg_novels.txt.gz"  # file under ANSATZ_DATA; empty: Python's help texts
    num_steps: int = 4000  # updates
    batch_size: int = 32  # windows per update
    length: int = 64  # characters of a window
    depth: int = 4  # layers
    width: int = 128  # features of a character
    num_heads: int = 4  # attention heads
    learning_rate: float = 2e-3  # after the warm-up; zero at the end
    warmup: int = 100  # updates of linear warm-up
    num_judged: int = 1024  # windows of the validation text, evenly spaced
    evaluate_every: int = 500  # updates between two evaluations
    run: training.RunOptions = training.RunOptions(steps_per_call=5)


PRESETS = {
    "smoke": Config(
        text="",
        num_steps=4,
        batch_size=2,
        length=16,
        depth=1,
        width=8,
        num_heads=2,
        warmup=1,
        num_judged=32,
        evaluate_every=2,
        run=training.RunOptions(log_every=2, checkpoint_every=4),
    ),
    "default": Config(),
    "accelerator": Config(
        num_steps=40_000,
        batch_size=128,
        length=256,
        depth=8,
        width=384,
        num_heads=6,
        learning_rate=5e-4,
        warmup=2000,
        num_judged=4096,
        evaluate_every=2000,
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains, judges on the way, and compares with counts at the same characters."""
    characters = text.read(config.text) if config.text else text.pydoc_topics()
    vocabulary = text.Vocabulary.of(characters)
    train, validation = text.split(vocabulary.encode(characters))
    mask_token = len(vocabulary)
    bert = published.bert(
        config.depth,
        config.width,
        config.num_heads,
        len(vocabulary) + 1,
        max_length=config.length,
        num_segments=1,
        masked_lm=True,
    )
    stack = dataclasses.replace(
        bert.stack,
        pre_norm=True,
        alibi=True,
        rope=positions.Rope(),
        init_std=config.width**-0.5,
        unroll=config.depth,
    )
    bert = dataclasses.replace(bert, stack=stack)
    model = models.Encoder(bert)
    # Hidden characters become one of the vocabulary, never the mask token, where they are random.
    masking = losses.Masking(mask_token, len(vocabulary))
    judged = _Judged(config, model, masking, validation, out)
    _train(config, out, model, masking, train, judged)
    records = judged.records()
    last = records[-1]
    baselines = {name: judged.counts(train, offsets) for name, offsets in CONTEXTS.items()}
    flat = {name: 100 * values["accuracy"] for name, values in baselines.items()}
    shown = [{"step": r["step"], "BERT": 100 * r["accuracy"], **flat} for r in records]
    figure = plots.curves(
        shown,
        ["BERT", *CONTEXTS],
        title="Hidden characters found",
        x_label="update",
        y_label="accuracy at [MASK], %",
    )
    out.figure("accuracy", figure)
    metrics = {"accuracy": last["accuracy"], "loss": last["loss"], "characters": judged.count}
    metrics["accuracy_over_all_chosen"] = last["accuracy_over_all_chosen"]
    stated = []
    for name, values in baselines.items():
        metrics |= {f"{name.replace(' ', '_')}_{what}": value for what, value in values.items()}
        stated += [
            claims.above(f"accuracy at [MASK] against a {name}", last["accuracy"], values["accuracy"], source=claims.baseline("counts of the same training text at the same characters")),
            claims.below(f"loss at [MASK] against a {name}, nats", last["loss"], values["loss"], source=claims.baseline("counts of the same training text at the same characters")),
        ]  # fmt: skip
    return claims.Result(metrics=metrics, claims=stated)


def _train(
    config: Config,
    out: report.RunDir,
    model: models.Encoder,
    masking: losses.Masking,
    train: np.ndarray,
    judged: _Judged,
) -> None:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup, config.num_steps
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, 0.9, 0.98, weight_decay=0.01, mask=models.matrices),
    )
    training.train(
        losses.masked_tokens(model.apply, masking),
        optimizer,
        lambda rng: model.init(rng, jnp.zeros((1, 1), jnp.int32)),
        training.batches(
            text.Windows(train, config.length - 1), config.batch_size, config.run.seed
        ),
        num_steps=config.num_steps,
        run=config.run,
        out=out,
        hooks=[fit.OnState(config.evaluate_every, judged)],
    )


class _Judged:
    """Windows of the validation text and their masks, once drawn; as a hook, it judges the model.

    A line of `judged.jsonl` each time, kept by a resumed run.
    """

    def __init__(self, config, model, masking: losses.Masking, tokens: np.ndarray, out):
        margin = 2  # so that every character has its neighbours
        room = len(tokens) - config.length - 2 * margin
        if not 1 <= config.num_judged <= room:
            raise ValueError(f"num_judged={config.num_judged}: expected 1 to {room} windows")
        starts = margin + np.linspace(0, room, config.num_judged).astype(int)
        self._places = starts[:, None] + np.arange(config.length)[None]  # [N, T]
        self._tokens = tokens
        truth = tokens[self._places]
        read, chosen = jax.jit(masking)(jax.random.key(0), jnp.asarray(truth))
        self._truth, self._read, self._chosen = truth, np.asarray(read), np.asarray(chosen)
        self._hidden = self._read == masking.mask_token
        self._vocab_size = masking.vocab_size
        self._batch = math.gcd(64, config.num_judged)  # no window is left out
        self._path = out.path / "judged.jsonl"

        @jax.jit
        def one(params: Params, read: Array, truth: Array) -> tuple[Array, Array]:
            logits = model.apply(params, read)["logits"]
            return logits.argmax(-1) == truth, losses.cross_entropy(logits, truth)

        self._one = one

    @property
    def count(self) -> int:
        """How many characters are judged."""
        return int(self._hidden.sum())

    def __call__(self, step: int, state: TrainState) -> None:
        right, loss = [], []
        for first in range(0, len(self._read), self._batch):
            rows = slice(first, first + self._batch)
            parts = self._one(state.params, self._read[rows], self._truth[rows])
            right.append(np.asarray(parts[0]))
            loss.append(np.asarray(parts[1], np.float64))
        right, loss = np.concatenate(right), np.concatenate(loss)
        record = {
            "step": step,
            "accuracy": float(right[self._hidden].mean()),
            "accuracy_over_all_chosen": float(right[self._chosen].mean()),
            "loss": float(loss[self._hidden].mean()),
        }
        if files.is_writer():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def counts(self, train: np.ndarray, offsets: tuple[int, ...]) -> dict[str, float]:
        """The same of counts: accuracy, and loss in nats."""
        law = ngrams.conditional(train, offsets, self._vocab_size)
        places = self._places[self._hidden]
        given = law[ngrams.contexts(self._tokens, places, offsets, self._vocab_size)]  # [M, V]
        truth = self._truth[self._hidden]
        chance = np.take_along_axis(given, truth[:, None], axis=1)
        right = given.argmax(1) == truth
        return {"accuracy": float(right.mean()), "loss": float(-np.log(chance).mean())}

    def records(self) -> list[dict[str, float]]:
        """One record a step, in order; of a step judged twice, the last."""
        lines = self._path.read_text(encoding="utf-8").splitlines()
        by_step = {record["step"]: record for record in map(json.loads, lines)}
        return [by_step[step] for step in sorted(by_step)]
