"""Unigram pieces: brute force over segmentations, EM that climbs, SentencePiece's own model."""

import json

import numpy as np
import pytest
import sentencepiece

from library.data import text
from research.language_models import sentencepiece_file, unigram, unigram_training
from research.language_models.tokenizers import to_libraries


@pytest.fixture(scope="module")
def corpus():
    return text.pydoc_topics()[:60_000]


@pytest.fixture(scope="module")
def trained(corpus):
    return unigram_training.train(unigram_training.count_words([corpus]), 500)


@pytest.fixture(scope="module")
def published(ansatz_data):
    folder = ansatz_data / "tokenizers" / "sentencepiece"
    return (
        sentencepiece_file.parse((folder / "test_model.model").read_bytes()),
        sentencepiece.SentencePieceProcessor(model_file=str(folder / "test_model.model")),
        json.loads((folder / "test_vectors.json").read_text(encoding="utf-8"))["vectors"],
    )


def random_pieces(rng, letters="abc", size=14):
    pieces = {"".join(rng.choice(list(letters), rng.integers(2, 5))) for _ in range(size)}
    pieces = sorted(set(letters) | pieces)
    return pieces, np.log(rng.dirichlet(np.ones(len(pieces))))


def segmentations(string, pieces):
    """All ways to write a string as pieces, by brute force."""
    if not string:
        return [[]]
    return [
        [piece, *rest]
        for piece in pieces
        if string.startswith(piece)
        for rest in segmentations(string[len(piece) :], pieces)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_viterbi_is_the_best_of_all_segmentations(seed):
    rng = np.random.default_rng(seed)
    pieces, scores = random_pieces(rng)
    score = dict(zip(pieces, scores))
    tokenizer = unigram.Unigram(("<unk>", *pieces), np.append(0, scores), normalize=lambda t: t)
    for _ in range(20):
        string = "".join(rng.choice(list("abc"), rng.integers(1, 9)))
        values = [sum(score[p] for p in way) for way in segmentations(string, pieces)]
        path, value = tokenizer.viterbi(string)
        assert "".join(part for _, part in path) == string
        np.testing.assert_allclose(value, max(values), rtol=1e-12)
        np.testing.assert_allclose(sum(score[part] for _, part in path), value, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_lattice_sums_and_maxima_are_those_of_all_segmentations(seed):
    rng = np.random.default_rng(seed)
    pieces, scores = random_pieces(rng)
    words = {"".join(rng.choice(list("abc"), rng.integers(1, 8))): i + 1.0 for i in range(12)}
    lattice = unigram_training.Lattice.of(words, pieces)
    number = {piece: index for index, piece in enumerate(pieces)}
    uses, likelihood, best = np.zeros(len(pieces)), 0.0, []
    for word, count in words.items():
        ways = [[number[p] for p in way] for way in segmentations(word, pieces)]
        logs = np.array([scores[way].sum() for way in ways])
        total = np.logaddexp.reduce(logs)
        likelihood += count * total
        best.append(logs.max())
        for way, log in zip(ways, logs):
            np.add.at(uses, way, count * np.exp(log - total))
    updated, value, expected = unigram_training.em_step(lattice, scores)
    np.testing.assert_allclose(value, likelihood, rtol=1e-12)
    np.testing.assert_allclose(expected, uses, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.exp(updated), uses / uses.sum(), rtol=1e-10, atol=1e-15)
    values, edges = unigram_training.best_paths(lattice, scores)
    np.testing.assert_allclose(values, best, rtol=1e-12)
    np.testing.assert_allclose(scores[lattice.piece[edges]].sum(), sum(best), rtol=1e-12)


def test_em_never_lowers_the_likelihood(corpus):
    counts = unigram_training.count_words([corpus[:20_000]])
    pieces, log_probs = unigram_training.seed(counts, 8, 3000)
    lattice = unigram_training.Lattice.of(counts, pieces)
    values = []
    for _ in range(12):
        log_probs, value, _ = unigram_training.em_step(lattice, log_probs)
        values.append(value)
    assert np.all(np.diff(values) >= -1e-9 * abs(values[0]))
    assert values[-1] > values[0] + 100


def test_trained_pieces(trained, corpus):
    assert len(trained) == 500
    np.testing.assert_array_less(np.diff(trained.scores[1:]), 1e-12)
    characters = set(unigram.mark_spaces(corpus))
    assert characters <= set(trained.pieces)
    ids = trained.encode(corpus)
    assert 0 not in ids
    assert trained.decode(ids) == " ".join(corpus.split())


def test_pruning_beats_the_most_frequent_substrings(corpus):
    """Fewer tokens than with as many pieces that were only chosen by count times length."""
    counts = unigram_training.count_words([corpus])
    pieces, scores = unigram_training.seed(counts, 16, 420)
    naive = unigram.Unigram(("<unk>", *pieces), np.append(0, scores))
    pruned = unigram_training.train(counts, len(naive))
    assert len(pruned.encode(corpus)) < 0.97 * len(naive.encode(corpus))


def test_encodings_are_those_of_tokenizers(trained, corpus):
    library = to_libraries.unigram_to_tokenizers(trained)
    for sample in (corpus[:3000], "unseen é中文 characters", ""):
        assert trained.encode(sample).tolist() == library.encode(trained.normalize(sample)).ids


def test_sentencepiece_vectors(published):
    ours, _, vectors = published
    assert (len(ours), len(vectors)) == (1000, 26)
    for vector in vectors:
        path = ours.segment(vector["text"])
        assert [token for token, _ in path] == vector["ids"]
        assert [piece for _, piece in path] == vector["pieces"]
        assert ours.decode(vector["ids"]) == vector["decoded"]


def test_sentencepiece_normalisation(published):
    """Every assigned character of the basic plane alone, compatibility forms and control codes."""
    ours, library, _ = published
    for code in [*range(1, 0xD800, 7), *range(0xF900, 0x10000), 0x1F600, 0x1D400, 0x2F800]:
        sample = f"a{chr(code)} b"
        assert ours.encode(sample).tolist() == library.encode(sample), hex(code)
        assert ours.normalize(sample) == library.normalize(sample).replace(" ", unigram.SPACE), hex(
            code
        )


def test_bad_input(trained, published, ansatz_data):
    raw = (ansatz_data / "tokenizers/sentencepiece/test_model.model").read_bytes()
    for broken, message in [
        (lambda: unigram_training.train({}, 10), "counts are empty"),
        (lambda: unigram_training.train({"abab": 2}, 2), "vocab_size=2: expected 3 "),
        (lambda: unigram_training.train({"abab": 2}, 99), "vocab_size=99: expected 3 .* to 8"),
        (lambda: unigram_training.train({"abab": 2}, 4, shrink=1.0), "shrink=1.0"),
        (lambda: trained.decode([500]), "token 500 is outside the vocabulary of 500"),
        (lambda: unigram.Unigram(("a", "a"), np.zeros(2)), "'a' is empty or in the vocabulary tw"),
        (lambda: unigram.Unigram(("a",), np.zeros(2)), r"shape \(2,\) for 1 pieces"),
        (lambda: unigram.Unigram(("a",), np.zeros(1), unknown=1), "unknown=1"),
        (lambda: sentencepiece_file.parse(raw[:-1]), "no SentencePiece model"),
        (lambda: sentencepiece_file.parse(b"\x00\x01\x02"), "no SentencePiece model"),
        (lambda: sentencepiece_file.parse(b""), "no SentencePiece model"),
        (lambda: sentencepiece_file.normalizer(b"\xff\xff\xff\x00ab"), "cannot hold a trie"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
