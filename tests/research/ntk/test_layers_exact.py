"""Infinitely wide networks: closed forms, float32 safety, tiles, diagonals, masks, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk

L = ntk.layers
RELU = {"weight_std": 2**0.5}


def points(num, *shape, seed=0):
    return jax.random.normal(jax.random.key(seed), (num, *shape))


def relu_net(depth):
    hidden = [layer for _ in range(depth) for layer in (L.dense(8, **RELU), L.relu())]
    return L.serial(*hidden, L.dense(1))


@pytest.mark.parametrize("depth", [1, 3])
def test_relu_network_is_its_recursion(x64, depth):
    """Arora et al. 2019, arXiv:1904.11955, with the reference's convention of variances."""
    x = points(5, 4)
    x = jnp.concatenate([x, -x[:1], 2 * x[1:2]])
    kernels = relu_net(depth).kernel(x)
    variance = np.sum(np.square(x), 1) / 4
    norm = np.sqrt(np.outer(variance, variance))
    sigma = np.asarray(x @ x.T) / 4 * 2
    theta = sigma.copy()
    for _ in range(depth):
        cosine = np.clip(sigma / (2 * norm), -1, 1)
        angle = np.arccos(cosine)
        np.fill_diagonal(angle, 0)
        slope = (np.pi - angle) / np.pi
        sigma = 2 * norm * (np.sin(angle) + (np.pi - angle) * cosine) / np.pi
        theta = sigma + theta * slope
    # The readout's weights have variance 1, not 2. The last pairs are parallel: root of rounding.
    np.testing.assert_allclose(kernels.nngp, sigma / 2, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(kernels.ntk, theta / 2, rtol=2e-8, atol=2e-8)
    unit = relu_net(depth).kernel(x / np.sqrt(variance)[:, None])
    np.testing.assert_allclose(2 * np.diagonal(unit.nngp), 2, rtol=1e-10)
    np.testing.assert_allclose(2 * np.diagonal(unit.ntk), 2 * (depth + 1), rtol=1e-10)


def test_linear_network_and_given_positions(x64):
    x1, x2 = points(3, 2, 4), points(2, 2, 4, seed=1)
    net = L.serial(L.dense(3), L.dense(3), L.dense(2))
    exact = np.einsum("nsc,mtc->nmst", x1, x2) / 4
    np.testing.assert_allclose(
        net.kernel(x1, x2, get="ntk", positions="all"), 3 * exact, rtol=1e-12
    )
    equal = np.diagonal(exact, axis1=2, axis2=3)
    np.testing.assert_allclose(net.kernel(x1, x2, get="nngp"), equal, rtol=1e-12)
    flat = L.serial(net, L.flatten()).kernel(x1, x2, get="ntk")
    np.testing.assert_allclose(flat, 3 * equal.mean(-1), rtol=1e-12)


def test_erf_and_sign_networks(x64):
    x = points(4, 3)
    q = np.asarray(1.3**2 * (x @ x.T) / 3 + 0.2**2)
    v = 1 + 2 * np.diag(q)
    net = L.serial(L.dense(9, weight_std=1.3, bias_std=0.2), L.erf(), L.dense(1))
    kernels = net.kernel(x)
    denominator = np.outer(v, v)
    sigma = 2 / np.pi * np.arcsin(2 * q / np.sqrt(denominator))
    theta = sigma + q * 4 / np.pi / np.sqrt(denominator - 4 * q**2)
    np.testing.assert_allclose(kernels.nngp, sigma, rtol=1e-10)
    np.testing.assert_allclose(kernels.ntk, theta, rtol=1e-10)
    cosine = np.clip(q / np.sqrt(np.outer(np.diag(q), np.diag(q))), -1, 1)
    np.fill_diagonal(cosine, 1)
    net = L.serial(L.dense(9, weight_std=1.3, bias_std=0.2), L.sign(), L.dense(1))
    np.testing.assert_allclose(net.kernel(x, get="ntk"), 2 / np.pi * np.arcsin(cosine), rtol=1e-10)


def test_exp_normalized_is_an_exponential_of_the_angle(x64):
    """A readout's NTK adds the slope d nngp / d q = gamma nngp / r times q = r cos."""
    x, gamma = points(4, 3), 0.7
    norm = np.sqrt(np.sum(np.square(x), 1))
    cosine = np.asarray(x @ x.T) / np.outer(norm, norm)
    net = L.serial(L.dense(4, weight_std=1.7), L.exp_normalized(gamma, shift=-0.5), L.dense(1))
    kernels, nngp = net.kernel(x), np.exp(gamma * (cosine - 0.5))
    np.testing.assert_allclose(kernels.nngp, nngp, rtol=1e-10)
    np.testing.assert_allclose(kernels.ntk, nngp * (1 + gamma * cosine), rtol=1e-10)


NONLINEAR = {
    "relu": L.relu(), "leaky_relu": L.leaky_relu(0.1), "abs": L.abs(), "sign": L.sign(),
    "erf": L.erf(), "gelu": L.gelu(), "sin": L.sin(), "cos": L.cos(), "rbf": L.rbf(),
    "gaussian": L.gaussian(), "gabor": L.gabor(), "exp": L.exp(1.0, 0.5),
    "hermite": L.hermite(2), "monomial": L.monomial(2), "polynomial": L.polynomial([1, 0.5, 0.1]),
    "rectified_0": L.rectified_monomial(0), "rectified_2": L.rectified_monomial(2),
    "sigmoid_like": L.sigmoid_like(), "quadrature": L.elementwise(jnp.tanh, num_nodes=24),
    "layer_norm": L.serial(L.layer_norm(), L.erf()), "exp_normalized": L.exp_normalized(),
}  # fmt: skip
GROUPS = [tuple(NONLINEAR)[i::4] for i in range(4)]
JUMPS = ("sign", "rectified_0")


def hard_inputs():
    """[10, 1, 12]: identical, opposite, zero, tiny, 1e-8 apart, 1 - cos = 1e-7, longer by half."""
    x = np.asarray(points(2, 12, seed=4), np.float64)
    other = x[1] - x[0] * (x[0] @ x[1]) / (x[0] @ x[0])
    other *= np.linalg.norm(x[0]) / np.linalg.norm(other)
    angle = np.sqrt(2e-7)
    near = np.cos(angle) * x[0] + np.sin(angle) * other
    rows = [x[0], x[0], -x[0], 0 * x[0], 1e-8 * x[1], x[0] + 1e-8, near, 1.5 * x[0], x[1], -x[1]]
    return np.float32(rows)[:, None]  # at one position: both kernels in one pass


def hard_kernels(names):
    """Both kernels in float32, their float64 selves, gradients of one hidden layer's in float32."""

    def kernels(x, deep=True):
        out = {}
        for name in names:
            f = NONLINEAR[name]
            second = (L.dense(2, bias_std=0.1), f) if deep else ()
            pair = L.serial(L.dense(2, **RELU), f, *second, L.dense(1)).kernel(x)
            out[name] = jnp.stack([pair.nngp, pair.ntk])[..., 0]  # [2, N, N]
        return out

    def total(x):
        return sum(k.sum() for k in kernels(x, deep=False).values())

    x = hard_inputs()
    found, grads = jax.device_get(jax.jit(lambda x: (kernels(x), jax.grad(total)(x)))(x))
    with jax.enable_x64(True):
        exact = jax.device_get(jax.jit(kernels)(np.float64(x)))
    return found, exact, grads


@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
def test_float32_is_safe_for_hard_inputs(names, optimized):
    """Finite with finite gradients, diagonal to 1e-5, all else to 1e-3 of the largest entry.

    Parallel and opposite inputs of different lengths have an angle whose cosine is rounded,
    sqrt(2 delta) for an error delta. A jump's kernel is linear in the angle, so a second one takes
    the root again: (2 / pi)^(3/2) 2^(3/4) delta^(1/4), with delta up to 4 units in the last place.
    Compiled with optimizations: without them one elementary function of JAX 0.10 errs at 1e-16.
    """
    found, exact, grads = hard_kernels(names)
    root = (2 / np.pi) ** 1.5 * 2**0.75 * (4 * np.finfo(np.float32).eps) ** 0.25
    assert np.isfinite(grads).all()
    for name, wanted in exact.items():
        got = found[name]
        assert np.isfinite(got).all(), name
        own, true = (np.diagonal(k, axis1=1, axis2=2) for k in (got, wanted))
        scale = np.maximum(np.abs(true), 1e-6 * np.abs(wanted).max())
        assert np.max(np.abs(own - true) / scale) < 1e-5, name
        # Rows 0 and 1 are the same, which the kernel is not told.
        np.testing.assert_allclose(got[:, :2, :2], wanted[:, :2, :2], rtol=1e-5, err_msg=name)
        loose = root if name in JUMPS else 1e-3
        assert np.max(np.abs(got - wanted)) < loose * np.abs(wanted).max(), name


def test_layer_norm_of_large_beside_tiny():
    """float32, where the two terms of a mapped gap are 1e8 and cancel: angles must survive."""
    large, tiny = 100 * points(6, 5), 1e-8 * points(6, 5, seed=1)
    net = L.serial(L.dense(2), L.layer_norm(), L.relu())
    found = net.kernel(large, tiny, get="nngp")
    a, b = np.asarray(large, np.float64), np.asarray(tiny, np.float64)
    std1, std2 = (np.sqrt(np.mean(np.square(z), 1)) for z in (a, b))
    cosine = a @ b.T / 5 / np.outer(std1, std2)
    angle = np.arccos(cosine)
    radius = std2 / np.sqrt(std2**2 + 1e-12)  # layer_norm's epsilon; that of the large is 1
    expected = radius * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * radius.max())


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
    both = net.kernel(jnp.concatenate([x1, x2]))
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


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_tiles_of_one_set_keep_its_diagonal(x64, get):
    net, x = L.serial(L.dense(4, bias_std=0.2), L.relu(), L.dropout(0.3), L.dense(1)), points(5, 3)
    whole = net.kernel(x, get=get)
    np.testing.assert_allclose(net.kernel(x, get=get, batch_size=2), whole, rtol=1e-12)


