"""3 x 3 convolutions in the transformed domain against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from research.ntk import checks
from research.ntk.jacobians import jaxprs, winograd

LAYOUTS = {  # dimension numbers of image, kernel and result
    "channels last": ("NHWC", "HWIO", "NHWC"),
    "channels first": ("NCHW", "OIHW", "NCHW"),
    "mixed": ("HWNC", "IHWO", "CNHW"),
}


def operands(layout, image=(6, 5), channels=(16, 17), batch=3):
    """Arrays in a layout, their axes told by letters."""
    sizes = {"N": batch, "H": image[0], "W": image[1], "C": channels[0]}
    kernel = {"H": 3, "W": 3, "I": channels[0], "O": channels[1]}
    rng = np.random.default_rng(0)
    shapes = [sizes[letter] for letter in layout[0]], [kernel[letter] for letter in layout[1]]
    return tuple(rng.normal(size=shape) for shape in shapes)


def programs(layout, padding, h, w, **options):
    """Ours (None where it does not apply) and XLA's."""

    def conv(w, h):
        return jax.lax.conv_general_dilated(
            h, w, (1, 1), padding, dimension_numbers=layout, precision="highest", **options
        )

    (operation,) = jaxprs.trace(conv, w, h).operations
    ours = winograd.find(operation, [jax.typeof(h), jax.typeof(w)])
    return ours and (lambda h, w: ours(h, w)[0]), lambda h, w: conv(w, h)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 2), (2, 1))])
def test_values_and_cotangents(x64, layout, padding):
    """Of even and odd sizes, with images that do not fill the last chunk."""
    h, w = operands(LAYOUTS[layout])
    ours, plain = programs(LAYOUTS[layout], padding, h, w)

    @jax.jit
    def both(h, w):
        """Values and cotangents, of ours and of XLA's."""
        (expected, pull), (found, our_pull) = (jax.vjp(conv, h, w) for conv in (plain, ours))
        cotangent = jnp.cos(expected)
        return (found, *our_pull(cotangent)), (expected, *pull(cotangent))

    for mine, theirs in zip(*both(h, w), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_chunks(x64, monkeypatch):
    """Seven images, two at a time and one left over."""
    monkeypatch.setattr(winograd, "_CHUNK_BYTES", 2 * 6 * 5 * 17 * 8)
    layout, padding = LAYOUTS["channels last"], ((1, 1), (1, 1))
    h, w = operands(layout, batch=7)
    _, plain = programs(layout, padding, h, w)
    found = jax.jit(lambda h, w: winograd._in_chunks(h, w, padding))(h, w)
    np.testing.assert_allclose(found, plain(h, w), atol=1e-12)


@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)])
def test_mapped_operands(x64, mapped):
    layout, padding = LAYOUTS["channels last"], ((1, 1), (1, 1))
    h, w = operands(layout)
    ours, plain = programs(layout, padding, h, w)
    args = [np.stack([a, 2 * a]) if axis == 0 else a for a, axis in zip((h, w), mapped)]
    found, expected = (jax.jit(jax.vmap(conv, mapped))(*args) for conv in (ours, plain))
    np.testing.assert_allclose(found, expected, atol=1e-12)


NOT_TAKEN = {  # kernel, channels of the image, options
    "strides": ((3, 3, 32, 32), 32, dict(window_strides=(2, 2))),
    "dilation": ((3, 3, 32, 32), 32, dict(rhs_dilation=(2, 2))),
    "groups": ((3, 3, 16, 32), 32, dict(feature_group_count=2)),
    "channels": ((3, 3, 8, 32), 8, {}),
    "kernel": ((5, 5, 32, 32), 32, {}),
}


@pytest.mark.parametrize("case", NOT_TAKEN)
def test_where_it_does_not_apply(case):
    kernel, channels, options = NOT_TAKEN[case]
    options = dict(window_strides=(1, 1), padding="SAME") | options
    w, h = jnp.zeros(kernel), jnp.zeros((1, 8, 8, channels))

    def conv(w, h):
        numbers = LAYOUTS["channels last"]
        return jax.lax.conv_general_dilated(h, w, dimension_numbers=numbers, **options)

    operations = jaxprs.trace(conv, w, h).operations
    assert all(winograd.find(o, [jax.typeof(h), jax.typeof(w)]) is None for o in operations)


def test_a_network_that_uses_it(x64):
    """Kernels of a network wide enough for it are those of full Jacobians."""
    rng = np.random.default_rng(1)
    params = {name: jnp.asarray(rng.normal(size=(3, 3, 16, 16))) / 12 for name in "ab"}
    params["v"] = jnp.asarray(rng.normal(size=(16, 2)))
    numbers = dict(dimension_numbers=LAYOUTS["channels last"], padding="SAME")

    def apply(params, x):
        for name in "ab":
            x = jnp.tanh(jax.lax.conv_general_dilated(x, params[name], (1, 1), **numbers))
        return x.mean((1, 2)) @ params["v"]

    x = jnp.asarray(rng.normal(size=(2, 4, 3, 16)))
    operations = jaxprs.trace(checks.one_example(apply), params, checks.first(x)).operations
    avals = [jax.typeof(x[:1]), jax.typeof(params["a"])]
    convs = [o for o in operations if o.name == "conv_general_dilated"]
    assert len(convs) == 2 and all(winograd.find(o, avals) for o in convs)
    found, full = (ntk.empirical(apply, params, x, method=m) for m in ("structured", "jacobian"))
    np.testing.assert_allclose(found, full, rtol=1e-9, atol=1e-12)
