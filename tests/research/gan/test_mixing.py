"""Which functions mix examples: found by tracing, held against their Jacobians."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.gan import mixing
from research.vision import augmentation, convolutions, resampling

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 6, 2)).astype(np.float32)
KERNEL = jnp.asarray(RNG.normal(size=(3, 3, 2, 3)), jnp.float32)
WEIGHTS = jnp.asarray(RNG.normal(size=(72, 5)), jnp.float32)
TABLE = jnp.asarray(RNG.normal(size=(4, 72)), jnp.float32)
PER_EXAMPLE = jnp.asarray(RNG.normal(size=(4, 72)), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 4)

rows = lambda x: x.reshape(len(x), -1)
dense = lambda x: jnp.einsum("bd,df->bf", rows(x), WEIGHTS)
numbers = ("NHWC", "HWIO", "NHWC")
conv = lambda x, **kw: jax.lax.conv_general_dilated(
    x, KERNEL, (1, 1), "SAME", dimension_numbers=numbers, **kw
)


def grouped(x):
    """A convolution of a kernel for each example, as one convolution of groups."""
    image = x.transpose(1, 2, 0, 3).reshape(1, 6, 6, 8)
    kernels = (KERNEL[None] * x.mean((1, 2))[:, None, None, :, None]).transpose(1, 2, 3, 0, 4)
    y = jax.lax.conv_general_dilated(
        image, kernels.reshape(3, 3, 2, 12), (1, 1), "SAME", dimension_numbers=numbers,
        feature_group_count=4,
    )  # fmt: skip
    return y.reshape(6, 6, 4, 3).transpose(2, 0, 1, 3)


def pixels_as_rows(x):
    y = jnp.einsum("nc,cf->nf", x.reshape(-1, 2), WEIGHTS[:2])
    return y.reshape(4, 36, 5).mean(1)


def norm(module, *mutable):
    variables = module.init(jax.random.key(0), X)
    apply = lambda x: module.apply(variables, x, mutable=mutable)
    return lambda x: apply(x)[0]


def scanned(x):
    step = lambda carry, row: (jnp.tanh(carry + row), carry * row)
    return jax.lax.scan(step, x[:, 0].mean(-1), jnp.moveaxis(x.mean(-1), 1, 0))[1].sum(0)


def augmented(x):
    shifted = lambda rng, image: augmentation.affine(
        image, jnp.eye(2), jax.random.normal(rng, (2,))
    )
    changed = augmentation.each(augmentation.chain(augmentation.crop(1), shifted), KEYS, x)
    return changed + jax.vmap(lambda image: jax.lax.cond(True, jnp.tanh, jnp.sin, image))(x)


APART = {
    "elementwise": jnp.tanh,
    "dense": dense,
    "conv": conv,
    "grouped conv": grouped,
    "pixels as rows": pixels_as_rows,
    "one kernel an example": lambda x: jnp.einsum("bd,bd->b", rows(x), PER_EXAMPLE),
    "group norm": norm(convolutions.GroupNorm(2)),
    "stored statistics": norm(nn.BatchNorm(use_running_average=True)),
    "pools": lambda x: (
        nn.max_pool(x, (2, 2), (2, 1)) + nn.avg_pool(x, (3, 2), (2, 1), "SAME")[:, :, 1:]
    ),
    "resampling": lambda x: resampling.fir_up(resampling.fir_down(x)),
    "attention": lambda x: jax.nn.softmax(jnp.einsum("bic,bjc->bij", x[:, 0], x[:, 1]), axis=-1),
    "rolls and slices": lambda x: jnp.roll(x, 1, 2)[:, ::-1, 1:].at[:, 0].set(0.0),
    "shapes": lambda x: jnp.tile(jnp.stack([x, x], 1), (1, 1, 2, 1, 1)).swapaxes(0, 1)[1],
    "sorts": lambda x: jnp.cumsum(jnp.sort(rows(x), 1), 1),
    "layers as a scan": scanned,
    "rematerialised": jax.checkpoint(jax.jit(dense)),
    "activations": lambda x: jax.nn.gelu(x) + jax.nn.leaky_relu(x) + jax.nn.softplus(x),
    "looked up": lambda x: TABLE[x.astype(jnp.int32)[:, 0, 0, 0] % 4] + TABLE,
    "vmapped": jax.vmap(lambda image: conv(image[None])[0].mean()),
    "augmented": augmented,
    "groups that come together again": lambda x: x.reshape(2, 2, 72).reshape(4, 72),
    "no use of it": lambda x: jnp.zeros(4),
}


def minibatch_deviation(x):
    groups = x.reshape(2, 2, 6, 6, 2)
    deviation = jnp.sqrt(groups.var(0) + 1e-8).mean((1, 2, 3))
    return dense(x) + jnp.tile(deviation, 2)[:, None]


MIXED = {
    "batch norm": (norm(nn.BatchNorm(use_running_average=False), "batch_stats"), "reduce_sum"),
    "minibatch deviation": (minibatch_deviation, "reduce_sum"),
    "kernel of the batch": (lambda x: jnp.einsum("bd,ad->ba", rows(x), rows(x)), "dot_general"),
    "shifted": (lambda x: x + jnp.roll(x, 1, 0), "slice"),
    "reversed": (lambda x: x + x[::-1], "rev"),
    "padded": (lambda x: jnp.pad(x, ((1, 0), (0, 0), (0, 0), (0, 0)))[:4], "pad"),
    "one after the other": (lambda x: jnp.cumsum(x, 0), "cumsum"),
    "ordered": (lambda x: jnp.sort(x, 0), "sort"),
    "transposed": (lambda x: x[:, 0, :4, 0] + x[:, 0, :4, 0].T, "add"),
    "other order": (lambda x: x + x.reshape(2, 2, 6, 6, 2).swapaxes(0, 1).reshape(x.shape), "add"),
    "order of its own": (lambda x: x.reshape(2, 2, 72).swapaxes(0, 1).reshape(4, 72), "output"),
    "scan": (lambda x: jax.lax.scan(lambda c, r: (c + r, c), x[0], x)[1], "scan"),
    "recurrence": (lambda x: jax.lax.scan(lambda c, r: (c + r, c), x[0] * 0, x)[1], "scan"),
    "product": (lambda x: jnp.broadcast_to(rows(x).T @ rows(x), (4, 72, 72)), "dot_general"),
    "looked up in the batch": (lambda x: x[jnp.array([1, 0, 3, 2])], "gather"),
    "one for all": (lambda x: x.mean((1, 2, 3))[None].repeat(4, 0), "output"),
    "a mean": (jnp.mean, "reduce_sum"),
    "no rows": (lambda x: jnp.zeros(3), "output"),
}


@pytest.mark.parametrize("name", APART)
def test_functions_of_examples(name):
    assert mixing.find(APART[name], X) is None


@pytest.mark.parametrize("name", MIXED)
def test_functions_of_batches(name):
    function, operation = MIXED[name]
    assert mixing.find(function, X) == operation


@pytest.mark.parametrize(
    "name", ["grouped conv", "augmented", "pixels as rows", "layers as a scan"]
)
def test_what_is_apart_has_a_diagonal_jacobian(name):
    change = X.copy()
    change[2] += 1
    before, after = map(jax.jit(APART[name]), (X, change))
    same = [(before[i] == after[i]).all() for i in range(4)]
    assert same == [True, True, False, True]


def test_draws_of_one_key_count_as_examples_where_asked():
    rng = jax.random.key(0)
    normalized = lambda z: z - z.mean(0, keepdims=True)
    draw = lambda x: jax.random.normal(rng, (4, 3)) + x[:, :1, 0, 0]
    assert mixing.find(draw, X, draws=True) is None
    mixed = lambda x: normalized(jax.random.normal(rng, (4, 3)))
    assert mixing.find(mixed, X) is None
    assert mixing.find(mixed, X, draws=True) == "reduce_sum"
    of_keys = lambda keys: jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    assert mixing.find(of_keys, KEYS) is None
    assert mixing.find(lambda keys: normalized(of_keys(keys)), KEYS) == "reduce_sum"


def test_the_refusal_and_a_batch_of_one():
    with pytest.raises(ValueError, match=r"critic mixes .*\(by reduce_sum\): R1 needs an output"):
        mixing.refuse(minibatch_deviation, X, "critic", "R1")
    mixing.refuse(dense, X, "critic", "R1")
    assert mixing.find(lambda x: x - x.mean(0, keepdims=True), X[:1]) is None