def test_equal_positions_are_the_diagonal_of_all(x64):
    net = L.serial(L.conv(4, (3,), bias_std=0.2), L.relu(), L.conv(4, (2,), strides=2), L.relu())
    x1, x2 = points(2, 5, 3), points(3, 5, 3, seed=1)
    for second in (x2, None):
        full = net.kernel(x1, second, get="ntk", positions="all")
        equal = net.kernel(x1, second, get="ntk")
        np.testing.assert_allclose(equal, jnp.diagonal(full, axis1=2, axis2=3), rtol=1e-12)


TOPS = {
    "mean": [L.global_average_pool()],
    "attention": [L.self_attention(4, bias_std=0.1), L.relu(), L.flatten()],
}


@pytest.mark.parametrize("top", TOPS)
def test_masked_positions_have_no_influence(x64, top):
    net = L.serial(
        L.dense(4, bias_std=0.2), L.relu(), L.dense(4, bias_std=0.3), L.erf(), *TOPS[top]
    )
    x = points(3, 3, 2)
    padded = jnp.concatenate([x, 100 * points(3, 2, 2, seed=2)], 1)
    mask = jnp.broadcast_to(jnp.arange(5)[None] < 3, (3, 5))
    short, long = net.kernel(x), net.kernel(padded, mask1=mask)
    scale = 1 if top == "mean" else 5 / 3  # flatten divides by all positions
    np.testing.assert_allclose(scale * long.nngp, short.nngp, rtol=1e-12)
    np.testing.assert_allclose(scale * long.ntk, short.ntk, rtol=1e-12)
    params = jax.jit(net.init, static_argnums=1)(jax.random.key(0), (3, 2))
    apply = jax.jit(net.apply)
    kept = np.asarray(apply(params, padded, mask=mask))
    if top != "mean":
        kept = kept.reshape(3, 5, 4)[:, :3].reshape(3, 12)
    np.testing.assert_allclose(kept, apply(params, x), rtol=1e-12, atol=1e-12)


