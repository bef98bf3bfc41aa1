"""Codes: against brute force, k-means by scikit-learn, and rotations built as matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from research.vae import gradients, quantize

RNG = np.random.default_rng(0)


def brute(codebook, x):
    return ((x[..., None, :] - codebook) ** 2).sum(-1).argmin(-1)


def test_nearest_codes_by_brute_force(x64):
    codebook, x = RNG.normal(size=(7, 3)), RNG.normal(size=(4, 5, 3))
    found = quantize.nearest(codebook, x)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, brute(codebook, x))
    assert quantize.nearest(np.zeros((3, 2)), np.ones(2)) == 0  # the first of equally near ones


def test_nearest_codes_far_from_the_origin_keep_their_digits():
    codebook, x = (
        np.float32(3000 + RNG.normal(size=(50, 3))),
        np.float32(3000 + RNG.normal(size=(200, 3))),
    )
    np.testing.assert_array_equal(
        quantize.nearest(codebook, x), brute(np.float64(codebook), np.float64(x))
    )


def test_straight_through_has_the_codes_value_and_the_vectors_gradient(x64):
    x, q, g = RNG.normal(size=(3, 4, 2)) * 1e3
    value, pull = jax.vjp(quantize.straight_through, jnp.asarray(x), jnp.asarray(q))
    np.testing.assert_array_equal(value, q)
    np.testing.assert_array_equal(pull(jnp.asarray(g))[0], g)
    np.testing.assert_array_equal(pull(jnp.asarray(g))[1], 0)


def rotation(x, q):
    """The rotation in the plane of x and q that turns x to the direction of q, as a matrix."""
    a = x / np.linalg.norm(x)
    b = q - (q @ a) * a
    b = b / np.linalg.norm(b)
    cos = q @ a / np.linalg.norm(q)
    sin = (1 - cos**2) ** 0.5
    plane = np.eye(len(x)) + (cos - 1) * (np.outer(a, a) + np.outer(b, b))
    return plane + sin * (np.outer(b, a) - np.outer(a, b))


def test_the_rotation_trick_turns_the_gradient_as_the_rotation_does(x64):
    x, q, g = RNG.normal(size=(3, 6, 4)) * np.array([1, 1e-3, 1e3, 1, 1, 1])[:, None]
    value, pull = jax.vjp(quantize.rotate, jnp.asarray(x), jnp.asarray(q))
    np.testing.assert_array_equal(value, q)
    slopes, to_code = pull(jnp.asarray(g))
    np.testing.assert_array_equal(to_code, 0)
    for row in range(6):
        turn = rotation(x[row], q[row])
        scale = np.linalg.norm(q[row]) / np.linalg.norm(x[row])
        np.testing.assert_allclose(np.linalg.det(turn), 1, rtol=1e-10)
        np.testing.assert_allclose(scale * turn @ x[row], q[row], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(slopes[row], scale * turn.T @ g[row], rtol=1e-8, atol=1e-11)


def test_the_rotation_trick_without_a_direction_is_straight_through():
    x = jnp.array([[0.0, 0.0], [1.0, 2.0], [1e-30, 0.0], [3.0, 0.0]])
    q = jnp.array([[1.0, 1.0], [0.0, 0.0], [0.0, 1e-30], [-3.0, 0.0]])
    value, pull = jax.vjp(quantize.rotate, x, q)
    np.testing.assert_array_equal(value, q)
    g = jnp.array([[1.0, -2.0]] * 4)
    slopes = np.asarray(pull(g)[0])
    np.testing.assert_allclose(slopes[:2], g[:2])
    np.testing.assert_allclose(slopes[2], [-2.0, -1.0], rtol=1e-5)  # a quarter turn back
    assert np.isfinite(slopes[3]).all() and np.isclose(np.linalg.norm(slopes[3]), 5**0.5)


def test_commitment_is_a_sum_over_channels(x64):
    x, q = RNG.normal(size=(2, 4, 3))
    np.testing.assert_allclose(quantize.commitment(x, q), ((x - q) ** 2).sum(-1), rtol=1e-12)
    total = lambda x, q: quantize.commitment(x, q).sum()
    slopes = jax.grad(total, argnums=(0, 1))(jnp.asarray(x), jnp.asarray(q))
    np.testing.assert_allclose(slopes[0], 2 * (x - q), rtol=1e-12)
    np.testing.assert_array_equal(slopes[1], 0)


def clusters(num=400):
    centres = RNG.normal(size=(6, 3)) * 3
    return centres[RNG.integers(0, 6, num)] + RNG.normal(size=(num, 3))


@functools.partial(jax.jit, static_argnames="num_steps")
def settle(state, x, decay, num_steps):
    def update(state, _):
        indices = quantize.nearest(state.codebook, x)
        return quantize.ema_update(state, x, indices, decay), None

    return jax.lax.scan(update, state, None, length=num_steps)[0]


def test_a_step_without_decay_is_lloyds(x64):
    x = clusters()
    state = quantize.init(jax.random.key(0), 6, 3).replace(codebook=jnp.asarray(x[:6]))
    found = settle(state, x, 0.0, 1)
    indices = brute(x[:6], x)
    expected = [x[indices == k].mean(0) for k in range(6)]
    np.testing.assert_allclose(found.codebook, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.counts, np.bincount(indices, minlength=6))
    limit = settle(state, x, 0.0, 60).codebook
    options = {"init": x[:6], "n_init": 1, "tol": 0, "algorithm": "lloyd"}
    kmeans = KMeans(6, **options).fit(x)
    np.testing.assert_allclose(limit, kmeans.cluster_centers_, atol=1e-6)


def test_the_limit_of_moving_averages_is_a_fixed_point_of_lloyds(x64):
    x = clusters().reshape(20, 20, 3)
    state = quantize.init(jax.random.key(0), 6, 3).replace(codebook=jnp.asarray(x[0, :6]))
    found = settle(state, x, 0.9, 400)
    codebook, rows = np.asarray(found.codebook), x.reshape(-1, 3)
    indices = brute(codebook, rows)
    centres = [rows[indices == k].mean(0) for k in range(6)]
    np.testing.assert_allclose(codebook, centres, atol=1e-6)
    np.testing.assert_allclose(found.counts, np.bincount(indices, minlength=6), rtol=1e-6)
    np.testing.assert_allclose(found.weight, 1 - 0.9**400, rtol=1e-12)


def test_moving_averages_of_two_batches_by_hand(x64):
    state = quantize.init(jax.random.key(0), 3, 2)
    first, second = RNG.normal(size=(2, 4, 2))
    for x, indices in ((first, [0, 0, 1, 0]), (second, [1, 1, 1, 0])):
        state = quantize.ema_update(state, x, np.array(indices), decay=0.75)
    counts = 0.25 * (0.75 * np.array([3, 1, 0]) + np.array([1, 3, 0]))
    sums = 0.25 * (0.75 * np.array([first[[0, 1, 3]].sum(0), first[2]]))
    sums += 0.25 * np.array([second[3], second[:3].sum(0)])
    np.testing.assert_allclose(state.counts, counts, rtol=1e-12)
    np.testing.assert_allclose(state.codebook[:2], sums / counts[:2, None], rtol=1e-12)
    unused = quantize.init(jax.random.key(0), 3, 2).codebook[2]
    np.testing.assert_array_equal(state.codebook[2], unused)
    np.testing.assert_allclose(state.weight, 1 - 0.75**2, rtol=1e-12)


def test_a_code_without_vectors_stays_however_long():
    state = quantize.init(jax.random.key(0), 2, 1).replace(codebook=jnp.array([[0.0], [9.0]]))
    state = quantize.ema_update(state, jnp.array([[9.5], [0.1]]), jnp.array([1, 0]), 0.5)
    state = settle(state, jnp.full((3, 1), 0.2), 0.5, 300)
    np.testing.assert_allclose(state.codebook, [[0.2], [9.5]], rtol=1e-6)


@functools.partial(jax.jit, static_argnames="restarts")
def trained_usage(rng, restarts):
    """The share of 128 codes that a set of 16,384 vectors uses after 150 batches of 512."""
    rng_data, rng_init, rng_steps = jax.random.split(rng, 3)
    data = 4 + 2 * jax.random.normal(rng_data, (32, 512, 4))

    def update(state, key):
        rng_batch, rng_restart = jax.random.split(key)
        x = data[jax.random.randint(rng_batch, (), 0, 32)]
        state = quantize.ema_update(state, x, quantize.nearest(state.codebook, x), 0.9)
        return quantize.restart(rng_restart, state, x) if restarts else state, None

    state = quantize.init(rng_init, 128, 4)
    state = jax.lax.scan(update, state, jax.random.split(rng_steps, 150))[0]
    return quantize.usage(quantize.nearest(state.codebook, data), 128)


def test_restarts_leave_no_code_dead_where_a_plain_codebook_loses_most():
    dead = [1 - trained_usage(jax.random.key(0), restarts) for restarts in (True, False)]
    assert dead[0] < 0.01 and dead[1] > 0.3


def test_a_restart_moves_dead_codes_to_vectors_of_the_batch(x64):
    state = quantize.init(jax.random.key(0), 3, 2)
    x = RNG.normal(size=(2, 4, 2))
    fresh = quantize.restart(jax.random.key(1), state, x)
    rows = set(map(tuple, x.reshape(-1, 2)))
    assert set(map(tuple, np.asarray(fresh.codebook))) <= rows
    as_many = quantize.restart(jax.random.key(1), quantize.init(jax.random.key(0), 8, 2), x)
    assert set(map(tuple, np.asarray(as_many.codebook))) == rows  # no vector twice
    seen = quantize.ema_update(state, x, np.array([[0, 0, 1, 0], [1, 0, 0, 0]]), decay=0.5)
    moved = quantize.restart(jax.random.key(1), seen, x, min_count=2.5)  # means 6, 2 and 0 a batch
    np.testing.assert_array_equal(moved.codebook[0], seen.codebook[0])
    np.testing.assert_array_equal(moved.codebook[1:], fresh.codebook[1:])
    np.testing.assert_allclose(moved.counts, [3, 1.25, 1.25], rtol=1e-12)
    np.testing.assert_allclose(moved.sums[1:], 1.25 * np.asarray(moved.codebook[1:]), rtol=1e-12)
    again = quantize.restart(jax.random.key(2), moved, x, min_count=2.5)
    np.testing.assert_array_equal(again.codebook, moved.codebook)
    kept = quantize.restart(jax.random.key(1), seen, x)  # only the third is below 1
    np.testing.assert_array_equal(kept.codebook[:2], seen.codebook[:2])


def test_residual_codes_add_up(x64):
    codebooks, x = RNG.normal(size=(3, 5, 2)), RNG.normal(size=(4, 6, 2))
    sums, indices = quantize.residual(codebooks, x)
    rest, expected = x, []
    for codebook in codebooks:
        expected.append(brute(codebook, rest))
        rest = rest - codebook[expected[-1]]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(sums, x - rest, rtol=1e-12)
    np.testing.assert_allclose(
        sums, sum(c[i] for c, i in zip(codebooks, np.asarray(indices))), rtol=1e-10
    )


def test_finite_scalars_take_every_level_and_no_other(x64):
    levels = (2, 3, 4, 5, 8)
    x = np.linspace(-40, 40, 20_001)[:, None] * np.ones(5)
    q = np.asarray(quantize.finite_scalar(x, levels))
    for channel, level in enumerate(levels):
        np.testing.assert_allclose(np.unique(q[:, channel]), np.linspace(-1, 1, level), atol=1e-12)
        points = np.linspace(-1, 1, level)
        nearest = abs(np.tanh(x[:, :1]) - points).argmin(1)
        clear = abs(np.sort(abs(np.tanh(x[:, :1]) - points), 1)[:, :2] @ [-1, 1]) > 1e-9
        np.testing.assert_allclose(q[clear, channel], points[nearest[clear]], atol=1e-12)
    slope = jax.grad(lambda x: quantize.finite_scalar(x, levels).sum())(jnp.asarray(x[9990:10010]))
    np.testing.assert_allclose(slope, 1 - np.tanh(x[9990:10010]) ** 2, rtol=1e-10)


def test_every_finite_scalar_code_has_its_number():
    levels = (3, 2, 4)
    grids = np.meshgrid(*[np.linspace(-1, 1, level) for level in levels], indexing="ij")
    codes = np.stack(grids, -1).transpose(2, 1, 0, 3).reshape(-1, 3)  # the first runs fastest
    np.testing.assert_array_equal(quantize.finite_scalar_indices(codes, levels), np.arange(24))


def test_gumbel_codes_are_mixtures_of_the_codebook(x64):
    logits, codebook, rng = RNG.normal(size=(4, 6)), RNG.normal(size=(6, 3)), jax.random.key(0)
    found = quantize.gumbel(rng, logits, codebook, temperature=0.5)
    draws = gradients.gumbel_softmax(rng, logits, 0.5)
    np.testing.assert_allclose(found, np.asarray(draws) @ codebook, rtol=1e-12)
    hard = quantize.gumbel(rng, logits, codebook, hard=True)
    np.testing.assert_allclose(hard, codebook[np.asarray(draws).argmax(-1)], rtol=1e-12)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = (shares * np.log(shares * 6)).sum(-1)
    np.testing.assert_allclose(quantize.kl_to_uniform(logits), expected, rtol=1e-10)
    sure = jnp.array([1e4, 0.0, -1e4])
    np.testing.assert_allclose(quantize.kl_to_uniform(sure), np.log(3), rtol=1e-12)
    assert np.isfinite(jax.grad(quantize.kl_to_uniform)(sure)).all()


def test_perplexity_and_usage(x64):
    np.testing.assert_allclose(quantize.perplexity(np.arange(6).reshape(2, 3), 6), 6, rtol=1e-12)
    np.testing.assert_allclose(quantize.perplexity(np.full(9, 2), 6), 1, rtol=1e-12)
    i = np.array([0, 0, 0, 1])
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    np.testing.assert_allclose(quantize.perplexity(i, 6), expected, rtol=1e-12)
    np.testing.assert_allclose(quantize.usage(i, 6), 2 / 6, rtol=1e-12)


CODES, X = np.zeros((4, 2), np.float32), np.zeros((3, 2), np.float32)
KEY = jax.random.key(0)
STATE = quantize.init(KEY, 4, 2)
INDICES = np.zeros(3, np.int32)
BAD = [
    (lambda: quantize.nearest(CODES, X.T), r"codebook, x have shapes \(4, 2\), \(2, 3\)"),
    (lambda: quantize.nearest(CODES[0], X), r"codebook, x have shapes \(2,\), \(3, 2\)"),
    (lambda: quantize.straight_through(X, X[0]), r"x, q have shapes \(3, 2\), \(2,\)"),
    (lambda: quantize.rotate(X, X[0]), r"x, q have shapes \(3, 2\), \(2,\)"),
    (lambda: quantize.commitment(X, X[0]), r"x, q have shapes \(3, 2\), \(2,\)"),
    (lambda: quantize.init(KEY, 0, 2), "num_codes=0"),
    (lambda: quantize.init(KEY, 4, 2.0), "dim=2.0"),
    (lambda: quantize.ema_update(STATE, X.T, INDICES, 0.9), "codebook, x have shapes"),
    (
        lambda: quantize.ema_update(STATE, X, INDICES, 1.0),
        r"decay=1.0: expected .* \[0, 1\)",
    ),
    (lambda: quantize.ema_update(STATE, X, INDICES, -0.1), "decay=-0.1"),
    (lambda: quantize.ema_update(STATE, X, INDICES[:2], 0.9), r"indices have shape \(2,\)"),
    (lambda: quantize.ema_update(STATE, X, INDICES + 4, 0.9), "indices goes from 4 to 4"),
    (lambda: quantize.ema_update(STATE, X, X[:, 0], 0.9), "indices has dtype float32"),
    (
        lambda: quantize.restart(KEY, STATE, X),
        "x has 3 vectors: a restart takes as many as",
    ),
    (lambda: quantize.restart(KEY, STATE, X.T), "codebook, x have shapes"),
    (lambda: quantize.restart(KEY, STATE, CODES, min_count=0), "min_count=0: expected a positive"),
    (lambda: quantize.residual(CODES, X), r"codebooks, x have shapes \(4, 2\), \(3, 2\)"),
    (
        lambda: quantize.residual(CODES[None], X.T),
        r"codebooks, x have shapes \(1, 4, 2\)",
    ),
    (lambda: quantize.finite_scalar(X, (3, 1)), "levels=1: expected a whole number >= 2"),
    (lambda: quantize.finite_scalar(X, (3, 2.5)), "levels=2.5: expected a whole number >= 2"),
    (lambda: quantize.finite_scalar(X, (3, 3, 3)), r"levels=\(3, 3, 3\): expected one a channel"),
    (lambda: quantize.finite_scalar_indices(X, (3, 1)), "levels=1: expected"),
    (lambda: quantize.finite_scalar_indices(X, (2**16, 2**15)), "more codes than int32 counts"),
    (lambda: quantize.gumbel(KEY, X, CODES), r"logits, codebook have shapes \(3, 2\), \(4, 2\)"),
    (lambda: quantize.gumbel(KEY, X, X.T, temperature=-1.0), "temperature=-1: expected a positive"),
    (
        lambda: quantize.perplexity(INDICES + 4, 4),
        r"i goes from 4 to 4: expected integers in",
    ),
    (lambda: quantize.perplexity(INDICES, 0), "num_codes=0"),
    (lambda: quantize.usage(INDICES[:0], 4), r"i has shape \(0,\): expected one code or more"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
