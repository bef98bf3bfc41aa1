"""A small encoder of sentences: its text, masked pre-training, fine-tuning, and words as a peer."""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import train_step, training
from library.data import pipeline, sources, text
from library.types import Array, Aux, Batch, Key, LossFn, Params
from research.attention import masks, positions
from research.language_models import byte_pairs
from research.self_supervised import finetune, masking, networks, probes
from research.transformers import losses, models, published

Hide = Callable[[Key, Array], tuple[Array, Array]]  # tokens [B, T] -> read, chosen [B, T]

PREDICTED = 0.25  # share of a batch's tokens that the output layer has room for, of 0.15 chosen
_CLITICS = re.compile(r"(n't|'(?:s|m|d|re|ve|ll))\b")
_MARKS = re.compile(r"([,.?!`]|'(?!(?:s|m|d|re|ve|ll|t)\b))")
_OTHERS = re.compile(r"[^a-z0-9,.?!`']+")


def as_reviews(prose: str) -> str:
    """Prose as SST-2 writes its sentences: lower case, marks and clitics apart, no hyphens.

    Every word follows a blank, the first too, as byte pairs want it; accents are dropped.
    """
    prose = prose.lower().replace("\u2019", "'")
    plain = unicodedata.normalize("NFKD", prose).encode("ascii", "ignore").decode()
    parts = _MARKS.sub(r" \1 ", _CLITICS.sub(r" \1", _OTHERS.sub(" ", plain)))
    return " " + " ".join(parts.split())


@dataclasses.dataclass(frozen=True, eq=False)
class Sentences:
    """Labelled sentences.

    Attributes:
        words: [N] texts.
        labels: [N] int, 1 positive.
        rows: [N, T + 1] int32, tokens up to the length, which stands last.
    """

    words: list[str]
    labels: np.ndarray
    rows: np.ndarray

    @classmethod
    def read(cls, part: str, count: int, pairs: byte_pairs.BytePairs, length: int) -> Sentences:
        """The first `count` sentences of SST-2's part train, dev or test, cut to T tokens."""
        (file,) = sources.require("SST-2", [f"text/sst2_{part}.tsv.gz"])
        lines = [line.split("\t") for line in text.read(file).splitlines()[:count]]
        rows = np.zeros((len(lines), length + 1), np.int32)
        for row, (words, _) in zip(rows, lines):
            tokens = pairs.encode(" " + words)[:length]
            row[: len(tokens)], row[-1] = tokens, len(tokens)
        return cls([words for words, _ in lines], np.array([int(y) for _, y in lines]), rows)

    def unlabelled(self) -> dict[str, np.ndarray]:
        """{"tokens": [N, T], "lengths": [N]}."""
        return {"tokens": self.rows[:, :-1], "lengths": self.rows[:, -1]}

    def pick(self, rows: np.ndarray) -> Sentences:
        """Those of these numbers."""
        return Sentences([self.words[i] for i in rows], self.labels[rows], self.rows[rows])


def hiding(pairs: byte_pairs.BytePairs, whole_words: bool) -> Hide:
    """BERT's 15 %, of tokens or of whole words, which start at a blank; [MASK] is token V."""
    plain = losses.Masking(mask_token=len(pairs), vocab_size=len(pairs))
    if not whole_words:
        return plain
    starts = jnp.array([token.startswith(b" ") for token in pairs.tokens])  # [V]
    return masking.WholeWords(plain, lambda tokens: starts[tokens])