def test_masked_positions_are_zeros_to_a_convolution(x64):
    """As the zeros of its padding are; examples of different masks too."""
    net = L.serial(L.dense(4, bias_std=0.2), L.relu(), L.conv(4, (3,), bias_std=0.1), L.relu())
    x = points(2, 3, 2)
    padded = jnp.concatenate([x, 100 * points(2, 2, 2, seed=2)], 1)
    exists = jnp.arange(5)[None] < jnp.array([[3], [3]])
    short = net.kernel(x, get="ntk", positions="all")
    long = net.kernel(padded, get="ntk", positions="all", mask1=exists)
    np.testing.assert_allclose(long[..., :3, :3], short, rtol=1e-10)
    exists = jnp.arange(5)[None] < jnp.array([[3], [2]])
    full = net.kernel(padded, get="ntk", positions="all", mask1=exists)
    equal = net.kernel(padded, get="ntk", mask1=exists)
    np.testing.assert_allclose(equal, jnp.diagonal(full, axis1=2, axis2=3), rtol=1e-10)


def test_aggregate_averages_over_the_graph(x64):
    net = L.serial(L.dense(8, bias_std=0.1), L.aggregate(), L.dense(8), L.relu(), L.aggregate())
    x, y = points(2, 4, 3), points(3, 4, 3, seed=1)
    p, r = jax.nn.softmax(points(2, 4, 4, seed=2)), jax.nn.softmax(points(3, 4, 4, seed=3))
    linear = L.serial(L.dense(8, bias_std=0.1), L.aggregate())
    q = np.einsum("nsc,mtc->nmst", x, y) / 3 + 0.01
    found = linear.kernel(x, y, pattern1=p, pattern2=r, get="nngp", positions="all")
    np.testing.assert_allclose(found, np.einsum("nab,nmbc,mdc->nmad", p, q, r), rtol=1e-12)
    order = jnp.array([2, 0, 3, 1])
    shuffled = net.kernel(x[:, order], y, pattern1=p[:, order][:, :, order], pattern2=r,
                          positions="all", get="ntk")  # fmt: skip
    plain = net.kernel(x, y, pattern1=p, pattern2=r, positions="all", get="ntk")
    np.testing.assert_allclose(shuffled, plain[:, :, order], rtol=1e-12)


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
    "max_pool has no known closed form": L.max_pool,
    "batch_norm has no known closed form": L.batch_norm,
    "softmax.*has no known closed form": lambda: L.self_attention(4, scaling="sqrt"),
    "axes of positions": lambda: L.conv(4, (3, 3)).init(jax.random.key(0), (5, 5, 5, 2)),
    "exceed": lambda: L.conv(4, (3,), padding="VALID").init(jax.random.key(0), (2, 2)),
    "share their inputs": lambda: L.residual(L.identity()).kernel(points(2, 3)),
    "different shapes": lambda: L.residual(L.dense(4)).init(jax.random.key(0), (3,)),
    "is no layer": lambda: L.serial(L.dense(4), L.relu),
    "weight_std=-1": lambda: L.dense(4, weight_std=-1),
    "features=0": lambda: L.dense(0),
    "gamma=-1": lambda: L.exp_normalized(-1),
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
