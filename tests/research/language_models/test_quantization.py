"""Quantised weights: bounds on every entry, packing, known errors, trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.language_models import quantization
from tests.research.language_models import decoders

quantize = jax.jit(quantization.quantize, static_argnames=("bits", "group"))
dequantize = jax.jit(quantization.dequantize)
dot = jax.jit(quantization.dot)
quantize_tree = jax.jit(quantization.quantize_tree, static_argnames=("bits", "matrices"))


@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("bits, bound", [(8, 1 / 254), (4, 1 / 14)])
def test_no_entry_errs_more_than_half_a_step(bits, bound, group):
    weights = np.random.default_rng(0).normal(size=(3, 12, 5)).astype(np.float32)
    weights[1, :, 2] = 0.0
    quantized = quantize(weights, bits, group)
    restored = np.asarray(dequantize(quantized))
    assert quantized.shape == restored.shape == weights.shape
    grouped = np.abs(weights).reshape(3, -1, group or 12, 5)
    largest = np.broadcast_to(grouped.max(2, keepdims=True), grouped.shape).reshape(weights.shape)
    error = np.abs(restored - weights)
    assert (error <= largest * bound * (1 + 1e-6)).all()
    assert error.max() > 0.5 * bound * largest.min(where=largest > 0, initial=9)
    # The largest entry of a group is exact, and codes are symmetric.
    np.testing.assert_allclose(
        np.abs(restored).reshape(grouped.shape).max(2), grouped.max(2), rtol=1e-6
    )
    negated = dequantize(quantize(-weights, bits, group))
    np.testing.assert_array_equal(negated, -restored)


@pytest.mark.parametrize(
    "bits, error, slack, size", [(4, 0.1077, 0.0005, 4.5), (8, 0.00594, 0.00003, 8.5)]
)
def test_error_on_normal_blocks_of_64(bits, error, slack, size):
    weights = np.random.default_rng(0).normal(size=(64 * 64, 256)).astype(np.float32)
    quantized = quantize(weights, bits, group=64)
    restored = dequantize(quantized)
    relative = np.sqrt(np.mean((restored - weights) ** 2) / np.mean(weights**2))
    np.testing.assert_allclose(relative, error, atol=slack)
    assert quantized.bits_per_weight == size
    stored = quantized.codes.nbytes + quantized.scales.nbytes
    assert 8 * stored / weights.size == size


def test_packing_is_exact():
    scaled = np.random.default_rng(1).integers(-7, 8, (2, 6, 5)).astype(np.float32)
    scaled[:, 0] = 7.0
    quantized = quantize(scaled, bits=4)
    assert quantized.codes.dtype == jnp.uint8 and quantized.codes.shape == (2, 3, 5)
    np.testing.assert_array_equal(dequantize(quantized), scaled)


@pytest.mark.parametrize("bits, group", [(8, None), (8, 4), (4, 4)])
def test_products_need_no_matrix(bits, group):
    weights = jax.random.normal(jax.random.key(0), (12, 5))
    x = jax.random.normal(jax.random.key(1), (2, 3, 12))
    quantized = quantize(weights, bits, group)
    expected = jnp.einsum("abi,io->abo", x, dequantize(quantized))
    np.testing.assert_allclose(dot(x, quantized), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bfloat16, jnp.float16])
def test_products_of_integers_and_in_half_precision_are_summed_in_float32(dtype):
    """4,096 twos times one: 8,192 in a row of one scale; halves where scales are no integers."""
    x = jnp.full((1, 4096), 2, dtype)
    for value in (1.0, 0.5):
        out = dot(x, quantize(jnp.full((4096, 1), value), group=64))
        assert out.dtype == (dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32)
        np.testing.assert_allclose(out.astype(float), [[8192 * value]], rtol=1e-6)


def test_trees():
    params = {"dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}, "embed": jnp.ones((3, 4))}
    quantized = quantize_tree(params, bits=4)
    assert isinstance(quantized["dense"]["kernel"], quantization.Quantized)
    np.testing.assert_array_equal(quantized["embed"], params["embed"])
    restored = jax.jit(quantization.dequantize_tree)(quantized)
    jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_heads_are_outputs_of_queries_and_inputs_of_the_mix():
    """Scales by hand: one a layer, head and feature for queries, one a layer and output for out."""
    rng = np.random.default_rng(0)
    query, out = rng.normal(size=(2, 8, 4, 2)), rng.normal(size=(2, 4, 2, 8))
    table = rng.normal(size=(5, 8))
    layers = {"layers": {"attention": {"query": {"kernel": query}, "out": {"kernel": out}}}}
    params = jax.tree.map(jnp.asarray, {"stack": layers, "embedding": table})
    quantized = quantize_tree(params, matrices=quantization.decoder_kernels)
    attention = quantized["stack"]["layers"]["attention"]
    np.testing.assert_allclose(
        attention["query"]["kernel"].scales.reshape(2, 4, 2), np.abs(query).max(1) / 127, rtol=1e-6
    )
    np.testing.assert_allclose(
        attention["out"]["kernel"].scales[:, 0], np.abs(out).max((1, 2)) / 127, rtol=1e-6
    )
    restored = jax.jit(quantization.dequantize_tree)(quantized)["stack"]["layers"]["attention"]
    for name, exact in (("query", query), ("out", out)):
        assert restored[name]["kernel"].shape == exact.shape
        assert np.abs(restored[name]["kernel"] - exact).max() <= np.abs(exact).max() / 254 + 1e-6
    np.testing.assert_array_equal(quantized["embedding"], params["embedding"])


def test_a_decoder_in_bytes_is_nearly_itself():
    exact = decoders.full(decoders.LLAMA)
    step, params = decoders.decoder(decoders.LLAMA)
    convert = jax.jit(
        lambda tree: quantization.quantize_tree(tree, 8, None, quantization.decoder_kernels)
    )
    quantized = convert(params)
    kinds = {
        path[-2].key
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            quantized, is_leaf=lambda leaf: isinstance(leaf, quantization.Quantized)
        )
        if isinstance(leaf, quantization.Quantized)
    }
    assert {"query", "key", "value", "out", "up", "gate", "down"} <= kinds
    run = jax.jit(
        lambda tree: step.model.apply(quantization.dequantize_tree(tree), decoders.TOKENS)
    )
    assert 0 < np.abs(run(quantized) - exact).max() < 0.05 * np.abs(exact).max()


def test_memory_of_a_tree_and_another_dtype():
    """Groups of 2 rows of a [4, 2] and a [3, 8, 2] kernel: a code and half a float32 a weight."""
    params = {"a": {"kernel": jnp.ones((4, 2))}, "b": {"kernel": jnp.ones((3, 8, 2))}, "c": 1.0}
    for bits in (8, 4):
        quantized = quantization.quantize_tree(params, bits, group=2)
        assert quantization.tree_bits(quantized) == bits + 32 / 2
    assert quantization.tree_bits(params) == 0
    restored = quantization.dequantize_tree(quantized, jnp.bfloat16)
    assert restored["b"]["kernel"].dtype == jnp.bfloat16 and restored["c"] == 1.0
    np.testing.assert_array_equal(restored["b"]["kernel"].astype(float), 1.0)


def test_bad_input():
    weights, quantize = jnp.ones((6, 4)), quantization.quantize
    params = {"a": {"kernel": jnp.ones((3, 2))}}
    for broken, message in [
        (lambda: quantize(weights, bits=3), "bits=3"),
        (lambda: quantize(weights, bits=4.0), "bits=4.0: expected a positive whole number"),
        (lambda: quantize(weights, group=2.0), "group=2.0: expected a positive whole number"),
        (lambda: quantize(weights.at[0, 0].set(jnp.nan)), "weights are not finite"),
        (lambda: quantize(weights.at[0, 0].set(-jnp.inf)), "weights are not finite"),
        (lambda: quantize(weights + 0j), "weights of type complex64"),
        (lambda: quantize(weights, group=4), "6 inputs in 8 bits .* groups of 4"),
        (lambda: quantize(jnp.ones((5, 4)), bits=4), "5 inputs in 4 bits"),
        (lambda: quantize(jnp.ones(4)), r"shape \(4,\)"),
        (lambda: quantization.dot(jnp.ones((2, 5)), quantize(weights)), r"\(2, 5\) times"),
        (lambda: quantization.dot(jnp.ones((2, 6), complex), quantize(weights)), "type complex64"),
        (lambda: quantization.dot(jnp.ones((2, 6), bool), quantize(weights)), "type bool"),
        (lambda: quantization.quantize_tree(params, bits=4), "a/kernel: 3 inputs"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
