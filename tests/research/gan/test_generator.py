"""StyleGAN2's generator: published counts, truncation, mixing, noise by image, the mean style."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.gan import stylegan2

MODEL = stylegan2.Generator(
    16, channel_base=64, max_channels=8, w_dim=6, num_mapping_layers=2, num_classes=3
)
Z = jax.random.normal(jax.random.key(1), (4, 5))
LABELS = jnp.array([0, 1, 2, 0])
KEYS = jax.random.split(jax.random.key(2), 4)


@functools.cache
def variables():
    """Parameters as if moved from their start, so that what starts at 0 is seen; a mean style."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), Z, LABELS)
    rng = np.random.default_rng(0)

    def draw(path, leaf):  # the mapping's kernels are learned at a hundredth of the rate
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        scale = 100 if "mapping/dense" in name and "kernel" in name else 1
        scale = scale if "kernel" in name or "constant" in name else 0.3
        return np.float32(scale * rng.normal(size=leaf.shape) + ("style/bias" in name))

    return jax.tree.map_with_path(draw, shapes)


@functools.partial(jax.jit, static_argnums=0)
def run(method, made, *args, **options):
    return MODEL.apply(made, *args, method=method, **options)


def program(z, labels, keys):
    return run("__call__", variables(), z, labels, keys)


def images(ws):
    return run("images", variables(), ws)


def styles(z, labels):
    return run("styles", variables(), z, labels)


@pytest.mark.parametrize(
    "resolution, base, count, num_layers",
    [
        (1024, 32768, 30_370_060, 18),
        (256, 16384, 24_767_458, 14),
        (64, 16384, 23_819_544, 10),
        (32, 16384, 21_523_475, 8),
    ],
)
def test_sizes_of_the_published_networks(resolution, base, count, num_layers):
    """Counts of the authors' code, of trained parameters."""
    model = stylegan2.Generator(resolution, base)
    init = lambda z: model.init(jax.random.key(0), z)["params"]
    assert testing.count_parameters(init, jax.ShapeDtypeStruct((1, 512), jnp.float32)) == count
    assert model.num_layers == num_layers
    if base == 32768:
        assert model == stylegan2.Generator(resolution)


def test_each_layer_takes_its_own_style():
    ws = styles(Z, LABELS)
    assert ws.shape == (4, MODEL.num_layers, 6)
    before = images(ws)
    assert before.shape == (4, 16, 16, 3)
    for layer in range(MODEL.num_layers):
        assert np.abs(images(ws.at[:, layer].add(1.0)) - before).max() > 1e-3


def test_styles_see_the_direction_of_the_latent_and_the_label():
    ws = styles(Z, LABELS)
    np.testing.assert_allclose(styles(7 * Z, LABELS), ws, rtol=2e-4, atol=1e-5)
    moved = np.abs(styles(Z, LABELS.at[1].set(2)) - ws).max((1, 2))
    assert moved[1] > 1e-3 and (moved[[0, 2, 3]] == 0).all()


def test_noise_belongs_to_an_image():
    whole = program(Z, LABELS, KEYS)
    half = jnp.concatenate([program(Z[i], LABELS[i], KEYS[i]) for i in (slice(2), slice(2, 4))])
    np.testing.assert_allclose(half, whole, atol=1e-5)
    others = program(Z, LABELS, KEYS[::-1])
    assert np.abs(others - whole).max() > 1e-2
    none = program(Z, LABELS, None)
    np.testing.assert_allclose(none, images(styles(Z, LABELS)), atol=1e-6)
    assert np.abs(none - whole).max() > 1e-2


