"""Learning pieces: sums and maxima by brute force, EM that climbs, pruning that pays."""

import numpy as np
import pytest

from research.language_models import unigram, unigram_training
from tests.research.language_models import corpora


@pytest.mark.parametrize("seed", range(3))
def test_lattice_sums_and_maxima_are_those_of_all_segmentations(seed):
    rng = np.random.default_rng(seed)
    pieces, scores = corpora.random_pieces(rng)
    words = {"".join(rng.choice(list("abc"), rng.integers(1, 8))): i + 1.0 for i in range(12)}
    lattice = unigram_training.Lattice.of(words, pieces)
    number = {piece: index for index, piece in enumerate(pieces)}
    uses, likelihood, best = np.zeros(len(pieces)), 0.0, []
    for word, count in words.items():
        ways = [[number[p] for p in way] for way in corpora.segmentations(word, pieces)]
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


def test_em_never_lowers_the_likelihood():
    counts = unigram_training.count_words([corpora.prose(20_000)])
    pieces, log_probs = unigram_training.seed(counts, 8, 3000)
    lattice = unigram_training.Lattice.of(counts, pieces)
    values = []
    for _ in range(12):
        log_probs, value, _ = unigram_training.em_step(lattice, log_probs)
        values.append(value)
    assert np.all(np.diff(values) >= -1e-9 * abs(values[0]))
    assert values[-1] > values[0] + 100


def test_trained_pieces():
    trained, corpus = corpora.unigram(), corpora.prose()
    assert len(trained) == 500
    np.testing.assert_array_less(np.diff(trained.scores[1:]), 1e-12)
    characters = set(unigram.mark_spaces(corpus))
    assert characters <= set(trained.pieces)
    ids = trained.encode(corpus)
    assert 0 not in ids
    assert trained.decode(ids) == " ".join(corpus.split())


def test_pruning_beats_the_most_frequent_substrings():
    """Fewer tokens than with as many pieces that were only chosen by count times length."""
    corpus = corpora.prose()
    counts = unigram_training.count_words([corpus])
    pieces, scores = unigram_training.seed(counts, 16, 420)
    naive = unigram.Unigram(("<unk>", *pieces), np.append(0, scores))
    pruned = unigram_training.train(counts, len(naive))
    assert len(pruned.encode(corpus)) < 0.97 * len(naive.encode(corpus))


def test_seeds_are_characters_and_the_heaviest_substrings():
    """Count times length by hand: of "abab" twice, "ab" weighs 8, "ba" 4, "aba", "bab" 6."""
    pieces, log_probs = unigram_training.seed({"abab": 2}, 3, 3)
    assert pieces == ["a", "b", "ab", "aba", "bab"]
    weights = np.array([4, 4, 8, 6, 6])
    np.testing.assert_allclose(np.exp(log_probs), weights / weights.sum(), rtol=1e-12)


def test_options_of_training():
    """Candidates no longer than asked, as few as asked; slower pruning with more EM is another."""
    counts = unigram_training.count_words([corpora.prose(4000)])
    short = unigram_training.train(counts, 90, max_piece=2, shrink=0.5, em_steps=1)
    assert len(short) == 90 and max(map(len, short.pieces[1:])) == 2
    few = unigram_training.train(counts, 90, num_seeds=60)
    seeds, _ = unigram_training.seed(counts, 16, 60)
    assert set(few.pieces[1:]) <= set(seeds)
    assert short.pieces != few.pieces


def test_bad_input():
    for broken, message in [
        (lambda: unigram_training.train({}, 10), "counts are empty"),
        (lambda: unigram_training.train({"abab": 2}, 2), "vocab_size=2: expected 3 "),
        (lambda: unigram_training.train({"abab": 2}, 99), "vocab_size=99: expected 3 .* to 8"),
        (lambda: unigram_training.train({"abab": 2}, 4, shrink=1.0), "shrink=1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()


def test_a_text_in_place_of_its_counts_is_named():
    with pytest.raises(TypeError, match="counts of type str: expected a mapping"):
        unigram_training.train("a text", 300)


def test_one_text_is_not_many():
    """Its characters would be counted, each alone, and nothing would merge."""
    with pytest.raises(TypeError, match="texts is one str"):
        unigram_training.count_words("a text")
