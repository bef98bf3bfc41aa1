"""Vision transformers: exact sizes, permutations of patches, registers, attention maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.vision import patches, vit

SMALL = functools.partial(vit.ViT, num_classes=5, patch=4, width=16, depth=2, num_heads=2)


@pytest.mark.parametrize(
    "make, patch, num_heads, count",
    [
        (vit.tiny, 16, 3, 5_717_416),
        (vit.small, 16, 6, 22_050_664),
        (vit.base, 16, 12, 86_567_656),
        (vit.base, 32, 12, 88_224_232),
        (vit.large, 16, 16, 304_326_632),
        (vit.huge, 14, 16, 632_045_800),
    ],
)
def test_sizes_of_the_paper(make, patch, num_heads, count):
    model = make(num_classes=1000, patch=patch)
    assert model.num_heads == num_heads  # which no count of parameters sees
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    assert testing.count_parameters(functools.partial(model.init, jax.random.key(0)), images) == (
        count
    )


def test_fixed_positions_and_the_mean_have_no_parameters():
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    plain, fixed, registers = (
        testing.count_parameters(
            functools.partial(vit.small(num_classes=1000, **kwargs).init, jax.random.key(0)), images
        )
        for kwargs in ({}, {"pooling": "average", "positions": "fixed"}, {"num_registers": 4})
    )
    assert plain - fixed == 384 + 197 * 384
    assert registers - plain == 4 * 384


def test_matrices_start_as_wide_as_the_network_is():
    """Standard deviation D^-1/2 of what reads, 5 standard errors; the head starts at zero."""
    params = jax.jit(SMALL().init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    attention = params["encoder"]["layers"]["attention"]
    kernels = [attention[name]["kernel"] for name in ("query", "key")]
    assert abs(np.std(kernels) * 4 - 1) < 5 / (2 * 1024) ** 0.5
    assert not params["head"]["kernel"].any()  # all classes start equally likely


def noisy(model, images, seed=0):
    """Random parameters, without the zeros of the start; scales of norms lie around 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        centre = np.float32(path[-1].key == "scale")
        return centre + 0.3 * rng.normal(size=leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("positions", ["learned", "fixed"])
def test_only_positions_tell_patches_apart(positions):
    """Shuffled patches change the logits; with shuffled positions, or none, they do not."""
    images = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
    model = SMALL(pooling="average", positions=positions, num_registers=2, grid=(2, 3))
    params = noisy(model, images)
    order = np.array([4, 2, 0, 1, 5, 3])
    cut = np.asarray(patches.to_patches(images, 4))[:, order]
    shuffled = patches.from_patches(cut, (8, 12, 3), 4)
    apply = jax.jit(model.apply)
    logits = apply(params, images)
    assert np.abs(apply(params, shuffled) - logits).max() > 1e-2
    if positions == "learned":
        moved = jax.tree.map(lambda leaf: leaf, params)
        moved["params"]["positions"] = params["params"]["positions"][:, order]
        np.testing.assert_allclose(apply(moved, shuffled), logits, rtol=1e-4, atol=1e-5)
    else:
        taller = jax.random.normal(jax.random.key(2), (2, 16, 8, 3))
        assert jax.eval_shape(model.apply, params, taller).shape == (2, 5)


def test_attention_maps_are_laws_and_reach_every_token():
    images = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
    model = SMALL(num_registers=3, grid=(2, 3))
    params = noisy(model, images)

    @jax.jit
    def run(params):
        gradient = jax.grad(lambda params: (model.apply(params, images) ** 2).sum())(params)
        return vit.attention_maps(model, params, images), gradient

    maps, gradient = run(params)
    assert maps.shape == (2, 2, 2, 10, 10)
    unrolled = jax.jit(model.clone(unroll=2).apply)(params, images)
    np.testing.assert_allclose(unrolled, model.apply(params, images), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
    # The first block's maps by hand, from the parameters.
    block = jax.tree.map(
        lambda leaf: np.asarray(leaf[0], np.float64), params["params"]["encoder"]["layers"]
    )
    tokens = _tokens(params["params"], np.asarray(images, np.float64))
    centred = tokens - tokens.mean(-1, keepdims=True)
    h = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    h = h * block["attention_norm"]["scale"] + block["attention_norm"]["bias"]
    q, k = (
        np.einsum("btd,dhk->bthk", h, block["attention"][name]["kernel"])
        + block["attention"][name]["bias"]
        for name in ("query", "key")
    )
    scores = np.exp(np.einsum("bthk,bshk->bhts", q, k) / 8**0.5)
    np.testing.assert_allclose(maps[0], scores / scores.sum(-1, keepdims=True), rtol=1e-4)
    # Tokens of the last block's input: blocks are applied in between.
    assert np.abs(maps[1] - maps[0]).max() > 1e-2
    # The loss reaches class token, positions and registers.
    for name in ("class_token", "positions", "registers"):
        assert (np.abs(gradient["params"][name]).max(-1) > 1e-4).all()


def _tokens(params, images):
    embed = params["embed"]["linear"]
    x = np.asarray(patches.to_patches(images, 4)) @ np.asarray(embed["kernel"], np.float64)
    x = x + np.asarray(embed["bias"])
    x = np.concatenate([np.tile(params["class_token"], (2, 1, 1)), x], 1) + params["positions"]
    return np.concatenate([x, np.tile(params["registers"], (2, 1, 1))], 1)


def keys_kernel(grid, new_grid, antialias, cubic):
    """[new, old] weights of one axis: Keys 1981, a = -1/2, or a hat; centres of pixels."""

    def kernel(x):
        x = np.abs(x)
        if not cubic:
            return np.maximum(1 - x, 0)
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    stretch = max(grid / new_grid, 1) if antialias else 1
    places = (np.arange(new_grid) + 0.5) * grid / new_grid - 0.5
    weights = kernel((places[:, None] - np.arange(grid)) / stretch)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    "new_grid, options", [
        ((5, 7), {}), ((3, 2), {}), ((3, 2), {"antialias": False}), ((7, 2), {"method": "linear"})
    ],
)  # fmt: skip
def test_positions_are_interpolated_by_grid(new_grid, options, x64):
    table = np.random.default_rng(0).normal(size=(1, 1 + 4 * 6, 3))
    params = {"params": {"positions": table, "other": np.ones(2)}}
    resized = vit.resize_positions(params, (4, 6), new_grid, **options)["params"]
    rows, columns = (
        keys_kernel(old, new, options.get("antialias", True), "method" not in options)
        for old, new in zip((4, 6), new_grid)
    )
    expected = np.einsum("ar,bc,rcd->abd", rows, columns, table[0, 1:].reshape(4, 6, 3))
    np.testing.assert_array_equal(resized["positions"][:, :1], table[:, :1])
    np.testing.assert_allclose(
        resized["positions"][0, 1:], expected.reshape(-1, 3), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_array_equal(resized["other"], 1)
    same = vit.resize_positions(params, (4, 6), (4, 6), **options)["params"]["positions"]
    np.testing.assert_allclose(same, table, rtol=1e-12)
    without = {"params": {"positions": table[:, 1:]}}
    resized_too = vit.resize_positions(without, (4, 6), new_grid, **options)["params"]
    np.testing.assert_array_equal(resized_too["positions"], resized["positions"][:, 1:])


def test_learned_positions_are_for_one_grid():
    """Eight patches in two rows are no eight in four; resized they are read."""
    wide, tall = jnp.zeros((1, 8, 16, 1)), jnp.zeros((1, 16, 8, 1))
    key, model = jax.random.key(0), SMALL(grid=(2, 4))
    params = jax.jit(model.init)(key, wide)
    for call, message in (
        (lambda: SMALL().init(key, wide), r"2 x 4 patches: .* unless grid=\(2, 4\)"),
        (lambda: model.apply(params, tall), r"4 x 2 patches: the model has grid=\(2, 4\)"),
        (lambda: SMALL().apply(params, tall), "4 x 2 patches: learned positions are for a square"),
        (
            lambda: SMALL().apply(params, tall[:, :8]),
            r"2 x 2 patches: the parameters have positions \(1, 9, 16\), expected \(1, 5, 16\)",
        ),
        (lambda: vit.resize_positions(params, (2, 3), (4, 2)), "the first of the 9 positions"),
        (lambda: vit.resize_positions(params, (2, 4), (0, 2)), r"new_grid=\(0, 2\)"),
        (lambda: vit.resize_positions(params, (2, 4), (4, 2), method="box"), "method='box'"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call)
    resized = vit.resize_positions(params, (2, 4), (4, 2))
    assert jax.eval_shape(SMALL(grid=(4, 2)).apply, resized, tall).shape == (1, 5)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert vit.resize_positions(half, (2, 4), (4, 2))["params"]["positions"].dtype == jnp.bfloat16


def test_bad_input():
    images = jnp.zeros((1, 8, 8, 1))
    for kwargs, message in [
        ({"num_heads": 3}, "width=16 is not a multiple of num_heads=3"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"depth": 0}, "depth=0"),
        ({"num_registers": -1}, "num_registers=-1"),
        ({"patch": 3}, "8 x 8 pixels in patches of 3"),
        ({"width": 18, "positions": "fixed"}, "width=18"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(SMALL(**kwargs).init, jax.random.key(0), images)
    with pytest.raises(ValueError, match="images of type uint8: expected floats"):
        jax.eval_shape(SMALL().init, jax.random.key(0), images.astype(jnp.uint8))


@pytest.mark.parametrize("pooling", ["class", "average"])
def test_features_are_what_the_head_reads(pooling):
    model, x = SMALL(pooling=pooling), jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = jax.jit(model.init)(jax.random.key(1), x)["params"]
    head = {"kernel": jax.random.normal(jax.random.key(2), (16, 5)), "bias": jnp.ones(5)}
    headless = model.clone(num_classes=None)
    logits, features = jax.jit(lambda params: (model.apply(params, x), headless.apply(params, x)))(
        {"params": {**params, "head": head}}
    )
    np.testing.assert_allclose(features @ head["kernel"] + 1, logits, rtol=1e-4, atol=1e-4)
