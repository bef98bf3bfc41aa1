"""What the two production libraries learn from a text."""

from __future__ import annotations

import io
import json

import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

CHUNK = 100  # words a sentence, well below sentencepiece's limit of bytes


def train_bpe(text: str, vocab_size: int) -> list[tuple[str, str]]:
    """Merges of `tokenizers`, byte-level, in the order learned."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator([text], trainer)
    merges = json.loads(library.to_str())["model"]["merges"]
    return [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges]


def train_sentencepiece(text: str, vocab_size: int) -> sentencepiece.SentencePieceProcessor:
    """A unigram model of `sentencepiece`: all characters, pieces of any script and number."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(text)),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="unigram",
        character_coverage=1.0,
        normalization_rule_name="identity",
        split_by_unicode_script=False,
        split_by_number=False,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentences(text: str) -> list[str]:
    """The text in pieces that end between two words."""
    words = text.split()
    return [" ".join(words[i : i + CHUNK]) for i in range(0, len(words), CHUNK)]
