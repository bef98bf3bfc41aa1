"""Synthetic streams: exact entropies against brute force, and samples against the exact values.

Statistical tests use fixed seeds and reject at |z| > 5: false-alarm rate 6e-7 each.
"""

import itertools

import numpy as np
import pytest

from library.data import synthetic

SOURCE = synthetic.random_markov(3, 2, 9, seed=5, concentration=0.7)


def z_score(samples, expected):
    """Of the mean of independent samples [N]."""
    return (samples.mean() - expected) / (samples.std(ddof=1) / np.sqrt(len(samples)))


def sequence_probability(source, sequence):
    """p(x_0 ... x_n) by the chain rule, one symbol at a time."""
    probability = source.stationary[sequence[: source.order]]
    for start in range(len(sequence) - source.order):
        probability *= source.transition[sequence[start : start + source.order + 1]]
    return probability


def test_two_state_chain_closed_form():
    """Flip with probabilities a, b: pi = (b, a) / (a + b), h = pi_0 H(a) + pi_1 H(b)."""
    a, b = 0.2, 0.7
    chain = synthetic.Markov(np.array([[1 - a, a], [b, 1 - b]]), length=4)
    np.testing.assert_allclose(chain.stationary, [b / (a + b), a / (a + b)], rtol=1e-12)
    binary = lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p)  # noqa: E731
    expected = (b * binary(a) + a * binary(b)) / (a + b)
    np.testing.assert_allclose(chain.entropy_rate(), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_stationary_is_a_left_eigenvector(order):
    """Second implementation: the eigenvector of the dense matrix on contexts."""
    source = synthetic.random_markov(3, order, 8, seed=order)
    contexts = list(itertools.product(range(3), repeat=order))
    matrix = np.zeros((len(contexts),) * 2)
    for row, past in enumerate(contexts):
        for symbol in range(3):
            matrix[row, contexts.index(past[1:] + (symbol,))] = source.transition[past][symbol]
    values, vectors = np.linalg.eig(matrix.T)
    leading = vectors[:, np.argmax(values.real)].real
    np.testing.assert_allclose(source.stationary.ravel(), leading / leading.sum(), rtol=1e-10)


def test_conditional_entropies_against_enumeration():
    """Differences of block entropies over all 3^n sequences."""
    blocks = [0.0]
    for num_symbols in range(1, 7):
        sequences = itertools.product(range(3), repeat=num_symbols)
        if num_symbols < SOURCE.order:
            probabilities = SOURCE.stationary.sum(axis=-1)
        else:
            probabilities = np.array([sequence_probability(SOURCE, each) for each in sequences])
        np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-12)
        blocks.append(-np.sum(probabilities * np.log(probabilities)))
    exact = SOURCE.conditional_entropies()
    assert exact.shape == (10,)
    np.testing.assert_allclose(exact[:6], np.diff(blocks), rtol=1e-10)
    np.testing.assert_allclose(exact[SOURCE.order :], SOURCE.entropy_rate(), rtol=1e-12)
    assert np.all(np.diff(exact) <= 1e-12)  # a longer past never hurts


@pytest.mark.parametrize("order", [1, 2, 3])
def test_cross_entropy_of_samples_is_the_entropy_rate(order):
    source = synthetic.random_markov(4, order, 20, seed=order, concentration=0.5)
    tokens = source.examples(seed=0, start=0, num=2000)["tokens"]
    assert tokens.shape == (2000, 21) and tokens.dtype == np.int32
    losses = -source.log_prob(tokens).mean(axis=1)
    assert abs(z_score(losses, source.entropy_rate())) < 5


def test_every_position_has_the_stationary_marginal():
    tokens = SOURCE.examples(seed=1, start=0, num=20_000)["tokens"]
    for position in (0, 1, 4, 8):
        pair = tokens[:, position] * 3 + tokens[:, position + 1]
        for code, probability in enumerate(SOURCE.stationary.ravel()):
            assert abs(z_score((pair == code).astype(float), probability)) < 5


def test_a_source_cannot_be_beaten_by_a_shorter_past():
    """The plug-in entropy of pairs lies above the entropy rate of an order-2 source."""
    tokens = SOURCE.examples(seed=2, start=0, num=20_000)["tokens"]
    counts = np.zeros((3, 3))
    np.add.at(counts, (tokens[:, 4], tokens[:, 5]), 1)
    joint = counts / counts.sum()
    plug_in = -np.sum(joint * np.log(joint / joint.sum(axis=1, keepdims=True)))
    assert plug_in > SOURCE.entropy_rate() + 0.01
    np.testing.assert_allclose(plug_in, SOURCE.conditional_entropies()[1], atol=0.02)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.7])
def test_zipf_entropy_and_frequencies(exponent):
    source = synthetic.Zipf(vocab_size=50, exponent=exponent, length=9)
    ranks = np.arange(1.0, 51.0)
    norm = np.sum(ranks**-exponent)  # H = log Z + s E[log r]
    expected = np.log(norm) + exponent * np.sum(ranks**-exponent * np.log(ranks)) / norm
    np.testing.assert_allclose(source.entropy(), expected, rtol=1e-12)
    tokens = source.examples(seed=0, start=0, num=5000)["tokens"]
    assert tokens.shape == (5000, 10) and tokens.max() < 50
    surprise = -np.log(source.probabilities)[tokens.ravel()]
    if exponent:  # at 0 the surprise is constant
        assert abs(z_score(surprise, expected)) < 5
    for token in (0, 1, 7, 49):
        frequency = (tokens.ravel() == token).astype(float)
        assert abs(z_score(frequency, source.probabilities[token])) < 5


