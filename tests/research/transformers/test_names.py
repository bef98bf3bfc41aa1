"""Layouts of tensors, each against the product or convolution that it stands in."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.transformers import names, published
from tests.research.transformers import cases


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


@pytest.mark.parametrize(
    "kind, inputs, shapes, theirs",
    [
        ("linear", 1, [(6, 4, 2)], (8, 6)),
        ("linear", 2, [(4, 2, 6)], (6, 8)),
        ("conv", 1, [(6, 4, 2), (6, 2, 2), (6, 2, 2)], (6, 16)),  # query, key, value side by side
        ("vector", 1, [(4, 2), (2, 2), (2, 2)], (16,)),
        ("table", 1, [(5, 6)], (5, 6)),
        ("patches", 1, [(2 * 2 * 3, 7)], (7, 3, 2, 2)),
    ],
)
def test_writing_and_reading_are_inverse(kind, inputs, shapes, theirs):
    entry = names.Entry("x", tuple("abc"[: len(shapes)]), kind, inputs, patch=2)
    ours = arrays(*shapes)
    tensor = entry.write(ours)
    assert tensor.shape == entry.shape(shapes) == theirs and not entry.layered
    for found, array in zip(entry.read(tensor, shapes), ours, strict=True):
        np.testing.assert_array_equal(found, array)


def test_a_matrix_maps_as_it_did():
    """[out, in] for PyTorch's linear map, [in, out] for GPT-2's; heads are columns in a row."""
    (kernel,), x = arrays((6, 4, 2)), np.random.default_rng(1).normal(size=(3, 6))
    expected = np.einsum("bd,dhk->bhk", x, kernel).reshape(3, 8)
    np.testing.assert_allclose(x @ names.Entry("", ("",), "linear").write([kernel]).T, expected)
    np.testing.assert_allclose(x @ names.Entry("", ("",), "conv").write([kernel]), expected)
    (out,), mixed = arrays((4, 2, 6)), np.random.default_rng(1).normal(size=(3, 4, 2))
    found = mixed.reshape(3, 8) @ names.Entry("", ("",), "linear", 2).write([out]).T
    np.testing.assert_allclose(found, np.einsum("bhk,hkd->bd", mixed, out))


FAMILIES = {
    "gpt2": "GPT-2",
    "nano": "GPT-2",
    "llama": "LLaMA",
    "gemma": "LLaMA",
    "bert": "BERT",
    "t5": "T5",
}


@pytest.mark.parametrize("name", cases.TINY)
def test_the_family_of_a_config(name):
    table = names.of(cases.TINY[name])
    assert table.family == FAMILIES[name]
    theirs = [entry.name for entry in table.entries]
    ours = [path for entry in table.entries for path in entry.paths]
    assert len(set(theirs)) == len(theirs) and len(set(ours)) == len(ours)
    assert all(entry.name.startswith((table.prefix, "lm_head.", "cls.")) for entry in table.entries)
    assert all(entry.layered == ("/layers/" in entry.paths[0]) for entry in table.entries)


def test_pairs_of_entries():
    (weight, bias), (scale, shift) = names.affine("a.{}", "b", "linear", 2), names.norm("n", "m")
    assert (weight.name, weight.paths, weight.inputs) == ("a.{}.weight", ("b/kernel",), 2)
    assert (bias.name, bias.paths, bias.kind) == ("a.{}.bias", ("b/bias",), "vector")
    assert weight.layered and weight.shape([(4, 2, 6)]) == (6, math.prod((4, 2)))
    assert (scale.name, scale.paths) == ("n.weight", ("m/scale",))
    assert (shift.name, shift.paths) == ("n.bias", ("m/bias",))
    with pytest.raises(ValueError, match="no Hugging Face family"):
        names.of(published.VASWANI_BASE)


def test_a_convolution_is_theirs():
    """Cross-correlation, with their weight read and ours written back."""
    kernel = names.Kernel("theirs", ("ours",))
    theirs = np.random.default_rng(0).normal(size=(4, 3, 2, 5)).astype(np.float32)
    (ours,) = kernel.read(theirs, [(2, 5, 3, 4)])
    assert kernel.shape([ours.shape]) == theirs.shape
    np.testing.assert_array_equal(kernel.write([ours]), theirs)
    image = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    out = jax.lax.conv_general_dilated(
        image[None], jnp.asarray(ours), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(out[0, 0, 0], np.einsum("ocij,ijc->o", theirs, image), rtol=1e-4)
