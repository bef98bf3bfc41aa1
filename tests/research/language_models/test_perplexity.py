"""Perplexity of a stream: the chain rule, and the context that windows promise."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.language_models import perplexity
from tests.research.language_models import tiny


def test_perplexity_does_not_depend_on_windows_beyond_the_context():
    """A bigram model: any window and stride gives the chain rule's numbers."""
    rng = np.random.default_rng(0)
    tokens, table = rng.integers(0, 5, 43), rng.normal(size=(5, 5))
    log_table = table - np.log(np.exp(table).sum(-1, keepdims=True))
    expected = log_table[tokens[:-1], tokens[1:]]

    def apply(params, tokens):
        return params[tokens]

    for window, stride, batch in [(42, None, 1), (50, 7, 2), (8, 3, 4), (8, None, 3), (1, 1, 64)]:
        values = perplexity.token_log_probs(
            apply, jnp.asarray(table), tokens, window=window, stride=stride, batch_size=batch
        )
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(perplexity.perplexity(values), np.exp(-expected.mean()), rtol=1e-5)
    assert perplexity.perplexity(np.full(9, -np.log(65))) == pytest.approx(65)


def test_windows_give_the_context_they_promise():
    """A real decoder: each target is scored in the window that the rule names."""
    tokens = np.random.default_rng(1).integers(0, tiny.VOCAB, 30)
    params, window, stride = tiny.init(), 10, 4
    values = perplexity.token_log_probs(
        tiny.full, params, tokens, window=window, stride=stride, batch_size=3
    )
    rows, expected = [], []
    for target in range(1, 30):
        number = max(0, -(-(target - window) // stride))
        start = number * stride
        assert target - start >= min(target, window - stride + 1)
        rows.append(np.pad(tokens[start:target], (0, window - (target - start))))
        expected.append((target - start - 1, tokens[target]))
    logits = jax.nn.log_softmax(tiny.full(params, jnp.asarray(rows)))
    expected = [float(logits[row, place, token]) for row, (place, token) in enumerate(expected)]
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_all_windows_share_one_program():
    tokens = np.random.default_rng(0).integers(0, 5, 43)
    apply = chex.assert_max_traces(lambda params, tokens: params[tokens], n=1)
    table = jnp.zeros((5, 5))
    values = perplexity.token_log_probs(apply, table, tokens, window=8, stride=3, batch_size=4)
    np.testing.assert_allclose(values, -np.log(5), rtol=1e-6)
    assert perplexity.perplexity(values) == pytest.approx(5)


def test_bad_input():
    score, table = perplexity.token_log_probs, lambda params, tokens: jnp.asarray(params)[tokens]
    for broken, message in [
        (lambda: score(None, None, np.ones(1, int), window=4), "N >= 2"),
        (lambda: score(None, None, np.ones(9, int), window=4, stride=5), "stride=5"),
        (lambda: score(None, None, np.ones(9, int), window=4, batch_size=0), "batch_size=0"),
        (lambda: score(None, None, np.ones(9, int), window=0), "window=0"),
        (lambda: score(None, None, np.ones(9, int), window=2.0), "window=2.0: expected a positive"),
        (lambda: score(None, None, np.ones(9, int), window=2, stride=1.5), "stride=1.5: expected"),
        (lambda: score(None, None, np.ones(9), window=4), "tokens of type float64"),
        (
            lambda: score(table, np.eye(5), np.full(9, 5), window=4),
            r"tokens: 5 is outside \[0, 5\)",
        ),
        (lambda: score(table, np.eye(5), np.full(9, -1), window=4), "tokens: -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
    with pytest.raises(ValueError, match="log_probs are empty"):
        perplexity.perplexity(np.zeros(0))
