import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.self_supervised import linear_byol
from research.self_supervised.linear_byol import Law, Weights


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _law(**options) -> Law:
    rng = np.random.default_rng(0)
    x1 = rng.normal(size=(40, 4)) * np.asarray([2.0, 1.0, 1.0, 0.5])
    return Law(*linear_byol.moments(x1, x1 + 0.6 * rng.normal(size=(40, 4))), **options)


def _weights() -> Weights:
    rng = np.random.default_rng(1)
    return Weights(jnp.asarray(rng.normal(size=(3, 4))), jnp.asarray(rng.normal(size=(3, 3))))


def test_the_loss_is_that_of_the_examples_taken_both_ways():
    rng, weights = np.random.default_rng(0), _weights()
    x1, x2 = rng.normal(size=(2, 30, 4)) + 1
    w, p = (np.asarray(each) for each in (weights.encoder, weights.predictor))
    ways = [np.mean(np.sum((p @ w @ a.T - w @ b.T) ** 2, axis=0)) for a, b in ((x1, x2), (x2, x1))]
    law = Law(*linear_byol.moments(x1, x2))
    np.testing.assert_allclose(linear_byol.loss(law, weights), np.mean(ways) / 2, rtol=1e-12)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("predictor", [True, False])
def test_the_field_is_the_gradient_that_autodiff_finds(stop, predictor):
    law, weights = _law(stop_gradient=stop, predictor=predictor, decay=0.3), _weights()
    rng = np.random.default_rng(0)
    x1 = rng.normal(size=(40, 4)) * np.asarray([2.0, 1.0, 1.0, 0.5])
    x2 = x1 + 0.6 * rng.normal(size=(40, 4))

    def objective(weights):
        def one(a, b):
            target = b @ weights.encoder.T
            target = jax.lax.stop_gradient(target) if stop else target
            error = a @ weights.encoder.T @ weights.predictor.T - target
            return jnp.mean(jnp.sum(error**2, axis=1)) / 2

        return (one(x1, x2) + one(x2, x1)) / 2

    gradient, found = jax.grad(objective)(weights), linear_byol.field(law, weights)
    want = -gradient.encoder - 0.3 * weights.encoder
    np.testing.assert_allclose(found.encoder, want, rtol=1e-10, atol=1e-12)
    want = -gradient.predictor - 0.3 * weights.predictor if predictor else np.zeros((3, 3))
    np.testing.assert_allclose(found.predictor, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "w", "p", "tolerance"),
    [
        ({}, 0.53336, 0.66667, 2e-4),  # p to a / b, and p^2 - w^2 as at the start
        ({"decay": 0.05}, 0.61181, 0.61214, 1e-3),
        ({"stop_gradient": False}, 0.0, None, 1e-3),
        ({"predictor": False}, 0.0, 1.0, 1e-3),
    ],
)
def test_in_one_dimension_it_ends_where_it_should(options, w, p, tolerance):
    law = Law(np.asarray([[1.5]]), np.asarray([[1.0]]), **options)
    start = Weights(jnp.asarray([[0.3]]), jnp.asarray([[1.0 if p == 1.0 else 0.5]]))
    path = linear_byol.flow(law, start, 60.0, 1200)
    assert path.encoder.shape == (1200, 1, 1)
    np.testing.assert_allclose(path.encoder[-1, 0, 0], w, atol=tolerance)
    if p is not None:
        np.testing.assert_allclose(path.predictor[-1, 0, 0], p, atol=tolerance)


def test_without_decay_the_flow_conserves_the_difference_of_the_squares():
    path = linear_byol.flow(_law(), _weights(), 2.0, 400)
    both = np.asarray(path.encoder @ path.encoder.mT - path.predictor.mT @ path.predictor)
    start = _weights()
    kept = start.encoder @ start.encoder.T - start.predictor.T @ start.predictor
    np.testing.assert_allclose(both, np.broadcast_to(kept, both.shape), atol=1e-6)


def test_the_flow_is_of_fourth_order():
    ends = [
        np.asarray(linear_byol.flow(_law(), _weights(), 1.0, n).encoder[-1])
        for n in (40, 80, 160, 320, 5120)
    ]
    errors = [abs(end - ends[-1]).max() for end in ends[:-1]]
    orders = np.log2(np.asarray(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 4, atol=0.3)


def test_decay_aligns_the_predictor_with_the_features():
    law, start = Law(1.5 * np.eye(4), np.eye(4), decay=0.1), _weights()
    start = start.replace(predictor=start.predictor @ start.predictor.T)
    matrices = np.asarray(start.encoder @ law.moment @ start.encoder.T), np.asarray(start.predictor)
    f, p = matrices
    want = np.linalg.norm(f @ p - p @ f) / (2 * np.linalg.norm(f) * np.linalg.norm(p))
    np.testing.assert_allclose(linear_byol.misalignment(law, start), want, rtol=1e-12)
    end = jax.tree.map(lambda x: x[-1], linear_byol.flow(law, start, 100.0, 4000))
    assert linear_byol.misalignment(law, end) < 1e-6 < 0.05 < want


_I = np.eye(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Law(np.ones((2, 3)), _I), r"moment \[2, 3\]: expected \[D, D\]"),
        (lambda: Law(_I, np.asarray([[0.0, 1.0], [2.0, 0.0]])), "between: expected a symmetric"),
        (lambda: Law(_I, np.eye(3)), r"moment \[2, 2\], between \[3, 3\]: expected two of one"),
        (lambda: Law(_I, _I, decay=-1.0), "decay=-1.0: expected a number >= 0"),
        (lambda: linear_byol.flow(Law(_I, _I), _weights(), 0.0, 5), "time=0.0: expected a pos"),
        (lambda: linear_byol.flow(Law(_I, _I), _weights(), 1.0, 0), "num_steps=0: expected a pos"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
