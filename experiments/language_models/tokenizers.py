"""How far do byte pairs and unigram pieces compress text, and are ours those of the libraries?

Claim: merges, encodings and published vectors identical to `tokenizers`, GPT-2's and
`sentencepiece`'s; unigram pieces that we train compress held-out text within 2 % of
`sentencepiece`'s. Cost: 4 minutes on 2 CPU cores.
    python -m experiments language_models.tokenizers

Byte pairs after Sennrich et al. 2016 (arXiv:1508.07909) on bytes, unigram pieces after Kudo 2018
(arXiv:1804.10959). White space is reduced to single blanks first, so that all encode the same text.
"""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np

from experiments.language_models import _tokenizer_libraries as libraries
from library import plots, report
from library.data import sources, text
from research.language_models import byte_pairs, byte_pairs_training, production, unigram_training
from research.language_models import sentencepiece_file as spm_file

NOVELS = "text/gutenberg_novels.txt.gz"
SHAKESPEARE = "text/tinyshakespeare.txt"
GPT2 = [f"tokenizers/gpt2/{name}" for name in ("encoder.json", "vocab.bpe", "test_vectors.json")]
SPM = [f"tokenizers/sentencepiece/{name}" for name in ("test_model.model", "test_vectors.json")]


@dataclasses.dataclass(frozen=True)
class Config:
    """Which text, and how many tokens."""

    text: str = ""  # a file, also under ANSATZ_DATA; empty: eleven novels, else Python's reference
    train_characters: int = 2_000_000  # from the start of the text, for training
    test_characters: int = 200_000  # from its end, held out
    vocab_sizes: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)  # ascending


PRESETS = {
    "smoke": Config(train_characters=20_000, test_characters=5_000, vocab_sizes=(300, 400)),
    "default": Config(),
    "accelerator": Config(train_characters=16_000_000, vocab_sizes=(1024, 4096, 16384, 32768)),
}


def run(config: Config, out: report.RunDir) -> report.Result:
    """Trains at all sizes, encodes the held-out text, compares with the libraries."""
    train, test = _texts(config)
    size = len(test.encode("utf-8"))
    rows, claims, metrics = [], [], {"test_bytes": size}
    start = time.perf_counter()
    pairs = byte_pairs_training.train(
        byte_pairs_training.count_words([train]), config.vocab_sizes[-1]
    )
    metrics["bpe_training_seconds"] = time.perf_counter() - start
    claims += _bpe_claims(pairs, train, test)
    words = unigram_training.count_words([train])
    for vocab_size in config.vocab_sizes:
        start = time.perf_counter()
        pieces = unigram_training.train(words, vocab_size)
        metrics[f"unigram_training_seconds_{vocab_size}"] = time.perf_counter() - start
        theirs = libraries.train_sentencepiece(train, vocab_size)
        counts = {
            "bpe": len(pairs.truncated(min(vocab_size, len(pairs))).encode(test)),
            "unigram": len(pieces.encode(test)),
            "sentencepiece": sum(len(ids) for ids in theirs.encode(libraries.sentences(test))),
        }
        rows.append({"vocab": vocab_size} | {name: size / count for name, count in counts.items()})
    metrics |= {
        f"{name}_bytes_per_token_{row['vocab']}": value
        for row in rows
        for name, value in row.items()
        if name != "vocab"
    }
    claims += _unigram_claims(pieces, theirs, test, rows[-1])
    published, gpt2 = _published()
    if gpt2 is not None:
        metrics["gpt2_bytes_per_token"] = size / len(gpt2.encode(test))
    out.figure("compression", _figure(rows, metrics.get("gpt2_bytes_per_token")))
    return report.Result(metrics=metrics, claims=claims + published)


def _texts(config: Config) -> tuple[str, str]:
    """Training and held-out text, white space as single blanks."""
    if config.text:
        whole = text.read(config.text)
    else:
        novels = sources.find("novels", [NOVELS]) if sources.data_folder() else None
        whole = text.read(novels[0]) if novels else text.pydoc_topics()
    whole = " ".join(whole.split())
    train = whole[: min(config.train_characters, len(whole) - config.test_characters)]
    if not train or config.test_characters < 1:
        raise ValueError(
            f"test_characters={config.test_characters}: expected 1 to {len(whole) - 1}, "
            "below the length of the text"
        )
    return train, whole[-config.test_characters :]


