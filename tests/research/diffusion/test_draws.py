"""What a loss draws: keys of examples, stratified times, weighted means, masked images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import draws, processes, weightings

VP = processes.vp()


def test_weighted_means_by_value():
    losses, mask = jnp.array([3.0, 7.0, 100.0, 2.0]), jnp.array([0.5, 2.0, 0.0, 3.5])
    value, aux = jax.jit(draws.masked_mean)(losses, mask)
    np.testing.assert_allclose(value, (0.5 * 3 + 2 * 7 + 3.5 * 2) / 6, rtol=1e-6)
    assert aux.weight == 6
    plain, aux = draws.masked_mean(losses, None)
    assert plain == 28 and aux.weight == 4
    empty, aux = jax.jit(draws.masked_mean)(losses, jnp.zeros(4))
    assert empty == 0 and aux.weight == 0  # not nan
    with pytest.raises(AssertionError, match="shape"):  # would broadcast to [B, B]
        draws.masked_mean(losses, mask[:, None])


def test_keys_of_examples_do_not_depend_on_the_split():
    rng = jax.random.key(3)
    make = jax.jit(draws.example_keys, static_argnums=(1, 2))
    data = lambda rng, num: jax.random.key_data(make(rng, num, 3))  # [3, B, 2]
    whole = np.asarray(data(rng, 6))
    np.testing.assert_array_equal(data(rng, 4), whole[:, :4])
    keys = jax.random.split(rng, 6)  # keys given by example are split, wherever they stand
    given = np.asarray(data(keys, 6))
    order = np.array([4, 0, 5])
    np.testing.assert_array_equal(data(keys[order], 3), given[:, order])
    assert len(np.unique(whole.reshape(-1, 2), axis=0)) == 18


def test_stratified_times_fill_every_interval():
    keys = jax.random.split(jax.random.key(0), 64)
    u = draws._uniforms(keys, stratified=True)
    np.testing.assert_array_equal(jnp.floor(u * 64), jnp.arange(64))


def test_a_draw_is_the_noised_batch_in_float32_or_wider():
    """A network that returns its input sees alpha x_0 + sigma eps, in the dtype of the batch."""
    image = np.arange(24.0).reshape(4, 3, 2)
    labels, mask = np.arange(4), np.array([1.0, 0.0, 0.5, 1.0])
    seen = []

    def network(params, x, t, labels, rng):
        seen.append((x.dtype, labels.shape, rng.shape))
        return params * x

    @jax.jit
    def draw(rng):
        batch = {"image": image.astype(jnp.bfloat16), "label": labels, "mask": mask}
        drawn = draws.draw(VP, network, weightings.uniform_times, 2.0, rng, batch)
        x = draws.noised(VP, drawn)
        square = draws.mean_square(drawn.x_0)
        scales = VP.alpha(drawn.t), VP.sigma(drawn.t)
        return drawn.x_0, drawn.noise, x, drawn.predict(x, drawn.t), scales, square

    x_0, noise, x, value, scales, square = draw(jax.random.key(0))
    assert seen == [(jnp.bfloat16, (4,), (4,))]
    assert x_0.dtype == noise.dtype == value.dtype == jnp.float32
    clean = np.where(mask[:, None, None] > 0, image, 0)  # the masked example is silenced
    np.testing.assert_array_equal(x_0, clean)
    np.testing.assert_allclose(square, (clean**2).mean((1, 2)), rtol=1e-6)
    alpha, sigma = (np.asarray(scale)[:, None, None] for scale in scales)
    np.testing.assert_allclose(x, alpha * clean + sigma * noise, rtol=1e-5)
    np.testing.assert_allclose(value, 2 * x, rtol=2**-7)


def test_whole_numbers_are_refused():
    batch = {"image": jnp.zeros((2, 2), jnp.uint8)}
    with pytest.raises(ValueError, match="uint8"):
        draws.draw(VP, None, weightings.uniform_times, {}, jax.random.key(0), batch)
