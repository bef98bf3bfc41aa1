"""The study of CIFAR-10: what is read, shown and claimed."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.self_supervised import _images, _pretrain, cifar10
from library import report
from library.data.sets import cifar10 as cifar10_data
from research.self_supervised import probes


def test_bytes_become_floats_from_minus_two_to_two():
    found = _images.floats(np.array([0, 51, 255], np.uint8))
    np.testing.assert_allclose(found, [-2, -1.2, 2], rtol=1e-6)


def test_views_of_bytes_are_views_of_their_floats_in_the_wanted_type():
    sizes = _pretrain.Sizes((8, 8, 1), 4, (1,))
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    keys, crops = jax.random.split(jax.random.key(0), 2), lambda _, x: jnp.stack([x, x / 2])
    made = _images.pretraining("simclr", sizes, crops, 10, "bfloat16")
    found = made.views(keys, images)
    assert found.dtype == jnp.bfloat16
    want = 4 * crops(keys, images.astype(np.float32) / 255) - 2
    np.testing.assert_allclose(found.astype(jnp.float32), want, atol=2**-7)


def test_probes_of_pixels_and_components_are_those_of_the_library(monkeypatch):
    rng = np.random.default_rng(0)
    sets = [(rng.integers(0, 256, (n, 2, 2, 3)).astype(np.uint8), np.arange(n) % 2)
            for n in (30, 20)]  # fmt: skip
    monkeypatch.setattr(_images, "_STRENGTHS", (0.1, 1.0))
    found = _images.baselines(_images.Data(sets[0][0], *sets), 3)
    flat = [x.reshape(len(x), -1) * (4 / 255) - 2 for x, _ in sets]
    each = [probes.linear(flat[0], sets[0][1], flat[1], sets[1][1], l2).accuracy
            for l2 in (0.1, 1.0)]  # fmt: skip
    assert found["pixels"] == max(each)
    centred = flat[0] - flat[0].mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:3].T
    given = centred @ axes, sets[0][1], (flat[1] - flat[0].mean(0)) @ axes, sets[1][1]
    assert found["pca"] == probes.linear(*given).accuracy


def test_probes_and_training_have_the_images_that_they_should(monkeypatch):
    made = lambda split, num: {
        "image": np.full((num, 1), len(split)), "label": np.arange(num)
    }  # fmt: skip
    monkeypatch.setattr(cifar10_data, "arrays", made)
    data = _images.cifar10(3, 5, 2)
    assert (len(data.images), len(data.train[0]), len(data.test[0])) == (3, 5, 2)
    assert (data.images == 5).all() and (data.test[0] == 4).all()
    assert data.train[1].tolist() == [0, 1, 2, 3, 4]


def each(**values):
    base = {"linear": [50.0, 52.0], "random": [38.0, 38.0], "collapsed": [0.0, 1.0],
            "minutes": [3.0, 5.0], "epoch_seconds": [2.0, 4.0]}  # fmt: skip
    return {key: np.asarray(value) for key, value in (base | values).items()}


def test_what_is_claimed_of_a_method():
    config = cifar10.Config()
    found = cifar10.judged(config, "byol", each(), 51.0)
    gain, above, healthy = found.claims
    assert (gain.measured, gain.expected, gain.holds) == (13.0, 10.0, True)
    assert (above.measured, above.expected, above.holds) == (51.0, 51.0, False)
    assert (healthy.measured, healthy.holds) == (1.0, False)
    # Student's t of one degree: 12.7062 times the standard error 1.
    np.testing.assert_allclose(found.metrics["byol_gain_low"], 13 - 12.7062047, rtol=1e-6)
    np.testing.assert_allclose(found.metrics["byol_gain_high"], 13 + 12.7062047, rtol=1e-6)


def test_the_bar_of_accuracy_and_time_is_simclrs_alone():
    config = dataclasses.replace(cifar10.Config(), least_accuracy=51.5)
    assert len(cifar10.judged(config, "byol", each(), 51.0).claims) == 3
    last = cifar10.judged(config, "simclr", each(), 51.0).claims[3:]
    assert [(one.measured, one.expected, one.holds) for one in last] == [
        (51.0, 51.5, False), (4.0, 8.0, True), (3.0, 6.0, True),
    ]  # fmt: skip


def test_another_dtype_is_refused_before_anything_is_read():
    config = dataclasses.replace(cifar10.Config(), dtype="float16")
    with pytest.raises(ValueError, match="dtype=float16: expected float32 or bfloat16"):
        cifar10.run(config, report.RunDir(pathlib.Path("never")))
