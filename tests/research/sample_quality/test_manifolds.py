"""Precision, density, coverage and copying: by loops, means under equal laws, and failures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.sample_quality import manifolds

RNG = np.random.default_rng(0)


def balls(x, k):
    apart = np.linalg.norm(x[:, None] - x[None], axis=-1)
    return np.sort(apart, 1)[:, k]  # the first is the point itself


def inside(points, centres, radii):
    """[points, centres] whether a point is in a ball."""
    return np.linalg.norm(points[:, None] - centres[None], axis=-1) <= radii[None]


@pytest.mark.parametrize("block", [512, 7])
def test_shares_by_loops(block, x64):
    real, fake = RNG.normal(size=(23, 2)), RNG.normal(0.7, 1.5, size=(31, 2))
    for given, k in [((), None), ((2,), 2)]:
        found = manifolds.density_coverage(real, fake, *given, block=block)
        hits = inside(fake, real, balls(real, k or 5))
        np.testing.assert_allclose(found.density, hits.sum() / ((k or 5) * 31), rtol=1e-12)
        np.testing.assert_allclose(found.coverage, hits.any(0).mean(), rtol=1e-12)
        found = manifolds.precision_recall(real, fake, *given, block=block)
        hits = inside(fake, real, balls(real, k or 3)).any(1).mean()
        np.testing.assert_allclose(found.precision, hits, rtol=1e-12)
        hits = inside(real, fake, balls(fake, k or 3)).any(1).mean()
        np.testing.assert_allclose(found.recall, hits, rtol=1e-12)


@pytest.mark.parametrize("num_real, num_fake, k", [(100, 100, 5), (60, 120, 3)])
def test_means_under_equal_laws(num_real, num_fake, k):
    """200 pairs of samples, within 4 standard errors of their mean: a false alarm in 16,000."""
    coverage = 1 - math.comb(num_real - 1, k) / math.comb(num_real + num_fake - 1, k)
    found = manifolds.coverage_of_equals(num_real, num_fake, *([] if k == 5 else [k]))
    assert found == pytest.approx(coverage, rel=1e-12)
    draw = lambda key, num: jax.random.normal(key, (200, num, 4))
    real, fake = draw(jax.random.key(0), num_real), draw(jax.random.key(1), num_fake)
    measure = lambda x, y: manifolds.density_coverage(x, y, k)
    found = jax.jit(lambda x, y: jax.lax.map(lambda xy: measure(*xy), (x, y)))(real, fake)
    for values, expected in [(found.density, 1.0), (found.coverage, coverage)]:
        values = np.asarray(values)
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(200)


def test_lost_modes_and_strays_are_told_apart():
    centres = np.array([[0.0, 0.0], [20.0, 0.0]])
    real = np.concatenate([c + RNG.normal(size=(200, 2)) for c in centres]).astype(np.float32)
    half = RNG.normal(size=(400, 2)).astype(np.float32)  # one of two modes
    found = manifolds.precision_recall(real, half)
    assert found.precision > 0.95 and 0.4 < found.recall < 0.55
    found = manifolds.density_coverage(real, half)
    assert found.density > 0.8 and 0.4 < found.coverage < 0.55
    strays = np.concatenate([real[::2] + 0.01, np.full((200, 2), 100, np.float32)])
    assert 0.45 < manifolds.precision_recall(real, strays).precision < 0.55
    assert 0.4 < manifolds.density_coverage(real, strays).density < 0.65


def test_an_outlier_does_not_hold_density_up():
    """Naeem et al., figure 3: one real point far out makes precision 1 for anything before it."""
    real = np.concatenate([RNG.normal(size=(300, 2)), [[100.0, 0.0]]])
    fake = np.array([60.0, 0.0]) + RNG.normal(size=(300, 2))
    assert manifolds.precision_recall(real, fake).precision == 1
    found = manifolds.density_coverage(real, fake)
    assert found.density < 0.25 and found.coverage < 0.01


def test_copies_are_told_from_fresh_samples():
    """Under equal laws the statistic has the spread of Mann and Whitney's; 4 of it allowed."""
    train, held_out, fresh = RNG.normal(size=(3, 400, 3))
    share = manifolds.copying(train, held_out, fresh)
    nearest = lambda x: np.linalg.norm(x[:, None] - train[None], axis=-1).min(1)
    unseen, made = nearest(held_out), nearest(fresh)
    expected = (made[None] < unseen[:, None]).mean()
    np.testing.assert_allclose(share, expected, rtol=1e-5)
    assert abs(share - 0.5) < 4 * np.sqrt(801 / (12 * 400 * 400))
    copied = train + 1e-3 * RNG.normal(size=train.shape)
    assert manifolds.copying(train, held_out, copied, block=64) > 0.95
    assert manifolds.copying(train, held_out, fresh + 5) < 0.05
    assert manifolds.copying(train, train, train) == 0.5  # ties


def test_far_clusters_keep_their_digits_and_nan_is_not_hidden():
    near = RNG.normal(size=(50, 2)).astype(np.float32)
    far = np.concatenate([near, near + 3e5]).astype(np.float32)
    exact = manifolds.density_coverage(np.float64(far), np.float64(far[::-1]))
    found = manifolds.density_coverage(far, far[::-1])
    np.testing.assert_allclose(found.density, exact.density, atol=2e-3)
    broken = near.copy()
    broken[3, 1] = np.nan
    for real, fake in [(broken, near), (near, broken)]:
        shares = (
            manifolds.density_coverage(real, fake), manifolds.precision_recall(real, fake),
            manifolds.copying(real, near, fake),
        )  # fmt: skip
        assert np.isnan(jax.tree.leaves(shares)).all()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: manifolds.density_coverage(x, x, k=4), "k=4: expected fewer neighbours than"),
        (lambda x: manifolds.density_coverage(x, x, k=0), "k=0: expected a positive"),
        (lambda x: manifolds.density_coverage(x, x, k=2, block=0), "block=0: expected a positive"),
        (lambda x: manifolds.density_coverage(x, x[:, :1], k=2), "expected points of one shape"),
        (lambda x: manifolds.precision_recall(x[:3], x), "k=3: expected fewer neighbours than the"),
        (lambda x: manifolds.precision_recall(x, x[:3]), "k=3: expected fewer neighbours than the"),
        (lambda x: manifolds.copying(x, x[:, :1], x), "expected points of one shape"),
        (lambda x: manifolds.copying(x, x, x, block=0), "block=0: expected a positive"),
        (lambda x: manifolds.coverage_of_equals(5, 5), "k=5: expected fewer neighbours than the 5"),
        (lambda x: manifolds.coverage_of_equals(6, 0), "points=0: expected a positive"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.ones((4, 2)))
