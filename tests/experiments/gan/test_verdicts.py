"""The claims of the image studies, from numbers whose verdicts are known; data and refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.gan import _judge, _networks, cifar10, images, mnist
from library.data.sets import cifar10 as cifar10_set
from library.data.sets import mnist as mnist_set


def flat_judge(labels=None):
    """A judge whose features are the pixels."""
    return _judge.Judge(lambda x: labels, lambda x: x.reshape(len(x), -1), "pixels")


def of(result):
    return {claim.name: claim for claim in result.claims}


def test_verdicts_on_digits():
    points = np.random.default_rng(0).uniform(-1, 1, (100, 1, 2, 1))
    labels = np.repeat(np.arange(10), [4, 16, *[10] * 8])
    found = {"r3gan": 3.0, "mixture": 5.0, "VAE": 2.0}
    result = mnist.judged("r3gan", found, flat_judge(labels), points, points[:60])
    stated = of(result)
    assert {name: claim.holds for name, claim in stated.items()} == {
        "r3gan: feature-FID, below the mixture's": True,
        "r3gan: feature-FID, below the VAE's": False,
        "r3gan: share of the rarest class": False,
        "r3gan: share of the commonest class": False,
        "r3gan: recall in features": True,
    }
    assert stated["r3gan: share of the rarest class"].measured == 0.04
    assert stated["r3gan: share of the commonest class"].measured == 0.16
    assert (stated["r3gan: share of the rarest class"].expected,
            stated["r3gan: share of the commonest class"].expected) == (0.05, 0.15)  # fmt: skip
    assert stated["r3gan: recall in features"].expected == 0.5
    assert result.metrics == {"precision_r3gan": 1.0}
    collapsed = of(mnist.judged("b", {**found, "b": 1}, flat_judge(labels), points, 1e-3 * points))
    assert not collapsed["b: recall in features"].holds


def test_verdicts_on_images_of_ones_own():
    """Fresh points are like the held-out ones, copies are found out, far ones have no density."""
    rng = np.random.default_rng(0)
    train, held_out, fresh = (rng.normal(size=(200, 2)).astype(np.float32) for _ in range(3))
    result = images.judged(train, held_out, fresh, fresh + 9)
    assert all(claim.holds for claim in result.claims)
    names = ["density", "coverage", "probability of a sample to be nearer than a held-out image"]
    assert list(of(result)) == names
    assert of(result)["density"].measured == pytest.approx(1, abs=0.2)
    assert of(result)["coverage"].measured == pytest.approx(
        result.metrics["coverage_of_equals"], abs=0.1
    )
    assert of(result)[names[2]].measured == pytest.approx(0.5, abs=0.12)
    assert of(result)[names[2]].expected == 0.75
    copies = of(images.judged(train, held_out, train + 1e-4, fresh))
    assert copies[names[2]].measured > 0.99 and not copies[names[2]].holds


def test_verdicts_on_colour_images():
    points = np.random.default_rng(0).uniform(-1, 1, (80, 1, 2, 1))
    result = cifar10.judged(flat_judge(), points, {"r3gan": points[:50], "mixture": points + 5})
    assert all(claim.holds for claim in result.claims) and len(result.claims) == 2
    assert result.metrics == {"precision_r3gan": 1.0, "precision_mixture": 0.0}
    other = cifar10.judged(flat_judge(), points, {"r3gan": points + 5, "mixture": points[:50]})
    assert not any(claim.holds for claim in other.claims)


def test_digits_have_a_margin_and_may_be_halved(monkeypatch):
    raw = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
    monkeypatch.setattr(mnist_set, "arrays", lambda split: {"image": raw, "label": np.arange(3)})
    whole, half = (mnist.read("test", size, slice(3))["images"] for size in (32, 16))
    assert whole.shape == (3, 32, 32, 1) and half.shape == (3, 16, 16, 1)
    assert (whole[:, :2] == -1).all() and (whole[:, :, -2:] == -1).all()
    np.testing.assert_allclose(whole[:, 2:-2, 2:-2], raw / 127.5 - 1, atol=1e-6)
    mean = raw[:, 4:6, 6:8, 0].mean((1, 2)) / 127.5 - 1
    np.testing.assert_allclose(half[:, 3, 4, 0], mean, atol=1e-6)
    last = mnist.read("test", 16, slice(-2, None))
    np.testing.assert_array_equal(last["images"], half[1:])
    np.testing.assert_array_equal(last["labels"], [1, 2])


def test_colour_images_may_be_halved(monkeypatch):
    raw = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    arrays = lambda split, num: {"image": raw[:num], "label": np.arange(num)}
    monkeypatch.setattr(cifar10_set, "arrays", arrays)
    whole, half = (cifar10.read("test", size, 2) for size in (32, 16))
    np.testing.assert_allclose(whole["images"], raw[:2] / 127.5 - 1, atol=1e-6)
    mean = raw[:2, 6:8, 0:2].mean((1, 2)) / 127.5 - 1
    np.testing.assert_allclose(half["images"][:, 3, 0], mean, atol=1e-6)
    assert len(half["labels"]) == 2


def test_images_are_ones_own_or_digits(tmp_path):
    bytes_ = np.arange(60 * 8 * 8, dtype=np.uint32).astype(np.uint8).reshape(60, 8, 8)
    np.savez(tmp_path / "own.npz", images=bytes_)
    config = images.Config(images=str(tmp_path / "own.npz"), size=4, channels=3)
    own = images.read(config)
    assert own.shape == (60, 4, 4, 3) and -1 <= own.min() < own.max() <= 1
    digits = images.read(images.Config())
    assert digits.shape == (1797, 8, 8, 1) and (digits.min(), digits.max()) == (-1, 1)


def few(folder):
    np.savez(folder / "few.npz", images=np.zeros((49, 8, 8), np.uint8))
    return images.read(images.Config(images=str(folder / "few.npz"), size=8))


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda _: mnist.players("wgan", mnist.Config()), "networks=wgan: expected some"),
        (lambda _: images.players(images.Config(network="biggan"), (8, 8, 1)), "--network biggan"),
        (lambda _: images.players(images.Config(augment="flip"), (8, 8, 1)), "augment='flip'"),
        (lambda _: images.players(images.Config(), (12, 12, 1)), "size=12: expected 4"),
        (few, "few.npz holds 49 images: expected 50 or more"),
    ],
)
def test_bad_input(make, error, tmp_path):
    with pytest.raises(ValueError, match=error):
        make(tmp_path)


@pytest.mark.parametrize("name", ["r3gan", "stylegan2"])
def test_networks_have_the_width_and_gamma_asked_for(name):
    ours = mnist.players(name, mnist.Config(size=32, width=12, gamma=0.7))
    own = images.players(images.Config(network=name, width=12, gamma=0.7), (32, 32, 1))
    for players in (ours, own):
        assert players.image_shape == (32, 32, 1) and players.game.r1 == 0.7
        wide = getattr(players.generator, "widths", None) or players.generator.channel_base // 32
        assert wide == ((48, 48, 24, 12) if name == "r3gan" else 12)
    assert (ours.end, own.end) == (jnp.tanh, _networks.as_they_are)


def test_biggan_of_a_width_has_it_in_quarters_and_dcgan_twice():
    config = mnist.Config(width=12, gamma=0.7)
    assert mnist.players("biggan", config).generator.channels == 12
    plain = mnist.players("dcgan", config)
    assert (plain.generator.width, plain.critic.width, plain.game.r1) == (24, 24, 0.7)
    assert plain.image_shape == (16, 16, 1)
