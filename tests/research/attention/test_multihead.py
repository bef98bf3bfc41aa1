"""The layer against einsums in NumPy, and its cache: cached steps equal the whole."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import cache as caches
from research.attention import masks, multihead, positions
from tests.research.attention import cases


def test_cached_steps_equal_the_whole(x64):
    """A prompt of 4, then tokens one by one, each sequence at its own offset."""
    layer = multihead.MultiHead(4, 6, num_kv_heads=2, rope=positions.Rope())
    x = jax.random.normal(jax.random.key(0), (2, 7, 10), jnp.float64)
    params = jax.jit(layer.init)(jax.random.key(1), x)
    offset = jnp.array([[0], [3]])
    apply = jax.jit(
        lambda x, i, cache: layer.apply(params, x, mask=masks.Causal(), positions=i, cache=cache)
    )
    whole, _ = apply(x, jnp.arange(7)[None], None)
    cache = jax.tree.map(lambda leaf: leaf[0], caches.contiguous(1, 2, 12, 2, 6, jnp.float64))
    parts, start = [], 0
    for size in (4, 1, 1, 1):
        i = offset + start + jnp.arange(size)[None]
        out, cache = apply(x[:, start : start + size], i, cache)
        parts.append(out)
        start += size
    # Rotary positions are relative: an offset of the whole sequence changes nothing.
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(cache.positions[1], [-1, -1, -1, *range(3, 10), -1, -1])


def test_the_layer_is_its_four_projections(x64):
    """To a memory of another width, grouped, with every option away from its default."""
    layer = multihead.MultiHead(
        4, 3, num_kv_heads=2, use_bias=False, scale=0.7, implementation="blocked",
        kernel_init=nn.initializers.normal(0.5), out_init=nn.initializers.constant(0.25),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x, memory = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 7, 8))
    lengths, slopes = np.array([7, 4]), np.array([0.5, 0.25, 0.1, 0.0])
    params = jax.jit(layer.init)(jax.random.key(1), x, memory)["params"]
    shapes = {name: leaf["kernel"].shape for name, leaf in params.items()}
    assert shapes == {"query": (6, 4, 3), "key": (8, 2, 3), "value": (8, 2, 3), "out": (4, 3, 6)}
    assert all(set(leaf) == {"kernel"} for leaf in params.values())
    assert (params["out"]["kernel"] == 0.25).all()
    assert 0.3 < params["query"]["kernel"].std() < 0.7
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    mask, bias = masks.Padding(jnp.asarray(lengths)), positions.Alibi(jnp.asarray(slopes))
    out, _ = jax.jit(layer.apply)({"params": params}, x, memory, mask, bias)
    query = np.einsum("btd,dhk->bthk", x, params["query"]["kernel"])
    key, value = (np.einsum("bsm,mgk->bsgk", memory, params[n]["kernel"]) for n in ("key", "value"))
    distance = np.abs(np.arange(5)[:, None] - np.arange(7))
    mixed = cases.by_loops(
        query, key, value, lambda b, i, j: j < lengths[b], -slopes[:, None, None] * distance, 0.7
    )
    expected = np.einsum("bthk,hkd->btd", mixed, params["out"]["kernel"])
    np.testing.assert_allclose(out, expected, rtol=1e-10)


def test_a_memory_has_places_of_its_own(x64):
    """Positions of the queries say nothing of the keys of a memory; nor do slots."""
    layer = multihead.MultiHead(2, 3)
    rng = np.random.default_rng(0)
    x, memory = rng.normal(size=(1, 1, 6)), rng.normal(size=(1, 5, 8))
    params, mask = jax.jit(layer.init)(jax.random.key(1), x, memory), masks.Padding(jnp.array([3]))

    def read(memory=memory, mask=mask, **places):
        return layer.apply(params, x, memory, mask, **places)[0]

    expected = read(memory[:, :3], None)
    for places in ({}, {"positions": np.array([[7]])}, {"slots": np.array([[7]])}):
        np.testing.assert_allclose(read(**places), expected, rtol=1e-12)


def test_masks_see_slots_and_rotations_positions(x64):
    """Without a cache slots are 0, 1, ... whatever the positions are; or what is given."""
    layer = multihead.MultiHead(2, 4, rope=positions.Rope())
    x = np.random.default_rng(0).normal(size=(1, 6, 8))
    params = jax.jit(layer.init)(jax.random.key(1), x)
    run = jax.jit(
        lambda x, mask, places, slots=None: layer.apply(
            params, x, mask=masks.every(masks.Causal(), mask), positions=places, slots=slots
        )[0]
    )
    restarting = np.array([[0, 1, 2, 0, 1, 2]])
    documents = masks.Documents(jnp.array([[0, 0, 0, 1, 1, 1]]))
    packed = run(x, documents, restarting)
    parts = [run(part, None, restarting[:, :3]) for part in (x[:, :3], x[:, 3:])]
    np.testing.assert_allclose(packed, np.concatenate(parts, 1), rtol=1e-10)
    prefix = run(x, masks.Padding(jnp.array([2])), restarting)
    np.testing.assert_allclose(prefix[:, :2], run(x[:, :2], None, restarting[:, :2]), rtol=1e-10)
    one = run(x, masks.Padding(jnp.array([1])), restarting)
    np.testing.assert_allclose(one, np.broadcast_to(one[:, :1], one.shape), rtol=1e-10)
    # The first part of a longer row of ids.
    longer = masks.Documents(jnp.array([[0, 0, 0, 1, 1, 1, 2, 2]]))
    found = run(x, longer, restarting, np.arange(6)[None])
    np.testing.assert_allclose(found, packed, rtol=1e-12)
    # The last two of the row in front: by slots nothing changes but the order.
    order = np.array([4, 5, 0, 1, 2, 3])
    moved = run(x[:, order], documents, restarting[:, order], order[None])
    np.testing.assert_allclose(moved, packed[:, order], rtol=1e-10)


def test_a_map_of_rows_is_the_map_of_tokens():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    out = multihead.on_rows(lambda rows: rows[..., :2] ** 2, x)
    np.testing.assert_array_equal(out, x[..., :2] ** 2)


def test_bad_input_is_named():
    x = jnp.zeros((1, 4, 10))
    for layer, options, message in (
        (multihead.MultiHead(4, 6, num_kv_heads=3), {}, "num_kv_heads=3"),
        (multihead.MultiHead(3), {}, "width 10"),
        (multihead.MultiHead(2), {"cache": caches.contiguous(1, 1, 4, 2, 5)}, "positions"),
        (
            multihead.MultiHead(2),
            {
                "cache": caches.contiguous(1, 1, 4, 2, 5),
                "positions": jnp.arange(4)[None],
                "mask": masks.Documents(jnp.zeros((1, 4), int)),
            },
            "Documents with a cache: give slots",
        ),
        (
            multihead.MultiHead(2),
            {"mask": masks.Documents(jnp.zeros((1, 5), int)), "positions": jnp.arange(4)[None]},
            r"expected \(1, 4\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            layer.init(jax.random.key(0), x, **options)
    with pytest.raises(AssertionError, match="rank"):
        multihead.MultiHead(2).init(jax.random.key(0), x[0])
