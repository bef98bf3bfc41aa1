"""Blocked, plain and cuDNN's attention against loops in NumPy: values, gradients, every mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import blocked, dot_product, masks, positions

LENGTHS = jnp.array([5, 0])
IDS = jnp.array([[0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], [0] * 6 + [1] * 5])
MASKS = {
    "none": None,
    "causal": masks.Causal(),
    "window": masks.Window(3),
    "padding": masks.Padding(LENGTHS),
    "prefix": masks.Prefix(jnp.array([4, 0])),
    "documents": masks.every(masks.Causal(), masks.Documents(IDS)),
    "every": masks.every(masks.Causal(), masks.Window(4), masks.Padding(LENGTHS)),
}
SEES = {  # most of these masks, in words: does query i of example b see key j?
    "none": lambda b, i, j: True,
    "window": lambda b, i, j: abs(i - j) <= 2,
    "prefix": lambda b, i, j: j <= i or j < (4, 0)[b],
    "documents": lambda b, i, j: j <= i and IDS[b, i] == IDS[b, j],
    "every": lambda b, i, j: i - 3 <= j <= i and j < (5, 0)[b],
}


def inputs(length=11, num_heads=4, num_kv_heads=2, dtype=jnp.float64, batch=2):
    rng = np.random.default_rng(0)
    shapes = [(batch, length, num_heads, 6)] + [(batch, length, num_kv_heads, 6)] * 2
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def by_loops(query, key, value, sees, bias=None):
    """Attention as written in the paper, one query at a time."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros((*query.shape[:3], value.shape[-1]))
    group = query.shape[2] // key.shape[2]
    for b, i, h in np.ndindex(*query.shape[:3]):
        seen = [j for j in range(key.shape[1]) if sees(b, i, j)]
        logits = key[b, seen, h // group] @ query[b, i, h] / np.sqrt(query.shape[-1])
        logits = logits + (0 if bias is None else bias[h, i, seen])
        weights = np.exp(logits - logits.max()) if seen else np.zeros(0)
        if seen:
            out[b, i, h] = weights @ value[b, seen, h // group] / weights.sum()
    return out


@functools.partial(jax.jit, static_argnames=("implementation", "block"))
def value_and_grads(query, key, value, mask, bias, implementation, block=(4, 3)):
    """The output, and the gradients of a curved function of it."""

    def loss(query, key, value, bias):
        out = dot_product.attend(
            query, key, value, mask, bias, implementation=implementation, block=block
        )
        return (jnp.sin(out) * out).sum(), out

    return jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(query, key, value, bias)


@pytest.mark.parametrize("name", ["none", "window", "prefix", "documents", "every"])
def test_blocked_equals_plain_equals_loops(name, x64):
    """Eleven positions in blocks of 4 and 3; rows of the second example see nothing."""
    bias = positions.Buckets(jnp.asarray(np.random.default_rng(1).normal(size=(8, 4))))
    arguments = (*inputs(), MASKS[name], bias)
    plain_grads, plain = value_and_grads(*arguments, "plain")
    grads, out = value_and_grads(*arguments, "blocked")
    index = positions.bucket(jnp.arange(11)[None, :] - jnp.arange(11)[:, None], 8, True, 128)
    added = np.moveaxis(np.asarray(bias.table)[np.asarray(index)], -1, 0)
    np.testing.assert_allclose(plain, by_loops(*inputs(), SEES[name], added), atol=1e-12)
    np.testing.assert_allclose(out, plain, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(plain_grads)):
        assert np.isfinite(mine).all()
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)
    if name == "every":
        assert (out[1] == 0).all() and all((grad[1] == 0).all() for grad in grads[:3])


@pytest.mark.parametrize("length, heads, kv_heads", [(1, 2, 2), (13, 4, 1)])
def test_float32_and_bfloat16_hold_their_precision(length, heads, kv_heads):
    arguments = (*inputs(length, heads, kv_heads, jnp.float32), masks.Causal(), None)
    plain_grads, plain = value_and_grads(*arguments, "plain")
    grads, out = value_and_grads(*arguments, "blocked")
    np.testing.assert_allclose(out, plain, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(grads[:3], plain_grads[:3]):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-6)
    half = [x.astype(jnp.bfloat16) for x in arguments[:3]]
    grads, out = value_and_grads(*half, masks.Causal(), None, "blocked")
    assert out.dtype == jnp.bfloat16 and grads[0].dtype == jnp.bfloat16
    # bfloat16 carries 8 bits: each of a few roundings may be off by 2^-9 of values up to about 3.
    np.testing.assert_allclose(out.astype(float), plain, atol=0.03)


def test_log_denominator_and_its_gradient(x64):
    query, key, value = inputs()
    i = jnp.arange(11)[None]
    context = blocked.Context(i, i, masks.Causal(), None, 0.7, (4, 3))

    def by_blocks(query, key):
        return jnp.sin(blocked.attend(query, key, value, context)[1]).sum()

    def at_once(query, key):
        logits = 0.7 * jnp.einsum("bthk,bshk->bths", query, jnp.repeat(key, 2, 2))
        hidden = (i[:, :, None] < i[:, None, :])[:, :, None]
        return jnp.sin(jax.nn.logsumexp(jnp.where(hidden, -jnp.inf, logits), -1)).sum()

    for mine, theirs in zip(
        *(jax.jit(jax.value_and_grad(f, (0, 1)))(query, key)[1] for f in (by_blocks, at_once))
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("implementation", ["plain", "blocked"])
def test_the_future_has_no_gradient_and_the_past_has(implementation, x64):
    query, key, value = inputs(batch=1)

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
    query, key, value = inputs(num_heads=4, num_kv_heads=2)
    grouped = attend(query, key, value)
    repeated = attend(query, jnp.repeat(key, 2, 2), jnp.repeat(value, 2, 2))
    np.testing.assert_allclose(grouped, repeated, rtol=1e-12, atol=1e-14)
    single = attend(query, key[:, :, :1], value[:, :, :1])
    np.testing.assert_allclose(
        single[:, :, 3:], attend(query[:, :, 3:], key[:, :, :1], value[:, :, :1]), rtol=1e-12
    )


def test_permuting_inputs_permutes_outputs_and_rows_sum_to_one(x64):
    order = jnp.array(np.random.default_rng(3).permutation(11))
    attend = jax.jit(functools.partial(dot_product.attend, implementation="blocked", block=(4, 3)))
    query, key, value = inputs()
    out = attend(query, key, value)
    shuffled = attend(query[:, order], key[:, order], value[:, order])
    np.testing.assert_allclose(shuffled, out[:, order], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(attend(query, key, jnp.ones_like(value)), 1.0, rtol=1e-12)


@pytest.mark.parametrize("name", ["none", "causal", "window", "padding", "every"])
def test_what_cudnn_is_told_means_the_same_mask(name, x64):
    """The same arguments, carried out by JAX's XLA implementation of that function."""
    query, key, value = inputs()
    arguments = dot_product.cudnn_arguments(MASKS[name])

    @jax.jit
    def both(query, key, value):
        out = dot_product._native(query, key, value, 0.3, arguments, "xla")
        options = {"scale": 0.3, "implementation": "plain"}
        return out, dot_product.attend(query, key, value, MASKS[name], **options)

    out, ours = both(query, key, value)
    np.testing.assert_allclose(out, ours, rtol=1e-6, atol=1e-6)  # XLA's softmax is in float32


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


def test_memory_grows_linearly_and_is_a_tenth_of_plain():
    """XLA's own account of the compiled gradient; one head of size 32."""

    def temporary_bytes(length, implementation):
        x = jax.ShapeDtypeStruct((1, length, 1, 32), jnp.float32)

        def loss(query, key, value):
            return dot_product.attend(
                query, key, value, masks.Causal(), implementation=implementation
            ).sum()

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
        analysis = compiled.memory_analysis()
        return analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    short, long = (temporary_bytes(n, "blocked") for n in (2048, 8192))
    assert long <= 4.4 * short
    assert long <= 0.1 * temporary_bytes(8192, "plain")


@pytest.mark.parametrize(
    "shapes, options, message",
    [
        ([(1, 4, 8)] * 3, {}, r"expected \[B, T, H, K\]"),
        ([(1, 4, 3, 8), (1, 4, 2, 8), (1, 4, 2, 8)], {}, "3 query heads over 2 key heads"),
        ([(1, 4, 2, 8), (1, 4, 2, 6), (1, 4, 2, 6)], {}, "differ in size"),
        ([(1, 4, 2, 8), (2, 4, 2, 8), (2, 4, 2, 8)], {}, "same B, S and G"),
        ([(1, 4, 2, 8)] * 3, {"implementation": "flash"}, "implementation='flash'"),
        ([(1, 4, 2, 8)] * 3, {"block": (0, 4)}, "block="),
        ([(1, 4, 2, 8)] * 3, {"implementation": "cudnn", "mask": masks.Prefix(LENGTHS)}, "cuDNN"),
        ([(1, 4, 2, 8)] * 3, {"key_positions": jnp.zeros((1, 3), int)}, "key_positions"),
    ],
)
def test_bad_input_is_named(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        dot_product.attend(*(jnp.zeros(shape) for shape in shapes), **options)
    with pytest.raises(ValueError, match="width=0"):
        masks.Window(0)
