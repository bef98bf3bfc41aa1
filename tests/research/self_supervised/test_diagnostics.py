import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from research.self_supervised import diagnostics


def _sphere(num, dim, seed=0):
    z = np.random.default_rng(seed).normal(size=(num, dim))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_alignment_is_the_mean_squared_distance_of_directions():
    z1, z2 = np.asarray([[3.0, 0.0], [0.0, 2.0]]), np.asarray([[0.0, 1.0], [0.0, 5.0]])
    np.testing.assert_allclose(diagnostics.alignment(z1, z2), (2 + 0) / 2, rtol=1e-12)


def test_uniformity_leaves_out_pairs_of_an_example_with_itself():
    z = _sphere(7, 3)
    pairs = [np.exp(-2 * np.sum((a - b) ** 2)) for i, a in enumerate(z) for b in np.delete(z, i, 0)]
    np.testing.assert_allclose(diagnostics.uniformity(3 * z), np.log(np.mean(pairs)), rtol=1e-12)
    sharper = np.log(np.mean(np.asarray(pairs) ** 1.5))
    np.testing.assert_allclose(diagnostics.uniformity(z, t=3.0), sharper, rtol=1e-12)
    np.testing.assert_allclose(diagnostics.uniformity(np.ones((5, 2))), 0, atol=1e-12)


@pytest.mark.parametrize(("dim", "t"), [(2, 2.0), (3, 2.0), (8, 0.5)])
def test_uniformity_of_many_uniform_points_is_its_closed_form(dim, t):
    """Within 5 standard errors of a mean over pairs, taken from 20 parts of the points."""
    limit = -2 * t + np.log(special.hyp0f1(dim / 2, t**2))
    parts = [np.exp(diagnostics.uniformity(_sphere(400, dim, seed), t)) for seed in range(20)]
    error = np.std(parts, ddof=1) / np.sqrt(20)
    assert abs(np.mean(parts) - np.exp(limit)) < 5 * error
    assert error < 0.02 * np.exp(limit)


def test_uniformity_on_the_circle_is_exact_by_equal_spacing():
    """Equally spaced points on a circle: the mean over all pairs is the integral."""
    angles = 2 * np.pi * np.arange(64) / 64
    z = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    all_pairs = (np.exp(diagnostics.uniformity(z)) * 63 + 1) / 64
    np.testing.assert_allclose(np.log(all_pairs), -1.5750272045, atol=1e-9)


def test_effective_rank_is_the_exponential_of_an_entropy():
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 16)))[0]
    np.testing.assert_allclose(diagnostics.effective_rank(q), 16, rtol=1e-10)
    p = np.asarray([0.5, 0.3, 0.2])
    z = q[:, :3] * (7 * p)
    want = np.exp(-np.sum(p * np.log(p)))
    np.testing.assert_allclose(diagnostics.effective_rank(z), want, rtol=1e-10)
    assert diagnostics.effective_rank(np.zeros((4, 3))) == 1


def test_a_report_of_healthy_embeddings():
    rng = np.random.default_rng(0)
    z1 = rng.normal(size=(64, 8)) * np.arange(1, 9)
    z2 = z1 + 0.1 * rng.normal(size=(64, 8))
    found, both = diagnostics.report(z1, z2), np.concatenate([z1, z2])
    assert found.collapsed == "none"
    np.testing.assert_allclose(found.alignment, diagnostics.alignment(z1, z2))
    np.testing.assert_allclose(found.uniformity, diagnostics.uniformity(both))
    np.testing.assert_allclose(found.effective_rank, diagnostics.effective_rank(both))
    np.testing.assert_allclose(found.spread, both.std(0))
    singular = np.linalg.svd(both - both.mean(0), compute_uv=False)
    np.testing.assert_allclose(found.spectrum, singular / singular.sum(), rtol=1e-10)


