"""The diffusion transformer: published sizes, symmetries and the null class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import dit
from tests.research.diffusion import networks

TINY = dit.DiT(2, patch=2, depth=2, width=16, num_heads=2, num_classes=3)


@pytest.mark.parametrize(
    "depth, width, heads, millions",
    [(12, 384, 6, 33), (12, 768, 12, 130), (24, 1024, 16, 458), (28, 1152, 16, 675)],
)
def test_parameter_counts_of_the_paper(depth, width, heads, millions):
    """arXiv:2212.09748, table 4, on 32x32x4 latents with learned variances and 1000 classes."""
    net = dit.DiT(8, 2, depth, width, heads, num_classes=1000)
    args = (jnp.zeros((2, 32, 32, 4)), jnp.zeros(2))
    out, params = jax.eval_shape(net.init_with_output, jax.random.key(0), *args)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert round(num_params / 1e6) == millions
    if millions == 675:  # the released DiT-XL/2, which counts its fixed positions too
        assert num_params + 256 * width == 675_129_632
    assert out.shape == (2, 32, 32, 8)


def test_blocks_are_the_identity_at_init_and_commute_with_permutations(x64):
    block = dit.Block(2, 4)
    h, condition = np.random.default_rng(1).standard_normal((1, 6, 16)), np.ones((1, 16))
    begun = jax.jit(lambda rng: block.init_with_output(rng, h, condition)[0])(jax.random.key(0))
    apply = jax.jit(block.apply)
    np.testing.assert_array_equal(begun, h)
    params = networks.random_params(block, h, condition)
    order = np.array([3, 0, 5, 1, 2, 4])
    out = np.asarray(apply(params, h, condition))
    np.testing.assert_allclose(apply(params, h[:, order], condition), out[:, order], rtol=1e-10)
    assert np.abs(out - h).max() > 0.1


def test_patches_go_back_where_they_came_from(x64):
    """With no blocks a pixel depends on its own patch only."""
    net = TINY.clone(depth=0)
    x, t = jnp.ones((1, 4, 6, 1)), jnp.ones(1)
    params = networks.random_params(net, x, t)
    reach = jax.jit(jax.jacobian(lambda x: net.apply(params, x, t).sum(-1)[0]))(x)
    touched = np.abs(reach[..., 0, :, :, 0]) > 0  # [H, W, H, W]
    rows, columns = np.mgrid[:4, :6]
    patch = rows // 2 * 3 + columns // 2
    np.testing.assert_array_equal(touched, patch[:, :, None, None] == patch)


def test_positions_tell_all_patches_apart():
    features = dit.grid_features(16, 16, 64)
    gaps = np.linalg.norm(features[:, None] - features[None], axis=-1)
    assert (gaps + np.eye(256)).min() > 0.1
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), np.sqrt(32), rtol=1e-12)


def test_examples_do_not_mix_and_no_label_is_the_null_class(x64):
    networks.assert_examples_keep_apart(TINY, (3, 4, 4, 1))


def test_fields_of_the_transformer_reach_its_layers(x64):
    """Features of one's own, perceptrons twice as wide, patches of one pixel, no dropout keys."""
    features = lambda t: jnp.stack([t, t**2, t**3], -1)
    net = TINY.clone(patch=1, depth=1, mlp_ratio=2, features=features)
    x, t = np.random.default_rng(1).standard_normal((2, 2, 2, 1)), np.array([0.3, 0.8])
    params = networks.random_params(net, x, t)
    shapes = jax.tree.map(np.shape, params["params"])
    assert shapes["patches"]["kernel"] == (1, 16) and shapes["head"]["kernel"] == (16, 2)
    assert shapes["Condition_0"]["Dense_0"]["kernel"] == (3, 16)
    assert shapes["Block_0"]["Dense_3"]["kernel"] == (16, 32)
    with_keys = lambda x: net.apply(params, x, t, rng=jax.random.split(jax.random.key(0), 2))
    both = jax.jit(lambda x: (net.apply(params, x, t), with_keys(x)))(x)
    np.testing.assert_allclose(*both, rtol=1e-12)
    assert both[0].shape == (2, 2, 2, 2)


@pytest.mark.parametrize(
    "net, args, message",
    [
        (TINY, (jnp.zeros((2, 5, 4, 1)), jnp.zeros(2)), "multiples of 2"),
        (TINY.clone(width=18), (jnp.zeros((2, 4, 4, 1)), jnp.zeros(2)), "width=18"),
        (
            TINY.clone(num_classes=None),
            (jnp.zeros((2, 4, 4, 1)), jnp.zeros(2), jnp.zeros(2, int)),
            "num_classes=None",
        ),
    ],
)
def test_bad_input_is_named(net, args, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), *args)


def test_norms_keep_their_digits_where_the_mean_is_large():
    x = (1000 + 0.01 * np.arange(16, dtype=np.float32)).astype(np.float32)[None]
    wide = x.astype(float)
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-6)
    np.testing.assert_allclose(dit._norm().apply({}, x), expected, atol=5e-3)  # 1000 has 6e-5
