"""The same tokenisers as objects of the `tokenizers` library, for production and for checking."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from research.language_models.tokenizers import byte_pairs, pretokens, unigram


def to_tokenizers(tokenizer: byte_pairs.BytePairs) -> tokenizers.Tokenizer:
    """A `tokenizers.Tokenizer` that encodes and decodes as `tokenizer` does.

    Raises:
        ValueError: for a split other than GPT-2's, which the library knows by name.
    """
    if tokenizer.split is not pretokens.split:
        raise ValueError("split: expected pretokens.split, the one that `tokenizers` has built in")
    names = [byte_pairs.shown(token) for token in tokenizer.tokens]
    library = tokenizers.Tokenizer(
        models.BPE(
            vocab={name: index for index, name in enumerate(names)},
            merges=[(names[left], names[right]) for left, right in tokenizer.merges],
        )
    )
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def unigram_to_tokenizers(tokenizer: unigram.Unigram) -> tokenizers.Tokenizer:
    """A `tokenizers.Tokenizer` of the same pieces, for texts that `normalize` has been applied to.

    Normalisation stays with the caller; the library decodes with the same word mark. It would find
    any piece in a text, so those that no text is cut into (the unknown, controls, unused) carry a
    space before their name there, which no normalised text has.
    """
    never = {tokenizer.unknown, *tokenizer.controls, *tokenizer.unused}
    pieces = [
        (f" {piece}", 0.0) if index in never else (piece, float(score))
        for index, (piece, score) in enumerate(zip(tokenizer.pieces, tokenizer.scores))
    ]
    library = tokenizers.Tokenizer(models.Unigram(pieces, tokenizer.unknown, False))
    library.decoder = decoders.Metaspace()
    return library
