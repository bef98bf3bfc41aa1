"""Speculative decoding: its law by enumeration and by draws, greedy = greedy, counts of rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.language_models import sampling, speculative
from tests.research.language_models import tiny

PARAMS = tiny.init(layers=1)


def model(rows, length=24, **options):
    """Step, parameters and an empty cache of one layer."""
    return tiny.step, tiny.init(layers=1, **options), tiny.empty(rows, length, layers=1)


def random_law(rng, *shape):
    probs = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    probs[..., rng.integers(shape[-1])] = 0.0
    return probs / probs.sum(-1, keepdims=True)


def log(probs):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(probs))


def test_speculation_keeps_the_law_of_two_tokens(x64):
    """All ways to two tokens on five symbols, laws that depend on the past: the target's law."""
    rng = np.random.default_rng(0)
    p1, q1, p2, q2 = (
        random_law(rng, 5),
        random_law(rng, 5),
        *(random_law(rng, 5, 5) for _ in "pq"),
    )
    keep = jax.jit(jax.vmap(speculative.acceptance, in_axes=(None, None, 0)))
    keep1 = np.asarray(keep(log(p1), log(q1), jnp.arange(5)))  # of a first draft x
    replace1 = np.exp(speculative.residual(log(p1), log(q1)))
    joint = np.zeros((5, 5))
    for x in range(5):
        keep2 = np.asarray(keep(log(p2[x]), log(q2[x]), jnp.arange(5)))
        replace2 = np.exp(speculative.residual(log(p2[x]), log(q2[x])))
        first = q1[x] * keep1[x]
        for y in range(5):
            joint[x, y] += first * q2[x, y] * keep2[y]
        joint[x] += first * (q2[x] @ (1 - keep2)) * replace2
        # A replaced first token ends the round; the target's own law continues.
        joint[x] += (q1 @ (1 - keep1)) * replace1[x] * p2[x]
    np.testing.assert_allclose(joint, p1[:, None] * p2, atol=1e-12)
    np.testing.assert_allclose(q1 @ keep1, np.minimum(p1, q1).sum(), atol=1e-12)
    np.testing.assert_allclose(q1 @ keep1, 1 - 0.5 * np.abs(p1 - q1).sum(), atol=1e-12)


def test_verify_draws_that_law():
    """First outputs and acceptance of 50,000 rounds of two drafts, by Pearson's test."""
    rng = np.random.default_rng(1)
    p, q = random_law(rng, 3, 4), random_law(rng, 2, 4)

    @jax.jit
    @jax.vmap
    def round_(key):
        draw, check = jax.random.split(key)
        drafts = jax.vmap(jax.random.categorical)(jax.random.split(draw), log(q))
        count, tokens = speculative.verify(check, drafts, log(q), log(p))
        return count, tokens

    counts, tokens = map(np.asarray, round_(jax.random.split(jax.random.key(3), 50_000)))
    tiny.check_counts(np.bincount(tokens[:, 0], minlength=4), p[0])
    tiny.check_counts(np.bincount(tokens[counts >= 1, 1], minlength=4), p[1])
    tiny.check_counts(np.bincount(tokens[counts == 2, 2], minlength=4), p[2])
    a, b = (np.minimum(p[i], q[i]).sum() for i in range(2))
    tiny.check_counts(np.bincount(counts, minlength=3), np.array([1 - a, a * (1 - b), a * b]))


def test_equal_models_keep_every_draft():
    probs = random_law(np.random.default_rng(2), 5)
    np.testing.assert_allclose(speculative.residual(log(probs), log(probs)), log(probs))
    prompts, lengths = jnp.array([[1, 2, 3], [4, 0, 0]]), jnp.array([3, 1])
    out = speculative.generate(
        model(2),
        model(2),
        prompts,
        lengths,
        jax.random.split(jax.random.key(0), 2),
        num_tokens=10,
        num_drafts=4,
    )
    np.testing.assert_array_equal(out.rounds, 2)
    np.testing.assert_array_equal(out.kept, 8)


def test_greedy_speculation_is_greedy_decoding():
    prompts, lengths = jnp.array([[1, 2, 3], [4, 0, 0], [5, 6, 0]]), jnp.array([3, 1, 2])
    rngs = jax.random.split(jax.random.key(0), 3)
    plain = tiny.generate(prompts, lengths, rngs, num_tokens=12)
    out = speculative.generate(
        model(3),
        model(3, seed=5),
        prompts,
        lengths,
        rngs,
        num_tokens=12,
        num_drafts=3,
    )
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    assert (np.asarray(out.rounds) > 3).all()


def test_speculative_sampling_has_the_target_law_end_to_end():
    """Two tokens after one prompt from 20,000 rows against the exact law of 49 pairs."""
    sampler, rows = sampling.Sampler(temperature=1.5, top_k=6), 20_000
    out = speculative.generate(
        model(rows, 6),
        model(rows, 6, seed=5),
        jnp.tile(jnp.array([[1, 2]]), (rows, 1)),
        jnp.full(rows, 2),
        jax.random.split(jax.random.key(7), rows),
        num_tokens=2,
        num_drafts=2,
        sampler=sampler,
    )
    sequences = jnp.array([[1, 2, first, 0] for first in range(7)])
    laws = np.exp(sampler.log_probs(tiny.full(PARAMS, sequences)))
    joint = laws[0, 1][:, None] * laws[:, 2]
    pairs = np.asarray(out.tokens) @ np.array([7, 1])
    tiny.check_counts(np.bincount(pairs, minlength=49), joint.ravel())


@pytest.mark.parametrize(
    "rate, tokens", [(0.5, 1.9375), (0.7, 2.7731), (0.8, 3.3616), (0.9, 4.0951)]
)
def test_expected_tokens_of_a_round(rate, tokens):
    np.testing.assert_allclose(speculative.expected_tokens(rate, 4), tokens, atol=1e-6)
    np.testing.assert_allclose(
        speculative.expected_tokens(rate, 4), (1 - rate**5) / (1 - rate), rtol=1e-12
    )


def test_laws_of_other_shapes_are_refused():
    p, tokens = jnp.zeros((3, 4)), jnp.zeros(2, int)
    with pytest.raises(AssertionError, match="shape"):
        speculative.verify(jax.random.key(0), tokens, p[:2], p[:2])
    with pytest.raises(AssertionError, match="shape"):
        speculative.residual(p, p[:2])
    with pytest.raises(AssertionError, match="shape"):
        speculative.acceptance(p, p, tokens)


def test_bad_input():
    key = jax.random.split(jax.random.key(0), 1)
    prompt, one = jnp.array([[1, 2]]), jnp.array([2])
    same, other = model(1, 9), model(1, 9, vocab=6)

    def generate(draft, **options):
        return speculative.generate(same, draft, prompt, one, key, **options)

    for broken, message in [
        (lambda: generate(other, num_tokens=2), "target has 7 tokens and the draft 6"),
        (lambda: generate(same, num_tokens=2, num_drafts=0), "num_drafts=0"),
        (lambda: generate(same, num_tokens=2, num_drafts=2.0), "num_drafts=2.0: expected a posi"),
        (lambda: generate(same, num_tokens=4, capacity=8), "holds 8 positions: 9 are needed"),
        (lambda: speculative.expected_tokens(1.5, 2), "acceptance_rate=1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
