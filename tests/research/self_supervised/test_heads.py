"""Projectors, predictors and prototypes against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from research.self_supervised import heads

X = np.random.default_rng(0).normal(2, 3, size=(6, 5))


def made(module, x=X):
    """Variables in float64, at random."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.uniform(0.3, 1.5, leaf.shape), shapes)


def normalised(x, axis, stats=None):
    mean, var = (x.mean(axis, keepdims=True), x.var(axis, keepdims=True)) if not stats else stats
    return (x - mean) / np.sqrt(var + 1e-5)


CASES = {
    "batch": {},
    "batch, last": {"last_norm": True, "momentum": 0.6},
    "layer": {"norm": "layer", "last_norm": True},
    "none": {"norm": None},
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_perceptron(x64, case, train):
    """Linear, norm, ReLU, linear[, norm without scale and bias]; running statistics move."""
    options = {"norm": "batch", "last_norm": False, "momentum": 0.9, **CASES[case]}
    head = heads.Perceptron((4, 3), **CASES[case])
    variables = made(head)
    params, stats = variables["params"], variables.get("batch_stats", {})
    run = jax.jit(lambda v, x: head.apply(v, x, train, mutable=["batch_stats"]))
    found, updated = run(variables, X)

    def norm(x, name, affine):
        if options["norm"] == "layer":
            y = normalised(x, 1)
        elif train:
            y = normalised(x, 0)
            old, keep = stats[name], options["momentum"]
            moved = updated["batch_stats"][name]
            for key, new in (("mean", x.mean(0)), ("var", x.var(0))):
                expected = keep * old[key] + (1 - keep) * new
                np.testing.assert_allclose(moved[key], expected, rtol=1e-10)
        else:
            y = normalised(x, 0, (stats[name]["mean"], stats[name]["var"]))
        return y * params[name]["scale"] + params[name]["bias"] if affine else y

    h = X @ params["dense0"]["kernel"]
    normed = options["norm"] is not None
    h = norm(h, "norm0", True) if normed else h + params["dense0"]["bias"]
    y = np.maximum(h, 0) @ params["dense1"]["kernel"]
    last = normed and options["last_norm"]
    y = norm(y, "norm1", False) if last else y + params["dense1"]["bias"]
    np.testing.assert_allclose(found, y, rtol=1e-9, atol=1e-10)
    assert ("norm1" in params) is False  # nothing to learn after the last norm
    assert ("bias" in params["dense0"]) is not normed and ("bias" in params["dense1"]) is not last


def test_batch_statistics_are_those_of_all_devices(x64):
    head = heads.Perceptron((4, 3))
    variables = made(head)
    run = lambda head: lambda x: head.apply(variables, x, True, mutable=["batch_stats"])  # noqa: E731
    whole, stats = jax.jit(run(head))(X)
    mapped = jax.pmap(run(head.clone(axis_name="i")), "i", devices=jax.devices()[:2])
    found, moved = mapped(X.reshape(2, 3, 5))
    np.testing.assert_allclose(found.reshape(6, 3), whole, rtol=1e-10)
    for leaf, expected in zip(jax.tree.leaves(moved), jax.tree.leaves(stats)):
        np.testing.assert_allclose(leaf[1], expected, rtol=1e-10)


def test_prototypes(x64):
    """Cosines of a bottleneck to prototypes, whatever the length of either."""
    head = heads.Prototypes(7, hidden=(4,), bottleneck=3)
    variables = made(head)
    params = variables["params"]
    run = jax.jit(head.apply)
    found = run(variables, X)
    h = X @ params["dense0"]["kernel"] + params["dense0"]["bias"]
    h = h * special.ndtr(h)  # GELU
    h = h @ params["bottleneck"]["kernel"] + params["bottleneck"]["bias"]
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(found, unit(h) @ unit(params["prototypes"]).T, rtol=1e-9)
    longer = {"params": {**params, "prototypes": 5 * params["prototypes"]}}
    np.testing.assert_allclose(run(longer, X), found, rtol=1e-10)


def test_sizes_of_the_papers():
    """DINO's head for ViT-S with 65,536 prototypes; SimCLR's for a ResNet-18."""
    x = jax.ShapeDtypeStruct((1, 384), jnp.float32)
    shapes = jax.eval_shape(heads.Prototypes(65536).init, jax.random.key(0), x)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    dense = 384 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256
    assert count(shapes) == dense + 65536 * 256
    x = jax.ShapeDtypeStruct((1, 512), jnp.float32)
    shapes = jax.eval_shape(heads.Perceptron((512, 128)).init, jax.random.key(0), x)
    assert count(shapes["params"]) == 512 * 512 + 2 * 512 + 512 * 128 + 128


@pytest.mark.parametrize("message, head", [
    (r"widths=\(\): expected one number or more", heads.Perceptron(())),
    (r"widths=\(4, 0\)", heads.Perceptron((4, 0))),
    ("norm='group': expected 'batch', 'layer' or None", heads.Perceptron((4,), norm="group")),
    ("num_prototypes=0", heads.Prototypes(0)),
    ("bottleneck=0", heads.Prototypes(4, bottleneck=0)),
    (r"hidden=\(0,\)", heads.Prototypes(4, hidden=(0,))),
])  # fmt: skip
def test_bad_input(message, head):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(head.init, jax.random.key(0), X)
