"""What the entry points of the topic refuse, and by which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from research.ntk import checks
from tests.research.ntk import networks

BAD = {
    "axes": (dict(x1=jnp.ones((3, 4)), x2=jnp.ones((2, 5))), "x1 and x2 hold different examples"),
    "empty": (dict(x1=jnp.ones((0, 4))), "x1 holds no example"),
    "ragged": (dict(x1=(jnp.ones((3, 4)), jnp.ones((2, 4)))), "expected one common first axis"),
    "integers": (dict(x1=jnp.ones((3, 4), int)), "int32, which the network turns into float32"),
    "outputs": (dict(outputs="sum"), "outputs='sum': expected one of 'full', 'diagonal', 'trace'"),
    "method": (dict(method="fast"), "method='fast': expected one of 'auto'"),
    "batch": (dict(batch_size=0), "batch_size=0: expected a positive whole number"),
    "fraction": (dict(batch_size=2.0), "batch_size=2.0: expected a positive whole number"),
    "yes": (dict(batch_size=True), "batch_size=True: expected a positive whole number"),
    "no_axis": (dict(x1=jnp.ones(4)), "x1 of shape .4,. counts as 4 examples, and apply does not"),
    "complex": (dict(apply=lambda p, x: x + 1j), "output has dtype complex64.*real and imaginary"),
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


def test_flax_says_more_of_a_missing_axis():
    apply, params, x1, _ = networks.build("mlp")
    with pytest.raises(ValueError, match=r"does not take one of them, \(1,\) \(is the axis of"):
        ntk.empirical(apply, params, x1[0])


def test_all_floats_take_the_widest_dtype(x64):
    tree = {"a": jnp.ones(2, jnp.bfloat16), "n": np.arange(2), "z": jnp.ones(1, complex), "s": 2.0}
    half = checks.widened(tree)
    assert half["a"].dtype == jnp.float32 and half["n"] is tree["n"] and half["z"] is tree["z"]
    wide = checks.widened(tree | {"b": np.ones(2)})
    assert wide["a"].dtype == wide["b"].dtype == np.float64
    assert checks.widened({"n": 3}) == {"n": 3}


def test_a_complex_leaf_is_two_real_ones(x64):
    params = {"w": np.array([1 + 2j, 3 - 1j]), "b": np.ones(2)}
    free, restore = checks.split_float(params)
    np.testing.assert_array_equal(free[1], [[1, 3], [2, -1]])
    moved = restore({0: free[0], 1: free[1] * 2})
    np.testing.assert_array_equal(moved["w"], 2 * params["w"])


def test_one_example_of_a_network_and_its_shapes():
    apply = lambda p, x: {"y": x["a"] @ p, "n": x["b"]}
    x = {"a": np.ones((3, 4), np.float32), "b": np.ones((3, 2), np.int32)}
    one = checks.first(x)
    assert one["a"].shape == (4,) and one["b"].dtype == np.int32
    out = jax.eval_shape(checks.one_example(apply), np.ones((4, 5), np.float32), one)
    assert out["y"].shape == (5,) and out["n"].shape == (2,)
    assert checks.num_examples(x, "x") == 3 and checks.size_bytes((3, 4), np.float64) == 96


def test_what_is_no_float_stays_when_the_rest_is_moved():
    params = {"w": np.ones(2), "steps": 3, "table": np.ones(2, np.int32), "v": np.zeros(1)}
    free, restore = checks.split_float(params)
    assert [leaf.shape for leaf in free.values()] == [(1,), (2,)]  # v, w in the order of keys
    moved = restore({number: leaf + 1 for number, leaf in free.items()})
    assert moved["steps"] == 3 and moved["table"] is params["table"]
    np.testing.assert_array_equal(moved["w"], 2 * np.ones(2))
    np.testing.assert_array_equal(moved["v"], np.ones(1))


def test_integers_may_index_but_not_be_cast():
    tokens, table = np.ones((2, 3), np.int32), np.ones((5, 4), np.float32)
    checks.integers_stay_integers(lambda p, x: p[x].sum(1), table, tokens)
    with pytest.raises(
        ValueError, match="x1 has dtype int32, which the network turns into float32"
    ):
        checks.integers_stay_integers(lambda p, x: x[:, :1].astype(float) @ p[:1], table, tokens)
