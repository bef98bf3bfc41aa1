"""Penalties of slopes against closed forms, Jacobians and loops over examples."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.gan import penalties

RNG = np.random.default_rng(0)
X, FAKE = RNG.normal(size=(2, 5, 3, 2))
WEIGHT = RNG.normal(size=(3, 2))
A = RNG.normal(size=(6, 6))
KEY = jax.random.key(0)

linear = lambda x: jnp.einsum("bij,ij->b", x, WEIGHT)
flat = lambda x: x.reshape(len(x), -1)
quadratic = lambda x: jnp.einsum("bi,ij,bj->b", flat(x), jnp.asarray(A), flat(x)) / 2


def deep(x):
    return jnp.tanh(flat(x) @ jnp.asarray(A)).sum(1) ** 2


@pytest.mark.parametrize("penalty", [penalties.r1, penalties.r2])
def test_squared_slopes(x64, penalty):
    of_one = lambda x: deep(x[None])[0]

    @jax.jit
    def all_of(x):
        found = [penalty(critic, x) for critic in (linear, quadratic, deep)]
        return found, jax.vmap(jax.jacfwd(of_one))(x)

    found, jacobian = all_of(jnp.asarray(X))
    np.testing.assert_allclose(found[0], np.full(5, (WEIGHT**2).sum()), rtol=1e-13)
    slopes = flat(X) @ (A + A.T) / 2
    np.testing.assert_allclose(found[1], (slopes**2).sum(1), rtol=1e-12)
    np.testing.assert_allclose(found[2], np.square(jacobian).sum((1, 2)), rtol=1e-12)
    # It is differentiated through.
    weighted = lambda a: penalty(lambda x: jnp.tanh(flat(x) @ a).sum(1), jnp.asarray(X)).mean()
    testing.check_gradient(weighted, jnp.asarray(A), rtol=1e-6)


@pytest.mark.parametrize("target", [1.0, 0.0, 2.5])
def test_gradient_penalty(x64, target):
    real, fake = jnp.asarray(X), jnp.asarray(FAKE)
    for keys in (KEY, jax.random.split(KEY, 5)):
        found = penalties.gradient_penalty(quadratic, real, fake, keys, target=target)
        each = keys if keys.shape else [jax.random.fold_in(KEY, i) for i in range(5)]
        place = np.array([jax.random.uniform(key) for key in each])[:, None]
        between = place * flat(X) + (1 - place) * flat(FAKE)
        length = np.linalg.norm(between @ (A + A.T) / 2, axis=1)
        np.testing.assert_allclose(found, (length - target) ** 2, rtol=1e-10)
    assert (place > 0).all() and (place < 1).all() and np.ptp(place) > 0.1


def test_the_default_target_is_a_unit_slope_and_a_flat_critic_has_no_nan(x64):
    real, fake = jnp.asarray(X), jnp.asarray(FAKE)
    unit = lambda x: linear(x) / np.linalg.norm(WEIGHT)
    np.testing.assert_allclose(
        penalties.gradient_penalty(unit, real, fake, KEY), np.zeros(5), atol=1e-20
    )
    scaled = lambda s: penalties.gradient_penalty(lambda x: s * linear(x), real, fake, KEY).sum()
    value, grad = jax.value_and_grad(scaled)(0.0)
    assert value == 5 and grad == 0


def test_orthogonal(x64):
    tree = {"a": {"kernel": RNG.normal(size=(2, 3, 4)), "bias": np.ones(4)}, "b": np.eye(3)}
    tree = {**tree, "c": {"embedding": RNG.normal(size=(5, 2)), "kernel": RNG.normal(size=7)}}
    tree = jax.tree.map(jnp.asarray, tree)

    def expected(weights):
        matrix = np.asarray(weights).reshape(-1, weights.shape[-1])
        gram = matrix.T @ matrix
        return (gram**2).sum() - (np.diag(gram) ** 2).sum()

    one, two = expected(tree["a"]["kernel"]), expected(tree["c"]["embedding"])
    np.testing.assert_allclose(penalties.orthogonal(tree), one + two, rtol=1e-13)
    np.testing.assert_allclose(penalties.orthogonal(tree, "a/kernel"), one, rtol=1e-13)
    np.testing.assert_allclose(penalties.orthogonal({"w": 3 * jnp.eye(4)}, "w"), 0)
    # Twice the step of the authors' code, 2 (W'W o (1 - I)) W for filters in rows.
    rows = np.asarray(tree["c"]["embedding"]).T
    step = 2 * (rows @ rows.T * (1 - np.eye(2))) @ rows
    grad = jax.grad(lambda w: penalties.orthogonal({"kernel": w}))(tree["c"]["embedding"])
    np.testing.assert_allclose(grad, 2 * step.T, rtol=1e-12)


@pytest.mark.parametrize("decay", [0.01, 0.3])
def test_path_length(x64, decay):
    w = jnp.asarray(RNG.normal(size=(3, 2, 4)))
    basis = jnp.asarray(RNG.normal(size=(2, 4, 5, 3, 2)))
    synthesize = lambda w: jnp.einsum("bld,ldhwc->bhwc", w**2, basis)
    keyword = {} if decay == 0.01 else {"decay": decay}
    found, mean = penalties.path_length(synthesize, w, KEY, jnp.float64(1.5), **keyword)
    noise = np.stack(
        [jax.random.normal(jax.random.fold_in(KEY, i), (5, 3, 2), float) for i in range(3)]
    )
    slopes = 2 * w * np.einsum("bhwc,ldhwc->bld", noise / np.sqrt(15), basis)
    lengths = np.sqrt((slopes**2).sum(2).mean(1))
    expected = (1 - decay) * 1.5 + decay * lengths.mean()
    np.testing.assert_allclose(mean, expected, rtol=1e-12)
    np.testing.assert_allclose(found, (lengths - expected) ** 2, rtol=1e-11)
    of_each = penalties.path_length(
        synthesize, w, penalties.each_key(KEY, 3), jnp.float64(1.5), decay
    )
    testing.assert_trees_close(of_each, (found, mean), rtol=1e-14)


class Normalized(nn.Module):
    """A critic with batch norm, as in DCGAN."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x.reshape(len(x), -1))
        return nn.BatchNorm(use_running_average=False)(x).sum(1)


