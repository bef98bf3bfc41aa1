"""The Frechet distance against closed forms."""

import numpy as np
import pytest
from scipy import linalg

from research.sample_quality import frechet


def spd(rng, dim):
    root = rng.standard_normal((dim, dim))
    return root @ root.T + 0.1 * np.eye(dim)


def test_commuting_covariances_have_a_closed_form():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    a, b = rng.uniform(0, 2, 5), rng.uniform(0, 2, 5)
    a[0] = b[1] = 0  # singular, as for units that never fire
    mean = rng.standard_normal(5)
    found = frechet.between_gaussians(mean, (axes * a) @ axes.T, 0 * mean, (axes * b) @ axes.T)
    expected = (mean**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-7)  # roots of eigenvalues near zero


def test_general_covariances_against_the_root_of_the_product():
    rng = np.random.default_rng(1)
    a, b, shift = spd(rng, 6), spd(rng, 6), rng.standard_normal(6)
    root = linalg.sqrtm(a @ b)
    expected = shift @ shift + np.trace(a + b - 2 * root.real)
    np.testing.assert_allclose(
        frechet.between_gaussians(shift, a, 0 * shift, b), expected, rtol=1e-9
    )


def test_samples_against_themselves_shifted_and_rotated():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((50, 4)) @ spd(rng, 4)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert frechet.distance(x, x[::-1]) < 1e-10 * np.trace(np.cov(x.T))
    np.testing.assert_allclose(frechet.distance(x, x + np.array([3.0, 0, 0, 4])), 25, rtol=1e-9)
    y = rng.standard_normal((30, 4))
    np.testing.assert_allclose(
        frechet.distance(x @ turn, y @ turn), frechet.distance(x, y), rtol=1e-9
    )


@pytest.mark.parametrize("shapes", [((5, 2), (5, 3)), ((1, 2), (5, 2)), ((5,), (5,))])
def test_bad_shapes_are_named(shapes):
    with pytest.raises(ValueError, match="features have shapes"):
        frechet.distance(*map(np.zeros, shapes))


def test_features_that_are_not_finite_are_named():
    x = np.eye(4)
    for value in (np.nan, np.inf):
        broken = np.where(np.arange(4)[:, None] == 2, value, x)
        with pytest.raises(ValueError, match="features x: row 2 is not finite"):
            frechet.distance(broken, x)
        with pytest.raises(ValueError, match="features y: row 2"):
            frechet.distance(x, broken)


def test_a_mean_of_another_size_than_its_covariance_is_named():
    for mean, cov in ((np.zeros(1), np.eye(3)), (np.zeros(3), np.ones((3, 2)))):
        with pytest.raises(AssertionError, match="shape"):
            frechet.between_gaussians(mean, cov, np.zeros(3), np.eye(3))


@pytest.mark.parametrize(
    "name, given, message",
    [
        ("mean_x", [np.nan, 0.0], "mean_x is not finite"),
        ("cov_x", np.full((2, 2), np.inf), "cov_x is not finite"),
        ("cov_y", np.eye(2) + 0j, "cov_y of type complex128: expected real numbers"),
        ("cov_x", [[1.0, 0.9], [0.0, 1.0]], "cov_x is not symmetric"),
        ("cov_x", -np.eye(2), "cov_x has an eigenvalue below zero"),
        ("cov_y", np.diag([1.0, -0.1]), "cov_y has an eigenvalue below zero"),
    ],
)
def test_what_is_no_gaussian_is_named(name, given, message):
    """Clipped roots would make a distance of them, 0 for minus the identity."""
    good = {"mean_x": np.zeros(2), "cov_x": np.eye(2), "mean_y": np.zeros(2), "cov_y": np.eye(2)}
    with pytest.raises(ValueError, match=message):
        frechet.between_gaussians(**{**good, name: np.asarray(given)})
    with pytest.raises(ValueError, match="x of type complex128: expected real numbers"):
        frechet.distance(np.eye(3) + 1j, np.eye(3))


def test_fewer_rows_than_features_give_a_real_number_at_least_zero():
    """Singular covariances: the root of their product has rounding for an imaginary part."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 5, 64))
    values = np.linalg.svd((x - x.mean(0)) @ (y - y.mean(0)).T / 4)[1]  # nuclear norm
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.cov(x.T).trace() + np.cov(y.T).trace()
    np.testing.assert_allclose(frechet.distance(x, y), expected - 2 * values.sum(), rtol=1e-6)
    assert 0 <= frechet.distance(x, x) < 1e-6


def test_extrapolation_removes_the_bias_of_finite_samples():
    """Of equal laws: mean of 40 draws within 4 standard errors of 0, where plain ones are above.

    The reference has the moments of the law exactly, so that no bias is its own.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    assert frechet.between_gaussians(x.mean(0), np.cov(x.T), np.zeros(4), np.eye(4)) < 1e-12
    runs = [frechet.extrapolated(x, rng.normal(size=(300, 4)), least=60) for _ in range(40)]
    straight = np.array([run.distance for run in runs])
    plain = np.array([run.distances[-1] for run in runs])
    assert abs(straight.mean()) < 4 * straight.std() / np.sqrt(40)
    assert plain.mean() > 10 * plain.std() / np.sqrt(40)
    # To first order D / M from the mean, and D (D + 1) / (4 M) from the covariance.
    assert plain.mean() == pytest.approx(9 / 300, rel=0.15)
    slopes = np.array([run.slope for run in runs])
    assert abs(slopes.mean() - 9) < 4 * slopes.std() / np.sqrt(40)


def test_extrapolation_is_a_line_through_subsets():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 2)), rng.normal(size=(40, 2))
    found = frechet.extrapolated(x, y, num_sizes=3)
    assert (found.sizes == [4, 22, 40]).all()
    order = np.random.default_rng(0)
    for size, distance in zip(found.sizes, found.distances, strict=True):
        rows = order.permutation(40)[:size]
        assert frechet.distance(x, y[rows]) == pytest.approx(distance)
    columns = np.stack([np.ones(3), 1 / found.sizes], 1)
    line = np.linalg.lstsq(columns, found.distances, rcond=None)[0]
    np.testing.assert_allclose([found.distance, found.slope], line, rtol=1e-8)
    assert (frechet.extrapolated(x, y[:, :1].repeat(2, 1), least=7).sizes[0]) == 7
    assert frechet.extrapolated(x, np.tile(y, (3, 1))).sizes[0] == 12  # a tenth
    other = frechet.extrapolated(x, y, num_sizes=3, seed=1)
    assert other.distances[0] != found.distances[0] and other.distances[-1] == found.distances[-1]


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(num_sizes=1), "num_sizes=1: expected a whole number >= 2"),
        (dict(least=1), "least=1: expected at least 2 and fewer than the 8"),
        (dict(least=8), "least=8: expected at least 2"),
        (dict(y=np.ones((4, 3))), "least=6: expected at least 2 and fewer than the 4 samples"),
        (dict(y=np.ones(4)), r"features have shape \(4,\): expected \[M, F\]"),
    ],
)
def test_bad_extrapolations(options, words):
    y = options.pop("y", np.random.default_rng(0).normal(size=(8, 3)))
    with pytest.raises(ValueError, match=words):
        frechet.extrapolated(np.ones((9, 3)), y, **options)
