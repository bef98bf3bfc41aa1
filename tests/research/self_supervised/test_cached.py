"""Gradients by cached representations against those of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.self_supervised import cached, losses

B = 8
RNG = np.random.default_rng(0)
BATCH = {"a": RNG.normal(size=(B, 3)), "b": RNG.normal(size=(B, 3))}
PARAMS = {"in": RNG.normal(size=(3, 5)), "out": RNG.normal(size=(5, 4))}


def encode(params, batch, rngs=None):
    """Two views; the noise is per example."""
    of = lambda x: jnp.tanh(x @ params["in"]) @ params["out"]  # noqa: E731
    z = {name: of(x) for name, x in batch.items()}
    if rngs is not None:
        z["a"] += jax.vmap(lambda rng: jax.random.normal(rng, (4,)))(rngs)
    return z


def loss(z):
    return losses.nt_xent(z["a"], z["b"], 0.3)


@pytest.mark.parametrize("num_chunks", [1, 4])
def test_the_whole_batch_in_chunks(x64, num_chunks):
    """Value, gradient and what comes beside, with noise and without, under jit."""
    rng = jax.random.key(4)
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(B))
    aux = lambda z: (loss(z), z)  # noqa: E731

    @jax.jit
    def both(params):
        whole = lambda params: loss(encode(params, BATCH))  # noqa: E731
        noisy = lambda params: aux(encode(params, BATCH, rngs))  # noqa: E731
        expected = [
            jax.value_and_grad(whole)(params),
            jax.value_and_grad(noisy, has_aux=True)(params),
        ]
        take = lambda loss, **options: cached.value_and_grad(  # noqa: E731
            encode, loss, params, BATCH, num_chunks, **options
        )
        return expected, [take(loss), take(aux, rng=rng, has_aux=True)]

    expected, found = both(PARAMS)
    testing.assert_trees_close(found, expected, rtol=1e-10, atol=1e-14)


def test_a_loss_of_the_batch_is_not_the_mean_of_its_chunks(x64):
    """What the test above would see if chunks were encoded and compared among themselves."""
    z, run = jax.device_get(jax.jit(encode)(PARAMS, BATCH)), jax.jit(loss)
    parts = [run({k: v[i::4] for k, v in z.items()}) for i in range(4)]
    assert abs(np.mean(parts) - run(z)) > 0.1


def test_convolutions_are_unrolled_on_a_cpu(x64):
    kernel, images = RNG.normal(size=(3, 3, 2, 2)), RNG.normal(size=(4, 4, 4, 2))

    def convolve(kernel, x):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.tanh(y).mean((1, 2))

    spread = lambda z: z.var()  # noqa: E731
    take = lambda num: jax.jit(  # noqa: E731
        lambda kernel: cached.value_and_grad(convolve, spread, kernel, images, num)
    )
    testing.assert_trees_close(take(2)(kernel), take(1)(kernel), rtol=1e-10, atol=1e-14)
    assert "while" not in take(2).lower(kernel).as_text() or jax.default_backend() != "cpu"


def test_gradients_add_up_in_float32():
    """In bfloat16 a sum of ones ends at 256."""
    x = jnp.ones((512, 1), jnp.bfloat16)
    run = lambda w: cached.value_and_grad(  # noqa: E731
        lambda w, x: w * x, lambda z: z.astype(jnp.float32).sum(), w, x, 512
    )
    value, grad = jax.jit(run)(jnp.ones((), jnp.bfloat16))
    assert value == 512 and grad == 512 and grad.dtype == jnp.bfloat16


def test_memory_is_that_of_a_chunk():
    x, w = jnp.ones((256, 8)), jnp.ones((8, 4096))
    deep = lambda w, x: jnp.tanh(jnp.tanh(x @ w) * 2).sum(1, keepdims=True)  # noqa: E731
    spread = lambda z: z.var()  # noqa: E731

    def needed(num):
        run = jax.jit(lambda w: cached.value_and_grad(deep, spread, w, x, num))
        return run.lower(w).compile().memory_analysis().temp_size_in_bytes

    assert needed(16) < needed(1) / 4


@pytest.mark.parametrize("message, batch, num_chunks", [
    ("batch size 8 is not a multiple of num_chunks=3", BATCH, 3),
    ("num_chunks=0: expected a positive", BATCH, 0),
    ("expected one common first axis", {"a": np.ones((4, 2)), "b": np.ones((2, 2))}, 2),
])  # fmt: skip
def test_bad_input(message, batch, num_chunks):
    with pytest.raises(ValueError, match=message):
        cached.value_and_grad(encode, loss, PARAMS, batch, num_chunks)
