"""BigGAN: counts of the authors' networks, norms, blocks and attention by hand, statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.gan import biggan

SMALL = dict(resolution=8, channels=2, num_classes=3)
Z = jax.random.normal(jax.random.key(1), (4, 6))
X = jax.random.normal(jax.random.key(2), (4, 8, 8, 3))
LABELS = jnp.array([0, 1, 2, 1])
COLLECTIONS = ["spectral", "batch_stats"]


def drawn(model, *inputs):
    """Collections by NumPy: parameters none of which is 0, unit vectors, fresh statistics."""
    shapes = jax.eval_shape(lambda rng: model.init(rng, *inputs), jax.random.key(0))
    rng = np.random.default_rng(0)
    normal = lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype)

    def parameter(path, leaf):  # scales of norms about 1
        return (0.4 * normal(leaf) + (path[-1].key == "scale")).astype(leaf.dtype)

    def vector(leaf):
        u = normal(leaf)
        return u / np.linalg.norm(u)

    made = {"params": jax.tree.map_with_path(parameter, shapes["params"])}
    if "spectral" in shapes:
        made["spectral"] = jax.tree.map(vector, shapes["spectral"])
    if "batch_stats" in shapes:
        fresh = lambda path, leaf: np.full(leaf.shape, path[-1].key == "var", leaf.dtype)
        made["batch_stats"] = jax.tree.map_with_path(fresh, shapes["batch_stats"])
    return made


@functools.cache
def start(model, name):
    """Collections and a program."""
    made = drawn(model, {"z": Z, "x": X}[name], LABELS)
    return made, jax.jit(model.apply, static_argnames=("train", "mutable"))


def normalised(kernel, u):
    """A kernel over the estimate of its norm after one power iteration on u."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    v = matrix @ u
    v = v / np.linalg.norm(v)
    return kernel / np.linalg.norm(v @ matrix)


@pytest.mark.parametrize(
    "fields, latent, generator, discriminator",
    [
        (dict(channels=96), 120, 70_433_988, 87_982_370),
        (
            dict(
                resolution=32, num_classes=10, attention=(), shared_dim=None, wide=False
            ),
            128,
            4_304_387,
            3_617_365,
        ),
    ],
)  # fmt: skip
def test_sizes_of_the_published_networks(fields, latent, generator, discriminator):
    """ImageNet at 128, and the scripts' CIFAR-10, whose latent is whole and critic is narrow."""
    side = fields.get("resolution", 128)
    for make, skip, shape, count in [
        (biggan.Generator, "wide", (1, latent), generator),
        (biggan.Discriminator, "shared_dim", (1, side, side, 3), discriminator),
    ]:
        model = make(**{k: v for k, v in fields.items() if k != skip})
        init = lambda x, model=model: model.init(jax.random.key(0), x, LABELS[:1])["params"]
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        assert testing.count_parameters(init, x) == count


@pytest.mark.parametrize("side", [8, 16, 32, 64, 128, 256, 512])
def test_every_resolution_ends_in_its_images(side):
    generator = biggan.Generator(side, channels=8, num_classes=3)
    pieces = {8: 2, 16: 3, 32: 4, 64: 5, 128: 6, 256: 7, 512: 8}[side]
    z = jax.ShapeDtypeStruct((4, 2 * pieces), jnp.float32)
    images, made = jax.eval_shape(generator.init_with_output, jax.random.key(0), z, LABELS)
    assert images.shape == (4, side, side, 3)
    assert ("attention64" in made["params"]) == (side >= 64)
    critic = biggan.Discriminator(side, channels=8, num_classes=3)
    logits, made = jax.eval_shape(critic.init_with_output, jax.random.key(0), images, LABELS)
    assert logits.shape == (4,)
    assert ("attention64" in made["params"]) == (side >= 128)


def test_conditional_norms_by_hand(x64):
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(4, 3, 3, 5))
    condition = np.random.default_rng(1).normal(size=(4, 7))
    plain = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    norm = biggan.ConditionalBatchNorm(momentum=0.9)
    apply = lambda norm, *args: jax.jit(
        lambda made: norm.apply(made, *args, True, mutable=COLLECTIONS)
    )
    made = drawn(norm, x, condition, True)
    out, new = apply(norm, x, condition)(made)
    linear = {
        name: condition
        @ normalised(np.asarray(made["params"][name]["kernel"]), made["spectral"][name]["u"])
        for name in ("gain", "bias")
    }
    expected = (1 + linear["gain"])[:, None, None] * plain + linear["bias"][:, None, None]
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-7)  # Flax's norm keeps float32
    mean = new["batch_stats"]["norm"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-6)
    tables = biggan.ConditionalBatchNorm(momentum=0.9, num_classes=3)
    made = drawn(tables, x, LABELS, True)
    out, _ = apply(tables, x, LABELS)(made)
    rows = {name: np.asarray(made["params"][name]["embedding"])[LABELS] for name in linear}
    expected = (1 + rows["gain"])[:, None, None] * plain + rows["bias"][:, None, None]
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-7)


