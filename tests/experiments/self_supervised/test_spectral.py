"""The study of losses on a graph: what it minimises, and how it measures what is spanned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.self_supervised import spectral
from research.self_supervised import graphs


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_an_array_is_found_where_a_quadratic_is_least():
    target = np.arange(6.0).reshape(3, 2)
    loss = lambda x: jnp.sum((x - target) ** 2) + 7
    found, value = spectral.minimise(loss, (3, 2), spectral.Config(num_steps=100))
    np.testing.assert_allclose(found, target, atol=1e-8)
    np.testing.assert_allclose(value, 7, rtol=1e-12)


def test_the_spectral_loss_of_a_small_graph_ends_in_its_eigenspace():
    config = spectral.Config(num_states=6, num_clusters=3, dims=(2,))
    graph = graphs.random(jax.random.key(0), 6, 3)
    loss, centred = spectral.losses(graph, 0.5)["spectral"]
    found = spectral._optimum(graph, loss, centred, 2, config)
    np.testing.assert_allclose(found.value, graphs.spectral_minimum(graph, 2), atol=1e-10)
    assert found.rank == 2
    assert found.angle < 1e-5


def test_the_angle_is_measured_against_the_right_eigenvectors():
    """Features that are eigenvectors: the constant one counts unless they are centred."""
    graph = graphs.random(jax.random.key(0), 6, 3)
    seen = np.asarray(graph.sum(1))
    vectors = graphs.eigen(graph)[1]
    for columns, centred, angle in (((0, 1), False, 0), ((1, 2), True, 0), ((1, 2), False, 1)):
        features = vectors[:, columns] / np.sqrt(seen)[:, None]
        loss = lambda f, features=features: jnp.sum((f - features) ** 2)
        found = spectral._optimum(graph, loss, centred, 2, spectral.Config())
        assert found.rank == 2
        np.testing.assert_allclose(found.angle, angle * np.pi / 2, atol=1e-6)


def test_losses_are_those_of_their_names():
    graph = graphs.random(jax.random.key(1), 5, 2)
    f = np.random.default_rng(0).normal(size=(5, 2))
    made = spectral.losses(graph, 0.3)
    z = f / np.linalg.norm(f, axis=1, keepdims=True)
    want = {
        "spectral": graphs.spectral(graph, f),
        "barlow 1": graphs.barlow_twins(graph, f, 1.0),
        "barlow 0.005": graphs.barlow_twins(graph, f, 0.005),
        "vicreg": graphs.vicreg(graph, f),
        "simclr": graphs.info_nce(graph, z @ z.T / 0.3),
    }
    assert list(made) == list(want)
    for name, (loss, centred) in made.items():
        np.testing.assert_allclose(loss(f), want[name], rtol=1e-12)
        assert centred == (name != "spectral")
