"""The wrong factor of the score by which samplers are told apart."""

import numpy as np
import pytest

from experiments.score_sde.predictor_corrector import recursion
from research.diffusion import processes


@pytest.mark.parametrize("data_std", [1.0, 0.4])
def test_the_factor_is_a_bump_of_the_noise_in_units_of_the_data(data_std):
    """ln(sigma / (alpha std)): 1 + delta at the centre, 1 + delta exp(-1/2) a width beside it."""
    process = processes.ve(sigma_min=1e-3, sigma_max=50.0)
    setting = recursion.Setting(process, data_std, 1e-3, 0.1)
    levels = recursion.BUMP_CENTRE + recursion.BUMP_WIDTH * np.array([0.0, 1.0, -1.0, 2.0])
    sigma = data_std * np.exp(levels)
    t = np.log(sigma / 1e-3) / np.log(50.0 / 1e-3)  # sigma = sigma_min (sigma_max / sigma_min)^t
    found = recursion._factor(setting, t.astype(np.float32), 0.1)[:, 0]
    expected = 1 + 0.1 * np.exp([0.0, -0.5, -0.5, -2.0])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