def test_verdicts():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(64, 20))
    near = lambda x: diagnostics.report(x, x + 1e-3 * np.abs(x).max() * rng.normal(size=x.shape))
    assert near(z).collapsed == "none"
    assert near(np.ones((64, 20))).collapsed == "complete"
    assert near(1 + 0.02 * z).collapsed == "none"  # a deviation of 2 %
    assert near(1 + 0.003 * z).collapsed == "complete"  # of 0.3 %
    line = np.outer(rng.normal(size=64), rng.normal(size=20))
    assert near(line).collapsed == "dimensional"
    assert near(1e-6 * z).collapsed == "none"
    assert diagnostics.report(1e-6 * z, 1e-6 * z, reference=1.0).collapsed == "complete"
    flat = np.concatenate([z[:, :4], np.zeros((64, 16))], axis=1)  # four of twenty directions
    assert diagnostics.report(flat, flat).collapsed == "none"
    assert diagnostics.report(flat, flat, least_rank=0.3).collapsed == "dimensional"
    two = np.concatenate([z[:, :2], np.zeros((64, 2))], axis=1)
    assert diagnostics.report(two, two).collapsed == "none"  # two of four are more than 1.5
    one = rng.normal(size=(64, 1))
    assert diagnostics.report(one, one).collapsed == "none"  # there is no second direction
    assert diagnostics.report(0 * z, 0 * z).collapsed == "complete"


def test_a_teacher_that_is_uniform_sharp_or_taken_by_one_prototype():
    rng = np.random.default_rng(0)
    uniform = np.full((6, 5), 0.2)
    sharp = np.eye(5)
    one = np.tile(np.eye(5)[2], (6, 1))
    mixed = rng.dirichlet(np.ones(5), size=6)
    found = [diagnostics.teacher(p) for p in (uniform, sharp, one, mixed)]
    np.testing.assert_allclose(
        [found[0].entropy, found[0].concentration], [np.log(5), 0], atol=1e-6
    )
    np.testing.assert_allclose([found[1].entropy, found[1].concentration], [0, 0], atol=1e-6)
    np.testing.assert_allclose(
        [found[2].entropy, found[2].concentration], [0, np.log(5)], rtol=1e-6
    )
    mean = mixed.mean(0)
    np.testing.assert_allclose(found[3].entropy, -np.sum(mixed * np.log(mixed)) / 6, rtol=1e-6)
    np.testing.assert_allclose(found[3].concentration, np.sum(mean * np.log(5 * mean)), rtol=1e-5)


def test_cka_is_the_centred_alignment_of_gram_matrices():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)) + 3, rng.normal(size=(30, 6))
    centre = np.eye(30) - 1 / 30
    a, b = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    want = np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))
    np.testing.assert_allclose(diagnostics.cka(x, y), want, rtol=1e-10)
    turned = 5 * x @ np.linalg.qr(rng.normal(size=(4, 4)))[0] + 1
    np.testing.assert_allclose(diagnostics.cka(x, turned), 1, rtol=1e-10)


def test_directions_count_however_short_or_long():
    z = np.random.default_rng(6).normal(size=(2, 5, 3))
    want = diagnostics.report(*z)
    for scale in (1e-20, 1e20):
        got = diagnostics.report(*(scale * z))
        np.testing.assert_allclose(got.alignment, want.alignment, rtol=1e-12)
        np.testing.assert_allclose(got.uniformity, want.uniformity, rtol=1e-12)
        single = jnp.asarray(scale * z, jnp.float32)
        np.testing.assert_allclose(diagnostics.alignment(*single), want.alignment, rtol=1e-5)
    assert diagnostics.report(0 * z[0], 0 * z[0]).collapsed == "complete"


def test_cka_of_features_that_are_all_the_same_is_0():
    assert diagnostics.cka(_Z, np.eye(4)) == 0
    assert diagnostics.cka(jnp.ones((4, 3)), jnp.eye(4)) == 0


_Z = np.ones((4, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diagnostics.report(_Z, _Z[:3]), r"z1 \[4, 3\], z2 \[3, 3\]: expected two of"),
        (lambda: diagnostics.report(_Z[:1], _Z[:1]), r"z1 \[1, 3\], z2 \[1, 3\]"),
        (lambda: diagnostics.report(_Z[0], _Z[0]), r"z1 \[3\]"),
        (lambda: diagnostics.report(_Z, np.nan * _Z), "z1, z2 hold values that are not finite"),
        (lambda: diagnostics.report(_Z, _Z, least_rank=2.0), "least_rank=2.0: expected a number"),
        (lambda: diagnostics.report(_Z, _Z, reference=-1.0), "reference=-1.0: expected a positive"),
        (lambda: diagnostics.alignment(_Z, _Z[:1]), r"z2 has shape \(1, 3\): expected that of z1"),
        (lambda: diagnostics.uniformity(_Z[:1]), r"z \[1, 3\]: expected at least two examples"),
        (
            lambda: diagnostics.cka(_Z, _Z[:3]),
            r"x \[4, 3\], y \[3, 3\]: expected \[N, D\], \[N, E\]",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
