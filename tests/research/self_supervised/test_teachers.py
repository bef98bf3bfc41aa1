"""Momentum, temperatures and averages where they are known; the centre of all devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.self_supervised import teachers


@pytest.mark.parametrize("start, options", [(0.996, {}), (0.9, {"start": 0.9})])
def test_momentum_goes_to_1_along_half_a_cosine(x64, start, options):
    steps = jnp.array([0, 25, 50, 100, 130])
    found = jax.vmap(lambda step: teachers.momentum(step, 100, **options))(steps)
    expected = [start, 1 - (1 - start) * (np.cos(np.pi / 4) + 1) / 2, (1 + start) / 2, 1, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("ends, options", [((0.04, 0.07), {}), ((0.02, 0.04), None)])
def test_temperature_warms_up_in_a_line(x64, ends, options):
    options = {"start": ends[0], "end": ends[1]} if options is None else options
    found = [teachers.warmup(step, 10, **options) for step in (0, 5, 10, 20)]
    np.testing.assert_allclose(found, [ends[0], sum(ends) / 2, ends[1], ends[1]], rtol=1e-10)


def test_a_teacher_follows(x64):
    rng = np.random.default_rng(0)
    teacher, student = ({"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)} for _ in range(2))
    found = jax.jit(teachers.follow)(teacher, student, 0.7)
    expected = jax.tree.map(lambda old, new: 0.7 * old + 0.3 * new, teacher, student)
    testing.assert_trees_close(found, expected, rtol=1e-12)
    grad = jax.grad(lambda student: teachers.follow(teacher, student, 0.7)["b"].sum())(student)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grad))


def test_a_teacher_that_is_its_student_stays_so_to_the_bit():
    same = {"w": jax.random.normal(jax.random.key(0), (100,))}
    testing.assert_trees_equal(teachers.follow(same, same, 0.996), same)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), same)
    assert teachers.follow(same, half, 0.996)["w"].dtype == jnp.float32


@pytest.mark.parametrize("options, momentum", [({}, 0.9), ({"momentum": 0.4}, 0.4)])
def test_the_centre_of_all_views_and_devices(x64, options, momentum):
    rng = np.random.default_rng(1)
    centre, logits = rng.normal(size=3), rng.normal(size=(2, 2, 4, 3))  # [devices, V, B, K]
    expected = momentum * centre + (1 - momentum) * logits.mean((0, 1, 2))
    run = lambda logits, axis=None: teachers.centre(  # noqa: E731
        centre, logits, axis_name=axis, **options
    )
    whole = jax.jit(run)(np.concatenate(logits, 1))
    np.testing.assert_allclose(whole, expected, rtol=1e-12)
    found = jax.pmap(lambda x: run(x, "i"), "i", devices=jax.devices()[:2])(logits)
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-12)


def test_the_centre_has_no_gradient(x64):
    total = lambda x: teachers.centre(jnp.zeros(3), x).sum()  # noqa: E731
    assert (jax.grad(total)(jnp.ones((4, 3))) == 0).all()


THREE = jnp.ones(3)
W, HALF = {"w": jnp.ones(2)}, {"w": jnp.ones(2, jnp.bfloat16)}


@pytest.mark.parametrize("message, call", [
    ("num_steps=0: expected a positive whole number of updates", lambda: teachers.momentum(0, 0)),
    ("start=1.5: expected a number in .0, 1.", lambda: teachers.momentum(0, 1, start=1.5)),
    ("num_steps=2.5", lambda: teachers.warmup(0, 2.5)),
    ("start=0: expected a positive", lambda: teachers.warmup(0, 2, start=0)),
    ("end=-1: expected a positive", lambda: teachers.warmup(0, 2, end=-1)),
    ("the student is PyTreeDef", lambda: teachers.follow(W, {"v": jnp.ones(2)}, 0.5)),
    ("a leaf of the student is .3,.: the teacher", lambda: teachers.follow(W, {"w": THREE}, 0.5)),
    ("the teacher is kept in bfloat16: expected", lambda: teachers.follow(HALF, W, 0.5)),
    ("momentum=2: expected a number in", lambda: teachers.follow(W, W, 2)),
    ("momentum=-1: expected", lambda: teachers.centre(THREE, jnp.ones((2, 3)), -1)),
    ("teacher .2, 4., centre .3,.: expected", lambda: teachers.centre(THREE, jnp.ones((2, 4)))),
])  # fmt: skip
def test_bad_input(message, call):
    with pytest.raises(ValueError, match=message):
        call()
