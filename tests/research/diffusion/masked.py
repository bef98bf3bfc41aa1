"""What every loss owes its mask: the mean over the examples by their weights."""

import jax
import numpy as np

MASKS = np.array([[1.0, 0.0, 0.5], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def assert_weighted_mean(loss_fn, params, shape):
    """With the mask [1, 0, 0.5] it is (l_1 + 0.5 l_3) / 1.5, l_i by one-hot masks, weight 1.5."""
    image = np.random.default_rng(2).normal(size=(3, *shape))
    keys = jax.random.split(jax.random.key(5), 3)
    run = jax.jit(lambda mask: loss_fn(params, {}, keys, {"image": image, "mask": mask}))
    (whole, aux), *each = map(run, MASKS)
    losses = [loss for loss, _ in each]
    assert len(set(map(float, losses))) == 3
    np.testing.assert_allclose(whole, (losses[0] + 0.5 * losses[2]) / 1.5, rtol=1e-12)
    np.testing.assert_allclose(aux.weight, 1.5, rtol=1e-12)
    for name, value in aux.metrics.items():
        parts = [one.metrics[name] for _, one in each]
        np.testing.assert_allclose(value, (parts[0] + 0.5 * parts[2]) / 1.5, rtol=1e-12)
