"""The U-Net against NumPy: every version's kind of block, its conditions and its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.text_to_image import unet
from tests.research.text_to_image import oracle
from tests.research.text_to_image.test_blocks import filled

PLAIN = unet.UNet(
    in_channels=3, out_channels=2, channels=(4, 8), num_blocks=1, depths=(1, 0), num_heads=2,
    context_dim=6, num_groups=2,
)  # fmt: skip
XL = unet.UNet(
    in_channels=4, out_channels=4, channels=(4, 8), num_blocks=2, depths=(0, 2), middle_depth=2,
    num_heads=(1, 4), context_dim=5, pooled_dim=3, size_dim=4, num_groups=4, linear=True,
)  # fmt: skip
RNG = np.random.default_rng(0)


def inputs(net, dtype=np.float64):
    latents = RNG.normal(size=(2, 4, 2, net.in_channels))
    context = RNG.normal(size=(2, 3, net.context_dim))
    added = ()
    if net.pooled_dim:
        added = (RNG.normal(size=(2, net.pooled_dim)), np.zeros((2, 6)))
    # At step 0 and size 0 the features, which are float32, are exact.
    return tuple(x.astype(dtype) for x in (latents, np.zeros(2), context, *added))


@pytest.mark.parametrize("net", [PLAIN, XL], ids=["plain", "xl"])
def test_the_network_is_as_written_out(x64, net):
    args = inputs(net)
    params = filled(net, *args)
    apply = jax.jit(net.apply)
    got = apply(params, *args)
    assert got.shape == (2, 4, 2, net.out_channels) and got.dtype == np.float64
    numbers = oracle.to_numpy(params["params"])
    for row, one in enumerate(zip(*args)):
        np.testing.assert_allclose(got[row], oracle.unet(numbers, net, *one), rtol=1e-9)
    later = list(args)
    later[1] = np.array([3.0, 700.0])
    if net.pooled_dim:
        later[4] = np.array([[8.0, 9, 0, 1, 64, 5], [512, 768, 100, 0, 1, 2]])
    got = apply(params, *later)
    for row, one in enumerate(zip(*later)):
        expected = oracle.unet(numbers, net, *one)
        # float32 features: an angle of 700 is off by up to 3e-5, its frequency by 5e-7 of it.
        np.testing.assert_allclose(got[row], expected, atol=1e-3 * np.abs(expected).max())
        assert np.abs(expected - oracle.unet(numbers, net, *list(zip(*args))[row])).max() > 0.01


def test_the_published_sizes_are_the_defaults():
    assert unet.UNet() == unet.UNet(
        in_channels=4, out_channels=4, channels=(320, 640, 1280, 1280), num_blocks=2,
        depths=(1, 1, 1, 0), middle_depth=1, num_heads=(8, 8, 8, 8)[0], context_dim=768,
        pooled_dim=None, size_dim=256, num_groups=32, linear=False,
    )  # fmt: skip
    assert (unet.UNet().factor, unet.UNet().heads, XL.factor, XL.heads) == (8, (8,) * 4, 2, (1, 4))


def test_an_initial_network_needs_no_pooled_text():
    latents, t, context, *added = inputs(XL, np.float32)
    params = jax.eval_shape(XL.init, jax.random.key(0), latents, t, context)
    whole = jax.eval_shape(XL.init, jax.random.key(0), latents, t, context, *added)
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(lambda x: x.shape, whole)
    with pytest.raises(ValueError, match=r"pooled and sizes \[None, None\]: this network expects"):
        XL.apply(params, latents, t, context)


def test_an_initial_network_predicts_zero():
    small = unet.UNet(channels=(4,), num_blocks=1, depths=(0,), num_heads=1, context_dim=2,
                      num_groups=2)  # fmt: skip
    args = jnp.ones((1, 1, 1, 4)), jnp.ones(1), jnp.ones((1, 1, 2))

    @jax.jit
    def predicted(rng):
        params = small.init(rng, *args)
        return small.apply(params, *args), params["params"]["head"]

    prediction, head = predicted(jax.random.key(0, impl="rbg"))
    np.testing.assert_array_equal(prediction, 0 * args[0])
    np.testing.assert_array_equal(head["kernel"], 0)


def shaped(net, **changed):
    """A call's arguments, as shapes, one of them another."""
    latents, t, context, *added = inputs(net)
    given = {"latents": latents, "t": t, "context": context}
    given |= dict(zip(("pooled", "sizes"), added))
    return {name: jnp.zeros(changed.get(name, array.shape)) for name, array in given.items()} | {
        name: jnp.zeros(shape) for name, shape in changed.items()
    }


@pytest.mark.parametrize(
    ("net", "changed", "message"),
    [
        (PLAIN, {"latents": (2, 4, 2, 4)}, r"latents \[2, 4, 2, 4\]: expected \[B, h, w, 3\]"),
        (PLAIN, {"latents": (4, 2, 3)}, r"latents \[4, 2, 3\]: expected"),
        (PLAIN, {"latents": (2, 4, 3, 3)}, "latents of 4 x 3: expected multiples of 2"),
        (PLAIN, {"t": (1,)}, r"t \[1\]: expected a step for each example, \[2\]"),
        (PLAIN, {"context": (2, 3, 7)}, r"context \[2, 3, 7\]: expected \[2, T, 6\]"),
        (PLAIN, {"context": (1, 3, 6)}, r"context \[1, 3, 6\]: expected \[2, T, 6\]"),
        (PLAIN, {"pooled": (2, 3)}, r"pooled and sizes \[\[2, 3\], None\]: this network expects "
                                    r"\[None, None\]"),
        (XL, {"pooled": (2, 4)}, r"expects \[\[2, 3\], \[2, 6\]\]"),
        (XL, {"sizes": (2, 5)}, r"expects \[\[2, 3\], \[2, 6\]\]"),
        (PLAIN.clone(num_heads=3), {}, r"channels=\(4, 8\): expected multiples of num_groups=2 "
                                       "and of num_heads=3"),
        (PLAIN.clone(num_groups=3), {}, "expected multiples of num_groups=3"),
        (PLAIN.clone(num_groups=0), {}, "num_groups and num_heads=0: expected a positive whole"),
        (PLAIN.clone(depths=(1,)), {}, "expected one of each for every resolution"),
        (PLAIN.clone(num_heads=(2,)), {}, "expected one of each for every resolution"),
    ],
)  # fmt: skip
def test_bad_input(net, changed, message):
    with pytest.raises(ValueError, match=message):
        net.apply({}, **shaped(net, **changed))
