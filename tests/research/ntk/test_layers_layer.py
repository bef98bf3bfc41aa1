"""Kernels of networks in tiles, halves, pairs and on devices are those of the whole; bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from research.ntk.layers import layer, state
from tests.research.ntk.wide import RELU, points, relu_net

L = ntk.layers
CONV = (L.conv(4, (3,), weight_std=2**0.5, bias_std=0.1), L.relu())
POOLED = L.serial(*CONV, L.global_average_pool(), L.dense(1))
LENGTH = 6


@pytest.fixture
def small_is_large(monkeypatch):
    """Compilations are remembered by arguments: those of a test differ in `batch_size`."""
    monkeypatch.setattr(state, "_LARGE", 4 * 4 * LENGTH**2)
    monkeypatch.setattr(layer, "_TILE", 4 * 4 * LENGTH**2)


def signals(num, seed=0):
    return points(num, LENGTH, 2, seed=seed)


def test_large_layers_are_the_small_ones(x64, small_is_large):
    """Of a network that reads positions of single examples, too, and is computed at once."""
    net = L.serial(*CONV, L.average_pool((2,)), L.dense(4), *POOLED.layers[1:])
    x1, x2 = signals(5), signals(7, seed=1)
    large, small = net.kernel(x1, x2), net.kernel(x1, x2, batch_size=2)
    np.testing.assert_allclose(large.nngp, small.nngp, rtol=1e-12)
    np.testing.assert_allclose(large.ntk, small.ntk, rtol=1e-12)


def test_large_kernels_come_in_tiles(x64, small_is_large):
    x = signals(5)

    def kernel(x, size=None):
        return POOLED.kernel(x, get="nngp", batch_size=size)

    text = jax.jit(kernel).lower(x).as_text()
    assert f"<4x4x{LENGTH}x" in text and f"<5x5x{LENGTH}x" not in text and "stablehlo.case" in text
    whole = kernel(x)
    np.testing.assert_allclose(whole, kernel(x, 3), rtol=1e-12)
    # At most 16 pairs of equal rank at a time: one tile of them and three pairs more.
    x1, x2 = x[np.arange(19) % 5], x[np.arange(19) % 3]
    pairs = POOLED.kernel(x1, x2, get="nngp", pairs="diagonal")
    expected = whole[np.arange(19) % 5, np.arange(19) % 3]
    np.testing.assert_allclose(pairs, expected, rtol=1e-12)


IMAGE_NETS = {
    "flatten": L.serial(
        L.conv(4, (3, 2), bias_std=0.1, **RELU), L.relu(), L.conv(4, (2, 2), strides=2), L.erf(),
        L.flatten(), L.dense(1),
    ),
    "pooled": L.serial(
        L.conv(4, (2, 2), bias_std=0.1, **RELU), L.relu(), L.residual(L.conv(4, (2, 1))),
        L.layer_norm(), L.average_pool((2, 2)), L.dense(4), L.gelu(), L.global_average_pool(),
        L.dense(4), L.relu(), L.dense(1),
    ),
    "attention": L.serial(
        L.conv(4, (2, 2), **RELU), L.relu(), L.self_attention(4, query_std=1.5, bias_std=0.1),
        L.relu(), L.flatten(), L.dense(1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_NETS)
def test_tiles_diagonals_and_halves_are_the_whole(x64, name):
    net = IMAGE_NETS[name]
    x1, x2 = points(3, 3, 4, 2), points(2, 3, 4, 2, seed=1)
    both = net.kernel(np.concatenate([x1, x2]))
    tiles = net.kernel(x1, x2, batch_size=2)
    pairs = net.kernel(x1[1:], x2, pairs="diagonal")
    own = net.kernel(x1, pairs="diagonal", batch_size=2)
    for kind in ("nngp", "ntk"):
        whole, tight = np.asarray(getattr(both, kind)), {"rtol": 1e-12}
        np.testing.assert_allclose(getattr(tiles, kind), whole[:3, 3:], **tight)
        np.testing.assert_allclose(getattr(pairs, kind), np.diagonal(whole[1:3, 3:]), **tight)
        np.testing.assert_allclose(getattr(own, kind), np.diagonal(whole)[:3], **tight)
        np.testing.assert_allclose(whole, whole.T, **tight)
        assert np.linalg.eigvalsh(whole).min() > 0


def test_rows_stay_on_the_devices_of_their_examples(x64):
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    net, x1, x2 = relu_net(2), points(4, 3), points(5, 3, seed=1)
    found = net.kernel(jax.device_put(x1, rows), x2, get="ntk")
    assert found.sharding.shard_shape(found.shape) == (2, 5)
    np.testing.assert_allclose(found, net.kernel(x1, x2, get="ntk"), rtol=1e-12)


def test_kernels_run_inside_jit_and_values_are_equal_by_value():
    net = relu_net(2)
    x = points(3, 4)
    inside = jax.jit(lambda x: net.kernel(x, get=("ntk",)).ntk)(x)
    np.testing.assert_allclose(inside, net.kernel(x, get="ntk"), rtol=1e-6)
    assert net == relu_net(2) and hash(net) == hash(relu_net(2)) and net != relu_net(3)
    assert net.kernel(x, get=("nngp",)).ntk is None


BAD = {
    "get": lambda: relu_net(1).kernel(points(2, 3), get="cov"),
    "int": lambda: relu_net(1).kernel(jnp.ones((2, 3), int)),
    "different examples": lambda: relu_net(1).kernel(points(2, 3), points(2, 4)),
    "layer 2: .* Gaussian": lambda: L.serial(L.dense(2), L.relu(), L.relu()).kernel(points(2, 3)),
    "Gaussian": lambda: L.relu().kernel(points(2, 3)),
    "softmax.*has no known closed form": lambda: L.self_attention(4, scaling="sqrt"),
    "axes of positions": lambda: L.conv(4, (3, 3)).init(jax.random.key(0), (5, 5, 5, 2)),
    "exceed": lambda: L.conv(4, (3,), padding="VALID").init(jax.random.key(0), (2, 2)),
    "weight_std=-1": lambda: L.dense(4, weight_std=-1),
    "features=0": lambda: L.dense(0),
    "weight_std=inf": lambda: L.conv(4, (3,), weight_std=float("inf")),
    "bias_std=nan": lambda: L.dense(4, bias_std=float("nan")),
    "gamma=-1": lambda: L.exp_normalized(-1),
    "gamma=-2": lambda: L.rbf(-2),
    "expected some of nngp": lambda: L.dense(2).kernel(points(2, 3), get=()),
    "mask2 or pattern2 without x2": lambda: L.dense(2).kernel(points(2, 3), mask2=jnp.ones(2)),
    r"x1 has shape \(3,\)": lambda: L.dense(2).kernel(points(3)),
    r"pattern1 has shape \(2, 2\)": lambda: L.dense(2).kernel(
        points(2, 3, 1), pattern1=jnp.ones((2, 2))
    ),
    r"x1 has parts of \[2, 3\] examples": lambda: L.parallel(L.dense(2), L.dense(2)).kernel(
        (points(2, 3), points(3, 3))
    ),
    "mask1 and mask2: give both": lambda: L.dense(2).kernel(
        points(2, 3, 1), points(2, 3, 1), mask1=jnp.ones((2, 3), bool)
    ),
    "aggregate takes inputs": lambda: L.aggregate().init(jax.random.key(0), (3, 4, 2)),
    "padding='CIRCULAR'": lambda: L.conv_transpose(4, (3,), padding="CIRCULAR"),
    "gamma=nan": lambda: L.rbf(float("nan")),
    "shift=inf": lambda: L.exp_normalized(1.0, float("inf")),
    "negative=nan": lambda: L.leaky_relu(float("nan")),
    "c=inf": lambda: L.erf(c=float("inf")),
    "b=nan": lambda: L.sin(b=float("nan")),
    "b=-1: expected at least 0": lambda: L.gaussian(b=-1),
    "d=nan": lambda: L.gabor(d=float("nan")),
    "a=inf": lambda: L.exp(a=float("inf")),
    "degree=1.5": lambda: L.hermite(1.5),
    "degree=-1": lambda: L.monomial(-1),
    "coefficients=": lambda: L.polynomial([]),
    r"coefficients\[1\]=nan": lambda: L.polynomial([1.0, float("nan")]),
    "num_nodes=1": lambda: L.elementwise(jnp.tanh, num_nodes=1),
    "num_nodes=24.0": lambda: L.elementwise(jnp.tanh, num_nodes=24.0),
    "epsilon=-1": lambda: L.layer_norm(epsilon=-1),
    "batch_size=0": lambda: L.dense(2).kernel(points(2, 3), batch_size=0),
    "batch_size=2.5": lambda: L.dense(2).kernel(points(2, 3), batch_size=2.5),
    "x1 has dtype complex": lambda: L.dense(2).kernel(jnp.ones((2, 3), complex)),
    "rate=1": lambda: L.dropout(1),
    "'NTK'": lambda: L.dense(2, parameterisation="NTK"),
    "pattern": lambda: L.aggregate().kernel(points(2, 3, 1)),
    "mask1": lambda: L.dense(2).kernel(points(2, 3, 1), mask1=jnp.ones((2, 2), bool)),
    "2 and 3 examples": lambda: L.dense(2).kernel(points(2, 3), points(3, 3), pairs="diagonal"),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
