"""The residual of exact scores is zero, and that of anything else is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import fokker_planck, oracles, processes
from tests.research.diffusion import noisings

MEANS = np.array([[1.0, 0.0], [-1.0, 0.5]])
COVARIANCES = np.array([[[0.5, 0.3], [0.3, 0.4]], [[0.1, 0.0], [0.0, 0.1]]])


@pytest.mark.parametrize("process", noisings.ALL, ids=lambda process: process.name)
def test_exact_mixtures_have_no_residual(process, x64):
    score = oracles.mixture(process, [0.3, 0.7], MEANS, COVARIANCES)
    x = np.random.default_rng(0).normal(size=(6, 2))

    @jax.jit
    def both(x, mistake):
        t = process.inverse_log_snr(jnp.linspace(3.0, -3.0, 6))
        wrong = lambda x, t: (1 + mistake) * score(x, t)
        return fokker_planck.residual(wrong, process, x, t), score(x, t)

    exact, value = map(np.asarray, both(x, 0.0))
    assert np.abs(exact).max() < 1e-10 * max(1, np.abs(value).max())
    assert np.abs(np.asarray(both(x, 1e-3)[0])).max() > 1e-4


def test_times_belong_to_points():
    with pytest.raises(ValueError, match=r"t has shape \(3,\)"):
        fokker_planck.residual(lambda x, t: x, processes.vp(), jnp.ones((2, 2)), jnp.ones(3))
