"""Empirical kernels: three methods agree, closed form of one layer, tiles, meshes, bad input."""

import jax
import jax.numpy as jnp
import numpy as np

from research import ntk
from tests.research.ntk import networks

SMALL = dict(rtol=1e-9, atol=1e-11)  # atol for entries that are zero but for rounding


def test_one_linear_layer_is_the_closed_form(x64):
    weight = networks.normal(0, 5, 3)
    x1, x2 = networks.normal(1, 4, 5), networks.normal(2, 2, 5)
    apply = lambda w, x: x @ w / 5**0.5
    expected = np.einsum("nm,cd->nmcd", x1 @ x2.T / 5, np.eye(3))
    for method in ("structured", "jacobian", "vector_products", "auto"):
        found = ntk.empirical(apply, weight, x1, x2, method=method)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_float32_methods_agree():
    with jax.enable_x64(True):
        apply, params, x1, x2 = networks.build("residual")
    params, x1, x2 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x1, x2))
    full = ntk.empirical(apply, params, x1, x2, method="jacobian")
    found = ntk.empirical(apply, params, x1, x2, method="structured")
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, full, rtol=1e-5, atol=1e-5 * jnp.abs(full).max())


def squared_modulus(params, x):
    """|x w|^2 + b, of complex weights and a real bias."""
    return jnp.abs(x @ params["w"]) ** 2 + params["b"][None]


def as_pairs(params, x):
    """The same of real parameters: [2, D, C] in place of w."""
    re, im = (x @ part for part in params["w"])
    return re**2 + im**2 + params["b"][None]


def test_complex_parameters_are_pairs_of_real_ones(x64):
    """The sheet's example by hand, 4 (x.x')(Re f conj f'); a wider one by its real pairs."""
    x = np.array([[1.0, 2.0], [3.0, -1.0]])
    params = {"w": np.array([[1 + 2j], [-0.5 + 1j]]), "b": np.zeros(1)}
    f = x @ params["w"][:, 0]
    by_hand = 4 * (x @ x.T) * (f[:, None] * f[None].conj()).real + 1
    np.testing.assert_allclose(by_hand - 1, [[320, 80], [80, 1490]])
    wide = {"w": networks.normal(0, 2, 4, 3), "b": networks.normal(1, 3)}
    whole = {"w": wide["w"][0] + 1j * wide["w"][1], "b": wide["b"]}
    x1, x2 = networks.vectors(2, 3), networks.vectors(3, 2)
    expected = ntk.empirical(as_pairs, wide, x1, x2, method="jacobian")
    for method in ("structured", "jacobian", "vector_products", "auto"):
        found = ntk.empirical(squared_modulus, params, x, outputs="trace", method=method)
        np.testing.assert_allclose(found, by_hand, rtol=1e-13)
        assert found.dtype == np.float64
        found = ntk.empirical(squared_modulus, whole, x1, x2, method=method)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    parts = ntk.by_layer(squared_modulus, whole, x1, x2)
    np.testing.assert_allclose(parts["w"] + parts["b"], expected, rtol=1e-12, atol=1e-12)
    why = ntk.explain(squared_modulus, whole, x1).parameters
    assert why["w"] == "plain Jacobian, exact too (its real and its imaginary part)"
    assert why["b"] == "plain Jacobian, exact too (add acts entry by entry: nothing to factor)"


def test_complex_numbers_on_the_way_leave_real_parameters_exact(x64):
    """A real layer, a Fourier transform, complex inputs: outputs and parameters are real."""

    def apply(w, x):
        return jnp.abs(jnp.fft.fft(x["a"] @ w) * x["z"]) ** 2

    w = networks.normal(0, 4, 4)
    x = {"a": networks.vectors(1, 3), "z": networks.vectors(2, 3) + 1j * networks.vectors(3, 3)}
    expected = ntk.empirical(apply, w, x, method="jacobian")

    def real(w, x):
        turned = (x["a"] @ w) @ np.fft.fft(np.eye(4))
        return (turned.real**2 + turned.imag**2) * (x["z"].real ** 2 + x["z"].imag ** 2)

    by_hand = ntk.empirical(real, w, x, method="jacobian")
    np.testing.assert_allclose(expected, by_hand, rtol=1e-10, atol=1e-9)
    for method in ("structured", "vector_products"):
        found = ntk.empirical(apply, w, x, method=method)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-9)


