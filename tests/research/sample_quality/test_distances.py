"""Distances against enumeration, closed forms and plain loops."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from research.sample_quality import distances

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((7, 3)), 0.5 + RNG.standard_normal((10, 3))


def norms(x, y):
    return np.linalg.norm(x[:, None] - y[None], axis=-1)


def brute_energy(x, y, unbiased):
    spread = [norms(z, z).sum() / (len(z) * (len(z) - unbiased)) for z in (x, y)]
    return 2 * norms(x, y).mean() - sum(spread)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("block", [3, 512])
def test_energy_distance_is_the_double_sum(unbiased, block, x64):
    measured = distances.energy_distance(X, Y, unbiased=unbiased, block=block)
    np.testing.assert_allclose(measured, brute_energy(X, Y, unbiased), rtol=1e-12)


def test_u_statistic_is_unbiased_by_enumeration(x64):
    """Mean over all samples of size 2 of two laws on three points equals the laws' distance."""
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 2.0]])
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    matrix = norms(points, points)
    truth = 2 * p @ matrix @ q - p @ matrix @ p - q @ matrix @ q
    tuples = np.array(list(itertools.product(range(3), repeat=4)))
    weights = p[tuples[:, :2]].prod(1) * q[tuples[:, 2:]].prod(1)
    values = jax.vmap(distances.energy_distance)(points[tuples[:, :2]], points[tuples[:, 2:]])
    np.testing.assert_allclose((weights * values).sum(), truth, rtol=1e-12)


def test_energy_distance_of_two_normals_is_the_closed_form():
    shift, num = 0.8, 5_000
    x = jax.random.normal(jax.random.key(0), (num, 1))
    y = jax.random.normal(jax.random.key(1), (num, 1)) + shift

    def mean_abs(mean):  # of N(mean, 2)
        return 2 / math.sqrt(math.pi) * math.exp(-(mean**2) / 4) + mean * math.erf(mean / 2)

    truth = 2 * mean_abs(shift) - 2 * mean_abs(0.0)
    # The spread of the statistic is below 2 * shift / sqrt(num); 4 of these is a sure pass.
    assert abs(float(distances.energy_distance(x, y, block=1024)) - truth) < 8 * shift / num**0.5


def test_images_are_flattened_and_a_common_shift_is_free():
    x = X.astype(np.float32)
    y = Y.astype(np.float32)
    plain = distances.energy_distance(x, y)
    np.testing.assert_allclose(
        distances.energy_distance(x[:, None, :, None], y[:, None, :, None]), plain, rtol=1e-6
    )
    np.testing.assert_allclose(distances.energy_distance(x + 100, y + 100), plain, atol=2e-5)


@pytest.mark.parametrize("unbiased", [True, False])
def test_squared_mmd_is_the_double_sum(unbiased, x64):
    def mean(a, b, same):
        value = (np.exp(-(norms(a, b) ** 2) / 2) + np.exp(-(norms(a, b) ** 2) / 18)) / 2
        np.fill_diagonal(value, value.diagonal() * (1 - same))
        return value.sum() / (len(a) * (len(b) - same))

    expected = mean(X, X, unbiased) + mean(Y, Y, unbiased) - 2 * mean(X, Y, 0)
    kernel = distances.gaussian_kernel(1.0, 3.0)
    measured = distances.squared_mmd(X, Y, kernel, unbiased=unbiased, block=4)
    np.testing.assert_allclose(measured, expected, rtol=1e-10)
    assert distances.gaussian_kernel(1.0, 3.0) is kernel


