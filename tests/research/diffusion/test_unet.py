"""The U-Net reaches the published shapes, and its examples, classes and masks keep apart."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import embeddings, unet
from research.vision import patches, resampling
from tests.research.diffusion import networks

HALF = 1 / math.sqrt(2)


DDPM = unet.UNet(3, (128, 256, 256, 256), 2, (16,), num_groups=32, dropout=0.1)


DDPMPP = DDPM.clone(
    num_blocks=4, resample=resampling.BOX, skip_scale=HALF, attend_each_up_block=False
)


NCSNPP = DDPMPP.clone(resample=resampling.FIR, input_pyramid=True, features=embeddings.Fourier(256))


TINY = unet.UNet(
    1,
    (4, 8),
    1,
    (2,),
    head_dim=4,
    num_groups=2,
    num_classes=3,
    dropout=0.5,
    resample=resampling.FIR,
    input_pyramid=True,
    skip_scale=HALF,
)


def num_params(net, shape):
    args = (jnp.zeros((2, *shape)), jnp.zeros(2))
    out, params = jax.eval_shape(net.init_with_output, jax.random.key(0), *args)
    assert out.shape == (2, *shape[:2], net.out_channels)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "net, expected",
    [
        # diffusers 0.42.1, UNet2DModel, channels 32/64/64, attention at 16x16, 8 norm groups
        (unet.UNet(3, (32, 64, 64), 1, (16,), 32), 1_113_955),
        # diffusers' google/ddpm-cifar10-32; "35.7 million" in arXiv:2006.11239, appendix B
        (DDPM, 35_746_307),
    ],
)
def test_parameter_counts_of_published_networks(net, expected):
    assert num_params(net, (32, 32, 3)) == expected


def test_ddpmpp_and_ncsnpp_counts_follow_from_ddpms():
    def block(c_in, c_out, shortcut):
        conv = 9 * (c_in + c_out) * c_out + 2 * c_out
        return 2 * (c_in + c_out) + conv + 513 * c_out + shortcut * (c_in + 1) * c_out

    # Two more blocks a rung each way: 8 down (2 of them attend), 8 up; the skips keep their widths.
    more = 2 * block(128, 128, 0) + 6 * block(256, 256, 0)
    more += 2 * block(256, 128, 1) + 6 * block(512, 256, 1)
    attention = 4 * (256 + 1) * 256 + 2 * 256
    more += (2 - 2) * attention  # 2 more on the way down, 2 fewer on the way up
    # Three resampling blocks each way in place of three convolutions each way.
    more += block(128, 128, 1) + 5 * block(256, 256, 1)
    more -= 9 * 128 * 128 + 128 + 5 * (9 * 256 * 256 + 256)
    assert num_params(DDPMPP, (32, 32, 3)) == 35_746_307 + more
    pyramid = (9 * 3 + 1) * 128 + (9 * 128 + 1) * 256 + (9 * 256 + 1) * 256
    features = (256 - 128) * 512
    assert num_params(NCSNPP, (32, 32, 3)) == 35_746_307 + more + pyramid + features


X = np.random.default_rng(1).standard_normal((4, 4, 4, 1))
T = np.array([0.1, 0.4, 0.7, 1.0])
LABELS = np.array([0, 1, 2, 3])


def test_output_is_zero_at_init():
    net = unet.UNet(1, (4,), num_groups=2, features=embeddings.Sinusoidal(4))
    args = np.ones((2, 8, 8, 1), np.float32), np.ones(2, np.float32)
    begin = jax.jit(lambda rng: net.init_with_output(rng, *args))
    out, params = begin(jax.random.key(0, impl="unsafe_rbg"))  # a generator that compiles fast
    np.testing.assert_array_equal(out, np.zeros((2, 8, 8, 1)))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(jax.tree.map(np.asarray, params)))


def test_examples_do_not_mix_and_masks_follow_their_keys(x64):
    """One rung: a generator of masks costs more compilation than all else in a block."""
    net = unet.UNet(1, (4,), num_groups=2, num_classes=3, dropout=0.5)
    apply, params = jax.jit(net.apply), networks.random_params(net, X, T)
    keys, order = jax.random.split(jax.random.key(5), 4), np.array([2, 0, 3, 1])
    out = np.asarray(apply(params, X, T, LABELS, keys))
    shuffled = apply(params, X[order], T[order], LABELS[order], keys[order])
    np.testing.assert_allclose(shuffled, out[order], rtol=1e-10, atol=1e-10)
    assert np.abs(out - apply(params, X, T, LABELS, keys[order])).max() > 1e-2


def test_no_label_is_the_null_class(x64):
    net = unet.UNet(1, (4,), num_groups=2, num_classes=3)
    params = networks.random_params(net, X, T)

    @jax.jit
    def both(params, labels):
        return net.apply(params, X, T), net.apply(params, X, T, labels)

    out, null = both(params, np.full(4, 3))
    np.testing.assert_allclose(null, out, rtol=1e-10, atol=1e-10)
    assert np.abs(both(params, np.zeros(4, int))[1] - out).max() > 1e-2


def test_a_patched_network_with_details_is_the_plain_one_on_patches(x64):
    details = embeddings.FineDetails((2, 3), lambda t: t)
    plain = unet.UNet(4, (8,), num_groups=4)
    patched = plain.clone(out_channels=1, patch=2, details=details)
    noise = np.random.default_rng(0)
    x, t = noise.standard_normal((2, 4, 4, 1)), np.array([0.1, 0.4])
    params = networks.random_params(patched, x, t)

    @jax.jit
    def both(params, x, t):
        seen = patches.to_patch_grid(jnp.concatenate([x, details(x, t)], -1), 2)
        expected = patches.from_patch_grid(plain.apply(params, seen, t), 2)
        return patched.apply(params, x, t), expected

    np.testing.assert_allclose(*both(params, x, t), rtol=1e-12)


def test_every_pixel_and_the_time_reach_every_pixel_of_their_example_only(x64):
    """Each of 16 pixels is moved in an example of its own, and the time in one more."""
    noise = np.random.default_rng(2)
    x, t = np.tile(X[:1], (18, 1, 1, 1)), np.full(18, 0.4)
    x[1:17] += 0.1 * np.eye(16).reshape(16, 4, 4, 1)
    t[17] += 0.01
    labels, order = np.ones(18, int), noise.permutation(18)
    apply, params = jax.jit(TINY.apply), networks.random_params(TINY, x, t)
    out = np.asarray(apply(params, x, t, labels))
    assert (np.abs(out[1:] - out[:1]) > 1e-9).all()
    shuffled = apply(params, x[order], t[order], labels)
    np.testing.assert_allclose(shuffled, out[order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "net, args, message",
    [
        (TINY, (jnp.zeros((2, 7, 8, 1)), jnp.zeros(2)), "multiples of 2"),
        (
            TINY.clone(num_classes=None),
            (jnp.zeros((2, 8, 8, 1)), jnp.zeros(2), jnp.zeros(2, int)),
            "num_classes=None",
        ),
        (TINY.clone(dropout=1.0), (jnp.zeros((2, 8, 8, 1)), jnp.zeros(2)), "dropout=1.0"),
        (TINY.clone(num_groups=5), (jnp.zeros((2, 8, 8, 1)), jnp.zeros(2)), "num_groups=5"),
    ],
)
def test_bad_input_is_named(net, args, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), *args)
