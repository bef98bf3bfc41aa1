"""StyleGAN2's parts: modulated convolutions as loops over images, filters and deviation by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.gan.stylegan2 import layers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 6, 6, 4))
KERNEL = RNG.normal(size=(3, 3, 4, 5))
STYLE = RNG.normal(size=(3, 4)) + 1


def correlate(image, kernel, pad, stride=1):
    """[H, W, C] under [h, w, C, O] by two loops."""
    image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    side = kernel.shape[0]
    rows = range(0, image.shape[0] - side + 1, stride)
    columns = range(0, image.shape[1] - side + 1, stride)
    return np.array(
        [
            [np.tensordot(image[i : i + side, j : j + side], kernel, 3) for j in columns]
            for i in rows
        ]
    )


def blur(image, pad):
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    return correlate(image, np.einsum("hw,co->hwco", taps, np.eye(image.shape[-1])), pad)


def stuffed(image):
    out = np.zeros((2 * image.shape[0] - 1, 2 * image.shape[1] - 1, image.shape[2]))
    out[::2, ::2] = image
    return out


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulation_is_a_loop_over_images(demodulate, x64):
    modulated = [KERNEL * style[:, None] for style in STYLE]
    if demodulate:
        modulated = [k / np.sqrt(np.square(k).sum((0, 1, 2)) + 1e-8) for k in modulated]
    expected = [correlate(image, k, 1) for image, k in zip(X, modulated, strict=True)]
    out = layers.modulated_conv(X, KERNEL, STYLE, demodulate)
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    up = [4 * blur(correlate(stuffed(x), k, 2), 1) for x, k in zip(X, modulated, strict=True)]
    out = layers.modulated_conv(jnp.asarray(X), KERNEL, STYLE, demodulate, up=True)
    np.testing.assert_allclose(out, up, rtol=1e-10, atol=1e-12)
    if demodulate:
        np.testing.assert_array_equal(
            layers.modulated_conv(X, KERNEL, STYLE), layers.modulated_conv(X, KERNEL, STYLE, True)
        )


def test_demodulated_kernels_have_norm_one(x64):
    """The kernel that an image saw is its answer to one bright pixel of each channel."""
    impulses = np.zeros((4, 3, 3, 4))
    impulses[np.arange(4), 1, 1, np.arange(4)] = 1
    for style in (0.3, 1.0, 1e4):
        styles = np.tile(style * STYLE[:1], (4, 1))
        answers = layers.modulated_conv(impulses, KERNEL, styles)  # [C, 3, 3, O]
        np.testing.assert_allclose(np.square(answers).sum((0, 1, 2)), 1, rtol=1e-6)


def test_large_styles_do_not_overflow_half_precision():
    styles = 1e4 * STYLE
    expected = layers.modulated_conv(np.float32(X), np.float32(KERNEL), np.float32(styles))
    half = [jnp.asarray(a, jnp.float16) for a in (X, 1e2 * KERNEL, styles)]
    np.testing.assert_allclose(layers.modulated_conv(*half), expected, atol=0.02)


def test_resampling_convolutions_by_hand(x64):
    down = [correlate(blur(image, 2), KERNEL, 0, 2) for image in X]
    np.testing.assert_allclose(layers.convolve_down(jnp.asarray(X), KERNEL), down, rtol=1e-12)
    point = KERNEL[:1, :1]
    down = [correlate(blur(image, 1), point, 0, 2) for image in X]
    np.testing.assert_allclose(layers.convolve_down(jnp.asarray(X), point), down, rtol=1e-12)
    up = [4 * blur(correlate(stuffed(image), point, 0), 2) for image in X]
    np.testing.assert_allclose(layers.convolve_up(jnp.asarray(X), point), up, rtol=1e-12)


@pytest.mark.parametrize("group, size", [(None, 4), (2, 2), (6, 6), (50, 6)])
def test_deviation_of_a_group(group, size, x64):
    x = RNG.normal(size=(4 if group is None else 6, 2, 2, 3))
    out = layers.minibatch_deviation(x, *([] if group is None else [group]))
    np.testing.assert_array_equal(out[..., :3], x)
    num = len(x) // size
    for index in range(len(x)):
        members = x[index % num :: num]
        deviation = np.sqrt(members.var(0) + 1e-8).mean()
        np.testing.assert_allclose(out[index, ..., 3], deviation, rtol=1e-12)


def test_equalised_maps(x64):
    x = RNG.normal(size=(2, 7))
    dense = layers.Dense(500, rate=0.01, bias=3.0)
    params = dense.init(jax.random.key(0), x)["params"]
    assert abs(float(params["kernel"].std()) - 100) < 5
    expected = x @ (np.asarray(params["kernel"]) * 0.01 / np.sqrt(7)) + 0.03
    np.testing.assert_allclose(dense.apply({"params": params}, x), expected, rtol=1e-12)
    plain = layers.Dense(3)
    params = plain.init(jax.random.key(0), x)["params"]
    np.testing.assert_allclose(
        plain.apply({"params": params}, x), x @ params["kernel"] / np.sqrt(7), rtol=1e-12
    )
    for conv, side, run in [
        (layers.Conv(5), 3, layers.convolve),
        (layers.Conv(5, side=1, down=True, bias=False), 1, layers.convolve_down),
    ]:
        params = conv.init(jax.random.key(0), jnp.asarray(X))["params"]
        assert set(params) == ({"kernel", "bias"} if conv.bias else {"kernel"})
        params = {**params, **({"bias": jnp.arange(5.0)} if conv.bias else {})}
        expected = run(jnp.asarray(X), params["kernel"] / np.sqrt(side * side * 4))
        if conv.bias:
            expected = expected + np.arange(5.0)[None, None, None]
        np.testing.assert_allclose(conv.apply({"params": params}, jnp.asarray(X)), expected)


def test_activation_and_moment(x64):
    x = np.array([-2.0, 0.0, 3.0])
    expected = np.sqrt(2) * np.array([-0.4, 0, 3])
    np.testing.assert_allclose(layers.leaky_relu(jnp.asarray(x)), expected)
    rows = RNG.normal(size=(2, 5))
    expected = rows / np.sqrt(np.square(rows).mean(1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(layers.unit_moment(jnp.asarray(rows)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: layers.modulated_conv(X[0], KERNEL, STYLE), r"x \[6, 6, 4\] and kernel"),
        (lambda: layers.modulated_conv(X, KERNEL[:, :, :3], STYLE), "kernel .3, 3, 3, 5.: expec"),
        (lambda: layers.modulated_conv(X, KERNEL[:2], STYLE), "expected equal odd sides"),
        (lambda: layers.modulated_conv(X, KERNEL[:2, :2], STYLE), "expected equal odd sides"),
        (lambda: layers.modulated_conv(X, KERNEL, STYLE[:2]), r"style \[2, 4\]: expected \[3, 4\]"),
        (lambda: layers.minibatch_deviation(X[:, :2, :2], 2), "batch size 3 is not a multiple"),
        (lambda: layers.minibatch_deviation(X[:0], 4), "batch size 0 is not a multiple"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
