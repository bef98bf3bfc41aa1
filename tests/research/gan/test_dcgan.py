"""DCGAN: counts, its layers against lax by hand, statistics, a round, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.gan import dcgan, losses, training

RNG = np.random.default_rng(0)
SMALL = {"resolution": 16, "width": 4}
KEY = jax.random.key(0)


def test_published_counts():
    """As in the tutorial of PyTorch: 100 latents, 64x64, width 64."""
    z, x = jnp.zeros((2, 100)), jnp.zeros((2, 64, 64, 3))
    count = lambda module, at: sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(module.init, KEY, at)["params"])
    )
    assert count(dcgan.Generator(), z) == 3_576_704
    assert count(dcgan.Discriminator(), x) == 2_765_568
    grey = dcgan.Generator(resolution=8, width=10, channels=1, batch_norm=False)
    assert count(grey, z) == 100 * 16 * 10 + 16 * 10
    critic = dcgan.Discriminator(resolution=8, width=10, batch_norm=False)
    assert count(critic, jnp.zeros((2, 8, 8, 1))) == 16 * 10 + 16 * 10


def up(x, kernel):
    """A transposed convolution as a sum over input pixels: [B, H, W, C] -> [B, 2 H, 2 W, F]."""
    batch, height, width, _ = x.shape
    padded = np.zeros((batch, 2 * height + 2, 2 * width + 2, kernel.shape[-1]))
    flipped = np.asarray(kernel)[::-1, ::-1]
    for i in range(height):
        for j in range(width):
            patch = np.einsum("bc,uvcf->buvf", x[:, i, j], flipped)
            padded[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += patch
    return padded[:, 1:-1, 1:-1]


def down(x, kernel):
    batch, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [
        [
            np.einsum("buvc,uvcf->bf", padded[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4], kernel)
            for j in range(width // 2)
        ]
        for i in range(height // 2)
    ]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def normalized(x, scale, bias):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias, mean, var


def drawn(module, x):
    """Parameters none of which is 0, scales about 1; statistics at their start."""
    shapes = jax.eval_shape(module.init, KEY, x)
    draw = lambda path, leaf: 0.3 * RNG.normal(size=leaf.shape) + (path[-1].key == "scale")
    fresh = lambda path, leaf: np.full(leaf.shape, path[-1].key == "var", leaf.dtype)
    made = {"params": jax.tree.map_with_path(draw, shapes["params"])}
    if "batch_stats" in shapes:
        made["batch_stats"] = jax.tree.map_with_path(fresh, shapes["batch_stats"])
    return made


def test_the_generator_by_hand(x64):
    module = dcgan.Generator(**SMALL)
    z = RNG.normal(size=(3, 5))
    variables = drawn(module, z)
    params, stats = variables["params"], variables["batch_stats"]
    apply = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
    found, moved = apply({"params": params, "batch_stats": stats}, z)
    h = (z @ np.asarray(params["Dense_0"]["kernel"])).reshape(3, 4, 4, 8)
    for index in range(2):
        norm, name = params[f"BatchNorm_{index}"], f"BatchNorm_{index}"
        h, mean, var = normalized(h, *map(np.asarray, (norm["scale"], norm["bias"])))
        after = moved["batch_stats"][name]
        # Flax keeps running statistics in float32.
        np.testing.assert_allclose(after["mean"], 0.1 * mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(after["var"], 0.9 + 0.1 * var, rtol=1e-6)
        h = up(np.maximum(h, 0), params[f"ConvTranspose_{index}"]["kernel"])
    assert found.shape == (3, 16, 16, 3)
    np.testing.assert_allclose(found, np.tanh(h), rtol=1e-9, atol=1e-12)
    # By running statistics each latent is alone.
    apply = jax.jit(lambda z: module.apply({"params": params, "batch_stats": stats}, z))
    np.testing.assert_allclose(apply(z[:1]), apply(z)[:1], rtol=1e-10)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_discriminator_by_hand(x64, batch_norm):
    module = dcgan.Discriminator(**SMALL, batch_norm=batch_norm)
    x = RNG.normal(size=(3, 16, 16, 2))
    variables = drawn(module, x)
    params = variables["params"]
    apply = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
    found, moved = apply(variables, x)
    assert ("batch_stats" in moved) == batch_norm
    leaky = lambda x: np.where(x > 0, x, 0.2 * x)
    h = leaky(down(x, params["Conv_0"]["kernel"]))
    h = down(h, params["Conv_1"]["kernel"])
    if batch_norm:
        norm = params["BatchNorm_0"]
        h, *_ = normalized(h, *map(np.asarray, (norm["scale"], norm["bias"])))
    expected = leaky(h).reshape(3, -1) @ np.asarray(params["Dense_0"]["kernel"])
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-9, atol=1e-12)


def test_weights_start_small():
    params, model_state = jax.jit(
        lambda rng: dcgan.init(dcgan.Generator(**SMALL), dcgan.Discriminator(**SMALL), rng)
    )(KEY)
    kernel = np.asarray(params["generator"]["Dense_0"]["kernel"])
    assert kernel.shape == (100, 128)  # of 12,800 weights: 4 standard errors, false alarms < 1e-4
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=4 / (2 * 12800) ** 0.5)
    assert set(model_state) == {"generator", "discriminator"}


def test_a_round():
    """One round moves all parameters and statistics; its first losses are those of small logits."""
    generator, critic = dcgan.Generator(8, 4), dcgan.Discriminator(8, 4)
    params, model_state = jax.jit(lambda rng: dcgan.init(generator, critic, rng, 7))(KEY)
    game = training.Game(losses.non_saturating, *dcgan.players(generator, critic, 7))
    optimizers = training.Optimizers(optax.adam(2e-4, 0.5), optax.adam(2e-4, 0.5))
    state = training.init_state(params, optimizers, KEY, model_state)
    images = np.float32(RNG.uniform(-1, 1, size=(8, 8, 8, 3)))
    new, metrics = jax.jit(training.make_step(game, optimizers))(state, images)
    for name in ("params", "model_state"):
        moved = jax.tree.map(lambda a, b: (a != b).any(), getattr(new, name), getattr(state, name))
        assert all(map(bool, jax.tree.leaves(moved)))
    np.testing.assert_allclose(metrics["discriminator_loss"], np.log(4), rtol=0.05)
    assert max(abs(metrics["real_logit"]), abs(metrics["fake_logit"])) < 0.1


def test_without_norms_there_is_no_state():
    options = {**SMALL, "batch_norm": False}
    generator, critic = dcgan.Generator(**options), dcgan.Discriminator(**options)
    params, model_state = jax.eval_shape(lambda rng: dcgan.init(generator, critic, rng), KEY)
    assert model_state == {"generator": {}, "discriminator": {}}
    optimizers = training.Optimizers(optax.sgd(0.1), optax.sgd(0.1))
    state = jax.eval_shape(lambda p: training.init_state(p, optimizers, KEY, model_state), params)
    game = training.Game(losses.hinge, *dcgan.players(generator, critic), r1=1.0)
    images = jnp.zeros((4, 16, 16, 3))
    for accumulate in (1, 2):
        step = training.make_step(game, optimizers, accumulate)
        new, _ = jax.eval_shape(step, state, images)
        assert jax.tree.structure(new) == jax.tree.structure(state)


def refused(accumulate=1, **options):
    generator, critic = dcgan.Generator(**SMALL), dcgan.Discriminator(**SMALL)
    params, model_state = jax.eval_shape(lambda rng: dcgan.init(generator, critic, rng), KEY)
    optimizers = training.Optimizers(optax.sgd(0.1), optax.sgd(0.1))
    state = jax.eval_shape(
        lambda p, s: training.init_state(p, optimizers, KEY, s), params, model_state
    )
    game = training.Game(losses.hinge, *dcgan.players(generator, critic), **options)
    images = jnp.zeros((4, 16, 16, 3))
    return jax.eval_shape(training.make_step(game, optimizers, accumulate), state, images)


def shape_of(module, *shape, dtype=jnp.float32):
    return jax.eval_shape(module.init, KEY, jnp.zeros(shape, dtype))


WRONG = {
    "resolution=12: expected 4": lambda: shape_of(dcgan.Generator(resolution=12), 2, 5),
    "resolution=4: expected 4": lambda: shape_of(dcgan.Discriminator(resolution=4), 2, 4, 4, 3),
    "width=0: expected": lambda: shape_of(dcgan.Generator(width=0), 2, 5),
    "width=0: expected a": lambda: shape_of(dcgan.Discriminator(width=0), 2, 64, 64, 3),
    "z float32": lambda: shape_of(dcgan.Generator(**SMALL), 2, 5, 1),
    r"images float32.*: expected float \[B, 16, 16": lambda: shape_of(
        dcgan.Discriminator(**SMALL), 2, 32, 32, 3
    ),
    "images uint8": lambda: shape_of(dcgan.Discriminator(**SMALL), 2, 16, 16, 3, dtype=jnp.uint8),
    "critic mixes the examples .* R1 needs .* no batch norm": lambda: refused(r1=1.0),
    "discriminate mixes the examples .* accumulate=2 needs": lambda: refused(accumulate=2),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
