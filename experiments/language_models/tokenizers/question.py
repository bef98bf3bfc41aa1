"""How far do byte pairs and unigram pieces compress text, and are ours those of the libraries?

Claim: merges, encodings and published vectors identical to `tokenizers`, GPT-2's and
`sentencepiece`'s; unigram pieces that we train compress held-out text within 2 % of
`sentencepiece`'s. Cost: 2 minutes on 2 CPU cores.
    python -m experiments language_models.tokenizers

Byte pairs after Sennrich et al. 2016 (arXiv:1508.07909) on bytes, unigram pieces after Kudo 2018
(arXiv:1804.10959). White space is reduced to single blanks first, so that all encode the same text.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from experiments.language_models.tokenizers import equality, libraries
from library import claims, figure_style, plots, report
from library.data import sources, text
from research.language_models import byte_pairs_training, unigram_training

NOVELS = "text/gutenberg_novels.txt.gz"


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


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains at all sizes, encodes the held-out text, compares with the libraries."""
    if not config.vocab_sizes or list(config.vocab_sizes) != sorted(set(config.vocab_sizes)):
        raise ValueError(f"vocab_sizes={config.vocab_sizes}: expected ascending sizes")
    train, test = _texts(config)
    size = len(test.encode("utf-8"))
    rows, metrics = [], {"test_bytes": size}
    start = time.perf_counter()
    pairs = byte_pairs_training.train(
        byte_pairs_training.count_words([train]), config.vocab_sizes[-1]
    )
    metrics["bpe_training_seconds"] = time.perf_counter() - start
    pairs_equal = equality.byte_pair_claims(pairs, train, test)
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
    pieces_equal = equality.unigram_claims(pieces, theirs, test, rows[-1])
    published, gpt2 = equality.published_claims()
    if gpt2 is not None:
        metrics["gpt2_bytes_per_token"] = size / len(gpt2.encode(test))
    out.figure("compression", _figure(rows, metrics.get("gpt2_bytes_per_token")))
    return claims.Result(metrics, [*pairs_equal, *pieces_equal, *published])


def _texts(config: Config) -> tuple[str, str]:
    """Training and held-out text, white space as single blanks."""
    if config.text:
        whole = text.read(config.text)
    else:
        novels = sources.find("novels", [NOVELS]) if sources.data_folder() else None
        whole = text.read(novels[0]) if novels else text.pydoc_topics()
    whole = " ".join(whole.split())
    rest = max(len(whole) - config.test_characters, 0)  # a negative end would count from the end
    train = whole[: min(config.train_characters, rest)]
    if not train or config.test_characters < 1:
        raise ValueError(
            f"test_characters={config.test_characters}: expected 1 to {len(whole) - 1}, "
            "below the length of the text"
        )
    return train, whole[-config.test_characters :]


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
        axes.axhline(gpt2, color=figure_style.FAINT, linewidth=1.0, linestyle="--")
        axes.annotate(
            "GPT-2, 50,257 tokens",
            (rows[0]["vocab"], gpt2),
            xytext=(0, -4),
            textcoords="offset points",
            va="top",
            color=figure_style.FAINT,
            fontsize=figure_style.FONT_SIZE - 2,
        )
        lowest = min(min(row.values()) for row in rows)
        axes.set_ylim(np.floor(2 * lowest) / 2, np.ceil(2 * gpt2) / 2)
    return figure