def test_truncation_moves_styles_to_their_mean():
    ws, mean = (
        np.asarray(a) for a in (styles(Z, LABELS), variables()["batch_stats"]["mapping"]["mean"])
    )
    np.testing.assert_array_equal(stylegan2.truncate(ws, mean, 1.0), ws)
    near = stylegan2.truncate(ws, mean, 0.25)
    np.testing.assert_allclose(near, mean + 0.25 * (ws - mean), atol=1e-6)
    coarse = stylegan2.truncate(ws, mean, 0.25, 3)
    np.testing.assert_array_equal(coarse, np.concatenate([near[:, :3], ws[:, 3:]], 1))

    def given(next_method, args, kwargs, context):  # the styles that images are made of
        return args[0] if context.method_name == "images" else next_method(*args, **kwargs)

    def call(truncated_layers, psi):
        with nn.intercept_methods(given):
            return MODEL.apply(
                variables(), Z, LABELS, truncation=psi, truncated_layers=truncated_layers
            )

    np.testing.assert_allclose(call(3, jnp.float32(0.25)), coarse, atol=1e-6)
    np.testing.assert_allclose(call(None, 0.25), near, atol=1e-6)
    np.testing.assert_allclose(call(None, 1.0), ws, atol=1e-6)


def test_mixing_crosses_over_at_a_uniform_layer():
    """2,000 images: each frequency within 5 standard errors, a false alarm in about 1e-5 runs."""
    ws, others = jnp.zeros((2000, 6, 1)), jnp.ones((2000, 6, 1))
    keys = jax.random.split(jax.random.key(0), 2000)
    for given, probability in [((), 0.9), ((1.0,), 1.0), ((0.0,), 0.0)]:
        mixed = np.asarray(stylegan2.mix(ws, others, keys, *given))[..., 0]
        assert (np.diff(mixed, axis=1) >= 0).all()
        kept = (mixed == 0).sum(1)  # layers of the first style
        share = np.bincount(kept, minlength=7) / 2000
        expected = np.array([0, *[probability / 5] * 5, 1 - probability])
        np.testing.assert_array_less(
            np.abs(share - expected), 5 * np.sqrt(expected * (1 - expected) / 2000) + 1e-12
        )


def test_the_mean_style_follows_by_its_decay():
    before = variables()["batch_stats"]["mapping"]["mean"]
    call = functools.partial(MODEL.apply, variables(), Z, LABELS, method="styles")
    ws, new = call(train=True, mutable=["batch_stats"])
    expected = 0.995 * before + 0.005 * ws[:, 0].mean(0)
    np.testing.assert_allclose(new["batch_stats"]["mapping"]["mean"], expected, rtol=1e-5)
    _, same = call(mutable=["batch_stats"])
    np.testing.assert_array_equal(same["batch_stats"]["mapping"]["mean"], before)
    fast = MODEL.clone(w_decay=0.5)
    _, new = fast.apply(
        variables(), Z, LABELS, train=True, method="styles", mutable=["batch_stats"]
    )
    expected = 0.5 * before + 0.5 * ws[:, 0].mean(0)
    np.testing.assert_allclose(new["batch_stats"]["mapping"]["mean"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: stylegan2.Generator(12).init(jax.random.key(0), Z), "resolution=12: expected 4"),
        (lambda: stylegan2.Generator(4).init(jax.random.key(0), Z), "resolution=4: expected 4"),
        (lambda: stylegan2.Generator(16.0).init(jax.random.key(0), Z), "resolution=16.0: exp"),
        (lambda: MODEL.apply(variables(), Z), "labels are missing: expected int"),
        (lambda: MODEL.apply(variables(), Z, LABELS + 1), "label 3: expected 0 to 2"),
        (lambda: MODEL.apply(variables(), Z, LABELS - 1), "label -1: expected 0 to 2"),
        (lambda: MODEL.apply(variables(), Z, LABELS * 1.0), "labels float32.*expected int"),
        (lambda: MODEL.apply(variables(), Z, LABELS[:, None]), r"labels int32\[4, 1\]: expected"),
        (lambda: MODEL.apply(variables(), Z[0], LABELS), r"z float32\[5\]: expected float \[B, Z"),
        (lambda: MODEL.apply(variables(), LABELS[:, None], LABELS), "z int32"),
        (lambda: images(jnp.zeros((4, 3, 6))), r"styles \[4, 3, 6\]: expected \[B, 6, W\]"),
        (
            lambda: stylegan2.Generator(16).init(jax.random.key(0), Z, LABELS),
            "labels are given to a network with num_classes=None",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_labels_outside_give_nan_where_nothing_can_be_refused():
    out = program(Z, LABELS.at[1].set(-1), KEYS)
    assert np.isnan(out[1]).all() and np.isfinite(out[0]).all()
