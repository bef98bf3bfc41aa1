"""`attend`, whatever carries it out: who is seen, grouped queries, positions, cuDNN's arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import dot_product, masks, positions
from tests.research.attention import cases


@pytest.mark.parametrize("implementation", ["plain", "blocked"])
def test_the_future_has_no_gradient_and_the_past_has(implementation, x64):
    query, key, value = cases.inputs(batch=1)

    @jax.jit
    def reach(key, value):
        attend = functools.partial(
            dot_product.attend,
            mask=masks.every(masks.Causal(), masks.Window(6)),
            implementation=implementation,
            block=(4, 3),
        )
        return jax.jacrev(lambda k, v: attend(query, k, v)[0].sum((1, 2)), (0, 1))(key, value)

    by_key, by_value = (np.abs(jacobian[:, 0]).sum((2, 3)) > 0 for jacobian in reach(key, value))
    i, j = np.mgrid[:11, :11]
    np.testing.assert_array_equal(by_value, (j <= i) & (i - j < 6))  # [T, S]
    # The first query sees one key only, whose weight is 1 whatever the key is.
    np.testing.assert_array_equal(by_key, by_value & (i > 0))


def test_grouped_queries_are_repeated_heads_and_their_limits(x64):
    attend = jax.jit(functools.partial(dot_product.attend, mask=masks.Causal()))
    query, key, value = cases.inputs(num_heads=4, num_kv_heads=2)
    grouped = attend(query, key, value)
    repeated = attend(query, jnp.repeat(key, 2, 2), jnp.repeat(value, 2, 2))
    np.testing.assert_allclose(grouped, repeated, rtol=1e-12, atol=1e-14)
    single = attend(query, key[:, :, :1], value[:, :, :1])
    np.testing.assert_allclose(
        single[:, :, 3:], attend(query[:, :, 3:], key[:, :, :1], value[:, :, :1]), rtol=1e-12
    )


@pytest.mark.parametrize("implementation", ["plain", "blocked"])
def test_positions_say_where_queries_and_keys_are(implementation, x64):
    """The last three queries, and keys in another order with an empty slot, against loops."""
    query, key, value = cases.inputs()
    bias = positions.Alibi(jnp.array([0.5, 0.25, 0.1, 0.0]))
    order = np.random.default_rng(4).permutation(12) - 1  # -1: a slot without a key
    seen = order[order >= 0]
    stored_key, stored_value = (
        jnp.full((2, 12, 2, 6), 1e3).at[:, np.flatnonzero(order >= 0)].set(x[:, seen])
        for x in (key, value)
    )
    out = jax.jit(
        functools.partial(
            dot_product.attend, mask=masks.Causal(), bias=bias, scale=0.3,
            implementation=implementation, block=(2, 5),
        )
    )(
        query[:, 8:], stored_key, stored_value,
        query_positions=jnp.arange(8, 11)[None], key_positions=jnp.asarray(order)[None],
    )  # fmt: skip
    i, j = np.mgrid[:11, :11]
    added = -np.array([0.5, 0.25, 0.1, 0.0])[:, None, None] * np.abs(i - j)
    expected = cases.by_loops(query, key, value, cases.SEES["causal"], added, scale=0.3)
    np.testing.assert_allclose(out, expected[:, 8:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("implementation", ["plain", "blocked"])
def test_masks_go_by_slots_and_biases_by_positions(implementation, x64):
    """Positions that start again, keys in another order with an empty slot, against loops."""
    query, key, value = cases.inputs()
    slopes = np.array([0.5, 0.25, 0.1, 0.0])
    places = np.where(np.arange(11) < 7, np.arange(11), np.arange(11) - 7)
    order = np.random.default_rng(4).permutation(12) - 1  # -1: a slot without a key
    stored_key, stored_value = (
        jnp.full((2, 12, 2, 6), 1e3).at[:, np.flatnonzero(order >= 0)].set(x[:, order[order >= 0]])
        for x in (key, value)
    )
    attend = functools.partial(
        dot_product.attend, bias=positions.Alibi(jnp.asarray(slopes)),
        implementation=implementation, block=(2, 5),
    )  # fmt: skip
    out = jax.jit(lambda *arrays: attend(
        *arrays, masks.every(masks.Causal(), masks.Documents(cases.IDS)),
        query_positions=places[None, 4:], key_positions=jnp.asarray(places[order])[None],
        query_slots=jnp.arange(4, 11)[None], key_slots=jnp.asarray(order)[None],
    ))(query[:, 4:], stored_key, stored_value)  # fmt: skip
    added = -slopes[:, None, None] * np.abs(places[:, None] - places)
    expected = cases.by_loops(query, key, value, cases.SEES["documents"], added)
    np.testing.assert_allclose(out, expected[:, 4:], rtol=1e-10, atol=1e-12)


def test_softmax_of_what_is_seen(x64):
    logits = np.array([[0.0, 1.0, 2.0], [-800.0, 900.0, 1.0], [3.0, 4.0, 5.0]])
    seen = np.array([[True, True, False], [True, False, True], [False] * 3])
    found = dot_product.softmax(jnp.asarray(logits), jnp.asarray(seen))
    e = np.exp(1.0)
    np.testing.assert_allclose(
        found, [[1 / (1 + e), e / (1 + e), 0], [0, 0, 1], [0, 0, 0]], atol=1e-300
    )
    total = lambda x: dot_product.softmax(x, jnp.asarray(seen)).sum()  # noqa: E731
    assert np.isfinite(jax.grad(total)(jnp.asarray(logits))).all()


def test_permuting_inputs_permutes_outputs_and_rows_sum_to_one(x64):
    order = jnp.array(np.random.default_rng(3).permutation(11))
    attend = jax.jit(functools.partial(dot_product.attend, implementation="blocked", block=(4, 3)))
    query, key, value = cases.inputs()
    out = attend(query, key, value)
    shuffled = attend(query[:, order], key[:, order], value[:, order])
    np.testing.assert_allclose(shuffled, out[:, order], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(attend(query, key, jnp.ones_like(value)), 1.0, rtol=1e-12)


@pytest.mark.parametrize("name", ["none", "causal", "window", "padding", "every"])
def test_what_cudnn_is_told_means_the_same_mask(name, x64):
    """The same arguments, carried out by JAX's XLA implementation of that function."""
    query, key, value = cases.inputs()
    arguments = dot_product.cudnn_arguments(cases.MASKS[name])

    @jax.jit
    def both(query, key, value):
        out = dot_product._native(query, key, value, 0.3, arguments, "xla")
        options = {"scale": 0.3, "implementation": "plain"}
        return out, dot_product.attend(query, key, value, cases.MASKS[name], **options)

    out, ours = both(query, key, value)
    np.testing.assert_allclose(out, ours, rtol=1e-6, atol=1e-6)  # XLA's softmax is in float32