VARIABLES = Normalized().init(KEY, X)
normalized = lambda x: Normalized().apply(VARIABLES, x, mutable=["batch_stats"])[0]
SMALL, OTHER = jnp.float32(X), jnp.float32(FAKE)


def test_what_mixes_may_be_asked_for_by_name():
    @jax.jit
    def all_of(x):
        slopes = [penalty(normalized, x, mixes=True) for penalty in (penalties.r1, penalties.r2)]
        between = penalties.gradient_penalty(normalized, x, x, KEY, mixes=True)
        return jax.grad(lambda x: normalized(x).sum())(x), slopes, between

    grad, slopes, between = all_of(SMALL)
    expected = np.square(grad).sum((1, 2))
    for found in slopes:
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(between, (np.sqrt(expected) - 1) ** 2, rtol=1e-4)


spread = lambda x: linear(x) + x.std(0).mean()
WRONG = {
    "critic mixes .* R1 needs": lambda: penalties.r1(normalized, SMALL),
    "critic mixes .* R2 needs": lambda: penalties.r2(spread, SMALL),
    "critic mixes .* a gradient penalty needs": lambda: penalties.gradient_penalty(
        normalized, SMALL, OTHER, KEY
    ),
    "critic mixes .* under a trace": lambda: jax.jit(
        lambda x: penalties.r1(lambda y: normalized(y) + 0 * x[:, 0, 0], x)
    )(SMALL),
    r"critic gives \(5, 1\) for .*: expected one logit an example": lambda: penalties.r1(
        lambda x: linear(x)[:, None], SMALL
    ),
    r"real \(5, 3, 2\), fake \(4, 3, 2\): expected one shape": lambda: penalties.gradient_penalty(
        linear, SMALL, OTHER[:4], KEY
    ),
    r"rng has shape \(3,\): expected one key": lambda: penalties.gradient_penalty(
        linear, SMALL, OTHER, jax.random.split(KEY, 3)
    ),
    "pattern='w' matches no weight": lambda: penalties.orthogonal({"w": jnp.ones(3)}, "w"),
    r"w \(5, 3\) gives images": lambda: penalties.path_length(
        lambda w: w[:, None, None], SMALL[..., 0], KEY, 0.0
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message.replace("under a trace", "R1 needs")):
        WRONG[message]()
