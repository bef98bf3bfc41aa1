"""What the studies of autoencoders make of bits, slopes, codes and options."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.vae import (
    _codes,
    _estimators,
    _ladders,
    _pixels,
    _spectrum,
    codebook,
    gradients,
    images,
    ladder,
    linear,
    mnist,
)
from library import figure_style


def held(claim):
    return claim.measured, claim.relation, claim.expected, claim.tolerance


def axes():
    return figure_style.single("", "", "")[1]


@pytest.mark.parametrize("dead, error, holds", [
    ((0.00390625, 0.40), (1.0, 1.0), [True, True, True]),  # 1 of 256 codes
    ((0.01, 0.30), (1.1, 1.0), [False, False, False]),  # the edges are outside
])  # fmt: skip
def test_codes_are_judged_by_their_dead_and_their_error(dead, error, holds):
    found = {
        kind: _codes.Usage(error=e, dead=d, perplexity=9.0)
        for kind, d, e in zip(("restart", "gradient"), dead, error)
    }
    stated = codebook._claims(found)
    assert [claim.holds for claim in stated] == holds
    assert [held(claim) for claim in stated] == [
        (100 * dead[0], "<", 1, 0), (100 * dead[1], ">", 30, 0), (error[0], "<=", error[1], 0),
    ]  # fmt: skip
    assert len(codebook._claims({"restart": found["restart"]})) == 1
    assert codebook._claims({"average": found["restart"]}) == []


def test_codes_are_drawn_most_used_first_without_the_dead():
    line = codebook._draw({"restart": np.array([0.1, 0.0, 0.9])}).axes[0].lines[0]
    np.testing.assert_array_equal(line.get_data(), [[0, 1], [0.9, 0.1]])


def test_ladders_are_judged_each_against_the_one_before():
    bits, sizes = {"a": 1.9, "b": 1.8, "c": 1.85}, {"a": 100, "b": 110, "c": 98}
    stated = ladder._claims(bits, sizes, independent=2.4)
    assert [held(claim) for claim in stated] == [
        (1.9, "<", 2.4, 0),
        (1.8, "<", 1.9, 0), (pytest.approx(1.1), "within", 1, 0.1),
        (1.85, "<", 1.8, 0), (pytest.approx(98 / 110), "within", 1, 0.1),
    ]  # fmt: skip
    assert [claim.holds for claim in stated] == [True, True, True, False, False]


def test_ladders_are_of_one_size():
    """Parameters as the README has them; factors of width and blocks leave at least 4 and 1."""
    sizes = {}
    for name, (_, _, latents, _) in _ladders.SHAPES.items():
        model = _ladders.network(name, 1.0, 1.0, latent_dim=4, components=3)
        keys, x = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 8, 8, 1), jnp.int32)
        init = lambda key, m=model, k=keys, x=x: m.init(key, x, k, method="terms")  # noqa: E731
        shapes = jax.eval_shape(init, jax.random.key(0))
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert sum(model.num_latents) == sum(latents) == int(name.split()[0])
    assert list(sizes.values()) == [112_354, 115_243, 116_314]
    small = _ladders.network("4 levels", 0.01, 0.5, latent_dim=1, components=1)
    assert (small.width, small.num_blocks, small.num_latents) == (4, (2, 2), (1, 1))
    assert small.head.count == 3 and small.latent_dim == 1


def test_bits_of_a_ladder_are_those_of_the_mean_of_its_weights():
    """Three draws of two images; divergences are averaged over draws and images."""

    class Model:
        def apply(self, variables, x, keys, method):
            noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)  # [B, 4]
            return types.SimpleNamespace(
                log_weights=variables["params"] + noise[None, :, 0], kl=noise[None, :, 1:]
            )

    config = ladder.Config(num_draws=3)
    bits, groups = ladder._score(config, Model(), jnp.float32(-50), np.zeros((2, 8, 8, 1)))
    noise = np.stack([
        [jax.random.normal(key, (4,)) for key in jax.random.split(rng, 2)]
        for rng in jax.random.split(jax.random.key(0), 3)
    ]).astype(float)  # fmt: skip
    bound = np.log(np.exp(noise[..., 0]).mean(0)).mean() - 50
    assert bits == pytest.approx(-bound / 64 / math.log(2), rel=1e-6)
    np.testing.assert_allclose(groups, noise[..., 1:].mean((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("published, num, expected", [
    (False, 1, [(-88.0, ">=", -88.5, 0), (-90.0, "<=", -88.0, 0)]),
    (True, 1, [(-88.0, ">=", -86.76, 0.3), (-90.0, "<=", -88.0, 0)]),
    (True, 50, [(-88.0, ">=", -84.78, 0.3), (-90.0, "<=", -88.0, 0)]),
    (False, 5, [(-90.0, "<=", -88.0, 0)]),
])  # fmt: skip
def test_mnist_is_judged_by_patience_or_by_the_paper(monkeypatch, published, num, expected):
    asked = {}

    def log_likelihood(weights, x, **options):
        asked.update(options)
        return _pixels.LogLikelihood(-88.0, 0.04, -90.0)

    monkeypatch.setattr(_pixels, "log_likelihood", log_likelihood)
    mean = np.array([[0.0, 1.0], [0.0, -1.0], [0.01, 3.0]])  # one latent varies
    model = types.SimpleNamespace(apply=lambda *_, method: (jnp.asarray(mean), None))
    config = mnist.Config(as_published=published, num_fine=7, coarse_draws=3, fine_draws=9)
    result = mnist._judge(config, model, {}, np.zeros((3, 28, 28, 1)), num)
    assert [held(claim) for claim in result.claims] == expected
    assert result.metrics == {
        f"log_likelihood_{num}": -88.0, f"standard_error_{num}": 0.04, f"bound_{num}": -90.0,
        f"active_units_{num}": 1,
    }  # fmt: skip
    assert (asked["num_fine"], asked["coarse_draws"], asked["fine_draws"]) == (7, 3, 9)


def test_bits_of_images_are_a_dimension_of_the_bound(monkeypatch):
    """12 dimensions, held-out images all with every draw."""
    asked = {}

    def log_likelihood(weights, x, **options):
        asked.update(options)
        return _pixels.LogLikelihood(-24 * math.log(2), 0.0, -36 * math.log(2))

    monkeypatch.setattr(_pixels, "log_likelihood", log_likelihood)
    few, many = images._score(images.Config(num_draws=5), None, {}, np.zeros((4, 2, 2, 3)))
    assert (few, many) == (pytest.approx(3), pytest.approx(2))
    assert (asked["num_fine"], asked["coarse_draws"], asked["fine_draws"]) == (4, 1, 5)


def test_images_are_judged_against_independent_pixels(monkeypatch):
    data = np.zeros((40, 8, 8, 1), np.uint8)
    monkeypatch.setattr(images, "read", lambda config: (data, 17))
    monkeypatch.setattr(images, "_train", lambda *_: {})
    monkeypatch.setattr(images, "_score", lambda *_: (2.5, 2.0))
    monkeypatch.setattr(images, "_show", lambda *_: None)
    result = images.run(images.Config(), None)
    independent = -np.log2(37 / 53)  # 36 images of level 0 and one more of each of 17
    assert [held(claim) for claim in result.claims] == [
        (2.0, "<", pytest.approx(independent), 0), (2.0, "<=", 2.5, 0),
    ]  # fmt: skip
    assert (result.metrics["held_out"], result.metrics["trained_on"]) == (4, 36)


def test_images_of_a_file_have_256_levels_and_digits_17(tmp_path):
    pixels = np.arange(20 * 64, dtype=np.int64).reshape(20, 8, 8, 1).astype(np.uint8)
    np.savez(tmp_path / "a.npz", pixels=pixels)
    config = images.Config(images=str(tmp_path / "a.npz"), size=8, channels=1)
    found, levels = images.read(config)
    np.testing.assert_array_equal(found, pixels)
    assert levels == 256
    digits, levels = images.read(images.Config())
    assert digits.shape == (1797, 8, 8, 1) and levels == digits.max() + 1 == 17


SLOPES = {"mu": 0.5, "b": -0.5, "double": 0.5}


@pytest.mark.parametrize("off, holds", [(0.09, True), (0.11, False)])
def test_slopes_of_signal_to_noise(monkeypatch, off, holds):
    """Of powers of K from 8 on; below, the ratios are off the line."""
    bend = lambda count: 3.0 if count < 8 else 1.0  # noqa: E731
    monkeypatch.setattr(
        _estimators, "signal_to_noise",
        lambda rng, count, *_: {k: bend(count) * count ** (s - off) for k, s in SLOPES.items()},
    )  # fmt: skip
    result = gradients._signals(gradients.Config(max_draws=64), axes())
    assert [claim.holds for claim in result.claims] == [holds] * 3
    for key, slope in SLOPES.items():
        assert result.metrics[f"slope_{key}"] == pytest.approx(slope - off, rel=1e-9)
        assert result.metrics[f"slope_error_{key}"] == pytest.approx(0, abs=1e-9)
    expected = [(pytest.approx(s - off), "within", s, 0.1) for s in SLOPES.values()]
    assert [held(claim) for claim in result.claims] == expected


def test_variances_are_judged_at_mean_one(monkeypatch):
    monkeypatch.setattr(
        _estimators, "spread",
        lambda rng, mean, num: {
            "path": 4.0, "score function": 30 * 1.029 * mean, "score, baseline": 18 * 1.031
        },
    )  # fmt: skip
    result = gradients._variances(gradients.Config(means=(1.0, 2.0)), axes())
    assert [claim.holds for claim in result.claims] == [True, True, False]
    assert result.metrics["variance_score function"] == pytest.approx(30 * 1.029)
    assert not gradients._variances(gradients.Config(means=(2.0,)), axes()).claims


@pytest.mark.parametrize("factor, active, holds", [
    (1.0009, 1, [True, True, True]), (1.0011, 2, [False, False, False]),
])  # fmt: skip
def test_trained_models_are_judged_against_water_filling(monkeypatch, factor, active, holds):
    """One level, between eigenvalues 4 and 1: rate log(2) / 2, distortion 2 + 1."""
    asked = {}

    def train(covariance, betas, noise, **options):
        asked.update(options, betas=betas, noise=noise, covariance=covariance)
        rate, distortion = 0.5 * math.log(2) * factor, 3 * factor
        return _spectrum.Trained(np.array([rate]), np.array([distortion]), np.array([active]))

    monkeypatch.setattr(_spectrum, "train", train)
    x = np.array([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]])
    config = linear.Config(num_active=(1,), num_steps=7)
    result = linear._water(config, x, np.array([4.0, 1.0]), axes())
    assert [claim.holds for claim in result.claims] == holds
    assert [claim.tolerance for claim in result.claims] == [1e-3, 1e-3, 0]
    np.testing.assert_allclose(asked["covariance"], np.diag([4, 1]))
    assert asked["betas"] * asked["noise"] == pytest.approx(2) and asked["num_steps"] == 7
    assert result.metrics == {
        "beta_1": pytest.approx(1), "rate_1": pytest.approx(0.5 * math.log(2) * factor),
        "distortion_1": pytest.approx(3 * factor),
    }  # fmt: skip


@pytest.mark.parametrize("slope, finite, holds", [
    ((-1.09, -0.89), (1, 0), [True, True, True, True, True]),
    ((-1.11, -0.91), (0, 1), [False, True, False, False, False]),
])  # fmt: skip
def test_gaps_are_judged_by_slope_size_and_diagnosis(monkeypatch, slope, finite, holds):
    """A proposal of twice the variance, whose gap falls as 1/K, and one of 0.4, whose does not."""
    exact = 0.5 * (1 - math.log(2))

    def gaps(variance, counts, *_):
        index = int(variance < 1)
        start = np.where(counts < 8, exact, 0.3 * counts ** slope[index])
        return start, types.SimpleNamespace(finite_variance=np.array([finite[index]]))

    monkeypatch.setattr(_spectrum, "gaps", gaps)
    result = linear._gaps(linear.Config(proposals=(2.0, 0.4), max_samples=128), axes())
    assert [claim.holds for claim in result.claims] == holds
    assert [held(claim)[1:] for claim in result.claims] == [
        ("within", -1, 0.1), ("within", 1, 0.02), ("==", 1, 0), (">", -0.9, 0), ("==", 0, 0),
    ]  # fmt: skip
    assert result.metrics["slope_2"] == pytest.approx(slope[0], rel=1e-9)
    assert result.metrics["gap_1_2"] == pytest.approx(exact)


@pytest.mark.parametrize("module, change, words", [
    (linear, {"num_active": (0,)}, r"num_active=\(0,\): expected 1 to 63"),
    (linear, {"num_active": (64,)}, r"num_active=\(64,\): expected 1 to 63"),
    (linear, {"proposals": ()}, r"proposals=\(\): expected one to six positive variances"),
    (linear, {"proposals": (2.0, 0.0)}, "positive variances"),
    (linear, {"proposals": (2.0,) * 7}, "one to six"),
    (linear, {"max_samples": 64}, "max_samples=64: expected a power of two >= 128"),
    (linear, {"max_samples": 1000}, "max_samples=1000"),
    (gradients, {"means": ()}, "means="),
    (gradients, {"max_draws": 2}, "max_draws=2: expected a power of two >= 4"),
    (gradients, {"max_draws": 48}, "max_draws=48"),
    (gradients, {"num_variance": 1}, "num_variance"),
    (gradients, {"num_gradients": 1}, "num_gradients"),
    (mnist, {"num_draws": ()}, r"num_draws=\(\): expected one or more numbers >= 1"),
    (mnist, {"num_draws": (1, 0)}, r"num_draws=\(1, 0\)"),
    (mnist, {"num_test": 19}, "num_test=19: expected 20 to 10000"),
    (mnist, {"num_test": 10_001}, "num_test=10001"),
    (mnist, {"num_fine": 1}, "num_fine=1: expected 2 to 20"),
    (mnist, {"num_fine": 31, "num_test": 30}, "num_fine=31: expected 2 to 30"),
    (ladder, {"shapes": ()}, r"shapes=\(\): expected some of 1 level, 4 levels, 10 levels"),
    (ladder, {"shapes": ("2 levels",)}, "2 levels"),
    (ladder, {"num_draws": 0}, "num_draws"),
    (codebook, {"kinds": ()}, r"kinds=\(\): expected some of gradient, average, restart"),
    (codebook, {"kinds": ("plain",)}, "plain"),
    (codebook, {"num_codes": 17, "batch_size": 1}, "num_codes=17: .* no more than the 16 vectors"),
    (images, {"images": "somewhere", "size": 31}, "size=31: expected a multiple of 2"),
    (images, {"images": "somewhere", "channels": 2}, "channels=2"),
    (images, {"channels_inside": (4, 4, 4, 4)}, "16"),
])  # fmt: skip
def test_bad_options_are_named_before_anything_is_written(tmp_path, module, change, words):
    config = dataclasses.replace(module.PRESETS["smoke"], **change)
    with pytest.raises(ValueError, match=words):
        module.run(config, types.SimpleNamespace(path=tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_least_options_are_taken():
    linear._check(linear.Config(max_samples=128, proposals=(1.0,) * 6))
    gradients._check(gradients.Config(max_draws=4, num_variance=2, num_gradients=2))
    mnist._check(mnist.Config(num_draws=(1,), num_test=20, num_fine=20))
    codebook._check(codebook.Config(num_codes=16, batch_size=1))