def test_cudnn_is_asked_for_by_name(monkeypatch):
    """Where JAX may choose, it may choose another."""
    asked = []

    def attention(query, key, value, scale, implementation, **arguments):
        asked.append((scale, implementation, arguments))
        return value

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    x = jnp.ones((1, 2, 1, 4))
    dot_product._native(x, x, x, 0.3, {"is_causal": True})
    assert asked == [(0.3, "cudnn", {"is_causal": True})]


def test_auto_takes_cudnn_on_a_gpu_only_where_it_can(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    half = [jnp.zeros((1, 4, 2, 64), jnp.bfloat16)] * 3
    full = [x.astype(jnp.float32) for x in half]
    told = dot_product.cudnn_arguments(masks.Causal())
    assert dot_product._choose(*half, told) == "cudnn"
    assert dot_product._choose(*full, told) == "plain"
    assert dot_product.cudnn_arguments(masks.Prefix(jnp.array([1]))) is None
    assert dot_product._choose(*half, None) == "plain"
    long = [jax.ShapeDtypeStruct((1, 8192, 2, 64), jnp.float32)] * 3
    assert dot_product._choose(*long, told) == "blocked"


@pytest.mark.parametrize(
    "shapes, options, message",
    [
        ([(1, 4, 8)] * 3, {}, r"expected \[B, T, H, K\]"),
        ([(1, 4, 3, 8), (1, 4, 2, 8), (1, 4, 2, 8)], {}, "3 query heads over 2 key heads"),
        ([(1, 4, 2, 8), (1, 4, 2, 6), (1, 4, 2, 6)], {}, "differ in size"),
        ([(1, 4, 2, 8), (2, 4, 2, 8), (2, 4, 2, 8)], {}, "same B, S and G"),
        ([(1, 4, 2, 8)] * 3, {"implementation": "flash"}, "implementation='flash'"),
        ([(1, 4, 2, 8)] * 3, {"block": (0, 4)}, "block="),
        (
            [(1, 4, 2, 8)] * 3,
            {"implementation": "cudnn", "mask": masks.Prefix(cases.LENGTHS[:1])},
            "cuDNN",
        ),
        ([(1, 4, 2, 8)] * 3, {"key_positions": jnp.zeros((1, 3), int)}, "key_positions"),
        ([(1, 4, 2, 8)] * 3, {"query_positions": jnp.zeros((4, 1), int)}, "query_positions"),
        ([(1, 4, 2, 8)] * 3, {"query_slots": jnp.zeros((2, 4), int)}, r"query_slots \(2, 4\)"),
        ([(1, 4, 2, 8)] * 3, {"key_slots": jnp.zeros((1, 5), int)}, r"key_slots \(1, 5\)"),
        ([(1, 4, 2, 8)] * 3, {"mask": masks.Padding(cases.LENGTHS)}, r"lengths \(2,\)"),
        (
            [(1, 4, 2, 8)] * 3,
            {"mask": masks.Documents(cases.IDS[:1, :4]), "key_positions": jnp.zeros((1, 4), int)},
            "give key_slots beside key_positions",
        ),
    ],
)
def test_bad_input_is_named(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        dot_product.attend(*(jnp.zeros(shape) for shape in shapes), **options)
