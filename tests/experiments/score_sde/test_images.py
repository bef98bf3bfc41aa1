"""What the image studies make of samples: distances, pictures, bits."""

import numpy as np
import pytest

from experiments.score_sde import _images, _options, _pictures, _pixels, mnist
from experiments.score_sde.digits import quality
from research.diffusion import processes


def held(claim):
    return claim.measured, claim.relation, claim.expected, claim.tolerance


def test_samples_of_digits_are_compared_with_means_of_draws():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(60, 3)), rng.normal(size=(40, 3))
    assert quality.energy_to(test, train) == pytest.approx(energy(train, test), abs=1e-5)
    floor = quality.fresh_floor(train, test)
    draws = np.random.default_rng(0)
    rows = [draws.permutation(60)[:40] for _ in range(30)]
    assert floor == pytest.approx(np.mean([energy(train[r], test) for r in rows]), abs=1e-5)
    claims = quality._claims({"model": 0.1, "gaussian": 0.2, "mixture": 0.05},
                             {"samples": 2.0, "held_out": 1.5})  # fmt: skip
    assert [held(claim)[:3] for claim in claims] == [
        (0.1, "<", 0.2), (0.1, "<", 0.05), (2.0, ">=", 1.5),
    ]  # fmt: skip


def energy(x, y):
    """Unbiased energy distance, by its definition."""
    between = np.linalg.norm(x[:, None] - y, axis=2).mean()
    within = [np.linalg.norm(z[:, None] - z, axis=2).sum() / len(z) / (len(z) - 1) for z in (x, y)]
    return 2 * between - sum(within)


def test_mixtures_are_drawn_by_their_weights():
    weights, means = np.array([0.25, 0.75]), np.array([[0.0, 0.0], [9.0, 9.0]])
    covariances = np.stack([np.eye(2) * 1e-4, np.eye(2) * 1e-4])
    drawn = quality._draw(np.random.default_rng(0), 400, weights, means, covariances)
    assert drawn.shape == (400, 2) and abs((drawn[:, 0] > 4).mean() - 0.75) < 0.1


def test_bits_are_judged_against_flows_and_pixels_of_their_own():
    flows, own, possible = mnist._claims({"bits_per_dim": 1.2, "bits_per_dim_histograms": 1.1})
    assert held(flows) == (1.2, "<=", 1.06, 0) and held(own) == (1.2, "<=", 1.1, 0)
    assert held(possible) == (1.2, ">=", 0, 0) and flows.source.kind == "paper"


def test_noised_images_keep_one_draw_of_the_noise():
    x, process = np.ones((2, 1, 1, 1), np.float32), processes.vp()
    found = _pictures.noised(process, x, np.array([0.1, 0.5, 1.0]))
    t = np.array([0.1, 0.5, 1.0])
    alpha = np.exp(-0.25 * t**2 * 19.9 - 0.5 * t * 0.1)  # Song et al. 2021, eq. (33)
    noise = (found[:, :, 0, 0, 0] - alpha) / np.sqrt(1 - alpha**2)
    np.testing.assert_allclose(noise, noise[:, :1] * np.ones(3), rtol=1e-4)
    assert abs(noise[0, 0] - noise[1, 0]) > 1e-3


def test_features_are_compared_with_as_many_images_each():
    """One feature, the mean of an image: the squared difference of means and of deviations."""
    feature = lambda images: np.asarray(images).reshape(len(images), -1).mean(1, keepdims=True)  # noqa: E731
    rng = np.random.default_rng(1)
    train, test = (rng.integers(0, 256, (n, 2, 2, 1)).astype(np.uint8) for n in (50, 30))
    samples = {"model": _pixels.to_centres(train[:20]), "other": _pixels.to_centres(test[:20])}
    found = _pixels.feature_distances(feature, samples, train, test)
    rows = np.random.default_rng(0).permutation(50)[:20]
    images = {"model": train[:20], "other": test[:20], "fresh_floor": train[rows]}
    target = feature(_pixels.to_centres(test))
    for name, image in images.items():
        own = feature(_pixels.to_centres(image))
        stds = own.std(ddof=1), target.std(ddof=1)
        expected = (own.mean() - target.mean()) ** 2 + (stds[0] - stds[1]) ** 2
        assert found[f"feature_fid_{name}"] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_networks_of_pixels_see_the_signal_on_a_scale_of_one():
    net = _pixels.network(3, (8,), _options.Model(channels=(8, 16), dropout=0.25))
    assert (net.out_channels, net.patch, net.dropout, net.channels) == (3, 2, 0.25, (8, 16))
    process = _images.PROCESS
    ends = np.array([process.t_min, 1.0], np.float32)
    np.testing.assert_allclose(net.features.of(ends), [1, 0], atol=1e-6)