def test_attention_by_hand(x64):
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 8))
    block = biggan.Attention()
    made = drawn(block, x, False)
    assert jax.jit(lambda key: block.init(key, x, False)["params"]["gamma"])(jax.random.key(0)) == 0
    params = {**made["params"], "gamma": np.float64(0.7)}
    apply = jax.jit(lambda params: block.apply({**made, "params": params}, x, False))
    np.testing.assert_array_equal(apply({**params, "gamma": np.float64(0)}), x)
    kernels = {
        name: normalised(np.asarray(params[name]["kernel"])[0, 0], made["spectral"][name]["u"])
        for name in ("query", "key", "value", "out")
    }
    pool = lambda h: h.reshape(2, 2, 2, 2, 2, -1).max((2, 4)).reshape(2, 4, -1)
    query = (x @ kernels["query"]).reshape(2, 16, -1)
    key, value = pool(x @ kernels["key"]), pool(x @ kernels["value"])
    weights = np.exp(np.einsum("btc,bsc->bts", query, key))
    weights = weights / weights.sum(-1, keepdims=True)
    mixed = np.einsum("bts,bsc->btc", weights, value).reshape(2, 4, 4, -1)
    out = apply(params)
    np.testing.assert_allclose(out, x + 0.7 * mixed @ kernels["out"], rtol=1e-10)


@pytest.mark.parametrize(
    "down, first, hidden", [(True, True, 6), (True, False, 3), (False, False, 6)]
)
def test_blocks_down_in_the_order_of_the_paper(down, first, hidden, x64):
    """The shortcut of all but the first block is mapped before it is pooled, there."""
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    block = biggan.DownBlock(hidden, 6, down, first)
    made = drawn(block, x, False)
    pad = lambda h: np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def conv(name, h):
        p = made["params"][name]
        kernel = normalised(np.asarray(p["kernel"]), np.asarray(made["spectral"][name]["u"]))
        side = kernel.shape[0]
        h = pad(h) if side == 3 else h
        return np.asarray(p["bias"]) + sum(
            h[:, i : i + 4, j : j + 4] @ kernel[i, j] for i in range(side) for j in range(side)
        )

    relu = lambda h: np.maximum(h, 0)
    pool = lambda h: h.reshape(2, 2, 2, 2, 2, -1).mean((2, 4)) if down else h
    h = conv("conv1", relu(conv("conv0", x if first else relu(x))))
    assert made["params"]["conv0"]["kernel"].shape[-1] == hidden
    expected = pool(h) + pool(conv("short", x))
    apply = lambda block: jax.jit(lambda made: block.apply(made, x, False))
    np.testing.assert_allclose(apply(block)(made), expected, rtol=1e-10)
    same = biggan.DownBlock(3, 3, False, first)
    made = drawn(same, x, False)
    assert "short" not in made["params"]
    h = conv("conv1", relu(conv("conv0", x if first else relu(x))))
    np.testing.assert_allclose(apply(same)(made), h + x, rtol=1e-10)


def test_blocks_up_map_the_doubled_image(x64):
    rng = np.random.default_rng(0)
    x, condition = rng.normal(size=(2, 2, 2, 3)), rng.normal(size=(2, 4))
    block = biggan.UpBlock(5, 0.9, None)
    made = drawn(block, x, condition, False)
    silent = jax.tree.map(np.zeros_like, made["params"]["conv1"])
    params = {**made["params"], "conv1": silent}
    kernel = normalised(np.asarray(params["short"]["kernel"])[0, 0], made["spectral"]["short"]["u"])
    expected = made["params"]["short"]["bias"] + x.repeat(2, 1).repeat(2, 2) @ kernel
    out = jax.jit(lambda params: block.apply({**made, "params": params}, x, condition, False))(
        params
    )
    np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-12)


def test_pieces_of_the_latent_and_labels_reach_every_image_alone():
    made, run = start(biggan.Generator(**SMALL), "z")
    images = run(made, Z, LABELS)
    assert images.shape == (4, 8, 8, 3) and np.abs(images).max() <= 1
    for piece in (slice(0, 3), slice(3, 6)):
        moved = np.abs(run(made, Z.at[1, piece].add(1.0), LABELS) - images).max((1, 2, 3))
        assert moved[1] > 1e-3 and (moved[[0, 2, 3]] == 0).all()
    moved = np.abs(run(made, Z, LABELS.at[1].set(0)) - images).max((1, 2, 3))
    assert moved[1] > 1e-4 and (moved[[0, 2, 3]] == 0).all()
    whole, run = start(biggan.Generator(**SMALL, shared_dim=None), "z")
    moved = np.abs(
        run(whole, Z, LABELS.at[1].set(0)) - run(whole, Z, LABELS)
    ).max((1, 2, 3))  # fmt: skip
    assert moved[1] > 1e-4 and (moved[[0, 2, 3]] == 0).all()


