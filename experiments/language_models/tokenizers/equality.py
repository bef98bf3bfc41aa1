"""What the tokenizer question claims: equality with the libraries and with published vectors."""

from __future__ import annotations

import json

from experiments.language_models.tokenizers import libraries
from library import claims
from library.data import sources, text
from research.language_models import byte_pairs
from research.language_models import sentencepiece_file as spm_file
from research.language_models.tokenizers import to_libraries

SHAKESPEARE = "text/tinyshakespeare.txt"
GPT2 = [f"tokenizers/gpt2/{name}" for name in ("encoder.json", "vocab.bpe", "test_vectors.json")]
SPM = [f"tokenizers/sentencepiece/{name}" for name in ("test_model.model", "test_vectors.json")]
GPT2_PEERS = claims.baseline("tiktoken and tokenizers, published vocabulary")
SPM_PEER = claims.baseline("sentencepiece 0.2.3")


def byte_pair_claims(pairs: byte_pairs.BytePairs, train: str, test: str) -> list[claims.Claim]:
    """Merges and encodings against `tokenizers`, and the way back."""
    merges = [
        (byte_pairs.shown(pairs.tokens[left]), byte_pairs.shown(pairs.tokens[right]))
        for left, right in pairs.merges
    ]
    theirs = libraries.train_bpe(train, len(pairs))
    encoded = to_libraries.to_tokenizers(pairs).encode(test).ids
    return [
        _equal(
            f"BPE merges that differ, of {len(merges)}",
            merges,
            theirs,
            claims.baseline("tokenizers.BpeTrainer"),
        ),
        _equal(
            "held-out BPE tokens that differ",
            pairs.encode(test),
            encoded,
            claims.baseline("tokenizers.BPE"),
        ),
        _equal(
            "held-out bytes lost by BPE",
            list(pairs.decode_bytes(pairs.encode(test))),
            list(test.encode("utf-8")),
            claims.theorem("lossless by construction"),
        ),
    ]


def unigram_claims(pieces, theirs, test: str, row: dict) -> list[claims.Claim]:
    """Encodings against both libraries, and compression against `sentencepiece`."""
    ours = spm_file.parse(theirs.serialized_model_proto())
    # It adds scores in float32, so that 200,000 characters at once end in rounding errors.
    sentences = libraries.sentences(test)
    return [
        _equal(
            "held-out tokens that differ, sentencepiece's model in our encoder",
            [token for sentence in sentences for token in ours.encode(sentence)],
            [token for sentence in sentences for token in theirs.encode(sentence)],
            claims.baseline("SentencePieceProcessor, same model"),
        ),
        _equal(
            "held-out tokens that differ, our model in tokenizers' encoder",
            pieces.encode(test),
            to_libraries.unigram_to_tokenizers(pieces).encode(pieces.normalize(test)).ids,
            claims.baseline("tokenizers.Unigram, same pieces"),
        ),
        claims.at_least(
            f"bytes a token, our {row['vocab']} pieces / sentencepiece's",
            row["unigram"] / row["sentencepiece"],
            1.0,
            source=claims.baseline("SentencePieceTrainer, same text and size"),
            tolerance=0.02,
        ),
    ]


def published_claims() -> tuple[list[claims.Claim], byte_pairs.BytePairs | None]:
    """The claims on published vocabularies, where their files are at hand."""
    stated, gpt2 = [], None
    if sources.data_folder() and (paths := sources.find("gpt2", GPT2)):
        gpt2 = byte_pairs.from_gpt2(text.read(paths[0]), text.read(paths[1]))
        vectors = json.loads(text.read(paths[2]))["vectors"]
        ours = [gpt2.encode(vector["text"]).tolist() for vector in vectors]
        name = f"GPT-2 vectors that differ, of {len(vectors)}"
        stated.append(_equal(name, ours, [v["ids"] for v in vectors], GPT2_PEERS))
    if gpt2 is not None and (paths := sources.find("shakespeare", [SHAKESPEARE])):
        count = len(gpt2.encode(text.read(paths[0])))
        name = "GPT-2 tokens of Tiny Shakespeare"
        stated.append(claims.exactly(name, count, 338_025, GPT2_PEERS))
    if sources.data_folder() and (paths := sources.find("sentencepiece", SPM)):
        model = spm_file.parse(paths[0].read_bytes())
        vectors = json.loads(text.read(paths[1]))["vectors"]
        ours = [model.encode(vector["text"]).tolist() for vector in vectors]
        name = f"SentencePiece vectors that differ, of {len(vectors)}"
        stated.append(_equal(name, ours, [v["ids"] for v in vectors], SPM_PEER))
    return stated, gpt2


def _equal(name: str, ours, theirs, source: claims.Source) -> claims.Claim:
    """A claim that two sequences are equal: the number of places where they differ is 0."""
    ours, theirs = list(ours), list(theirs)
    differ = sum(a != b for a, b in zip(ours, theirs)) + abs(len(ours) - len(theirs))
    return claims.exactly(name, differ, 0, source)
