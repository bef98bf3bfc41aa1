"""Rearranged and scaled parameters: the structure survives, the kernel is that of the parameter."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from research.ntk.jacobians import jaxprs, views
from tests.research.ntk.agreement import agree, normal


def test_ntk_parameterisation_scales_and_rearrangements():
    def apply(params, x):
        w = -params["w"].T * (2.0**0.5) / params["w"].shape[1] ** 0.5
        y = jnp.tanh(x @ w + params["b"][None] * 0.1)
        q, k, v = jnp.split(params["qkv"], 3, axis=1)  # disjoint parts of one parameter
        q, k, v = (y @ p for p in (q, k, v.reshape(3, 2, 2).reshape(3, 4)))
        return q * jnp.tanh(k) + v

    params = {"w": normal(3, 4), "b": normal(3), "qkv": normal(3, 12, seed=3)}
    how = {"w": "factors", "qkv": "factors", "b": "plain"}
    agree(apply, params, normal(3, 4, seed=1), how)


def test_learned_gain_on_a_weight():
    apply = lambda p, x: jnp.tanh(x @ (p["w"] * p["gain"])) @ p["v"]
    params = {"w": normal(4, 5), "gain": jnp.asarray(1.3), "v": normal(5, 2)}
    agree(apply, params, normal(3, 4, seed=1), {"w": "factors", "gain": "plain", "v": "factors"})


def test_overlapping_uses_of_one_parameter():
    def apply(params, x):
        w = params["w"]
        return jnp.tanh(x @ w[:4]) @ w[1:5] + jnp.tanh(x @ w[:4]) @ w[:4]

    agree(
        apply,
        {"w": normal(5, 4)},
        normal(3, 4, seed=1),
        {"w": "plain Jacobian, exact too (its uses"},
    )


def test_a_view_says_which_part_of_a_parameter_it_is():
    whole = views.View.of(0, (4, 6))
    part = whole.slice((1, 0), (3, 6))  # rows 1 and 2
    assert part.shape == (2, 6) and part.bounds == ((1, 3), (0, 6))
    again = part.slice((1, 2), (2, 5))  # row 2, columns 2 to 4
    assert again.bounds == ((2, 3), (2, 5)) and again.shape == (1, 3)
    flat = again.reshape((3,))  # unit axes only: the same root axes
    assert flat.root == () and flat.axes == (1,) and flat.root_axes((0,)) == {1}
    heads = part.reshape((2, 2, 3))  # a true reshape has axes of its own
    assert heads.root != () and heads.region == part.bounds and heads.shape == (2, 2, 3)
    turned = dataclasses.replace(whole, axes=(1, 0))
    assert turned.shape == (6, 4) and turned.sort_order((0, 1)) == [1, 0]


def test_scales_multiply_and_divide():
    view = views.View.of(0, (2,)).scaled(jaxprs.Constant(3.0)).scaled(7, divides=True)
    values = {7: np.array([[2.0]])}
    read = lambda operand: (
        operand.value if isinstance(operand, jaxprs.Constant) else values[operand]
    )
    assert float(views.scale(view, read)) == 1.5
    assert views.scale(views.View.of(0, (2,)), read) is None


def test_views_that_share_entries_are_one_group_or_none():
    whole = views.View.of(0, (4, 6))
    top, low = whole.slice((0, 0), (2, 6)), whole.slice((2, 0), (4, 6))
    assert views.disjoint_groups([top, low, top], "aaa") == [[0, 2], [1]]
    assert views.disjoint_groups([top, whole.slice((1, 0), (3, 6))], "aa") is None
    assert views.disjoint_groups([top, top], "ab") is None  # one block laid out in two ways
    # Of a reshaped half, its region of the parameter tells it from the other half.
    assert views.disjoint_groups([top.reshape((3, 4)), low.reshape((4, 3))], "aa") == [[0], [1]]


def test_operations_that_keep_the_structure_are_followed():
    scalar = np.float32(2)

    def function(p, x):
        a, b = jnp.split(p["w"].T * scalar, 2)  # [2, 4] each
        return (a / p["gain"], -b, jnp.exp(a), a.reshape(8)[::2])

    program = jaxprs.trace(function, {"gain": scalar, "w": np.ones((4, 4), np.float32)}, scalar)
    known = {
        number: views.View.of(i, program.avals[number].shape)
        for i, number in enumerate(program.params)
    }
    for operation in program.operations:
        inputs = [
            known.get(value) if isinstance(value, int) else None for value in operation.inputs
        ]
        found = views.follow(operation, inputs, program) if any(inputs) else None
        known |= zip(operation.outputs, found or [])
    divided, negated, curved, strided = (known.get(number) for number in program.outputs)
    assert divided.leaf == 1 and divided.axes == (1, 0) and divided.bounds == ((0, 4), (0, 2))
    assert [divides for _, divides in divided.scales] == [False, True]
    assert negated.bounds == ((0, 4), (2, 4)) and len(negated.scales) == 2
    assert curved is None and strided is None
