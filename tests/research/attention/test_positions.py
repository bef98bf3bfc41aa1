"""Positions: what they must leave unchanged, and published values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import positions


def test_sinusoidal_products_depend_on_the_offset_only(x64):
    features = jax.jit(lambda t: positions.sinusoidal(t, 64))(jnp.arange(50))
    products = np.asarray(features @ features.T)
    np.testing.assert_allclose(np.diag(products), 32.0, rtol=1e-12)
    for offset in range(1, 50):
        assert np.ptp(np.diag(products, offset)) < 1e-10
    np.testing.assert_allclose(
        features[3, :4],
        [np.sin(3), np.cos(3), np.sin(3 / 10_000 ** (2 / 64)), np.cos(3 / 10_000 ** (2 / 64))],
    )
    slower = positions.sinusoidal(jnp.array([[3.5]]), 4, max_period=100.0)
    np.testing.assert_allclose(
        slower, [[[np.sin(3.5), np.cos(3.5), np.sin(0.35), np.cos(0.35)]]], rtol=1e-12
    )
    np.testing.assert_allclose(positions.inverse_frequencies(4, 100.0), [1, 0.1], rtol=1e-15)


@pytest.mark.parametrize(
    "rope",
    [
        positions.Rope(),
        positions.Rope(500_000.0, llama3_factor=32.0),
        positions.Rope(linear_factor=4.0),
        positions.Rope(ntk_factor=4.0),
    ],
    ids=["plain", "llama3", "linear", "ntk"],
)
def test_rope_keeps_norms_and_scores_depend_on_the_offset_only(rope, x64):
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, 16))) for _ in range(2))

    @jax.jit
    def score(i, j):
        return (rope(query, i[None, None]) * rope(key, j[None, None])).sum()

    base = [score(jnp.array(i), jnp.array(i - 5)) for i in (5, 17, 4000)]
    np.testing.assert_allclose(base, base[0], rtol=1e-9)
    assert abs(score(jnp.array(6), jnp.array(0)) - base[0]) > 1e-3
    turned = rope(query, jnp.array([[12]]))
    np.testing.assert_allclose((turned**2).sum(), (query**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(rope(query, jnp.array([[0]])), query, rtol=1e-14)


def test_rope_turns_pairs_by_the_paper_s_angles(x64):
    x = jnp.zeros((1, 1, 1, 8)).at[..., 1].set(1.0)  # first half of pair 1
    turned = np.asarray(positions.Rope()(x, jnp.array([[7]])))[0, 0, 0]
    angle = 7 * 10_000 ** (-2 / 8)
    expected = np.zeros(8)
    expected[1], expected[5] = np.cos(angle), np.sin(angle)
    np.testing.assert_allclose(turned, expected, atol=1e-14)


def test_scalings_slow_what_they_should():
    plain = positions.Rope(500_000.0).frequencies(64)
    np.testing.assert_allclose(
        positions.Rope(500_000.0, linear_factor=4.0).frequencies(64), plain / 4
    )
    ntk = positions.Rope(500_000.0, ntk_factor=4.0).frequencies(64) / plain
    np.testing.assert_allclose([ntk[0], ntk[-1]], [1, 1 / 4], rtol=1e-12)
    scaled = positions.Rope(500_000.0, llama3_factor=32.0).frequencies(64) / plain
    waves = 2 * np.pi / plain
    np.testing.assert_allclose(scaled[waves < 8192 / 4], 1.0)
    np.testing.assert_allclose(scaled[waves > 8192], 1 / 32)
    between = (waves > 8192 / 4) & (waves < 8192)
    assert ((scaled[between] < 1) & (scaled[between] > 1 / 32)).all() and between.any()
    # Trained on 512, kept below 512/8, slowed above 512/2; half way in turns lies the mean.
    rope = positions.Rope(500_000.0, llama3_factor=4.0, original_length=512, low=2.0, high=8.0)
    turns = 512 / waves
    expected = np.interp(turns, [2, 8], [1 / 4, 1])
    np.testing.assert_allclose(rope.frequencies(64) / plain, expected, rtol=1e-12)
    assert ((turns > 2) & (turns < 8)).any()


def test_positions_start_again_with_every_document():
    """Also where a number comes back later in the row."""
    ids = jnp.array([[5, 5, 5, 2, 2, 5], [0, 1, 1, 1, 1, 0]])
    expected = [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 0]]
    np.testing.assert_array_equal(positions.in_documents(ids), expected)


def test_alibi_slopes_of_the_paper_and_distances():
    np.testing.assert_array_equal(positions.alibi_slopes(8), 2.0 ** -np.arange(1, 9))
    twelve = positions.alibi_slopes(12)
    np.testing.assert_allclose(twelve[8:], 2.0 ** -np.array([0.5, 1.5, 2.5, 3.5]), rtol=1e-12)
    bias = positions.Alibi(jnp.asarray([0.5, 0.25], jnp.float32))
    values = bias(jnp.arange(4)[None, :, None], jnp.arange(4)[None, None, :])
    assert values.shape == (1, 2, 4, 4)
    np.testing.assert_array_equal(values[0, :, 3, 0], [-1.5, -0.75])


@pytest.mark.parametrize("max_distance, num_buckets", [(128, 32), (50, 12)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_the_paper_s_formula(bidirectional, max_distance, num_buckets):
    """T5's published code: exact up to half, then log(n/exact) / log(128/exact), rounded down."""
    offsets = np.arange(-300, 301)
    index = np.asarray(
        positions.bucket(jnp.asarray(offsets), num_buckets, bidirectional, max_distance)
    )
    num_side = num_buckets // 2 if bidirectional else num_buckets
    exact = num_side // 2
    for offset, got in zip(offsets, index):
        distance = abs(offset) if bidirectional else max(-offset, 0)
        expected = distance
        if distance >= exact:
            # 1e-9: where the ratio of logarithms is whole, floating point may fall just short.
            place = np.log(distance / exact) / np.log(max_distance / exact) * (num_side - exact)
            expected = min(exact + int(place + 1e-9), num_side - 1)
        if bidirectional and offset > 0:
            expected += num_side
        assert got == expected, offset
    assert set(index) == set(range(num_buckets)) - ({num_side} if bidirectional else set())


