"""Laws of the samplers by enumeration, what filters keep, and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.language_models import sampling
from tests.research.language_models import tiny

PROBS = np.array([0.4, 0.1, 0.25, 0.05, 0.2])
LOGITS = jnp.log(jnp.asarray(PROBS, jnp.float32)) + 1.7


def law(**kwargs):
    return np.exp(sampling.Sampler(**kwargs).log_probs(LOGITS))


def renormalised(kept, probs=PROBS):
    probs = np.where(np.isin(np.arange(5), kept), probs, 0.0)
    return probs / probs.sum()


@pytest.mark.parametrize(
    "kwargs, expected",
    [
        ({}, PROBS),
        ({"temperature": 2.0}, PROBS**0.5 / (PROBS**0.5).sum()),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"top_k": 2}, renormalised([0, 2])),
        ({"top_k": 9}, PROBS),
        ({"top_p": 0.39}, renormalised([0])),
        ({"top_p": 0.41}, renormalised([0, 2])),
        ({"top_p": 0.84}, renormalised([0, 2, 4])),
        ({"top_p": 1.0}, PROBS),
        ({"min_p": 0.49}, renormalised([0, 2, 4])),
        ({"min_p": 0.51}, renormalised([0, 2])),
        ({"min_p": 0.0}, PROBS),
        ({"temperature": 0.5, "top_k": 3}, renormalised([0, 2, 4], PROBS**2)),
        # Top-p sees what top-k left: 0.4/0.65 < 0.62 needs both, though 0.4 + 0.25 > 0.62.
        ({"top_k": 2, "top_p": 0.61}, renormalised([0])),
        ({"top_k": 2, "top_p": 0.62}, renormalised([0, 2])),
    ],
)
def test_laws(kwargs, expected):
    np.testing.assert_allclose(law(**kwargs), expected, rtol=1e-5, atol=1e-7)


def test_filters_do_not_care_for_order_and_keep_ties():
    order = np.array([3, 1, 4, 0, 2])
    for kwargs in ({"top_k": 2}, {"top_p": 0.7}, {"min_p": 0.3}):
        sampler = sampling.Sampler(**kwargs)
        shuffled = np.asarray(sampler.log_probs(LOGITS[order]))
        np.testing.assert_allclose(shuffled, sampler.log_probs(LOGITS)[order], rtol=1e-6)
    ties = jnp.array([0.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(np.isfinite(sampling.top_k(ties, 2)), [0, 1, 1, 1])
    np.testing.assert_array_equal(np.isfinite(sampling.top_p(ties, 0.5)), [0, 1, 1, 0])
    # Quarters are exact: two of them reach p = 1/2, and the third is not needed.
    np.testing.assert_array_equal(np.isfinite(sampling.top_p(jnp.zeros(4), 0.5)), [1, 1, 0, 0])
    assert sampling.GREEDY(jax.random.key(0), ties) == 1
    assert np.isfinite(sampling.top_p(jnp.linspace(0, 40, 5000), 1.0)).all()


def test_draws_follow_the_law():
    """Pearson's test at a false-alarm rate of 1e-4, seed fixed."""
    sampler = sampling.Sampler(temperature=0.7, top_k=4, min_p=0.05)
    keys = jax.random.split(jax.random.key(0), 50_000)
    draws = jax.jit(jax.vmap(lambda key: sampler(key, LOGITS)))(keys)
    tiny.check_counts(np.bincount(draws, minlength=5), np.exp(sampler.log_probs(LOGITS)))


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.1}]
)
def test_nan_logits_have_no_law(options):
    """Only the row that holds one."""
    logits = jnp.array([[jnp.nan, 5.0, 1.0], [0.0, 5.0, -jnp.inf]])
    law = np.asarray(sampling.Sampler(**options).log_probs(logits))
    assert np.isnan(law[0]).all() and not np.isnan(law[1]).any()


@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-45, 1e-300])
def test_a_temperature_near_zero_is_greedy(temperature):
    sampler = sampling.Sampler(temperature=temperature)
    law = sampler.log_probs(jnp.array([[30.0, 20.0, 10.0], [-30.0, -20.0, -10.0]]))
    np.testing.assert_array_equal(np.exp(law), [[1, 0, 0], [0, 0, 1]])
    ties = sampler.log_probs(jnp.array([30.0, 30.0, -jnp.inf]))
    np.testing.assert_allclose(np.exp(ties), [0.5, 0.5, 0], rtol=1e-6)


def test_filters_of_half_precision_keep_what_the_law_says():
    """1,000 equal tokens: sums in bfloat16 stand still at 1/4, so that all would be kept."""
    logits = jnp.zeros(1000, jnp.bfloat16)
    assert np.isfinite(sampling.top_p(logits, 0.5)).sum() in (500, 501)
    close = jnp.array([8.0, 5.0], jnp.bfloat16)  # exp(-3) is 0.0498; log 0.051 rounds to -2.98
    np.testing.assert_array_equal(np.isfinite(sampling.min_p(close, 0.0495)), [True, True])
    np.testing.assert_array_equal(np.isfinite(sampling.min_p(close, 0.0499)), [True, False])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": True}, "temperature=True: expected a Python number"),
        ({"temperature": jnp.float32(0.5)}, "temperature=.*: expected a Python number"),
        ({"top_p": "0.9"}, "top_p='0.9': expected a Python number"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 2.5}, "top_k=2.5: expected an integer"),
        ({"top_k": True}, "top_k=True"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"min_p": 1.5}, "min_p=1.5"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"min_p": float("nan")}, "min_p=nan"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        sampling.Sampler(**options)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_without_a_law_and_infinite_logits(temperature):
    sampler, inf = sampling.Sampler(temperature=temperature), np.inf
    rows = jnp.array([[-inf, -inf, -inf], [np.nan, 1, 2], [inf, 1, 2], [1, -inf, -inf]])
    law = np.exp(sampler.log_probs(rows))
    assert np.isnan(law[:2]).all()  # what a mask leaves nothing of is not token 0
    np.testing.assert_array_equal(law[2:], [[1, 0, 0], [1, 0, 0]])
    both = np.exp(sampler.log_probs(jnp.array([inf, 1, inf])))
    np.testing.assert_array_equal(both, [1, 0, 0] if temperature == 0 else [0.5, 0, 0.5])
