"""DDPM's tables: printed constants, the continuous limit, and the process through a table."""

import jax
import numpy as np
import pytest

from research.diffusion import discrete, processes


def test_thousand_linear_betas():
    table = discrete.linear_betas()
    np.testing.assert_allclose(table.betas[[0, -1]], [1e-4, 0.02], rtol=1e-12)
    np.testing.assert_allclose(table.alpha_bar[-1], 4.0358298e-5, rtol=1e-7)
    np.testing.assert_allclose(-10.05 - table.log_alpha_bar[-1], 0.067714, atol=1e-5)
    np.testing.assert_allclose(0.5 * np.sum(table.betas**2), 0.067035, atol=1e-5)


def test_discrete_path_tends_to_the_continuous_at_first_order(x64):
    sizes = [250, 500, 1000, 2000, 4000]
    gaps, alpha = [], jax.jit(processes.vp().alpha)
    for size in sizes:
        times = np.arange(1, sizes[-1] + 1) / size  # of one length: one program
        continuous = np.asarray(alpha(times))[:size] ** 2
        gaps.append(np.max(np.abs(discrete.linear_betas(size).alpha_bar - continuous)))
    slopes = np.log2(np.array(gaps[:-1]) / gaps[1:])
    np.testing.assert_allclose(slopes, 1.0, atol=0.15)


def test_exact_betas_meet_the_process(x64):
    process = processes.cosine()
    table = discrete.exact_betas(process, 50)
    times = process.t_max * np.arange(1, 51) / 50
    np.testing.assert_allclose(table.alpha_bar, process.alpha(times) ** 2, rtol=1e-9)


def test_posterior_variance(x64):
    """Bayes' rule for three Gaussians: precision of x_{i-1} from x_0 and from x_i."""
    table = discrete.linear_betas(20, 0.1, 5.0)
    before = np.append(0.0, 1 - table.alpha_bar[:-1])[1:]
    precision = 1 / before + (1 - table.betas[1:]) / table.betas[1:]
    np.testing.assert_allclose(table.posterior_variance[1:], 1 / precision, rtol=1e-10)
    assert table.posterior_variance[0] == 0


def test_process_through_a_table(x64):
    table = discrete.linear_betas(100, 0.1, 10.0)
    process = discrete.from_betas(table)
    times = np.arange(1, 101) / 100
    t = np.linspace(0.0123, 0.98765, 40)

    @jax.jit
    def all_of(times, t):
        squares = process.alpha(times) ** 2, process.sigma(times) ** 2
        rates = process.drift_rate(t), process.alpha_prime(t) / process.alpha(t)
        return squares, process.inverse_log_snr(process.log_snr(t)), rates

    (signal, noise), back, rates = jax.tree.map(np.asarray, all_of(times, t))
    np.testing.assert_allclose(signal, table.alpha_bar, rtol=1e-12)
    np.testing.assert_allclose(signal + noise, 1, rtol=1e-12)
    np.testing.assert_allclose(back, t, rtol=1e-12)
    np.testing.assert_allclose(*rates, rtol=1e-10)


def test_the_ends_of_the_betas_are_those_of_the_process():
    table = discrete.linear_betas(20, beta_min=2.0, beta_max=5.0)
    np.testing.assert_allclose(table.betas[[0, -1]], [0.1, 0.25], rtol=1e-14)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: discrete.linear_betas(10), r"in \(0, 1\)"),
        (lambda: discrete.linear_betas(10, np.nan), r"in \(0, 1\)"),
        (lambda: discrete.linear_betas(0), "num_steps=0"),
        (lambda: discrete.exact_betas(processes.vp(), 10.0), "num_steps=10.0"),
        (lambda: discrete.exact_betas(processes.edm(), 10), r"alpha\^2"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "betas, message",
    [
        ([0.1, 1.0], "betas from 0.1 to 1.0"),  # zero terminal SNR
        ([0.0, 0.5], "betas from 0.0 to 0.5"),
        ([0.1, np.nan], "betas from nan to nan"),
        ([], "betas of shape"),
        ([[0.1]], "betas of shape"),
    ],
)
def test_tables_without_a_score_are_refused(betas, message):
    with pytest.raises(ValueError, match=message):
        discrete.Betas(betas)
    assert discrete.Betas([0.25, 0.5]).alpha_bar.tolist() == [0.75, 0.375]
