"""Residual networks: exact sizes, shapes, blocks that start as shortcuts, batch statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.vision import resnet


@pytest.mark.parametrize(
    "make, count",
    [
        (resnet.resnet18, 11_689_512),
        (resnet.resnet34, 21_797_672),
        (resnet.resnet50, 25_557_032),
        (resnet.resnet101, 44_549_160),
        (resnet.resnet152, 60_192_808),
    ],
)
def test_sizes_of_the_paper(make, count):
    """torchvision's counts; 152 from the same formula. Statistics are no parameters."""
    model = make(num_classes=1000)
    shape = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

    def init(x):
        return model.init(jax.random.key(0), x)["params"]

    assert testing.count_parameters(init, shape) == count


def test_shapes_on_the_way_down():
    """Strides 4 in the stem, 2 in three stages; the small stem keeps the size."""
    for small, rows in [(False, (16, 8, 4, 2)), (True, (64, 32, 16, 8))]:
        model = resnet.resnet50(num_classes=7, width=4, small_images=small)
        x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)

        def run(x, model=model):
            return model.init_with_output(
                jax.random.key(0), x, capture_intermediates=True, mutable=True
            )

        logits, variables = jax.eval_shape(run, x)
        assert logits.shape == (2, 7)
        stages = variables["intermediates"]
        found = [stages[f"stage{i}_block0"]["__call__"][0].shape for i in range(4)]
        assert found == [(2, size, size, 16 * 2**i) for i, size in enumerate(rows)]


def test_half_precision_is_for_the_computation_only():
    model = resnet.resnet18(num_classes=7, width=4, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    run = lambda x: model.init_with_output(  # noqa: E731
        jax.random.key(0), x, capture_intermediates=True, mutable=True
    )
    logits, variables = jax.eval_shape(run, x)
    assert variables["intermediates"]["stage3_block1"]["__call__"][0].dtype == jnp.bfloat16
    kept = (logits, variables["params"], variables["batch_stats"])
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def small():
    model = resnet.ResNet(
        num_classes=3, num_blocks=(1, 2), bottleneck=True, width=4, small_images=True, momentum=0.8
    )
    params, model_state = resnet.init(model, jax.random.key(0), (8, 8, 1))
    rng = np.random.default_rng(1)
    noisy = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), params
    )
    run = jax.jit(
        lambda params, state, x, train: resnet.apply(model, params, state, x, train),
        static_argnums=3,
    )
    return model, params, model_state, noisy, run


def test_a_block_starts_as_its_shortcut(small):
    model, params, model_state, _, _ = small

    def run(variables, x):
        return model.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])

    x = np.random.default_rng(2).normal(size=(2, 8, 8, 1)).astype(np.float32)
    _, captured = jax.jit(run)({"params": params, "batch_stats": model_state}, x)
    blocks = captured["intermediates"]
    before = blocks["stage1_block0"]["__call__"][0]
    np.testing.assert_array_equal(blocks["stage1_block1"]["__call__"][0], before)
    assert np.abs(before).max() > 0


def test_a_block_adds_its_path_to_its_shortcut():
    """A norm of scale 0 and bias 3 at the end of the path: relu(x + 3)."""
    norm = lambda name, **_: nn.GroupNorm(num_groups=1, name=name)  # noqa: E731
    block = resnet.Block(4, strides=1, bottleneck=False, norm=norm)
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4)) * 4
    params = block.init(jax.random.key(1), x)["params"]
    params = params | {"norm1": {"scale": jnp.zeros(4), "bias": jnp.full(4, 3.0)}}
    found = block.apply({"params": params}, x)
    np.testing.assert_allclose(found, np.maximum(np.asarray(x) + 3, 0), rtol=1e-6)


def test_every_pixel_reaches_the_main_path_of_a_strided_bottleneck():
    """Version 1.5: with the stride in the first 1x1 convolution three of four would not."""
    block = resnet.Block(4, 2, True, norm=_NoNorm)
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 16)).astype(np.float32)
    params = jax.jit(block.init)(jax.random.key(1), x)
    params["params"]["short"] = jax.tree.map(jnp.zeros_like, params["params"]["short"])
    gradient = jax.jit(jax.grad(lambda x: block.apply(params, x).sum()))(x)
    assert (np.abs(gradient).max(-1) > 0).all()


class _NoNorm(nn.Module):
    scale_init: object = None

    def __call__(self, x):
        return x + 1.0


def test_statistics_move_in_training_and_rule_in_evaluation(small):
    _, _, model_state, params, run = small
    x = np.random.default_rng(3).normal(2, 3, (6, 8, 8, 1)).astype(np.float32)
    _, moved = run(params, model_state, x, True)
    # The stem's by hand: 0.2 of the batch's mean on a start of 0, and of its variance on one of 1.
    stem = nn.Conv(4, (3, 3), padding=1, use_bias=False)
    h = np.asarray(jax.jit(stem.apply)({"params": params["stem"]}, x), np.float64)
    np.testing.assert_allclose(moved["stem_norm"]["mean"], 0.2 * h.mean((0, 1, 2)), rtol=1e-4)
    variance = 0.8 + 0.2 * h.var((0, 1, 2))
    np.testing.assert_allclose(moved["stem_norm"]["var"], variance, rtol=1e-4)
    logits, same = run(params, moved, x, False)
    testing.assert_trees_equal(same, moved)
    # In evaluation an image does not see its company; in training it does.
    alone, _ = run(params, moved, x[:1], False)
    np.testing.assert_allclose(alone, logits[:1], rtol=1e-4, atol=1e-5)
    trained, _ = run(params, moved, x, True)
    order = np.array([3, 1, 0, 2, 5, 4])
    shuffled, _ = run(params, moved, x[order], True)
    np.testing.assert_allclose(shuffled, trained[order], rtol=1e-4, atol=1e-4)
    # Batch statistics undo the scale and the shift of the stem's input.
    scaled, _ = run(params, moved, np.float32(5) * x, True)
    np.testing.assert_allclose(scaled, trained, rtol=1e-2, atol=1e-3)