def test_a_logit_is_a_value_and_a_projection():
    model = biggan.Discriminator(**SMALL)
    made, run = start(model, "x")
    seen_too = dict(capture_intermediates=True, mutable=["intermediates"])
    logits, seen = jax.jit(functools.partial(model.apply, **seen_too))(made, X, LABELS)
    last = seen["intermediates"]["block2"]["__call__"][0]
    features = np.maximum(last, 0).sum((1, 2))  # [B, C]
    last, table = made["params"]["logit"], made["params"]["embed"]["embedding"]
    rows = normalised(np.asarray(table), made["spectral"]["embed"]["u"])[LABELS]
    kernel = normalised(np.asarray(last["kernel"]), made["spectral"]["logit"]["u"])
    expected = (features @ kernel)[:, 0] + last["bias"] + (rows * features).sum(1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4)
    np.testing.assert_allclose(run(made, X, LABELS), logits, rtol=1e-4)


def test_standing_statistics_are_means_over_passes():
    model = biggan.Generator(**SMALL)
    made, run = start(model, "z")
    out, first = run(made, Z, LABELS, train=True, mutable=("spectral", "batch_stats"))
    one = jax.jit(functools.partial(biggan.standing_statistics, model))
    standing = one(made, Z[None], LABELS[None])
    np.testing.assert_allclose(run(standing, Z, LABELS), out, atol=1e-5)
    both = one(made, jnp.stack([Z, Z[::-1] + 1]), jnp.stack([LABELS, LABELS]))
    other = one(made, Z[None, ::-1] + 1, LABELS[None])
    expected = jax.tree.map(lambda a, b: (a + b) / 2, standing["batch_stats"], other["batch_stats"])
    testing.assert_trees_close(both["batch_stats"], expected, rtol=1e-5, atol=1e-6)
    testing.assert_trees_equal(both["params"], made["params"])
    testing.assert_trees_equal(both["spectral"], made["spectral"])
    mean = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, made, standing)["batch_stats"]
    testing.assert_trees_close(first["batch_stats"], mean, rtol=1e-4, atol=1e-6)
    slow = model.clone(momentum=0.5)
    _, moved = jax.jit(lambda: slow.apply(made, Z, LABELS, train=True, mutable=COLLECTIONS))()
    mean = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, made, standing)["batch_stats"]
    testing.assert_trees_close(moved["batch_stats"], mean, rtol=1e-4, atol=1e-6)


def test_training_moves_the_vectors_and_nothing_else_does():
    for model, name, x in [
        (biggan.Generator(**SMALL), "z", Z),
        (biggan.Discriminator(**SMALL), "x", X),
    ]:
        made, run = start(model, name)
        _, same = run(made, x, LABELS, mutable=("spectral",))
        testing.assert_trees_equal(same["spectral"], made["spectral"])
        _, new = run(made, x, LABELS, train=True, mutable=("spectral", "batch_stats"))
        for path, leaf in jax.tree.leaves_with_path(new["spectral"]):
            before = functools.reduce(lambda tree, key: tree[key.key], path, made["spectral"])
            assert leaf.size == 1 or np.abs(leaf - before).max() > 1e-6, path


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: biggan.Generator(12).init(jax.random.key(0), Z, LABELS), "resolution=12: expec"),
        (lambda: biggan.Discriminator(12).init(jax.random.key(0), X, LABELS), "resolution=12: ex"),
        (lambda: biggan.Generator(16).init(jax.random.key(0), Z[:, :5], LABELS), "z has 5 numbers"),
        (lambda: biggan.Generator(8).init(jax.random.key(0), Z[0], LABELS), "z float32.6.: expec"),
        (lambda: biggan.Generator(**SMALL).init(jax.random.key(0), Z, LABELS + 1), "label 3: exp"),
        (lambda: biggan.Discriminator(**SMALL).init(jax.random.key(0), X, LABELS - 1), "label -1"),
        (lambda: biggan.Discriminator(8).init(jax.random.key(0), X[:, 1:], LABELS), "images float"),
        (
            lambda: biggan.standing_statistics(biggan.Generator(8), {}, Z, LABELS),
            r"z \[4, 6\], labels \[4\]: expected \[N, B, Z\]",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
