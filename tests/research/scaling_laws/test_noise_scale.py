"""The noise scale on a quadratic whose gradient and covariance are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.scaling_laws import noise_scale

CURVATURE, THETA = np.array([1.0, 2.0, 0.5]), np.array([0.3, -0.2, 1.0])
ROOT = np.array([[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [-0.3, 0.2, 0.4]])  # Sigma = root root^T
SIGNAL = float(np.sum((CURVATURE * THETA) ** 2))
NOISE = float(np.sum(ROOT**2))  # tr Sigma


def loss(theta, x):
    """Mean over examples of a quadratic with a random slope: gradient H theta + x_i."""
    return (0.5 * jnp.sum(CURVATURE * theta**2) + x @ theta).mean()


@pytest.fixture(scope="module")
def norms():
    """Squared norms over 400 draws of 16 examples: of examples, pieces of four, whole batches."""
    with jax.enable_x64(True):
        draws = np.random.default_rng(0).normal(size=(400, 16, 3)) @ ROOT.T
        found = {
            small: jax.jit(
                lambda draws, small=small: jax.lax.map(
                    lambda x: noise_scale.squared_norms(loss, jnp.asarray(THETA), x, small), draws
                )
            )(draws)
            for small in (1, 4)
        }
    return draws, jax.device_get(found)


def test_norms_are_those_of_the_gradients_by_hand(norms):
    draws, found = norms
    grads = CURVATURE * THETA + draws  # [400, 16, 3]
    pieces = grads.reshape(400, 4, 4, 3).mean(2)
    np.testing.assert_allclose(found[1][0], (grads**2).sum(-1).mean(1), rtol=1e-12)
    np.testing.assert_allclose(found[4][0], (pieces**2).sum(-1).mean(1), rtol=1e-12)
    np.testing.assert_allclose(found[4][1], (grads.mean(1) ** 2).sum(-1), rtol=1e-12)


@pytest.mark.parametrize("small", [1, 4])
def test_both_estimators_are_unbiased(norms, small):
    """Within 4 standard errors of the known values: a false alarm in 16,000 each."""
    few, many = norms[1][small]
    found = noise_scale.from_two_batches(few, many, small, 16)
    singles = [noise_scale.from_two_batches([a], [b], small, 16) for a, b in zip(few, many)]
    for name, true in (("noise", NOISE), ("signal", SIGNAL)):
        values = np.array([getattr(single, name) for single in singles])
        assert getattr(found, name) == pytest.approx(values.mean())
        assert abs(values.mean() - true) < 4 * values.std() / 20, name
    assert abs(found.examples - NOISE / SIGNAL) < 4 * found.standard_error
    assert found.standard_error < 0.1 * found.examples


def test_one_batch_gives_the_sample_variance(norms):
    """from_examples: the trace of NumPy's unbiased covariance, exactly."""
    draws, found = norms
    few, many = found[1]
    one = noise_scale.from_examples(few[:1], many[:1], 16)
    assert one.noise == pytest.approx(draws[0].var(0, ddof=1).sum(), rel=1e-10)
    assert np.isnan(one.standard_error)


def test_the_error_is_that_of_repetitions(norms):
    """The delta method against the spread of estimates from 20 draws each."""
    few, many = (values.reshape(20, 20) for values in norms[1][4])
    each = [noise_scale.from_two_batches(a, b, 4, 16) for a, b in zip(few, many)]
    spread = np.std([e.examples for e in each], ddof=1)
    mean_error = np.mean([e.standard_error for e in each])
    assert mean_error == pytest.approx(spread, rel=0.5)  # a spread of 20 values: 16 % (1 s.e.)


def test_a_drowned_signal_is_an_infinite_scale():
    found = noise_scale.from_two_batches([2.0], [0.1], 1, 10)
    assert found.signal < 0 and found.examples == np.inf


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="batches 4 and 4: expected 1 <= small < large"):
        noise_scale.from_two_batches([1.0], [1.0], 4, 4)
    with pytest.raises(ValueError, match="expected two of one"):
        noise_scale.from_two_batches([1.0, 2.0], [1.0], 1, 4)
    with pytest.raises(ValueError, match="small_batch=3: expected a proper divisor of the 16"):
        noise_scale.squared_norms(loss, jnp.zeros(3), jnp.zeros((16, 3)), 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([np.nan], [2.0], 1, 4), "norms are squares: expected finite numbers >= 0"),
        (([3.0], [-2.0], 1, 4), "norms are squares"),
        (([3.0], [2.0], 1.5, 4), "small_batch=1.5: expected a positive whole number"),
        (([3.0], [2.0], 4, 4), "batches 4 and 4"),
    ],
)
def test_norms_and_sizes_that_give_no_scale(arguments, message):
    with pytest.raises(ValueError, match=message):
        noise_scale.from_two_batches(*arguments)
