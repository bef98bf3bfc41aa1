"""Layers whose cotangents are one mask for all outputs, times a vector of each: pools and heads.

If y -> r[o] = sum_s phi(y)[s, o] with an elementwise phi is the only way on from a layer, then the
cotangent of y is one mask for all outputs of the network, times a vector of each:

    d f_c / d y[s, o] = phi'(y)[s, o] d f_c / d r[o]

and the layer's Jacobian takes one product over positions in place of one for every output. Nearer
the end of a network there are no positions left, but where all that follows phi(y) is linear, as
after the last hidden layer of a perceptron, the vector is the same for all examples, and the trace
over outputs takes one product of masks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from library.types import Array
from research.ntk.jacobians import jaxprs
from research.ntk.jacobians.jaxprs import Operand, Program

_ELEMENTWISE = set(
    "abs add ceil clamp convert_element_type copy cos div eq erf exp exp2 expm1 floor ge gt "
    "integer_pow le log log1p logistic lt max min mul ne neg not and or pow rsqrt select_n sign "
    "sin sqrt square stop_gradient sub tan tanh xor".split()
)
# Linear in one operand; of the others `_linear` asks that no data enter them.
_REARRANGING = set(
    "broadcast_in_dim concatenate convert_element_type copy expand_dims neg reduce_sum reshape rev "
    "slice squeeze transpose".split()
)
_PRODUCTS = {"conv_general_dilated", "dot_general", "mul"}
_CALLS = {"custom_jvp_call", *jaxprs.INLINED}


@dataclasses.dataclass(frozen=True)
class Pool:
    """The way from a layer's output to its sum over positions.

    Attributes:
        start: number of the layer's output.
        operations: numbers of the elementwise operations on it, in order.
        last: number of the summing operation.
        axes: of the layer's output that are summed; () where nothing is.
        shared: whether the vectors of the outputs are the same for all examples.
    """

    start: int
    operations: tuple[int, ...]
    last: int
    axes: tuple[int, ...]
    shared: bool = False


def find(program: Program, number: int, positions: tuple[int, ...]) -> Pool | None:
    """The pool after operation `number`, or None where its output goes another way too.

    Args:
        program: the network on one example.
        number: of the layer's operation.
        positions: axes of its output along which the same weights are used.
    """
    start = program.operations[number].outputs[0]
    shape = program.avals[start].shape
    derived, way, sums = {start}, [], []
    for later in range(number + 1, len(program.operations)):
        operation = program.operations[later]
        if not any(value in derived for value in operation.inputs if isinstance(value, int)):
            continue
        if operation.name == "reduce_sum" and tuple(operation.params["axes"]):
            sums.append(later)
        elif _elementwise(operation.name, operation.params) and all(
            program.avals[value].shape == shape for value in operation.outputs
        ):
            derived |= set(operation.outputs)
            way.append(later)
        else:
            return None
    if len(sums) != 1 or derived & {v for v in program.outputs if isinstance(v, int)}:
        return None
    axes = tuple(program.operations[sums[0]].params["axes"])
    wide = lambda axes: {axis for axis in axes if shape[axis] != 1}
    if wide(axes) != wide(positions) or math.prod(shape[axis] for axis in axes) == 1:
        return None
    return Pool(start, tuple(n for n in way if n < sums[0]), sums[0], axes)


def head(program: Program, number: int, positions: tuple[int, ...]) -> Pool | None:
    """The way from a layer without positions to where the rest of the network is linear, or None.

    Args: as of `find`.
    """
    start = program.operations[number].outputs[0]
    shape = program.avals[start].shape
    if math.prod(shape[axis] for axis in positions) != 1:
        return None
    derived, way, data = {start}, [], _data(program)
    for later in range(number + 1, len(program.operations)):
        operation = program.operations[later]
        if not any(value in derived for value in operation.inputs if isinstance(value, int)):
            continue
        if len(operation.outputs) != 1 or not _elementwise(operation.name, operation.params):
            break
        if program.avals[operation.outputs[0]].shape != shape:
            break
        way.append(later)
        derived |= set(operation.outputs)
    while way:
        last = program.operations[way[-1]].outputs[0]
        float_ = jnp.issubdtype(program.avals[last].dtype, jnp.inexact)
        only = float_ and _only_way(program, start, way)
        if only and _linear(program, way[-1], last, data):
            return Pool(start, tuple(way[:-1]), way[-1], (), shared=True)
        way.pop()
    return None


def mask(program: Program, pool: Pool, read: Callable[[Operand], Array]) -> Array:
    """phi'(y), of the shape of y; `read` gives the value of an operand."""

    def summed(y: Array) -> Array:
        env = {pool.start: y}

        def value(operand: Operand) -> Array:
            return env[operand] if isinstance(operand, int) and operand in env else read(operand)

        for number in (*pool.operations, pool.last):
            operation = program.operations[number]
            results = operation.run(*map(value, operation.inputs))
            env |= {v: r for v, r in zip(operation.outputs, results) if r is not None}
        return env[program.operations[pool.last].outputs[0]]

    total, pull = jax.vjp(summed, read(pool.start))
    return pull(jnp.ones_like(total))[0]


def _elementwise(name: str, params: dict[str, Any]) -> bool:
    """Whether every entry of the results depends on the same entry of the operands alone."""
    if name not in _CALLS:
        return name in _ELEMENTWISE
    body, _ = jaxprs.opened(params.get("jaxpr", params.get("call_jaxpr")))
    return all(_elementwise(eqn.primitive.name, eqn.params) for eqn in body.eqns)


def _data(program: Program) -> set[int]:
    """Numbers of the values that depend on the network's input."""
    data = set(program.inputs)
    for operation in program.operations:
        if any(value in data for value in operation.inputs if isinstance(value, int)):
            data |= set(operation.outputs)
    return data


def _only_way(program: Program, start: int, way: list[int]) -> bool:
    """Whether everything on from `start` passes the last operation of `way`."""
    inside = {start} | {program.operations[number].outputs[0] for number in way[:-1]}
    outside = [o for number, o in enumerate(program.operations) if number not in way]
    read = {value for operation in outside for value in operation.inputs if isinstance(value, int)}
    return not inside & (read | {value for value in program.outputs if isinstance(value, int)})


def _linear(program: Program, number: int, value: int, data: set[int]) -> bool:
    """Whether outputs are linear in `value`, written by operation `number`, with no data in it."""
    derived = {value}
    for operation in program.operations[number + 1 :]:
        numbers = [v for v in operation.inputs if isinstance(v, int)]
        if not any(v in derived for v in numbers):
            continue
        name = operation.name
        if name == "div":
            linear = numbers == [operation.inputs[0]] or operation.inputs[1] not in data
        elif name in _PRODUCTS:
            linear = sum(v in data for v in numbers) == 1
        else:
            linear = name in _REARRANGING or name in ("add", "sub")
        if not linear:
            return False
        derived |= set(operation.outputs)
    return True
