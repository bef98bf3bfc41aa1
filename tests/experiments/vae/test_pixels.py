"""Binarised images, log-likelihoods by few and many draws, histograms of pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.vae import _pixels

RNG = np.random.default_rng(0)
KEY = jax.random.key(5)


def logmeanexp(x):
    top = x.max(0)
    return top + np.log(np.exp(x - top).mean(0))


def test_a_pixel_is_one_with_the_probability_of_its_grey_value():
    """Within 4.5 standard errors of 20 x 5,000 draws; each image by its own key."""
    images = np.zeros((20, 50, 100, 1), np.uint8) + np.uint8(51)
    images[:, 0], images[:, 1] = 0, 255
    bits = np.asarray(_pixels.binarised(KEY, images))
    assert bits.dtype == bool and bits.shape == images.shape
    assert not bits[:, 0].any() and bits[:, 1].all()
    grey = bits[:, 2:]
    assert grey.mean() == pytest.approx(0.2, abs=4.5 * (0.16 / grey.size) ** 0.5)
    assert (grey[0] != grey[1]).any()
    again = _pixels.binarised(KEY, images[:3])  # keys of other numbers of images are others
    alone = _pixels.binarise(jax.random.split(KEY, 3)[1:2], jnp.asarray(images[1:2]))
    np.testing.assert_array_equal(again[1:2], alone)


def drawn(x, key, num):
    """Normal log weights, so that no two of them are alike, plus x."""
    return x[None] + jax.random.normal(key, (num, len(x)))


def by_hand(x, key, num, chunk, batch_size=3):
    """The bound of `num` draws of all images, in batches of 3 and chunks, in float64."""
    parts = []
    for start in range(0, len(x), batch_size):
        batch, rng = x[start : start + batch_size], jax.random.fold_in(key, start)
        sizes = [chunk] * (num // chunk) + [num % chunk] * (num % chunk > 0)
        weights = [drawn(batch, jax.random.fold_in(rng, i), n) for i, n in enumerate(sizes)]
        parts.append(logmeanexp(np.concatenate(weights).astype(float)))
    return np.concatenate(parts)


@pytest.mark.parametrize("num_fine", [4, 7])
def test_what_many_draws_add_is_measured_on_some_images(num_fine):
    x = jnp.asarray(RNG.normal(size=7).astype(np.float32)) * 10
    found = _pixels.log_likelihood(
        drawn, x, num_fine=num_fine, coarse_draws=4, fine_draws=5, rng=KEY, batch_size=3, chunk=4
    )
    rngs = jax.random.split(KEY, 3)
    one, coarse = by_hand(x, rngs[0], 1, 1), by_hand(x, rngs[1], 4, 4)
    added = by_hand(x[:num_fine], rngs[2], 5, 4) - coarse[:num_fine]
    error = np.std(added, ddof=1) * np.sqrt((1 - num_fine / 7) / num_fine)
    assert found.bound == pytest.approx(one.mean(), rel=1e-5)
    assert found.value == pytest.approx(coarse.mean() + added.mean(), rel=1e-5)
    assert found.standard_error == pytest.approx(error, rel=1e-5, abs=1e-12)
    assert (found.standard_error == 0) == (num_fine == 7)


def test_the_standard_error_is_the_spread_of_choices_of_images():
    """Over all 35 choices of 3 of 7 images, the variance is S^2 (1 - 3/7) / 3 exactly."""
    added = RNG.normal(size=7)
    means = [added[[i, j, k]].mean() for i in range(7) for j in range(i) for k in range(j)]
    assert np.var(means) == pytest.approx(added.var(ddof=1) * (1 - 3 / 7) / 3, rel=1e-12)


def test_bits_of_a_histogram_with_one_more_of_each_level():
    """Two pixels of two levels: shares 3/5, 2/5 and 1/5, 4/5."""
    train, test = np.array([[0, 1], [0, 1], [1, 1]]), np.array([[0, 0], [1, 1]])
    bits = -np.log2([3 / 5, 1 / 5, 2 / 5, 4 / 5]).mean()
    assert _pixels.histogram_bits(train, test, 2) == pytest.approx(bits, rel=1e-12)
    images = test.reshape(2, 2, 1, 1)
    assert _pixels.histogram_bits(train, images, 2) == pytest.approx(bits, rel=1e-12)


def test_a_tenth_is_held_out_at_random():
    images = np.arange(29)
    train, test = _pixels.split(images, 0)
    assert len(test) == 2 and sorted([*train, *test]) == list(range(29))
    assert list(_pixels.split(images, 0)[1]) == list(test)
    assert sorted(_pixels.split(images, 1)[1]) != sorted(test)
    assert len(_pixels.split(images[:20], 0)[1]) == 2
    with pytest.raises(ValueError, match="19 images: expected 20 or more"):
        _pixels.split(images[:19], 0)