def test_a_learned_bias_reads_its_table_by_bucket():
    table = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    bias = positions.Buckets(jnp.asarray(table), bidirectional=False, max_distance=20)
    i, j = (
        jnp.array([[[5], [30]], [[0], [9]]]),
        jnp.arange(12)[None, None, :],
    )  # [2, T, 1], [1, 1, S]
    values = bias(i, j)
    assert values.shape == (2, 3, 2, 12)
    index = np.asarray(positions.bucket(j - i, 8, False, 20))
    np.testing.assert_array_equal(values, np.moveaxis(table[index], -1, 1))


def test_wrong_ranks_are_named():
    x, i = jnp.zeros((1, 2, 1, 4)), jnp.arange(2)
    alibi, buckets = positions.Alibi(jnp.ones(1)), positions.Buckets(jnp.zeros((8, 1)))
    for broken in (
        lambda: positions.Rope()(x, i),
        lambda: positions.Rope()(x[0], i[None]),
        lambda: alibi(i[None], i[None]),
        lambda: buckets(i[None], i[None]),
    ):
        with pytest.raises(AssertionError, match="rank"):
            broken()


def test_bad_sizes_are_named():
    for call, message in (
        (lambda: positions.Rope(base=0.0), "base=0.0"),
        (lambda: positions.Rope(linear_factor=-2.0), "linear_factor=-2.0"),
        (lambda: positions.Rope(low=4.0, high=4.0), "low=4.0, high=4.0"),
        (lambda: positions.alibi_slopes(0), "num_heads=0"),
        (lambda: positions.bucket(jnp.arange(3), 2, True, 128), "at least 4 buckets"),
        (lambda: positions.bucket(jnp.arange(3), 1, False, 128), "at least 2 buckets"),
        (lambda: positions.bucket(jnp.arange(3), 32, False, 16), "a distance above 16"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="dim=3"):
        positions.sinusoidal(jnp.arange(2), 3)
    with pytest.raises(ValueError, match="dim=5"):
        positions.Rope().frequencies(5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: positions.Rope(np.inf), "base=inf: expected a positive number"),
        (lambda: positions.Rope(linear_factor=np.inf), "linear_factor=inf"),
        (lambda: positions.sinusoidal(np.arange(3), 4, 0.0), "max_period=0.0: expected a positive"),
        (lambda: positions.sinusoidal(np.arange(3), 4, np.nan), "max_period=nan"),
        (lambda: positions.alibi_slopes(2.0), "num_heads=2.0: expected a positive whole number"),
    ],
)
def test_frequencies_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
