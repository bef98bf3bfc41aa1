"""The whole batch from its parts on two devices: order, means, and gradients to each owner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.self_supervised import layout, losses
from tests.research.self_supervised import oracles

X = np.random.default_rng(0).normal(size=(2, 3, 4))  # [devices, b, D]


def mapped(function, x=X):
    return jax.device_get(jax.pmap(function, "i", devices=jax.devices()[:2])(x))


def test_rows_means_sizes_and_places(x64):
    rows, columns, mean, places = mapped(
        lambda x: (
            layout.gather(x, "i"),
            layout.gather(x, "i", axis=1),
            layout.mean(x, "i"),
            layout.places(len(x), "i") + 0 * layout.size(len(x), "i"),
        )
    )
    for device in (0, 1):
        np.testing.assert_array_equal(rows[device], X.reshape(6, 4))
        np.testing.assert_array_equal(columns[device], np.concatenate([X[0], X[1]], axis=1))
        np.testing.assert_allclose(mean[device], X.mean(0), rtol=1e-15)
    np.testing.assert_array_equal(places, [[0, 1, 2], [3, 4, 5]])


def test_without_an_axis_nothing_happens():
    x = jnp.asarray(X[0], jnp.float32)
    assert layout.gather(x, None) is x and layout.mean(x, None) is x
    assert layout.size(3, None) == 3
    np.testing.assert_array_equal(layout.places(3, None), [0, 1, 2])


BROKEN = {
    "without gradient": lambda x, axis_name, axis=0: jax.lax.stop_gradient(
        jax.lax.all_gather(x, axis_name, axis=axis, tiled=True)
    ),
    "of copies": lambda x, axis_name, axis=0: jnp.concatenate([x, x], axis=axis),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_gather_is_seen(x64, monkeypatch, how):
    """The comparison with one device, that all losses pass, fails with what others have shipped."""
    monkeypatch.setattr(layout, "gather", BROKEN[how])
    loss = lambda z: losses.nt_xent(*z, axis_name="i")  # noqa: E731
    split = np.stack(np.split(oracles.Z, 2, axis=1))
    value, grad = mapped(jax.value_and_grad(loss), split)
    found = value.mean(), [np.concatenate(list(part), 0) / 2 for part in grad.swapaxes(0, 1)]
    with pytest.raises(AssertionError):
        oracles.check("nt_xent", found)
