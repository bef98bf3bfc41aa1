"""Laws of the samplers by enumeration, speculative decoding's law, beam search's optimum."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from research.language_models import beam, generation, sampling, speculative
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
    check_counts(np.bincount(draws, minlength=5), np.exp(sampler.log_probs(LOGITS)))


def check_counts(counts, probs, alarm=1e-4):
    probs = np.asarray(probs, np.float64)
    assert counts[probs == 0].sum() == 0
    counts, probs = counts[probs > 0], probs[probs > 0]
    assert stats.chisquare(counts, counts.sum() * probs / probs.sum()).pvalue > alarm


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
    check_counts(np.bincount(tokens[:, 0], minlength=4), p[0])
    check_counts(np.bincount(tokens[counts >= 1, 1], minlength=4), p[1])
    check_counts(np.bincount(tokens[counts == 2, 2], minlength=4), p[2])
    a, b = (np.minimum(p[i], q[i]).sum() for i in range(2))
    check_counts(np.bincount(counts, minlength=3), np.array([1 - a, a * (1 - b), a * b]))


def test_equal_models_keep_every_draft():
    probs = random_law(np.random.default_rng(2), 5)
    np.testing.assert_allclose(speculative.residual(log(probs), log(probs)), log(probs))
    model = (tiny.step, tiny.init(), tiny.empty(2, 24))
    prompts, lengths = jnp.array([[1, 2, 3], [4, 0, 0]]), jnp.array([3, 1])
    out = speculative.generate(
        model,
        model,
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
    plain = generation.generate(
        tiny.step, tiny.init(), tiny.empty(3, 24), prompts, lengths, rngs, num_tokens=12
    )
    out = speculative.generate(
        (tiny.step, tiny.init(), tiny.empty(3, 24)),
        (tiny.step, tiny.init(seed=5, layers=1), tiny.empty(3, 24, layers=1)),
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
    params = tiny.init()
    out = speculative.generate(
        (tiny.step, params, tiny.empty(rows, 6)),
        (tiny.step, tiny.init(seed=5, layers=1), tiny.empty(rows, 6, layers=1)),
        jnp.tile(jnp.array([[1, 2]]), (rows, 1)),
        jnp.full(rows, 2),
        jax.random.split(jax.random.key(7), rows),
        num_tokens=2,
        num_drafts=2,
        sampler=sampler,
    )
    sequences = jnp.array([[1, 2, first, 0] for first in range(7)])
    laws = np.exp(sampler.log_probs(tiny.full(params, sequences)))
    joint = laws[0, 1][:, None] * laws[:, 2]
    pairs = np.asarray(out.tokens) @ np.array([7, 1])
    check_counts(np.bincount(pairs, minlength=49), joint.ravel())


@pytest.mark.parametrize(
    "rate, tokens", [(0.5, 1.9375), (0.7, 2.7731), (0.8, 3.3616), (0.9, 4.0951)]
)
def test_expected_tokens_of_a_round(rate, tokens):
    np.testing.assert_allclose(speculative.expected_tokens(rate, 4), tokens, atol=1e-6)
    np.testing.assert_allclose(
        speculative.expected_tokens(rate, 4), (1 - rate**5) / (1 - rate), rtol=1e-12
    )


def score(params, prompt, continuation):
    tokens = np.zeros((1, 8), np.int32)
    tokens[0, : len(prompt) + len(continuation)] = [*prompt, *continuation]
    log_probs = np.asarray(tiny.full(params, tokens)[0], np.float64)
    log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
    places = np.arange(len(prompt) - 1, len(prompt) + len(continuation) - 1)
    return log_probs[places, continuation].sum()


def test_a_wide_beam_finds_the_optimum_and_width_one_is_greedy():
    params, prompt = tiny.init(), np.array([1, 2, 3])
    wide = beam.beam_search(tiny.step, params, tiny.empty(49, 8), prompt, width=49, num_tokens=3)
    ways = np.array(list(itertools.product(range(7), repeat=3)))
    whole = jnp.asarray(np.concatenate([np.tile(prompt, (343, 1)), ways], axis=1))
    log_probs = np.asarray(jax.nn.log_softmax(tiny.full(params, whole)[:, 2:5]))
    scores = np.take_along_axis(log_probs, ways[:, :, None], axis=2).sum((1, 2))
    best = np.argsort(-scores)[:49]
    np.testing.assert_allclose(wide.log_probs, scores[best], rtol=1e-5)
    np.testing.assert_array_equal(wide.tokens[0], ways[best[0]])
    narrow = beam.beam_search(tiny.step, params, tiny.empty(1, 8), prompt, width=1, num_tokens=3)
    greedy = generation.generate(
        tiny.step,
        params,
        tiny.empty(1, 8),
        jnp.asarray(prompt)[None],
        jnp.array([3]),
        jax.random.split(jax.random.key(0), 1),
        num_tokens=3,
    )
    np.testing.assert_array_equal(narrow.tokens, greedy.tokens)
    assert narrow.log_probs[0] <= wide.log_probs[0] + 1e-6


def test_a_stop_token_ends_a_hypothesis():
    params, prompt = tiny.init(), np.array([1, 2])
    options = {"width": 60, "num_tokens": 3, "stop_token": 4}
    search = functools.partial(
        beam.beam_search, tiny.step, params, tiny.empty(60, 8), prompt, **options
    )
    out = search(length_penalty=1.0)
    ends = np.asarray(out.lengths)
    assert len(set(ends.tolist())) > 1
    for row in range(0, 60, 7):
        tokens = np.asarray(out.tokens[row])
        assert (tokens[ends[row] :] == 4).all() and 4 not in tokens[: ends[row] - 1]
        np.testing.assert_allclose(
            out.log_probs[row], score(params, prompt, tokens[: ends[row]]), rtol=1e-5
        )
    assert (np.diff(np.asarray(out.log_probs) / ends) <= 1e-6).all()
    # A strong penalty puts long hypotheses first, which then are not in the order of their scores.
    far = search(length_penalty=5.0)
    assert (np.diff(np.asarray(far.log_probs) / np.asarray(far.lengths) ** 5.0) <= 1e-6).all()
    assert (np.diff(np.asarray(far.log_probs)) > 0).any()


def test_bad_input():
    model = (tiny.step, tiny.init(), tiny.empty(1, 9))
    other = (tiny.step, tiny.init(vocab=6), tiny.empty(1, 9))
    key = jax.random.split(jax.random.key(0), 1)
    prompt, one = jnp.array([[1, 2]]), jnp.array([2])
    for broken, message in [
        (lambda: sampling.Sampler(temperature=-1.0), "temperature=-1.0"),
        (lambda: sampling.Sampler(top_k=0), "top_k=0"),
        (lambda: sampling.Sampler(top_p=0.0), "top_p=0.0"),
        (lambda: sampling.Sampler(min_p=1.5), "min_p=1.5"),
        (
            lambda: speculative.generate(model, other, prompt, one, key, num_tokens=2),
            "target has 7 tokens and the draft 6",
        ),
        (
            lambda: speculative.generate(
                model, model, prompt, one, key, num_tokens=2, num_drafts=0
            ),
            "num_drafts=0",
        ),
        (
            lambda: speculative.generate(model, model, prompt, one, key, num_tokens=4, capacity=8),
            "holds 8 positions: 9 are needed",
        ),
        (lambda: speculative.expected_tokens(1.5, 2), "acceptance_rate=1.5"),
        (lambda: beam.beam_search(*model, prompt[0], width=0, num_tokens=2), "width=0"),
        (lambda: beam.beam_search(*model, prompt, width=1, num_tokens=2), "shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