def test_running_statistics_converge_to_the_batch(small):
    _, _, state, params, run = small
    x = np.random.default_rng(4).normal(size=(6, 8, 8, 1)).astype(np.float32)
    for _ in range(150):
        trained, state = run(params, state, x, True)
    logits, _ = run(params, state, x, False)
    np.testing.assert_allclose(logits, trained, rtol=1e-3, atol=1e-3)


def test_bad_input(small):
    model, params, model_state, _, _ = small
    for broken, message in [
        (lambda: resnet.init(model, jax.random.key(0), (8, 8)), r"image_shape=\(8, 8\)"),
        (lambda: resnet.init(resnet.ResNet(0), jax.random.key(0), (8, 8, 1)), "num_classes=0"),
        (
            lambda: resnet.init(resnet.ResNet(2, num_groups=3), jax.random.key(0), (8, 8, 1)),
            "num_groups=3: expected a divisor of width=64",
        ),
        (lambda: resnet.apply(model, params, model_state, jnp.zeros((8, 8, 1))), "B, H, W, C"),
        (
            lambda: resnet.apply(model, params, model_state, jnp.zeros((1, 8, 8, 1), int)),
            "images of type int32: expected floats",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()


def test_statistics_keep_their_digits_where_the_mean_is_large():
    """Of E[x^2] - E[x]^2 nothing is left at a mean of 1000 and a deviation of 0.1."""
    model = resnet.ResNet(2, num_blocks=(1,), width=1, small_images=True)
    noise = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    image = 1000 + np.float32(0.1) * noise
    params, state = resnet.init(model, jax.random.key(0), (8, 8, 1))
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 1.0  # the stem hands the image on
    params = {**params, "stem": {"kernel": kernel}}
    _, after = resnet.apply(model, params, state, image, train=True)
    variance = (np.asarray(after["stem_norm"]["var"]) - 0.9) / 0.1  # momentum 0.9, from 1
    np.testing.assert_allclose(variance, image.astype(float).var(), rtol=1e-3)


def test_features_are_what_the_head_reads(small):
    model, _, model_state, params, run = small
    x = np.random.default_rng(5).normal(size=(6, 8, 8, 1)).astype(np.float32)
    rng = np.random.default_rng(6)
    head = {"kernel": rng.normal(size=(32, 3)).astype(np.float32), "bias": np.ones(3, np.float32)}
    logits, _ = run({**params, "head": head}, model_state, x, False)
    headless = model.clone(num_classes=None)
    features, _ = jax.jit(lambda *args: resnet.apply(headless, *args))(params, model_state, x)
    np.testing.assert_allclose(features @ head["kernel"] + 1, logits, rtol=1e-4, atol=1e-4)


def test_batch_statistics_are_those_of_all_devices(x64):
    model = resnet.ResNet(None, num_blocks=(1,), width=4, small_images=True)
    params, state = jax.tree.map(
        lambda leaf: leaf.astype(float), resnet.init(model, jax.random.key(0), (4, 4, 1))
    )
    params["stage0_block0"]["norm1"]["scale"] += 1.0  # else the block is its shortcut
    x = np.random.default_rng(7).normal(size=(6, 4, 4, 1))
    whole = jax.jit(lambda x: resnet.apply(model, params, state, x, True))(x)
    split = lambda x: resnet.apply(model.clone(axis_name="i"), params, state, x, True)  # noqa: E731
    parts, moved = jax.pmap(split, "i", devices=jax.devices()[:2])(x.reshape(2, 3, 4, 4, 1))
    np.testing.assert_allclose(parts.reshape(6, -1), whole[0], rtol=1e-10, atol=1e-12)
    moved = jax.tree.map(lambda leaf: leaf[1], moved)
    testing.assert_trees_close(moved, whole[1], rtol=1e-10, atol=1e-12)


def test_with_groups_an_image_does_not_see_its_company():
    """And the norm is that of groups of channels, by hand for the stem."""
    model = resnet.ResNet(None, num_blocks=(), width=4, small_images=True, num_groups=2)
    kernel = np.random.default_rng(8).normal(size=(3, 3, 1, 4)).astype(np.float32)
    norm = {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}
    params = {"stem": {"kernel": kernel}, "stem_norm": norm}
    x = np.random.default_rng(9).normal(size=(3, 4, 4, 1)).astype(np.float32)
    found, state = jax.jit(lambda x: resnet.apply(model, params, {}, x, True))(x)
    assert state == {}
    stem = nn.Conv(4, (3, 3), padding=1, use_bias=False)
    h = np.asarray(jax.jit(stem.apply)({"params": params["stem"]}, x)).reshape(3, 16, 2, 2)
    h = (h - h.mean((1, 3), keepdims=True)) / np.sqrt(h.var((1, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, np.maximum(h, 0).mean(1).reshape(3, 4), rtol=1e-4)
    whole = model.clone(num_blocks=(1, 1))
    assert "batch_stats" not in jax.eval_shape(whole.init, jax.random.key(0), x)