def test_one_point_a_side_is_enough_where_it_meets_itself(x64):
    """Without bias a pair of two is needed: see the bad input below."""
    gap = float(norms(X[:1], Y[:1])[0, 0])
    kernel = distances.gaussian_kernel(1.5)
    found = distances.squared_mmd(X[:1], Y[:1], kernel, unbiased=False)
    np.testing.assert_allclose(found, 2 - 2 * math.exp(-(gap**2) / 4.5), rtol=1e-10)
    found = distances.energy_distance(X[:1], Y[:1], unbiased=False)
    np.testing.assert_allclose(found, 2 * gap, rtol=1e-10)
    x, y = X[0], Y[0]
    products = [(a @ b / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    found = distances.polynomial_mmd(X[:1], Y[:1], unbiased=False)
    np.testing.assert_allclose(found, products[0] + products[1] - 2 * products[2], rtol=1e-10)


def test_energy_distance_has_a_gradient_at_equal_samples(x64):
    gradient = jax.grad(lambda x: distances.energy_distance(x, jnp.asarray(X)))(jnp.asarray(X))
    assert jnp.isfinite(gradient).all()


def test_sliced_wasserstein_on_a_line_is_scipys(x64):
    """In one dimension every direction is +-1 and the distance is the quantile integral."""
    x, y = np.sort(X[:, :1], 0), np.sort(Y[:, :1], 0)
    steps = (np.arange(70 * 100) + 0.5) / 7000  # 7 * 10 = 70 divides it: exact midpoints
    gap = x[(steps * 7).astype(int), 0] - y[(steps * 10).astype(int), 0]
    measured = distances.sliced_wasserstein(
        jax.random.key(0), X[:, :1], Y[:, :1], num_projections=3
    )
    np.testing.assert_allclose(measured, math.sqrt((gap**2).mean()), rtol=1e-12)
    plan = distances._quantile_plan(7, 10)
    first = (plan[2] * np.abs(x[plan[0], 0] - y[plan[1], 0])).sum()
    np.testing.assert_allclose(first, stats.wasserstein_distance(x[:, 0], y[:, 0]), rtol=1e-12)


def test_sliced_wasserstein_of_a_shift(x64):
    """Projecting a shift v of D dimensions gives |v|^2 / D in the mean."""
    shift = np.array([1.0, 2.0, -2.0])
    measured = distances.sliced_wasserstein(jax.random.key(0), X, X + shift, num_projections=4000)
    # the square has standard deviation |v|^2 sqrt(4/45) around |v|^2/3: 4.5 of these for 4000
    assert abs(measured**2 - 3.0) < 4.5 * 9 * math.sqrt(4 / 45 / 4000)


def test_nearest_neighbours_find_a_copy_exactly():
    reference = RNG.standard_normal((50, 3)).astype(np.float32)
    x = np.concatenate([reference[[4, 31]], X.astype(np.float32)])
    distance, index = distances.nearest_neighbours(x, reference, block=4)
    np.testing.assert_array_equal(index[:2], [4, 31])
    np.testing.assert_array_equal(distance[:2], 0)
    np.testing.assert_array_equal(index, norms(x, reference).argmin(1))
    np.testing.assert_allclose(distance[2:], norms(x, reference).min(1)[2:], rtol=1e-5)


def test_floor_covers_fresh_samples_and_not_another_law(x64):
    pool = jax.random.normal(jax.random.key(0), (300, 2), jnp.float64)
    floor = distances.fresh_sample_floor(
        jax.random.key(1), distances.energy_distance, pool, (40, 60), num_draws=200
    )
    assert floor.low < floor.mean < floor.high
    fresh = jax.random.normal(jax.random.key(2), (200, 100, 2), jnp.float64)
    values = jax.jit(jax.vmap(lambda z: distances.energy_distance(z[:40], z[40:])))(fresh)
    inside = ((values >= floor.low) & (values <= floor.high)).mean()
    assert 0.88 < inside < 0.995
    assert distances.energy_distance(pool[:40] + 1.0, pool[40:100]) > 2 * floor.high


def test_a_nan_in_a_sample_is_seen():
    """By every distance, and by its point alone where points keep apart."""
    broken = np.array(X)
    broken[2, 1] = np.nan
    assert np.isnan(distances.energy_distance(broken, Y))
    assert np.isnan(distances.energy_distance(Y, broken, unbiased=False))
    assert np.isnan(distances.squared_mmd(broken, Y, distances.gaussian_kernel(1.0)))
    far, _ = distances.nearest_neighbours(broken, X)
    np.testing.assert_array_equal(np.isnan(far), np.arange(7) == 2)


def floor(sizes=(2, 4), **options):
    rng, distance = jax.random.key(0), distances.energy_distance
    return distances.fresh_sample_floor(rng, distance, Y, sizes, **options)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: distances.energy_distance(X, Y[:, :2]), r"\(7, 3\) and \(10, 2\)"),
        (lambda: distances.energy_distance(X[:1], Y), "at least 2"),
        (lambda: distances.gaussian_kernel(0.0), "bandwidths"),
        (
            lambda: distances.fresh_sample_floor(
                jax.random.key(0), distances.energy_distance, X, (4, 4)
            ),
            "pool of 7",
        ),
        (lambda: distances.gaussian_kernel(), "expected one or more"),
        (lambda: distances.gaussian_kernel(1.0, float("nan")), "bandwidths"),
        (lambda: distances.gaussian_kernel(float("inf")), "bandwidths"),
        (lambda: distances.energy_distance(X, Y, block=0), "block=0"),
        (lambda: distances.squared_mmd(X, Y, distances.gaussian_kernel(1.0), block=0), "block=0"),
        (lambda: distances.squared_mmd(X, Y[:1], distances.gaussian_kernel(1.0)), "at least 2"),
        (lambda: distances.nearest_neighbours(X, Y, block=-1), "block=-1"),
        (lambda: distances.energy_distance(X + 1j, Y), "types complex(64|128) and float"),
        (lambda: distances.energy_distance(np.float32(1), np.float32(2)), "samples have shapes"),
        (lambda: distances.energy_distance(X, Y, block=2.0), "block=2.0: expected a positive"),
        (lambda: distances.nearest_neighbours(X[:0], Y), "at least 1"),
        (
            lambda: distances.sliced_wasserstein(jax.random.key(0), X, Y, num_projections=0),
            "num_projections=0",
        ),
        (lambda: distances.sliced_wasserstein(jax.random.key(0), X, Y, block=0), "block=0"),
        (lambda: floor(sizes=(0, 4)), "sizes=0"),
        (lambda: floor(num_draws=0), "num_draws=0"),
        (lambda: floor(level=1.0), "level=1.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_partial_distances_are_usable_as_floor_distances(x64):
    distance = functools.partial(distances.sliced_wasserstein, jax.random.key(3), num_projections=8)
    floor = distances.fresh_sample_floor(jax.random.key(0), distance, Y, (5, 5), num_draws=4)
    assert floor.mean > 0


def test_near_points_of_far_clusters_keep_their_distances():
    """A product of matrices has no digits for them; float32 against float64 on the same numbers."""
    rng = np.random.default_rng(5)
    reference = rng.standard_normal((60, 2)).astype(np.float32)
    reference[30:] += 10_000
    x = (reference[30:] + 0.01 * rng.standard_normal((30, 2))).astype(np.float32)
    exact = norms(x.astype(float), reference.astype(float))
    distance, index = distances.nearest_neighbours(x, reference, block=16)
    np.testing.assert_array_equal(index, exact.argmin(1))
    np.testing.assert_allclose(distance, exact.min(1), rtol=1e-5)
    kernel = lambda a, b: np.exp(-(norms(a.astype(float), b.astype(float)) ** 2) / 2)  # noqa: E731
    within = [(kernel(z, z).sum() - len(z)) / len(z) / (len(z) - 1) for z in (x, reference)]
    measured = distances.squared_mmd(x, reference, distances.gaussian_kernel(1.0), block=16)
    np.testing.assert_allclose(measured, sum(within) - 2 * kernel(x, reference).mean(), atol=1e-6)


def test_gradients_of_near_points_are_those_of_differences(x64):
    x, y = np.array([[1e6, 0.0], [1e6, 1e-3]]), np.array([[1e6, 2e-3], [0.0, 0.0]])
    direct = lambda x: (norms_of(x, y) ** 2).mean()  # noqa: E731
    norms_of = lambda a, b: jnp.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))  # noqa: E731
    found = jax.grad(lambda x: distances._pair_mean(lambda squared: squared, x, y, 1))(x)
    np.testing.assert_allclose(found, jax.grad(direct)(x), rtol=1e-12)