def _bpe_claims(pairs: byte_pairs.BytePairs, train: str, test: str) -> list[report.Claim]:
    merges = [
        (byte_pairs.shown(pairs.tokens[left]), byte_pairs.shown(pairs.tokens[right]))
        for left, right in pairs.merges
    ]
    theirs = libraries.train_bpe(train, len(pairs))
    encoded = production.to_tokenizers(pairs).encode(test).ids
    return [
        _equal(
            f"BPE merges that differ, of {len(merges)}", merges, theirs, "tokenizers.BpeTrainer"
        ),
        _equal("held-out BPE tokens that differ", pairs.encode(test), encoded, "tokenizers.BPE"),
        _equal(
            "held-out bytes lost by BPE",
            list(pairs.decode_bytes(pairs.encode(test))),
            list(test.encode("utf-8")),
            "lossless by construction",
        ),
    ]


def _unigram_claims(pieces, theirs, test: str, row: dict) -> list[report.Claim]:
    ours = spm_file.parse(theirs.serialized_model_proto())
    # It adds scores in float32, so that 200,000 characters at once end in rounding errors.
    sentences = libraries.sentences(test)
    return [
        _equal(
            "held-out tokens that differ, sentencepiece's model in our encoder",
            [token for sentence in sentences for token in ours.encode(sentence)],
            [token for sentence in sentences for token in theirs.encode(sentence)],
            "SentencePieceProcessor, same model",
        ),
        _equal(
            "held-out tokens that differ, our model in tokenizers' encoder",
            pieces.encode(test),
            production.unigram_to_tokenizers(pieces).encode(pieces.normalize(test)).ids,
            "tokenizers.Unigram, same pieces",
        ),
        report.Claim(
            f"bytes a token, our {row['vocab']} pieces / sentencepiece's",
            row["unigram"] / row["sentencepiece"],
            1.0,
            ">=",
            0.02,
            "SentencePieceTrainer, same text and size",
        ),
    ]


def _published() -> tuple[list[report.Claim], byte_pairs.BytePairs | None]:
    """The claims on published vocabularies, where their files are at hand."""
    claims, gpt2 = [], None
    if sources.data_folder() and (paths := sources.find("gpt2", GPT2)):
        gpt2 = byte_pairs.from_gpt2(text.read(paths[0]), text.read(paths[1]))
        vectors = json.loads(text.read(paths[2]))["vectors"]
        ours = [gpt2.encode(vector["text"]).tolist() for vector in vectors]
        name = f"GPT-2 vectors that differ, of {len(vectors)}"
        claims.append(_equal(name, ours, [v["ids"] for v in vectors], "tiktoken and tokenizers"))
    if gpt2 is not None and (paths := sources.find("shakespeare", [SHAKESPEARE])):
        count = len(gpt2.encode(text.read(paths[0])))
        source = "tiktoken and tokenizers, published vocabulary"
        claims.append(
            report.Claim("GPT-2 tokens of Tiny Shakespeare", count, 338_025, "==", 0.0, source)
        )
    if sources.data_folder() and (paths := sources.find("sentencepiece", SPM)):
        model = spm_file.parse(paths[0].read_bytes())
        vectors = json.loads(text.read(paths[1]))["vectors"]
        ours = [model.encode(vector["text"]).tolist() for vector in vectors]
        name = f"SentencePiece vectors that differ, of {len(vectors)}"
        claims.append(_equal(name, ours, [v["ids"] for v in vectors], "sentencepiece 0.2.3"))
    return claims, gpt2


def _equal(name: str, ours, theirs, source: str) -> report.Claim:
    """A claim that two sequences are equal: the number of places where they differ is 0."""
    ours, theirs = list(ours), list(theirs)
    differ = sum(a != b for a, b in zip(ours, theirs)) + abs(len(ours) - len(theirs))
    return report.Claim(name, differ, 0, "==", 0.0, source)


def _figure(rows: list[dict], gpt2: float | None):
    figure = plots.curves(
        rows,
        {"bpe": "byte pairs", "unigram": "unigram", "sentencepiece": "sentencepiece"},
        x="vocab",
        log_x=True,
        title="Compression of held-out text",
        x_label="tokens in the vocabulary",
        y_label="bytes a token",
    )
    if gpt2 is not None:
        axes = figure.axes[0]
        axes.axhline(gpt2, color=plots.FAINT, linewidth=1.0, linestyle="--")
        axes.annotate(
            "GPT-2, 50,257 tokens",
            (rows[0]["vocab"], gpt2),
            xytext=(0, -4),
            textcoords="offset points",
            va="top",
            color=plots.FAINT,
            fontsize=plots.FONT_SIZE - 2,
        )
        lowest = min(min(row.values()) for row in rows)
        axes.set_ylim(np.floor(2 * lowest) / 2, np.ceil(2 * gpt2) / 2)
    return figure
