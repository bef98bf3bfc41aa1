"""DINO, Sinkhorn, KoLeo: copies in NumPy, values where they are known, two devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.self_supervised import losses
from tests.research.self_supervised import oracles

CASES = [case for case in oracles.ROWS if oracles.ROWS[case][0] in (
    "dino", "view_cross_entropy", "koleo"
)]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(x64, case):
    oracles.check(case, oracles.found()[case])


@pytest.mark.parametrize("case", [case for case in CASES if case in oracles.PLAIN])
def test_defaults(x64, case):
    oracles.check_default(case)


@pytest.mark.parametrize("case", CASES)
def test_two_devices_are_one(x64, case):
    """Raw gradients averaged over devices under pmap, summed by shard_map's types there."""
    oracles.check(case, oracles.pmapped()[case])
    if case in oracles.PLAIN:
        oracles.check(case, oracles.shard_mapped()[case])


@pytest.mark.parametrize("size, value", [(4096, 8.317766166719), (65536, 11.090354889)])
def test_uniform_outputs_give_ln_k(x64, size, value):
    """What users see as a loss that is stuck; the other collapse, one prototype, gives 0."""
    student, teacher = jnp.zeros((3, 2, size)), jnp.ones((2, 2, size))
    run = jax.jit(losses.dino)
    loss = run(student, teacher, jnp.zeros(size))
    np.testing.assert_allclose(loss, np.log(size), rtol=1e-12)
    np.testing.assert_allclose(loss, value, rtol=1e-10)
    one = jnp.zeros((3, 2, size)).at[:, :, 5].set(9.0)
    np.testing.assert_allclose(run(one, one[:2], jnp.zeros(size)), 0, atol=1e-12)


SINKHORN = {"default": {}, "more": {"temperature": 0.5, "num_iterations": 7}}


@pytest.mark.parametrize("case", SINKHORN)
def test_sinkhorn(x64, case):
    logits = np.random.default_rng(2).normal(size=(8, 3))
    options = {"temperature": 0.05, "num_iterations": 3, **SINKHORN[case]}
    found = jax.jit(functools.partial(losses.sinkhorn, **SINKHORN[case]))(logits)
    np.testing.assert_allclose(found, oracles.sinkhorn(logits, **options), rtol=1e-10)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    run = functools.partial(losses.sinkhorn, axis_name="i", **SINKHORN[case])
    mapped = jax.pmap(run, "i", devices=jax.devices()[:2])(logits.reshape(2, 4, 3))
    np.testing.assert_allclose(mapped.reshape(8, 3), found, rtol=1e-10)


def test_sinkhorn_in_the_limit_and_without_gradient(x64):
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(8, 3)))
    found = jax.jit(functools.partial(losses.sinkhorn, num_iterations=200))(logits, 0.5)
    np.testing.assert_allclose(found.sum(0), 8 / 3, rtol=1e-10)
    far = jax.jit(losses.sinkhorn)(1e4 * logits)  # exp alone overflows
    assert np.isfinite(far).all()
    grad = jax.jit(jax.grad(lambda x: jnp.square(losses.sinkhorn(x)).sum()))(logits)
    assert (grad == 0).all()


def test_duplicates_are_finite_in_koleo():
    """The log of a nearest distance 0 is clipped, and has no gradient."""
    value, grad = jax.jit(jax.value_and_grad(losses.koleo))(jnp.ones((4, 3)))
    np.testing.assert_allclose(value, -np.log(1e-8), rtol=1e-6)
    assert (grad == 0).all()


S, T, C = np.zeros((4, 3, 5)), np.zeros((2, 3, 5)), np.zeros(5)


@pytest.mark.parametrize("message, call", [
    ("student_temperature=0: expected a positive", lambda: losses.dino(S, T, C, 0)),
    ("teacher_temperature=-1", lambda: losses.dino(S, T, C, 0.1, -1)),
    ("teacher .2, 3, 5., centre .4,.: expected", lambda: losses.dino(S, T, C[:4])),
    ("teacher .3, 5., centre", lambda: losses.dino(S, T[0], C)),
    ("student has 1 view: expected two", lambda: losses.dino(S[:1], T[:1], C)),
    ("teacher .2, 2, 5., student .4, 3, 5.", lambda: losses.dino(S, T[:, :2], C)),
    ("4 views of the teacher for 2 of the student", lambda: losses.dino(S[:2], S, C)),
    ("0 views of the teacher for 4", lambda: losses.view_cross_entropy(S, T[:0])),
    ("temperature=inf", lambda: losses.view_cross_entropy(S, T, np.inf)),
    ("logits have shape .4, 3, 5.: expected .B, K.", lambda: losses.sinkhorn(S)),
    ("temperature=0", lambda: losses.sinkhorn(S[0], 0)),
    ("num_iterations=0", lambda: losses.sinkhorn(S[0], num_iterations=0)),
    ("z has shape .5,.: expected .B, D.", lambda: losses.koleo(C)),
    ("a batch of 1 in all.* a nearest neighbour", lambda: losses.koleo(S[0, :1])),
])  # fmt: skip
def test_bad_input(message, call):
    with pytest.raises(ValueError, match=message):
        call()