@pytest.mark.parametrize("degree, unbiased", [(None, None), (2, False)])
def test_polynomial_discrepancy_by_sums(degree, unbiased, x64):
    """The defaults, degree 3 without bias, and another degree with it; not centred."""
    rng = np.random.default_rng(0)
    x, y = 3 + rng.normal(size=(9, 4)), 3 + rng.normal(size=(7, 2, 2))
    options = {} if degree is None else dict(degree=degree, unbiased=unbiased)
    found = distances.polynomial_mmd(x.reshape(9, 2, 2), y, **options, block=4)
    flat = y.reshape(7, 4)
    kernel = lambda a, b: (a @ b.T / 4 + 1) ** (degree or 3)
    if unbiased is None:
        apart = lambda a: kernel(a, a)[~np.eye(len(a), dtype=bool)].mean()
    else:
        apart = lambda a: kernel(a, a).mean()
    expected = apart(x) + apart(flat) - 2 * kernel(x, flat).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_polynomial_discrepancy_is_without_bias():
    """400 pairs of samples of 8 points: the mean is 0 within 4 standard errors."""
    x, y = jax.random.normal(jax.random.key(0), (2, 400, 8, 5))
    found = np.asarray(jax.vmap(distances.polynomial_mmd)(x, y))
    assert abs(found.mean()) < 4 * found.std() / 20 and found.min() < 0


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: distances.polynomial_mmd(x, x, degree=0), "degree=0: expected a positive"),
        (lambda x: distances.polynomial_mmd(x, x, block=0), "block=0: expected a positive"),
        (lambda x: distances.polynomial_mmd(x[:1], x), "at least 2 in each"),
        (lambda x: distances.polynomial_mmd(x[:, :1], x), "expected points of one shape"),
    ],
)
def test_bad_polynomials(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.ones((4, 2)))
