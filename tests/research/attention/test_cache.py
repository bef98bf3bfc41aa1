"""The contiguous cache: what lies in which slot, what is dropped, and its bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import cache as caches


def test_padding_tokens_are_not_kept_and_overflow_is_dropped():
    cache = jax.tree.map(lambda leaf: leaf[0], caches.contiguous(1, 1, 3, 1, 2))
    new = jnp.ones((1, 3, 1, 2))
    cache, *_ = jax.jit(caches.Contiguous.update)(cache, new, new, jnp.array([[-1, 1, 5]]))
    np.testing.assert_array_equal(cache.positions, [[-1, 1, -1]])
    np.testing.assert_array_equal(cache.key[0, 0, :, 0], [0, 1, 0])
    with pytest.raises(ValueError, match="4 tokens do not fit into a cache of 3"):
        cache.update(jnp.ones((1, 4, 1, 2)), jnp.ones((1, 4, 1, 2)), jnp.arange(4)[None])


def test_bytes_per_token_of_published_models():
    """Reference sheet: Llama-3-8B 131,072 and LLaMA-7B 524,288 in bfloat16, positions apart."""
    for layers, heads, expected in ((32, 8, 131_072), (32, 32, 524_288)):
        cache = caches.contiguous(layers, 1, 1, heads, 128, jnp.bfloat16)
        assert caches.nbytes((cache.key, cache.value)) == expected


def test_the_capacity_of_a_tree_is_its_smallest():
    small, large = caches.contiguous(2, 1, 3, 1, 2), caches.contiguous(1, 1, 9, 1, 2)
    assert small.capacity == 3 and caches.capacity((large, {"b": small})) == 3
    assert caches.capacity(jnp.zeros(3)) is None and caches.capacity(()) is None


def test_slots_are_positions_and_come_back_in_the_order_of_tokens():
    """Two rows at places of their own, written as one array each and read by loops."""
    rng = np.random.default_rng(0)
    key, value = rng.normal(size=(2, 2, 3, 2, 4)).astype(np.float32)  # [B, T, G, K]
    places = np.array([[3, 0, 1], [4, 2, -1]])
    cache = jax.tree.map(lambda leaf: leaf[0], caches.contiguous(1, 2, 5, 2, 4))
    cache, keys, values, stored = jax.jit(caches.Contiguous.update)(cache, key, value, places)
    assert cache.length == 5 and cache.key.shape == (2, 2, 5, 4)
    expected = np.zeros((2, 2, 5, 2, 4))
    for b, t in np.ndindex(2, 3):
        if places[b, t] >= 0:
            expected[:, b, places[b, t]] = key[b, t], value[b, t]
    np.testing.assert_array_equal([keys, values], expected)
    np.testing.assert_array_equal(stored, [[0, 1, -1, 3, -1], [-1, -1, 2, -1, 4]])
    np.testing.assert_array_equal(caches.by_slots(cache.key), keys)


def test_new_rows_lie_where_they_are_put():
    stored, new = jnp.zeros((2, 2, 4, 3)), jnp.arange(2 * 1 * 2 * 3.0).reshape(2, 1, 2, 3) + 1
    put = caches.put(stored, (jnp.array([[0], [1]]), jnp.array([[3], [4]])), new)
    np.testing.assert_array_equal(put[0, :, 3], new[0, 0])
    assert (put[0, :, :3] == 0).all() and (put[1] == 0).all()  # slot 4 is out of range


def test_a_part_of_a_tree_comes_out_and_goes_back():
    """The first positions of every cache in a tree; changed, they replace those and no others."""
    cache = jax.tree.map(
        lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape).astype(leaf.dtype),
        caches.contiguous(2, 3, 6, 2, 4),
    )
    tree = {"a": cache, "b": (cache,)}
    part = caches.first(tree, 4)
    assert part["b"][0].key.shape == (2, 3, 2, 4, 4) and part["a"].positions.shape == (2, 3, 4)
    back = caches.with_first(tree, jax.tree.map(jnp.negative, part))["b"][0]
    np.testing.assert_array_equal(back.key[..., :4, :], -cache.key[..., :4, :])
    np.testing.assert_array_equal(back.value[..., 4:, :], cache.value[..., 4:, :])
    np.testing.assert_array_equal(back.positions[..., :4], -cache.positions[..., :4])
    np.testing.assert_array_equal(back.positions[..., 4:], cache.positions[..., 4:])


def test_wrong_ranks_are_named():
    layer = jax.tree.map(lambda leaf: leaf[0], caches.contiguous(1, 2, 3, 1, 4))
    new, places = jnp.zeros((2, 1, 1, 4)), jnp.zeros((2, 1), int)
    for broken in (
        lambda: layer.update(new[0], new, places),
        lambda: layer.update(new, new[0], places),
        lambda: layer.update(new, new, places[0]),
        lambda: caches.put(layer.key[0], (places, places), new),
        lambda: caches.put(layer.key, (places, places), new[0]),
    ):
        with pytest.raises(AssertionError, match="rank"):
            broken()
