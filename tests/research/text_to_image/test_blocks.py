"""Parts of the U-Net against NumPy: values, what they are at init, what the features are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.text_to_image import blocks
from tests.research.text_to_image import oracle

RNG = np.random.default_rng(0)
X, CONDITION = RNG.normal(size=(2, 3, 4, 8)), RNG.normal(size=(2, 5))
CONTEXT = RNG.normal(size=(2, 3, 6))


def filled(module, *args):
    """A module's parameters, each a fixed random array."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
    return {"params": jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape), shapes)}


@pytest.mark.parametrize(
    ("module", "args", "by_hand"),
    [
        (blocks.Residual(8, 4), (X, CONDITION), oracle.residual),
        (blocks.Residual(12, 2, epsilon=0.3), (X, CONDITION), oracle.residual),
        (blocks.PixelTransformer(2, 2, 4), (X, CONTEXT), oracle.pixel_transformer),
        (blocks.Embedding(7), (CONDITION,), oracle.embedding),
        (blocks.Attention(4), (X[:, 0], CONTEXT), oracle.attention),
        (blocks.GatedPerceptron(), (X[:, 0],), oracle.gated_perceptron),
    ],
    ids=lambda case: getattr(case, "__name__", None),
)
def test_parts_are_as_written_out(x64, module, args, by_hand):
    params = filled(module, *args)
    got = jax.jit(module.apply)(params, *args)
    options = {
        name: getattr(module, name)
        for name in ("num_heads", "num_groups", "epsilon")
        if hasattr(module, name)
    }
    for row, one in enumerate(zip(*args)):
        expected = by_hand(oracle.to_numpy(params["params"]), *one, **options)
        np.testing.assert_allclose(got[row], expected, rtol=1e-10, atol=1e-12)


def test_branches_start_at_zero():
    x, condition, context = (jnp.asarray(a, jnp.float32) for a in (X, CONDITION, CONTEXT))

    @jax.jit
    def outputs(rng):
        module, other = blocks.Residual(8, 4), blocks.PixelTransformer(1, 2, 4)
        return (
            module.apply(module.init(rng, x, condition), x, condition),
            other.apply(other.init(rng, x, context), x, context),
        )

    for got in outputs(jax.random.key(0, impl="rbg")):
        np.testing.assert_array_equal(got, x)


def test_time_features_are_cosines_first():
    steps = np.array([0, 1, 500, 999])
    got = np.asarray(blocks.time_features(jnp.asarray(steps), 12))
    assert got.dtype == np.float32
    expected = np.stack([oracle.sines(t, 12) for t in steps])
    # An angle of 999 in float32 is off by 3e-5, and its frequency by 5e-7 of it.
    np.testing.assert_allclose(got, expected, atol=6e-4)
    np.testing.assert_array_equal(got[0], [1] * 6 + [0] * 6)
    floats = blocks.time_features(jnp.asarray(steps, jnp.float32), 12)
    np.testing.assert_array_equal(floats, got)
    # diffusers 0.42.1: get_timestep_embedding(999, 8, flip_sin_to_cos=True,
    # downscale_freq_shift=0).
    theirs = [
        0.9996498227119446, 0.8074550628662109, -0.8444697856903076, 0.541143536567688,
        -0.02646075189113617, -0.5899291038513184, -0.5356031656265259, 0.8409302234649658,
    ]  # fmt: skip
    np.testing.assert_allclose(blocks.time_features(jnp.array([999]), 8)[0], theirs, atol=1e-7)
    # The same of (981, 320), where it differs most, by 6e-5, from frequencies in float64; in 3 of
    # 160 the exponential of their CPU is off by a bit, which no formula says.
    theirs = [
        -0.0054530552588403225,
        -0.055521853268146515,
        -0.42654070258140564,
        0.6011066436767578,
    ]
    ours = np.asarray(blocks.time_features(jnp.array([981]), 320))[0, [12, 14, 17, 178]]
    np.testing.assert_allclose(ours, theirs, atol=1e-7)
