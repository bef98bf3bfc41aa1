"""The study of collapse: its data, its loss, and paths beside the equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.self_supervised import _linear, collapse
from research.self_supervised import linear_byol


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_views_have_the_variances_of_their_case():
    case = collapse.CASES["one strong feature"]
    x1, x2 = _linear.views(case, 200_000, 3)
    np.testing.assert_allclose(x1.var(0), [4.5, 0.8, 0.8], rtol=0.02)  # 5 standard errors
    np.testing.assert_allclose((x1 * x2).mean(0), [4.0, 0.3, 0.3], rtol=0.02)
    plain = _linear.views(collapse.CASES["BYOL"], 200_000, 3)[0]
    np.testing.assert_allclose(plain.var(0), [1.5, 1.5, 1.5], rtol=0.02)


@pytest.mark.parametrize("name", collapse.CASES)
def test_the_loss_is_that_of_the_equation(name):
    case = collapse.CASES[name]
    x1, x2 = _linear.views(case, 5, 2)
    law = linear_byol.Law(*linear_byol.moments(x1, x2), case.predictor, case.stop_gradient)
    start = _linear.weights(jax.random.key(0), 2, case.predictor)
    params = _linear.trained(start, case)
    assert set(params) == ({"encoder", "predictor"} if case.predictor else {"encoder"})
    batch = {"x1": x1, "x2": x2}
    (value, aux), slope = jax.value_and_grad(_linear.loss(case), has_aux=True)(
        params, {}, jax.random.key(0), batch
    )
    np.testing.assert_allclose(value, linear_byol.loss(law, start), rtol=1e-10)
    assert aux.weight == 5
    field = linear_byol.field(law, start)
    for part in params:
        np.testing.assert_allclose(-slope[part], getattr(field, part), rtol=1e-9, atol=1e-12)


def test_a_start_is_symmetric_near_half_the_identity_or_the_identity():
    start = _linear.weights(jax.random.key(1), 3, True)
    np.testing.assert_array_equal(start.predictor, start.predictor.T)
    assert 0 < abs(start.predictor - jnp.eye(3) / 2).max() < 0.5
    np.testing.assert_array_equal(_linear.weights(jax.random.key(1), 3, False).predictor, np.eye(3))
    np.testing.assert_allclose(_linear.lengths(np.ones((2, 5, 3, 3))), np.full((2, 5), 3.0))


def test_paths_follow_the_equation_at_the_rate_of_euler():
    """Half the rate, half the distance; records at the same times."""
    off = {}
    for rate in (0.02, 0.01):
        config = collapse.Config(
            num_examples=8, dim=2, num_seeds=2, learning_rate=rate, time=2.0, num_records=4
        )
        trained, exact, verdicts = collapse._paths(collapse.CASES["light decay"], config)
        assert trained.shape == exact.shape == (2, 4, 2, 2)
        assert len(verdicts) == 2
        off[rate] = abs(trained - exact).max()
    np.testing.assert_allclose(off[0.02] / off[0.01], 2, rtol=0.1)
    assert off[0.01] < 0.01
