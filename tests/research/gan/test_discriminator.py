"""StyleGAN2's discriminator: published counts, who sees whom, projection on the label."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.gan import stylegan2

X = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
LABELS = jnp.array([0, 1, 2, 0])


@functools.cache
def setting(num_classes, group):
    """A program of logits with parameters as if all were moved from where they start."""
    model = stylegan2.Discriminator(
        16, channel_base=64, max_channels=8, num_classes=num_classes, group=group
    )
    labels = None if num_classes is None else LABELS
    shapes = jax.eval_shape(model.init, jax.random.key(0), X, labels)
    rng = np.random.default_rng(0)

    def draw(path, leaf):  # the mapping's kernels are learned at a hundredth of the rate
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        scale = 100 if "mapping/dense" in name else 1
        scale = scale if "kernel" in name else 0.3
        return np.float32(scale * rng.normal(size=leaf.shape))

    return jax.jit(model.apply), jax.tree.map_with_path(draw, shapes)


@pytest.mark.parametrize(
    "resolution, base, count",
    [
        (1024, 32768, 29_012_513),
        (256, 16384, 24_001_089),
        (64, 16384, 23_407_361),
        (32, 16384, 21_507_073),
    ],
)
def test_sizes_of_the_published_networks(resolution, base, count):
    model = stylegan2.Discriminator(resolution, base)
    shape = jax.ShapeDtypeStruct((4, resolution, resolution, 3), jnp.float32)
    init = lambda x: model.init(jax.random.key(0), x)["params"]
    assert testing.count_parameters(init, shape) == count
    if base == 32768:
        assert model == stylegan2.Discriminator(resolution, group=4)


def test_images_are_mixed_by_their_group_only():
    apply, params = setting(None, None)
    logits = apply(params, X)
    assert logits.shape == (4,)
    np.testing.assert_allclose(apply(params, X[::-1]), logits[::-1], rtol=1e-5)
    changed = apply(params, X.at[3].set(0.0))
    np.testing.assert_allclose(changed[:3], logits[:3], rtol=1e-5)
    apply, params = setting(None, 2)  # images 0 and 2 are one group, 1 and 3 the other
    logits, changed = apply(params, X), apply(params, X.at[3].set(0.0))
    np.testing.assert_allclose(changed[jnp.array([0, 2])], logits[jnp.array([0, 2])], rtol=1e-5)
    assert abs(changed[1] - logits[1]) > 1e-4


def test_a_label_projects_the_features():
    """The logit is linear in the last features: equal for the same label, its own for another."""
    apply, params = setting(3, None)
    logits = apply(params, X, LABELS)
    changed = apply(params, X, LABELS.at[1].set(2))
    assert abs(changed[1] - logits[1]) > 1e-4
    np.testing.assert_array_equal(changed[jnp.array([0, 2, 3])], logits[jnp.array([0, 2, 3])])
    last = params["params"]["logit"]
    doubled = {"params": {**params["params"], "logit": jax.tree.map(lambda p: 2 * p, last)}}
    np.testing.assert_allclose(apply(doubled, X, LABELS), 2 * logits, rtol=1e-5)


def test_a_block_is_a_mean_of_two_paths(x64):
    block = stylegan2.discriminator.Block(5)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3), jnp.float64)
    made = block.init(jax.random.key(1), x)["params"]
    layers = stylegan2.layers
    h = layers.leaky_relu(layers.convolve(x, made["conv0"]["kernel"] / np.sqrt(27)))
    h = layers.leaky_relu(layers.convolve_down(h, made["conv1"]["kernel"] / np.sqrt(27)))
    short = layers.convolve_down(x, made["short"]["kernel"] / np.sqrt(3))
    np.testing.assert_allclose(
        block.apply({"params": made}, x), (h + short) / np.sqrt(2), rtol=1e-12
    )


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: setting(None, None)[0](setting(None, None)[1], X[:, :8]), "images float32"),
        (lambda: setting(None, 3)[0](setting(None, None)[1], X), "batch size 4 is not a multiple"),
        (lambda: stylegan2.Discriminator(16).init(jax.random.key(0), X, LABELS), "labels are giv"),
        (lambda: stylegan2.Discriminator(20).init(jax.random.key(0), X), "images float32|resol"),
        (
            lambda: stylegan2.Discriminator(16, num_classes=3).init(jax.random.key(0), X),
            "labels are missing",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
