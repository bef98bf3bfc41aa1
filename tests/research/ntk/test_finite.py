"""Empirical kernels: three methods agree, closed form of one layer, tiles, meshes, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from tests.research.ntk import networks

SMALL = dict(rtol=1e-9, atol=1e-11)  # atol for entries that are zero but for rounding


def contract(full, outputs):
    """Diagonal and trace of [N1, N2, *O, *O], by definition."""
    half = (full.ndim - 2) // 2
    size = int(np.prod(full.shape[2 : 2 + half]))
    flat = full.reshape(*full.shape[:2], size, size)
    diagonal = jnp.einsum("nmcc->nmc", flat)
    if outputs == "trace":
        return diagonal.sum(-1)
    return diagonal.reshape(full.shape[: 2 + half])


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_all_methods_and_outputs_agree_and_are_positive_semi_definite(x64, name):
    apply, params, x1, x2 = networks.build(name)
    x = jnp.concatenate([x1, x2])

    @jax.jit
    def kernels(params, x1, x2, x):
        kernel = lambda method, outputs: ntk.empirical(
            apply, params, x1, x2, method=method, outputs=outputs
        )
        products = {out: kernel("vector_products", out) for out in ("full", "trace")}
        structured = {out: kernel("structured", out) for out in ("diagonal", "trace")}
        square = ntk.empirical(apply, params, x, method="structured")
        return kernel("jacobian", "full"), products, structured, square

    full, products, structured, square = kernels(params, x1, x2, x)
    assert full.shape[:2] == (3, 2) and full.dtype == jnp.float64
    np.testing.assert_allclose(square[:3, 3:], full, **SMALL)
    for found in (products, structured):
        for outputs, kernel in found.items():
            expected = full if outputs == "full" else contract(full, outputs)
            np.testing.assert_allclose(kernel, expected, **SMALL)
    size = len(x) * int(np.prod(square.shape[2 : square.ndim // 2 + 1]))
    half = square.ndim // 2 - 1
    order = (0, *range(2, 2 + half), 1, *range(2 + half, square.ndim))
    matrix = np.transpose(square, order).reshape(size, size)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12, atol=1e-12)
    values = np.linalg.eigvalsh(matrix)
    assert values[0] > -1e-12 * values[-1] and values[0] < values[-1]


@pytest.mark.parametrize("method", ["jacobian", "vector_products"])
def test_diagonal_and_trace_of_the_other_methods(x64, method):
    apply, params, x1, x2 = networks.build("mlp")
    full = ntk.empirical(apply, params, x1, x2, method=method)
    for outputs in ("diagonal", "trace"):
        found = ntk.empirical(apply, params, x1, x2, method=method, outputs=outputs)
        np.testing.assert_allclose(found, contract(full, outputs), rtol=1e-12, atol=1e-13)


def test_one_linear_layer_is_the_closed_form(x64):
    weight = jax.random.normal(jax.random.key(0), (5, 3), jnp.float64)
    x1, x2 = networks.vectors(1, 4) @ jnp.ones((4, 5)), networks.vectors(2, 2) @ jnp.ones((4, 5))
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


def test_tiles_and_meshes_do_not_change_the_kernel(x64):
    apply, params, x1, x2 = networks.build("mlp", num1=5, num2=3)
    whole = ntk.empirical(apply, params, x1, x2)
    axis_type = jax.sharding.AxisType.Auto
    rows = jax.make_mesh((2,), ("rows",), axis_types=(axis_type,))
    columns = jax.make_mesh((1, 2), ("rows", "columns"), axis_types=(axis_type,) * 2)
    for options in (
        dict(batch_size=2),
        dict(batch_size=100),
        dict(mesh=rows),
        dict(mesh=columns),
        dict(mesh=rows, batch_size=2, method="structured"),
    ):
        found = ntk.empirical(apply, params, x1, x2, **options)
        np.testing.assert_allclose(found, whole, rtol=1e-12, atol=1e-14, err_msg=str(options))
    same = ntk.empirical(apply, params, x1, mesh=rows, batch_size=2)
    np.testing.assert_allclose(same, ntk.empirical(apply, params, x1), rtol=1e-12, atol=1e-14)


def test_mesh_splits_rows_evenly(x64):
    apply, params, x1, x2 = networks.build("mlp", num1=6, num2=3)
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    kernel = ntk.empirical(apply, params, x1, x2, mesh=mesh)
    assert sorted(shard.data.shape[0] for shard in kernel.addressable_shards) == [3, 3]


def test_layers_sum_to_the_whole(x64):
    apply, params, x1, x2 = networks.build("mlp")
    whole = ntk.empirical(apply, params, x1, x2)
    leaves = ntk.by_layer(apply, params, x1, x2)
    layers = ntk.by_layer(apply, params, x1, x2, depth=2)
    assert set(layers) == {"params/Dense_0", "params/Dense_1", "params/Dense_2"}
    assert len(leaves) == 6
    for parts in (leaves, layers):
        np.testing.assert_allclose(sum(parts.values()), whole, rtol=1e-12, atol=1e-14)
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

    rng = jax.random.key(0)
    params = {"w": jax.random.normal(rng, (4, 5)), "v": jax.random.normal(rng, (5, 2)), "n": 3}
    x = {"a": networks.vectors(1, 3), "b": jnp.arange(3.0)}
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
    x = jax.ShapeDtypeStruct((32, 50), jnp.float32)
    why = ntk.explain(apply, params, x, outputs="trace")
    assert why.choice == "structured"
    assert why.costs["structured"].flops < 0.2 * why.costs["jacobian"].flops
    assert why.costs["structured"].peak_bytes < 0.2 * why.costs["jacobian"].peak_bytes
    assert why.parameters["0/w"] == "factors of dot_general"
    assert "structured: " in str(why)
    # Two scalar parameters have no structure to use.
    wide = lambda p, x: jnp.tanh(p[0] * x + p[1])
    x = jax.ShapeDtypeStruct((1, 50), jnp.float32)
    assert ntk.explain(wide, (jnp.ones(()), jnp.ones(())), x).choice != "structured"


def test_counted_flops_of_a_layer_are_exact():
    from research.ntk.jacobians import cost

    a, b = jax.ShapeDtypeStruct((7, 5), jnp.float32), jax.ShapeDtypeStruct((5, 3), jnp.float32)
    counted = cost.count(lambda a, b: a @ b, a, b)
    assert counted.flops == 2 * 7 * 5 * 3 and counted.bytes == 4 * 21
    assert counted.peak_bytes == 4 * (35 + 15 + 21)
    looped = cost.count(lambda a, b: jax.lax.map(lambda row: row @ b, a), a, b)
    assert looped.flops == pytest.approx(2 * 7 * 5 * 3, rel=0.3)
    kernel = jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32)
    image = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    conv = lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert cost.count(conv, image, kernel).flops == 2 * (2 * 8 * 8 * 6) * (3 * 3 * 4)


BAD = {
    "axes": (dict(x1=jnp.ones((3, 4)), x2=jnp.ones((2, 5))), "x1 and x2 hold different examples"),
    "empty": (dict(x1=jnp.ones((0, 4))), "x1 holds no example"),
    "ragged": (dict(x1=(jnp.ones((3, 4)), jnp.ones((2, 4)))), "expected one common first axis"),
    "integers": (dict(x1=jnp.ones((3, 4), int)), "int32, which the network turns into float32"),
    "outputs": (dict(outputs="sum"), "outputs='sum': expected one of 'full', 'diagonal', 'trace'"),
    "method": (dict(method="fast"), "method='fast': expected one of 'auto'"),
    "batch": (dict(batch_size=0), "batch_size=0: expected a positive"),
    "scalar": (dict(apply=lambda p, x: x.sum(1), outputs="trace"), "outputs='trace' needs an out"),
    "mean": (dict(apply=lambda p, x: x.sum()), "expected the examples along its first axis"),
    "label": (dict(apply=lambda p, x: x.argmax(1)[:, None]), "expected a float to differentiate"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    change, message = BAD[case]
    apply, params = networks.plain_mlp()
    args = dict(apply=apply, params=params, x1=jnp.ones((3, 4)), x2=None) | change
    positional = [args.pop(name) for name in ("apply", "params", "x1", "x2")]
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        ntk.empirical(*positional, **args)