def test_power_law_regression_moments_and_risk():
    task = synthetic.PowerLawRegression(
        dim=12, spectrum_exponent=1.5, target_exponent=2.0, noise_std=0.3
    )
    batch = task.examples(seed=0, start=0, num=40_000)
    assert batch["inputs"].dtype == batch["targets"].dtype == np.float32
    inputs, targets = batch["inputs"].astype(np.float64), batch["targets"].astype(np.float64)
    for feature in range(12):
        expected = (feature + 1.0) ** -1.5
        assert abs(z_score(inputs[:, feature] ** 2, expected)) < 5
        assert abs(z_score(inputs[:, feature] * inputs[:, (feature + 1) % 12], 0.0)) < 5
    for num_features in (0, 3, 12):
        kept = inputs[:, :num_features] @ task.coefficients()[:num_features]
        risk = np.sum(np.arange(num_features + 1, 13.0) ** -2.0) + 0.09
        np.testing.assert_allclose(task.truncated_risk(num_features), risk, rtol=1e-12)
        assert abs(z_score((targets - kept) ** 2, risk)) < 5


def test_truncated_risk_has_the_stated_exponent():
    task = synthetic.PowerLawRegression(dim=10**6, spectrum_exponent=1.0, target_exponent=1.8)
    slope = np.log(task.truncated_risk(1000) / task.truncated_risk(100)) / np.log(10)
    # The tail beyond D, D^-0.8 / 0.8 = 2e-5, bends it by 0.2 % of the risk at n = 1000.
    np.testing.assert_allclose(slope, -0.8, atol=5e-3)


@pytest.mark.parametrize(
    "stream",
    [SOURCE, synthetic.Zipf(20, 1.1, 6), synthetic.PowerLawRegression(5, 1.0, 1.5, 0.1)],
    ids=lambda stream: type(stream).__name__,
)
def test_example_i_is_a_function_of_i_alone(stream):
    whole = stream.examples(seed=3, start=0, num=50)
    for start, num in [(0, 1), (7, 3), (49, 1), (20, 30)]:
        part = stream.examples(seed=3, start=start, num=num)
        for name, leaf in part.items():
            np.testing.assert_array_equal(leaf, whole[name][start : start + num])
    other = stream.examples(seed=4, start=0, num=50)
    assert all(not np.array_equal(other[name], whole[name]) for name in whole)
    # Examples do not overlap in what they draw.
    assert all(len(np.unique(leaf, axis=0)) > 40 for leaf in whole.values())


def test_uniforms_are_uniform_independent_and_apart_by_name():
    draws = synthetic.uniforms("a", 0, 0, 30_000, 5)
    for column in range(5):
        assert abs(z_score(draws[:, column], 0.5)) < 5
        assert abs(z_score((draws[:, column] - 0.5) ** 2, 1 / 12)) < 5
        lagged = (draws[1:, column] - 0.5) * (draws[:-1, (column + 1) % 5] - 0.5)
        assert abs(z_score(lagged, 0.0)) < 5
    far = synthetic.uniforms("a", 0, 10**15, 10, 5)  # counts beyond 32 bits
    assert not np.isin(far, draws).any()
    assert not np.isin(synthetic.uniforms("b", 0, 0, 100, 5), draws).any()


def test_zero_probabilities_are_never_drawn():
    transition = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    chain = synthetic.Markov(transition, length=30)
    tokens = chain.examples(seed=0, start=0, num=200)["tokens"]
    assert np.isfinite(chain.log_prob(tokens)).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: synthetic.Markov(np.ones((2, 3)) / 3, 4), r"shape \(2, 3\): expected"),
        (lambda: synthetic.Markov(np.ones((2, 2)), 4), "sum to 1"),
        (lambda: synthetic.Markov(np.array([[1.5, -0.5], [0.5, 0.5]]), 4), "sum to 1"),
        (lambda: synthetic.Markov(np.full((2, 2, 2, 2), 0.5), 2), "length=2: expected .* order 3"),
        (lambda: synthetic.random_markov(0, 1, 4, seed=0), "vocab_size=0"),
        (lambda: synthetic.random_markov(2, 1, 4, seed=0, concentration=0.0), "concentration=0"),
        (lambda: synthetic.Zipf(0, 1.0, 4), "vocab_size=0"),
        (lambda: synthetic.Zipf(4, float("nan"), 4), "exponent=nan"),
        (lambda: synthetic.PowerLawRegression(0, 1.0, 1.0), "dim=0"),
        (lambda: synthetic.PowerLawRegression(3, 1.0, 1.0, -1.0), "noise_std=-1"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_periodic_chain_is_refused():
    swap = synthetic.Markov(np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]), 4)
    with pytest.raises(ValueError, match="periodic"):
        swap.entropy_rate()


def test_a_law_with_nan_is_none():
    with pytest.raises(ValueError, match="transition: expected probabilities"):
        synthetic.Markov(np.array([[0.5, 0.5], [np.nan, 1.0]]), 3)
