"""R3GAN: counts of the authors' networks, start, stages, and blocks by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.gan import r3gan
from research.vision import resampling

SMALL = dict(widths=(16, 8), groups=(8, 4), num_blocks=(1, 2))
Z = jax.random.normal(jax.random.key(1), (3, 5))
X = jax.random.normal(jax.random.key(2), (3, 8, 8, 3))
LABELS = jnp.array([0, 1, 1])
LINEAR = dict(widths=(6, 4), groups=(1, 1), num_blocks=(0, 0))


def start(model, *inputs):
    return jax.jit(model.init)(jax.random.key(0), *inputs)


def drawn(model, *inputs, scale=0.5):
    """Parameters of the network's shapes, none of which is 0."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: (scale * rng.normal(size=p.shape)).astype(p.dtype), shapes)


@pytest.mark.parametrize(
    "num_classes, generator, discriminator",
    [(None, 20_732_160, 20_683_776), (10, 20_781_952, 21_280_512)],
)
def test_sizes_of_the_networks_for_cifar10(num_classes, generator, discriminator):
    """Counts of the authors' PyTorch modules of that preset, which are the defaults."""
    labels = None if num_classes is None else jnp.zeros(1, int)
    for model, shape, count in [
        (r3gan.Generator(num_classes=num_classes), (1, 64), generator),
        (r3gan.Discriminator(num_classes=num_classes), (1, 32, 32, 3), discriminator),
    ]:
        init = lambda x, model=model: model.init(jax.random.key(0), x, labels)["params"]
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        assert testing.count_parameters(init, x) == count


def test_a_block_by_hand(x64):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 6), jnp.float64)
    block = r3gan.Block(groups=4, expansion=2, depth=16)
    made = block.init(jax.random.key(1), x)["params"]
    np.testing.assert_array_equal(block.apply({"params": made}, x), x)  # the last map is zero
    rng = np.random.default_rng(0)
    made = jax.tree.map(lambda p: np.asarray(p) + 0.1 * rng.normal(size=p.shape), made)
    leaky = lambda h: np.where(h > 0, h, 0.2 * h)
    h = leaky(np.einsum("bhwc,cf->bhwf", x, made["conv0"]["kernel"][0, 0]) + made["bias0"])
    padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    grouped = np.zeros_like(h)
    for group in range(4):
        part = slice(3 * group, 3 * group + 3)
        for i in range(3):
            for j in range(3):
                kernel = made["conv1"]["kernel"][i, j][:, part]
                grouped[..., part] += padded[:, i : i + 4, j : j + 4, part] @ kernel
    h = leaky(grouped + made["bias1"])
    expected = x + np.einsum("bhwf,fc->bhwc", h, made["conv2"]["kernel"][0, 0])
    np.testing.assert_allclose(block.apply({"params": made}, x), expected, rtol=1e-10, atol=1e-12)


def test_the_start_keeps_the_scale_by_the_depth():
    """Fixup: the first two maps start depth^-1/4 smaller, gain sqrt(2 / 1.04) of a leaky ReLU."""
    x = jnp.zeros((1, 2, 2, 64))
    for depth in (1, 16):
        made = start(r3gan.Block(groups=4, expansion=4, depth=depth), x)["params"]
        gain = np.sqrt(2 / 1.04) * depth**-0.25
        for name, fan_in in [("conv0", 64), ("conv1", 9 * 64)]:
            assert abs(float(made[name]["kernel"].std()) * fan_in**0.5 / gain - 1) < 0.03
    made = start(r3gan.Generator(**LINEAR, num_classes=400, embed_dim=64), Z, LABELS)["params"]
    assert abs(float(made["embed"]["embedding"].std()) * 20 - 1) < 0.03
    wide = {**LINEAR, "widths": (16, 8)}
    made = start(r3gan.Discriminator(**wide, num_classes=400, embed_dim=64), X, LABELS)["params"]
    assert abs(float(made["embed"]["embedding"].std()) * 20 * 8 - 1) < 0.03
    assert abs(float(made["basis"].std()) * 4 - 1) < 0.2


def test_images_and_logits_follow_latent_and_label():
    model = r3gan.Generator(**SMALL, num_classes=2, embed_dim=4, image_channels=1)
    made = drawn(model, Z, LABELS)
    images = jax.jit(model.apply)
    out = images(made, Z, LABELS)
    assert out.shape == (3, 8, 8, 1)
    moved = np.abs(images(made, Z, LABELS.at[1].set(0)) - out).max((1, 2, 3))
    assert moved[1] > 1e-3 and (moved[[0, 2]] == 0).all()
    critic = r3gan.Discriminator(**SMALL, num_classes=2, embed_dim=4)
    made = drawn(critic, X, LABELS)
    look = jax.jit(critic.apply)
    logits = look(made, X, LABELS)
    assert logits.shape == (3,)
    moved = np.abs(look(made, X, LABELS.at[1].set(0)) - logits)
    assert moved[1] > 1e-3 and (moved[[0, 2]] == 0).all()


def test_without_blocks_the_networks_are_linear(x64):
    """What is left are basis, filters and 1x1 maps, by hand."""
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(2, 8, 8, 3)), rng.normal(size=(2, 5))
    critic, generator = r3gan.Discriminator(**LINEAR), r3gan.Generator(**LINEAR)
    of_critic, of_generator = drawn(critic, x), drawn(generator, z)
    up, down = jax.jit(resampling.fir_up), jax.jit(resampling.fir_down)
    made = of_critic["params"]
    h = np.einsum("bhwc,cf->bhwf", x, made["from_image"]["kernel"][0, 0])
    h = np.einsum("bhwf,fg->bhwg", down(h), made["down1"]["kernel"][0, 0])
    expected = np.einsum("bhwg,hwg,g->b", h, made["basis"], made["logit"]["kernel"][:, 0])
    np.testing.assert_allclose(jax.jit(critic.apply)(of_critic, x), expected, rtol=1e-10)
    made = of_generator["params"]
    h = np.einsum("bz,zg,hwg->bhwg", z, made["from_latent"]["kernel"], made["basis"])
    h = np.einsum("bhwg,gf->bhwf", h, made["up1"]["kernel"][0, 0])
    expected = np.einsum("bhwf,fc->bhwc", up(h), made["to_image"]["kernel"][0, 0])
    np.testing.assert_allclose(jax.jit(generator.apply)(of_generator, z), expected, rtol=1e-10)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: start(r3gan.Generator((8, 8), (4,), (1, 1)), Z), "one entry for each of at least"),
        (lambda: start(r3gan.Generator((8,), (4,), (1,)), Z), "one entry for each of at least two"),
        (lambda: start(r3gan.Generator((8, 8), (4, 5), (1, 1)), Z), "groups 5 do not divide 8 . 2"),
        (lambda: start(r3gan.Generator(**SMALL), Z[0]), r"z float32\[5\]: expected float \[B, Z\]"),
        (lambda: start(r3gan.Generator(**SMALL), Z, LABELS), "labels are given to a network with"),
        (lambda: start(r3gan.Discriminator(**SMALL), X[:, :4]), "images float32.*8, 8, C"),
        (lambda: start(r3gan.Discriminator(**SMALL, num_classes=2), X), "labels are missing"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_labels_outside_are_refused():
    for model, x in [
        (r3gan.Generator(**LINEAR, num_classes=1), Z),
        (r3gan.Discriminator(**LINEAR, num_classes=1), X),
    ]:
        with pytest.raises(ValueError, match="label 1: expected 0 to 0"):
            model.init(jax.random.key(0), x, LABELS)