def encoder(vocab_size: int, depth: int, width: int, length: int) -> models.Encoder:
    """BERT with norms before the branches; rotations and ALiBi's bias beside its positions.

    As in `transformers.masked_lm`, without which so small a model stays at the unigrams for long.
    """
    bert = published.bert(
        depth, width, max(1, width // 32), vocab_size, max_length=length, num_segments=1
    )
    stack = dataclasses.replace(
        bert.stack, pre_norm=True, alibi=True, rope=positions.Rope(), init_std=width**-0.5,
        unroll=depth,
    )  # fmt: skip
    return models.Encoder(dataclasses.replace(bert, stack=stack))


def init(model: models.Encoder, rng: Key) -> Params:
    """{"encoder": the model's parameters, "bias": [V] of the predictions}."""
    params = model.init(rng, jnp.zeros((1, 1), jnp.int32))["params"]
    return {"encoder": params, "bias": jnp.zeros(len(params["embedding"]))}


def masked_loss(model: models.Encoder, hide: Hide) -> LossFn:
    """`losses.masked_tokens`, but the output matrix, the embedding's, reads chosen tokens only.

    With a vocabulary of thousands that matrix is most of a small model's work. There is room for
    `PREDICTED` of a batch's tokens; in the rare batch with more, its last ones do not count.

    Args:
        model: without a head of its own.
        hide: such as `losses.Masking`. Batches are {"tokens": [B, T], optionally "lengths": [B]}.
    """

    def loss_fn(params: Params, model_state, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        read, chosen = hide(rng, batch["tokens"])
        options = {}
        if "lengths" in batch:
            there = jnp.arange(chosen.shape[1])[None] < batch["lengths"][:, None]
            chosen, options = chosen & there, {"mask": masks.Padding(batch["lengths"])}
        hidden = model.apply({"params": params["encoder"]}, read, **options)["hidden"]
        room = -(-chosen.size // round(1 / PREDICTED))
        order = jnp.argsort(~chosen.ravel(), stable=True)[:room]  # [K], the chosen ones first
        found = hidden.reshape(-1, hidden.shape[-1])[order]  # [K, D]
        logits = found @ params["encoder"]["embedding"].T + params["bias"][None]  # [K, V]
        targets = batch["tokens"].ravel()[order]
        counts = chosen.ravel()[order].astype(logits.dtype)
        weight = counts.sum()
        mean = lambda x: (counts * x).sum() / jnp.maximum(weight, 1)
        right = (logits.argmax(-1) == targets).astype(logits.dtype)
        loss = mean(losses.cross_entropy(logits, targets))
        return loss, Aux(weight, {"accuracy": mean(right)})

    return loss_fn


def optimizer(rate: float, num_steps: int) -> optax.GradientTransformation:
    """AdamW of matrices and tables, a tenth of warm-up, half a cosine, gradients clipped at 1."""
    adamw = functools.partial(optax.adamw, b2=0.98, weight_decay=0.01, mask=models.matrices)
    return training.warmup_cosine(rate, num_steps, num_steps // 10, clip=1.0, optimizer=adamw)


def pretrained(
    model: models.Encoder,
    hide: Hide,
    stages: list[tuple[pipeline.Arrays | pipeline.Takeable, int, float]],
    batch_size: int,
    seed: int,
) -> Params:
    """Parameters as of `init` after (source of batches, number of updates, rate) of each stage."""
    loss_fn, rng = masked_loss(model, hide), jax.random.key(seed)
    params = jax.jit(lambda rng: init(model, rng))(rng)
    for source, num_steps, rate in stages:
        if num_steps:
            params = training.quick(
                loss_fn, optimizer(rate, num_steps), lambda _, start=params: start,
                training.batches(source, batch_size, seed), num_steps=num_steps, rng=rng,
            )  # fmt: skip
    return params


def guessed(
    model: models.Encoder, params: Params, tokens: np.ndarray, length: int, most: int
) -> tuple[float, float]:
    """How often hidden tokens of a text are found: by the model, and by the most frequent one.

    15 % of the tokens of at most `most` windows are hidden, all as [MASK]; the most frequent token
    is that of this text, which favours the baseline.
    """
    mask_token = len(params["bias"]) - 1

    def hide(rng: Key, tokens: Array) -> tuple[Array, Array]:
        chosen = jax.random.bernoulli(rng, 0.15, tokens.shape)
        return jnp.where(chosen, mask_token, tokens), chosen

    windows = text.Windows(tokens, length - 1, length)
    batch = windows.take(np.arange(min(most, len(windows))))
    blocks = jnp.asarray(batch["tokens"])[:, None]  # [N, 1, T]
    loss_fn = masked_loss(model, hide)

    @jax.jit
    def run(params: Params) -> tuple[Array, Array]:
        def one(block: tuple[Key, Array]) -> tuple[Array, Array]:
            aux = loss_fn(params, {}, block[0], {"tokens": block[1]})[1]
            return aux.weight, aux.metrics["accuracy"]

        return jax.lax.map(one, (jax.random.split(jax.random.key(0), len(blocks)), blocks),
                           batch_size=64)  # fmt: skip

    weight, share = (np.asarray(x, np.float64) for x in run(params))
    counts = np.bincount(batch["tokens"].ravel())
    return float((weight * share).sum() / weight.sum()), float(counts.max() / counts.sum())


def reader(model: models.Encoder) -> networks.Part:
    """The mean over tokens of `Sentences.rows`, by `finetune.of_text`."""
    part = finetune.of_text(model)
    apart = lambda rows: {"tokens": rows[:, :-1], "lengths": rows[:, -1]}
    return networks.Part(
        lambda rng, rows: part.init(rng, apart(rows)),
        lambda params, stats, rows, *rest: part.apply(params, stats, apart(rows), *rest),
    )


def tuner(task: finetune.Task, rate: float, num_steps: int, batch_size: int) -> Callable:
    """(encoder's parameters, labelled, test, seed) -> accuracy after fine-tuning, one program.

    The head goes first, for a fifth of the updates.
    """
    updates = optax.chain(optimizer(rate, num_steps), finetune.head_first(num_steps // 5))
    step = train_step.make_train_step(finetune.loss(task), updates)

    @jax.jit
    def logits(params: Params, state, rng: Key, batches: Batch, rows: Array) -> Array:
        start = train_step.init_state(params, updates, rng, state)
        end, _ = train_step.scan_steps(step)(start, batches)
        one = lambda row: finetune.logits(task, end.params, end.model_state, row[None])[0]
        return jax.lax.map(one, rows, batch_size=200)

    def run(encoder: Params, labelled: Sentences, test: Sentences, seed: int) -> float:
        rng, size = jax.random.key(seed), min(batch_size, len(labelled.labels))
        params, state = finetune.init(task, rng, encoder, {}, labelled.rows[:1], scale=0.02)
        arrays = {task.inputs: labelled.rows, "label": labelled.labels}
        batch_at = training.batches(arrays, size, seed)
        batches = jax.tree.map(lambda *x: np.stack(x), *map(batch_at, range(num_steps)))
        found = np.asarray(logits(params, state, rng, batches, test.rows))
        return float(np.mean(found.argmax(1) == test.labels))

    return run


def probed(
    model: models.Encoder, encoders: dict[str, Params], train: Sentences, test: Sentences
) -> dict[str, float]:
    """Accuracies of linear probes of frozen mean features, of all training sentences, by name."""
    part = reader(model)

    @jax.jit
    def features(params: Params, rows: Array) -> Array:
        one = lambda row: part.apply(params, {}, row[None], False, None)[0][0]
        return jax.lax.map(one, rows, batch_size=200)

    found, rows = {}, np.concatenate([train.rows, test.rows])
    for name, params in encoders.items():
        x = np.asarray(features(params, rows))
        parts = x[: len(train.rows)], train.labels, x[len(train.rows) :], test.labels
        found[name] = probes.linear(*parts, l2=1e-3).accuracy
    return found


def tf_idf(labelled: Sentences, test: Sentences) -> float:
    """Accuracy of logistic regression on TF-IDF of words and pairs of words.

    The strength of its penalty is chosen by five folds of the labelled sentences.
    """
    from sklearn import linear_model, model_selection, pipeline
    from sklearn.feature_extraction import text as features

    words = features.TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True)
    model = pipeline.make_pipeline(words, linear_model.LogisticRegression(max_iter=1000))
    search = model_selection.GridSearchCV(
        model, {"logisticregression__C": [1, 3, 10, 30, 100]},
        cv=min(5, int(np.bincount(labelled.labels).min())),
    )  # fmt: skip
    return float(search.fit(labelled.words, labelled.labels).score(test.words, test.labels))
