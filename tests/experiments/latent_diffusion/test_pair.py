"""The parts of latents beside pixels: counts, coders, guided samples, verdicts, moved images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.latent_diffusion import _images, _pair, cifar10
from library import report, training
from library.types import Aux
from research.diffusion import latent
from research.sample_quality import frechet

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("batch", [16, 32])
def test_operations_of_a_matrix_product(batch):
    """One product forward, one for the gradient; sums and squares are no more than 5 % of them."""

    def loss_fn(params, model_state, rng, batch):
        return jnp.square(batch["x"] @ params).mean(), Aux(1.0)

    start = lambda rng: jnp.zeros((64, 32))
    found = _pair.flops(loss_fn, start, {"x": np.zeros((batch, 64), np.float32)})
    products = 2 * 2 * batch * 64 * 32
    assert products <= found <= 1.05 * products


def test_a_preset_trains_pixels_as_long_as_latents():
    """Within 2 %, by the operations of all updates, the first stage's included; the largest one."""
    config, shape = cifar10.PRESETS["accelerator"], (32, 32, 3)
    coder, f = _pair.Coder(config.stage, shape[-1]), 4
    objective = coder.objective()
    images = np.zeros((config.batch_size, *shape), np.float32)
    mean, _ = jax.eval_shape(
        objective.encode, jax.eval_shape(coder.init, jax.random.key(0))["autoencoder"], images
    )
    assert mean.shape[1:] == (shape[0] // f, shape[1] // f, config.stage.latent_dim)
    stage = _pair.flops(objective.loss, coder.init, {"images": images})
    labels = np.zeros(config.batch_size, int)
    costs = [
        model.num_steps
        * _pair.flops(
            _pair.diffusion_loss(_pair.network(model, each.shape[-1])),
            _pair.starts(_pair.network(model, each.shape[-1]), each.shape[1:]),
            {"image": np.zeros(each.shape, np.float32), "label": labels},
        )
        for model, each in ((config.latent, mean), (config.pixel, images))
    ]
    assert costs[1] / (costs[0] + config.stage.num_steps * stage) == pytest.approx(1, abs=0.02)


MEANS = np.linspace(-0.2, 0.2, 10).astype(np.float32)


class OfPoints:
    """The exact v of data that are one constant image a class, and 0 without a class."""

    @staticmethod
    def apply(params, x, t, labels=None):
        means = 0.0 if labels is None else params[labels]
        x_0 = jnp.broadcast_to(jnp.reshape(means, (-1, 1, 1, 1)), x.shape)
        alpha, sigma = (
            jnp.reshape(curve(t), (-1, 1, 1, 1))
            for curve in (_pair.PROCESS.alpha, _pair.PROCESS.sigma)
        )
        return alpha * (x - alpha * x_0) / sigma - sigma * x_0


def test_guided_samples_of_points_are_the_weight_times_the_class():
    draw = _pair.sampler(OfPoints, (2, 2, 1), 4, lambda x: x + 0.25)
    labels = np.arange(10)
    for scale in (1.0, 3.0):
        samples = draw(MEANS, labels, scale, 0)
        assert samples.shape == (10, 2, 2, 1)
        expected = np.clip(scale * MEANS + 0.25, -1, 1)
        np.testing.assert_allclose(samples.std((1, 2, 3)), 0, atol=2e-3)
        np.testing.assert_allclose(samples.mean((1, 2, 3)), expected, atol=2e-3)


def a_study(tmp_path, num_samples=20):
    images = RNG.uniform(-1, 1, (30, 4, 4, 1)).astype(np.float32)
    data = {"images": images, "labels": np.arange(30) % 7}
    pixels = lambda x: x.reshape(len(x), -1)[:, :3]
    judge = _images.Judge(None, pixels, 0.9, lambda x: np.round(10 * pixels(x)[:, 0]))
    sampling = _pair.Sampling(num_samples, 2, scale=3.0)
    options = training.RunOptions(seed=5)
    return _pair.Study(data, data, judge, 4, sampling, options, report.RunDir(tmp_path))


def test_verdicts(tmp_path):
    """Guided samples are named, as they show their label; those of weight 1 show the label 0."""
    study = a_study(tmp_path)

    def draw(params, asked, weight, seed):
        assert params == "own" and seed == 5
        shown = asked / 10 if weight == 3.0 else 0.0 * asked
        return np.broadcast_to(shown[:, None, None, None], (20, 4, 4, 1))

    fitted = _pair.Trained("own", flops=3.0, seconds=2.0)
    verdict, rows = study._judged("latents", draw, fitted, 10.0, 20.0)
    assert (verdict.named, verdict.guided_named) == (0.1, 1.0)
    assert (verdict.trained, verdict.seconds) == (13.0, 22.0)
    target = study.judge.features(study.test["images"])
    shown = np.repeat(np.arange(20)[:, None] % 10 / 10, 3, 1)
    assert verdict.guided_distance == pytest.approx(frechet.distance(shown, target), rel=1e-6)
    assert verdict.distance == pytest.approx(frechet.distance(0 * shown, target), rel=1e-6)
    assert list(rows) == ["latents", "latents, guided", "latents, guided, more"]
    np.testing.assert_array_equal(rows["latents, guided, more"][:, 0, 0, 0], np.arange(10) / 10)
    np.testing.assert_array_equal(study.held_out()["held out"], study.test["images"][:7])
    assert study.floor() == pytest.approx(frechet.distance(target[:20], target), rel=1e-6)


def test_claims_of_both_studies():
    latents = _pair.Judged(2.0, 3.0, 0.5, 0.9, trained=10.0, seconds=4.0)
    pixels = dataclasses.replace(latents, distance=5.0, guided_distance=2.5, trained=11.0)
    result = _pair.judged(latents, pixels, first=1.0, floor=0.5)
    assert [claim.measured for claim in result.claims] == [1.1, 2.0, 3.0]
    assert [claim.expected for claim in result.claims] == [1, 5.0, 2.5]
    assert result.metrics["distance_pixel"] == 5.0 and result.metrics["trained_latent"] == 10.0
    assert result.metrics["distance_first_stage"] == 1.0


def test_moved_images():
    images = RNG.uniform(-1, 1, (64, 5, 5, 2)).astype(np.float32)
    np.testing.assert_array_equal(_images.shifted(jax.random.key(0), images, 0), images)
    moved = np.asarray(_images.shifted(jax.random.key(0), images, 1))
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-1)
    places = [(i, j) for i in range(3) for j in range(3)]
    found = [
        next(at for at in places if (padded[n, at[0] : at[0] + 5, at[1] : at[1] + 5] == x).all())
        for n, x in enumerate(moved)
    ]
    assert set(found) == set(places)


def test_losses_of_latents_see_scaled_draws():
    """A network that gives 0 has the loss E v^2, here of latents that are all 0: alpha^2."""
    net = _pair.network(_pair.Model((4,), 1, num_blocks=0), 1)
    params = jax.jit(_pair.starts(net, (2, 2, 1)))(jax.random.key(0))
    stage = latent.FirstStage(lambda x: x, lambda z: z, scale=2.0, shift=0.5)
    loss_fn = latent.on_latents(_pair.diffusion_loss(net), stage)
    batch = {"image": np.full((256, 2, 2, 1), 0.5, np.float32), "label": np.zeros(256, int)}
    value, _ = jax.jit(lambda rngs: loss_fn(params, None, rngs, batch))(
        jax.random.split(jax.random.key(1), 256)
    )
    t = np.linspace(0, 1, 1001)
    expected = np.square(np.asarray(_pair.PROCESS.alpha(t))).mean()
    assert float(value) == pytest.approx(expected, rel=0.2)
