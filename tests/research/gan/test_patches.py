"""A critic of patches: published counts, its layers by hand, what it sees; losses over patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.gan import losses, patches

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def test_published_counts():
    """pix2pix's, of two images of 3 channels each, and that of one image."""
    shape = lambda channels: jnp.zeros((1, 256, 256, channels))
    count = lambda module, x: sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(module.init, KEY, x)["params"])
    )
    assert count(patches.Discriminator(), shape(6)) == 2_768_705
    assert count(patches.Discriminator(), shape(3)) == 2_765_633
    plain = patches.Discriminator(width=4, depth=1, batch_norm=False)
    assert count(plain, shape(1)) == (16 * 4 + 4) + (16 * 4 * 8 + 8) + (16 * 8 + 1)
    deep = patches.Discriminator(depth=5)  # 64, 128, 256, 512, 512, 512
    assert count(deep, shape(3)) == 2_765_633 + 2 * (16 * 512 * 512 + 2 * 512)


@pytest.mark.parametrize("depth, field", [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_one_patch(depth, field):
    module = patches.Discriminator(width=1, depth=depth, batch_norm=False)
    x = jnp.asarray(RNG.normal(size=(1, 112, 112, 1)), jnp.float32)
    params = module.init(KEY, x)
    logits = jax.eval_shape(module.apply, params, x)
    assert logits.shape == (1, 112 // 2**depth - 2, 112 // 2**depth - 2)
    middle = logits.shape[1] // 2
    seen = jax.jit(jax.grad(lambda x: module.apply(params, x)[0, middle, middle]))(x)
    rows, columns = np.nonzero(np.asarray(seen)[0, :, :, 0])
    assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == field


def conv(x, kernel, bias, stride):
    """A 4 x 4 convolution of one zero around, pixel by pixel."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    num = (x.shape[1] - 4) // stride + 1
    place = lambda i: slice(i * stride, i * stride + 4)
    rows = [
        [np.einsum("buvc,uvcf->bf", x[:, place(i), place(j)], kernel) for j in range(num)]
        for i in range(num)
    ]
    return np.stack([np.stack(row, 1) for row in rows], 1) + bias


@pytest.mark.parametrize("batch_norm", [True, False])
def test_layers_by_hand(batch_norm, x64):
    options = {} if batch_norm else {"batch_norm": False}
    module = patches.Discriminator(width=2, depth=1, **options)
    x = RNG.normal(size=(3, 8, 8, 1))
    variables = module.init(KEY, jnp.asarray(x))
    variables = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape) + 1, variables)
    params = variables["params"]
    of = patches.discriminate(module)
    logits, state = jax.jit(of)(params, variables.get("batch_stats", {}), KEY, x, x)
    leaky = lambda x: np.where(x > 0, x, 0.2 * x)
    layer = lambda h, i, stride: conv(
        h, params[f"Conv_{i}"]["kernel"], params[f"Conv_{i}"].get("bias", 0), stride
    )
    h = layer(leaky(layer(x, 0, 2)), 1, 1)
    if batch_norm:
        mean, var = h.mean((0, 1, 2)), h.var((0, 1, 2))
        norm = params["BatchNorm_0"]
        h = (h - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
        old = variables["batch_stats"]["BatchNorm_0"]
        kept = {"mean": 0.9 * old["mean"] + 0.1 * mean, "var": 0.9 * old["var"] + 0.1 * var}
        testing.assert_trees_close(state, {"BatchNorm_0": kept}, rtol=1e-10)
    else:
        assert state == {}
    np.testing.assert_allclose(logits, layer(leaky(h), 2, 1)[..., 0], rtol=1e-10)


@pytest.mark.parametrize("loss", [losses.hinge, losses.relativistic])
def test_a_loss_is_a_mean_over_patches(loss, x64):
    real, fake = RNG.normal(size=(2, 3, 4, 5))
    on_patches = patches.OnPatches(loss)
    if loss is losses.hinge:
        critic = np.maximum(1 - real, 0).mean() + np.maximum(1 + fake, 0).mean()
        generator = -fake.mean()
    else:
        critic = np.log1p(np.exp(fake - real)).mean()
        generator = np.log1p(np.exp(real - fake)).mean()
    np.testing.assert_allclose(on_patches.discriminator(real, fake), critic, rtol=1e-12)
    np.testing.assert_allclose(on_patches.generator(real, fake), generator, rtol=1e-12)
    assert patches.OnPatches(losses.least_squares).undecided == 0.5


def apply(x, **options):
    return jax.eval_shape(patches.Discriminator(**options).init, KEY, x)


IMAGE = jnp.zeros((1, 24, 24, 3))
BAD = {
    "width": (lambda: apply(IMAGE, width=0), "width=0: expected a positive whole number"),
    "depth": (lambda: apply(IMAGE, depth=0), "depth=0: expected a positive whole number"),
    "small": (lambda: apply(IMAGE[:, :23]), r"images float32\[1, 23, 24, 3\]: .* of 24 pixels"),
    "rank": (lambda: apply(IMAGE[0]), r"images float32\[24, 24, 3\]: expected floats \[B, H"),
    "dtype": (lambda: apply(IMAGE.astype(int)), r"images int32\[1, 24, 24, 3\]: expected floats"),
    "shapes": (
        lambda: patches.OnPatches(losses.hinge).generator(np.ones((2, 3)), np.ones(6)),
        r"logits real \(2, 3\), fake \(6,\): expected one shape",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()
