"""Solvable models: sums against direct simulation or integrals, exponents against theory."""

import numpy as np
import pytest

from research.scaling_laws import frontiers, solvable


def slope(x, y):
    return -frontiers.power_law(x, y).exponent


@pytest.mark.parametrize("a", [0.5, 1.0])
def test_zipf_exponents_are_those_of_theory(a):
    p = solvable.zipf(a, 300_000)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    tokens, sizes = np.geomspace(1e2, 1e4, 5), np.geomspace(30, 1000, 5).round()
    by_tokens = slope(tokens, solvable.memorisation_by_tokens(p, tokens))
    assert by_tokens == pytest.approx(a / (1 + a), abs=0.01)
    assert slope(sizes, solvable.memorisation_by_size(p, sizes)) == pytest.approx(a, abs=0.03)


def test_memorisation_is_what_a_simulation_does():
    p, rng = solvable.zipf(0.7, 50), np.random.default_rng(0)
    errors = []
    for _ in range(4000):
        seen = np.zeros(50, bool)
        seen[rng.choice(50, size=20, p=p)] = True
        errors.append(p[~seen].sum())
    expected = solvable.memorisation_by_tokens(p, np.array([20]))[0]
    # A standard error of 0.0015 relative; five of them.
    assert np.mean(errors) == pytest.approx(expected, abs=5 * np.std(errors) / 4000**0.5)


def test_quanta_have_their_compute_exponents():
    p = solvable.zipf(0.4, 300_000)
    flops = np.geomspace(1e4, 1e7, 5)
    sizes, losses = solvable.quanta_frontier(p, flops)
    assert -slope(flops, sizes) == pytest.approx(1 / 2.4, abs=0.02)
    assert slope(flops, losses) == pytest.approx(0.4 / 2.4, abs=0.02)


def test_the_optimal_size_is_the_best_whole_number():
    """At C = 1e7 to 3e7 the vertex lies within half a per cent of the best of all sizes."""
    p = solvable.zipf(0.4, 300_000)
    for flops in (1e7, 2e7, 3e7):
        guess = solvable.quanta_frontier(p, np.array([flops]))[0][0]
        sizes = np.arange(int(0.9 * guess), int(1.1 * guess))
        losses = [solvable.quanta(p, size, flops / size) for size in sizes]
        assert guess == pytest.approx(sizes[np.argmin(losses)], rel=5e-3)


@pytest.mark.parametrize("b, t", [(1.5, 1.5), (2.0, 1.8), (1.5, 3.0)])
def test_kernel_exponents_are_min_of_two(b, t):
    samples = np.geomspace(30, 1000, 5)
    found = slope(samples, solvable.kernel_regression(b, t, samples, 100_000))
    assert found == pytest.approx(min(t - 1, 2 * b), abs=0.03)


def test_kernel_theory_is_what_regression_does():
    """Gaussian features of 400 modes: the mean-field error against the mean of exact solves."""
    b, t, count, modes = 1.5, 2.0, 30, 400
    rng, k = np.random.default_rng(0), np.arange(1, 401.0)
    roots, weights = k ** (-b / 2), k ** ((b - t) / 2)
    errors = []
    for _ in range(200):
        z = rng.normal(size=(count, modes))
        f = z * roots
        signs = rng.choice([-1.0, 1.0], size=modes)
        fitted = f.T @ np.linalg.solve(f @ f.T, f @ (weights * signs))
        errors.append(np.sum(k**-b * (weights * signs - fitted) ** 2))
    expected = solvable.kernel_regression(b, t, np.array([count]), modes)[0]
    assert np.mean(errors) == pytest.approx(expected, rel=0.1)  # mean-field, O(1 / D)


def test_gradient_flow_exponents():
    times, flops = np.geomspace(1e2, 1e4, 5), np.geomspace(1e4, 1e6, 4)
    losses = solvable.gradient_flow(1.5, 1.5, times, num_modes=100_000)
    assert slope(times, losses) == pytest.approx(1 / 3, abs=0.005)
    sizes, best = solvable.gradient_flow_frontier(1.5, 1.5, flops, 20_000)
    assert slope(flops, best) == pytest.approx(0.2, abs=0.005)
    assert -slope(flops, sizes) == pytest.approx(0.4, abs=0.01)


def test_random_features_by_trace_are_what_test_points_measure():
    """The trace over targets and inputs against a Monte Carlo of both on the same draw."""
    ridge = np.array([1e-3])
    found, _ = solvable.random_features(1.0, 20, 30, np.random.default_rng(5), 60, ridge)
    rng = np.random.default_rng(5)
    spectrum = np.arange(1, 61.0) ** -2
    x = rng.standard_normal((20, 60)) * np.sqrt(spectrum)
    u = rng.standard_normal((60, 30)) / np.sqrt(60)
    f = x @ u
    strength = ridge[0] * np.linalg.norm(f, 2) ** 2
    solve = np.linalg.solve(f.T @ f + strength * np.eye(30), f.T @ x)  # [N, M]
    test = rng.standard_normal((4000, 60)) * np.sqrt(spectrum)
    gap = test - test @ u @ solve  # [points, M]: error for each basis target
    assert found == pytest.approx(np.mean(np.sum(gap**2, 1)), rel=0.05)


def test_random_features_peak_where_features_meet_samples_without_ridge():
    rng = np.random.default_rng(0)

    def mean(features):
        return np.mean([solvable.random_features(1.0, 40, features, rng, 300)[1] for _ in range(8)])

    assert mean(40) > 3 * mean(10) and mean(40) > 3 * mean(250)
    best, plain = solvable.random_features(1.0, 40, 40, rng, 300)
    assert best < plain


def test_bad_laws_are_refused():
    for function in (solvable.memorisation_by_tokens, solvable.memorisation_by_size):
        with pytest.raises(AssertionError, match="rank"):
            function(np.ones((1, 2)) / 2, np.ones(1))
    with pytest.raises(ValueError, match="exponent=-1"):
        solvable.zipf(-1.0, 10)
