"""Flat lists of operations: loops unrolled, rematerialised calls inlined, values as before."""

import jax
import jax.numpy as jnp
import numpy as np

from research.ntk.jacobians import jaxprs
from tests.research.ntk.agreement import agree, normal


def test_layers_under_scan_and_recurrent_cells():
    def apply(params, x):
        def layer(h, p):
            return jnp.tanh(h @ p["w"] + p["b"][None]), h.sum(1)

        h, sums = jax.lax.scan(layer, x, params["stacked"])

        def cell(state, _):
            return jnp.tanh(state @ params["cell"]), None

        h, _ = jax.lax.scan(cell, h, None, length=3)
        return h + sums.sum(0)[:, None]

    params = {"stacked": {"w": normal(3, 4, 4), "b": normal(3, 4)}, "cell": normal(4, 4, seed=2)}
    how = {"stacked/w": "factors", "cell": "factors", "stacked/b": "plain"}
    agree(apply, params, normal(3, 4, seed=1), how)


def test_rematerialised_layers_keep_their_structure():
    layer = jax.checkpoint(lambda w, x: jnp.tanh(x @ w))
    apply = lambda p, x: layer(p["a"], layer(p["b"], x))
    params = {"a": normal(3, 3), "b": normal(3, 3, seed=1)}
    agree(apply, params, normal(3, 3, seed=2), {"a": "factors", "b": "factors"})


def evaluate(program, params, x):
    """The program's outputs, operation by operation."""
    env = dict(
        zip((*program.params, *program.inputs), [*jax.tree.leaves(params), *jax.tree.leaves(x)])
    )
    value = lambda operand: operand.value if isinstance(operand, jaxprs.Constant) else env[operand]
    for operation in program.operations:
        env |= zip(operation.outputs, operation.run(*map(value, operation.inputs)))
    return [value(operand) for operand in program.outputs]


def test_a_program_computes_its_function_with_calls_and_short_loops_opened():
    table = np.arange(3.0, dtype=np.float32)  # closed over: a constant

    def function(params, x):
        step = lambda h, w: (jnp.tanh(h * w), h.sum())
        h, sums = jax.lax.scan(step, x, params["stacked"])
        plain, _ = jax.lax.scan(lambda c, _: (c + table, None), h, None, length=2)
        return {"out": jax.jit(jax.nn.relu)(plain), "sums": sums}

    params, x = {"stacked": np.float32([0.5, -1.5])}, np.float32([1.0, -2.0, 0.3])
    program = jaxprs.trace(function, params, x)
    names = [operation.name for operation in program.operations]
    assert names.count("tanh") == 2  # parameters enter this loop; the other one stays
    assert names.count("scan") == 1
    assert not jaxprs.INLINED & set(names)
    expected = jax.tree.leaves(function(params, x))
    for found, wanted in zip(evaluate(program, params, x), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for operation in program.operations:
        for number in operation.outputs:
            assert program.aval(number) is program.avals[number]
    assert program.aval(jaxprs.Constant(table)).shape == (3,)


def test_custom_derivatives_stay_whole():
    program = jaxprs.trace(lambda p, x: jax.nn.relu(p * x), np.float32(1), np.float32(2))
    assert "custom_jvp_call" in [operation.name for operation in program.operations]


def test_bodies_come_open_or_closed():
    closed = jax.make_jaxpr(lambda x: x + np.ones(2))(np.ones(2))
    assert jaxprs.opened(closed) == (closed.jaxpr, closed.consts)
    jaxpr, consts = jaxprs.opened(closed.jaxpr)
    held = getattr(closed.jaxpr, "consts", ())  # from JAX 0.12 on an open one may keep its own
    assert jaxpr == closed.jaxpr and list(consts) == list(held)