def test_layers_sum_to_the_whole(x64):
    apply, params, x1, x2 = networks.build("mlp")
    whole = ntk.empirical(apply, params, x1, x2)
    leaves = ntk.by_layer(apply, params, x1, x2)
    layers = ntk.by_layer(apply, params, x1, x2, depth=2)
    assert set(layers) == {"params/Dense_0", "params/Dense_1", "params/Dense_2"}
    assert len(leaves) == 6
    for parts in (leaves, layers):
        np.testing.assert_allclose(sum(parts.values()), whole, rtol=1e-12, atol=1e-14)
    for outputs, spec in (("diagonal", "nmcc->nmc"), ("trace", "nmcc->nm")):
        for leaf, kernel in ntk.by_layer(apply, params, x1, x2, outputs=outputs).items():
            expected = np.einsum(spec, leaves[leaf])
            np.testing.assert_allclose(kernel, expected, rtol=1e-10, atol=1e-13)
    bias = leaves["params/Dense_2/bias"]  # d f_c / d b_d = (c == d)
    np.testing.assert_allclose(bias, np.broadcast_to(np.eye(3), bias.shape), atol=1e-14)
    one = lambda w: apply({"params": {**params["params"], "Dense_1": w}}, x1)
    jacobian = jax.jit(jax.jacobian(one))(params["params"]["Dense_1"])
    expected = sum(
        jnp.einsum("ncp,mdp->nmcd", flat, flat)
        for flat in (leaf.reshape(3, 3, -1) for leaf in jax.tree.leaves(jacobian))
    )
    found = ntk.by_layer(apply, params, x1, depth=2)["params/Dense_1"]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


def test_pytrees_in_and_out(x64):
    def apply(params, x):
        hidden = jnp.tanh(x["a"] @ params["w"] + x["b"][:, None])
        return {"mean": hidden @ params["v"], "scalar": hidden.sum(1)}

    params = {"w": networks.normal(3, 4, 5), "v": networks.normal(4, 5, 2), "n": 3}
    x = {"a": networks.vectors(1, 3), "b": np.arange(3.0)}
    found = {
        m: ntk.empirical(apply, params, x, method=m)
        for m in ("structured", "jacobian", "vector_products")
    }
    assert found["jacobian"]["mean"].shape == (3, 3, 2, 2)
    assert found["jacobian"]["scalar"].shape == (3, 3)
    for method in ("structured", "vector_products"):
        for key in ("mean", "scalar"):
            np.testing.assert_allclose(found[method][key], found["jacobian"][key], **SMALL)


def test_nngp_is_the_product_of_outputs(x64):
    apply, params, x1, x2 = networks.build("mlp")
    full = ntk.nngp_empirical(apply, params, x1, x2)
    f1, f2 = apply(params, x1), apply(params, x2)
    np.testing.assert_allclose(full[1, 0, 2, 1], f1[1, 2] * f2[0, 1], rtol=1e-12)
    trace = ntk.nngp_empirical(apply, params, x1, x2, outputs="trace")
    np.testing.assert_allclose(trace, f1 @ f2.T, rtol=1e-12)


def test_auto_takes_the_structured_method_where_it_pays_and_says_why():
    apply, params = networks.plain_mlp(sizes=(50, 64, 64, 10))
    shape = lambda num: jax.ShapeDtypeStruct((num, 50), jnp.float32)
    x = shape(32)
    why = ntk.explain(apply, params, x, outputs="trace")
    assert why.choice == "structured"
    assert why.costs["structured"].flops < 0.2 * why.costs["jacobian"].flops
    assert why.costs["structured"].peak_bytes < 0.2 * why.costs["jacobian"].peak_bytes
    assert why.parameters["0/w"] == "factors of dot_general"
    assert "structured: " in str(why)
    # 32 more columns: 32 more rows of the Jacobian, and their products with all 32 rows.
    costs = [ntk.explain(apply, params, x, shape(n), outputs="trace").costs for n in (32, 64, 96)]
    one, two, three = (each["jacobian"].flops for each in costs)
    products = 2 * 32 * 32 * 10 * sum(leaf.size for leaf in jax.tree.leaves(params))
    assert three - two == two - one and products < two - one < 1.1 * products
    # Two scalar parameters have no structure to use.
    wide = lambda p, x: jnp.tanh(p[0] * x + p[1])
    assert ntk.explain(wide, (jnp.ones(()), jnp.ones(())), shape(1)).choice != "structured"
