"""A network's jaxpr as one flat list of operations, with calls inlined and short loops unrolled.

Only `jax.extend.core` is used. Operations name their values by number, so that an inlined function
that is called twice stays two calls. Custom derivatives stay whole: inlining them would lose the
rule, such as the zero slope of `jax.nn.relu` at 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from library.types import Array, PyTree

INLINED = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
MAX_UNROLLED = 4096  # operations that one scan may become


@dataclasses.dataclass(frozen=True)
class Constant:
    """An operand that is a literal or a closed-over array."""

    value: Any


Operand = int | Constant


@dataclasses.dataclass(frozen=True)
class Operation:
    """One primitive applied to values.

    Attributes:
        name: the primitive's name.
        params: its static parameters.
        inputs: numbers of the values read, or constants.
        outputs: numbers of the values written.
        run: values -> list of results.
    """

    name: str
    params: dict[str, Any]
    inputs: tuple[Operand, ...]
    outputs: tuple[int, ...]
    run: Callable[..., list[Array]]


@dataclasses.dataclass(frozen=True)
class Program:
    """A function (parameter leaves, input leaves) -> output leaves, as a list of operations.

    Attributes:
        operations: in order of evaluation.
        avals: shape and dtype of every value by its number.
        params, inputs: numbers of the parameter leaves and of the input leaves.
        outputs: operands returned.
    """

    operations: tuple[Operation, ...]
    avals: tuple[jax.ShapeDtypeStruct, ...]
    params: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[Operand, ...]

    def aval(self, operand: Operand) -> Any:
        """Shape and dtype of an operand."""
        if isinstance(operand, Constant):
            return jax.ShapeDtypeStruct(jnp.shape(operand.value), jnp.result_type(operand.value))
        return self.avals[operand]


def trace(function: Callable[[PyTree, PyTree], PyTree], params: PyTree, x: PyTree) -> Program:
    """The program of function(params, x); only shapes and dtypes of the arguments matter.

    A scan into which parameters enter (layers stacked along its axis, a recurrent cell) is
    unrolled up to `MAX_UNROLLED` operations; other loops and branches stay one operation each.
    """
    closed = jax.make_jaxpr(function)(params, x)
    builder = _Builder()
    num_params = len(jax.tree.leaves(params))
    numbers = [builder.number(var.aval) for var in closed.jaxpr.invars]
    builder.touched |= set(numbers[:num_params])
    outputs = builder.inline(closed.jaxpr, [Constant(c) for c in closed.consts], numbers)
    return Program(
        tuple(builder.operations),
        tuple(builder.avals),
        tuple(numbers[:num_params]),
        tuple(numbers[num_params:]),
        tuple(outputs),
    )


class _Builder:
    """Collects operations; `touched` holds the values computed from parameters alone."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.avals: list[jax.ShapeDtypeStruct] = []
        self.touched: set[int] = set()

    def number(self, aval: Any) -> int:
        self.avals.append(jax.ShapeDtypeStruct(aval.shape, aval.dtype))
        return len(self.avals) - 1

    def inline(
        self, jaxpr: core.Jaxpr, consts: Sequence[Operand], args: Sequence[Operand]
    ) -> list[Operand]:
        env: dict[Any, Operand] = dict(zip(jaxpr.constvars, consts))
        env |= dict(zip(jaxpr.invars, args))

        def read(atom: Any) -> Operand:
            return Constant(atom.val) if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            inputs = [read(atom) for atom in eqn.invars]
            env |= dict(zip(eqn.outvars, self._equation(jaxpr, eqn, inputs)))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, jaxpr: core.Jaxpr, eqn: Any, inputs: list[Operand]) -> list[Operand]:
        name = eqn.primitive.name
        if name in INLINED:
            body, consts = opened(eqn.params.get("jaxpr", eqn.params.get("call_jaxpr")))
            return self.inline(body, [Constant(c) for c in consts], inputs)
        if name == "scan" and self._should_unroll(eqn, inputs):
            return self._unroll(eqn, inputs)
        outputs = [self.number(var.aval) for var in eqn.outvars]
        self._emit(name, dict(eqn.params), inputs, outputs, _evaluator(jaxpr, eqn))
        return outputs

    def _emit(self, name: str, params: dict, inputs: list, outputs: list, run: Callable) -> None:
        self.operations.append(Operation(name, params, tuple(inputs), tuple(outputs), run))
        numbers = [value for value in inputs if isinstance(value, int)]
        if numbers and all(value in self.touched for value in numbers):
            self.touched |= set(outputs)

    def _should_unroll(self, eqn: Any, inputs: list[Operand]) -> bool:
        jaxpr, _ = opened(eqn.params["jaxpr"])
        num_consts, num_carry = _scan_layout(eqn)
        entering = inputs[:num_consts] + inputs[num_consts + num_carry :]
        small = eqn.params["length"] * len(jaxpr.eqns) <= MAX_UNROLLED
        return small and any(value in self.touched for value in entering if isinstance(value, int))

    def _unroll(self, eqn: Any, inputs: list[Operand]) -> list[Operand]:
        jaxpr, consts = opened(eqn.params["jaxpr"])
        consts = [Constant(c) for c in consts]
        length = eqn.params["length"]
        num_consts, num_carry = _scan_layout(eqn)
        fixed, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
        stacked = inputs[num_consts + num_carry :]
        order = range(length)[::-1] if eqn.params["reverse"] else range(length)
        slices: dict[int, list[Operand]] = {}
        for step in order:
            xs = [self._slice(value, step) for value in stacked]
            results = self.inline(jaxpr, consts, [*fixed, *carry, *xs])
            carry, slices[step] = results[:num_carry], results[num_carry:]
        columns = zip(*(slices[step] for step in range(length)))
        return [*carry, *(self._stack(list(column)) for column in columns)]

    def _slice(self, value: Operand, step: int) -> Operand:
        """value[step], as the two primitives that the structured rules read."""
        aval = self._aval(value)
        whole = [(step, step + 1)] + [(0, size) for size in aval.shape[1:]]
        starts, limits = zip(*whole)
        return self._apply(lambda x: jax.lax.slice(x, starts, limits)[0], [value])

    def _stack(self, values: list[Operand]) -> Operand:
        return self._apply(lambda *xs: jnp.stack(xs), values)

    def _apply(self, function: Callable, values: list[Operand]) -> Operand:
        avals = [self._aval(value) for value in values]
        closed = jax.make_jaxpr(function)(*avals)
        consts = [Constant(c) for c in closed.consts]
        return self.inline(closed.jaxpr, consts, values)[0]

    def _aval(self, value: Operand) -> jax.ShapeDtypeStruct:
        if isinstance(value, Constant):
            return jax.ShapeDtypeStruct(jnp.shape(value.value), jnp.result_type(value.value))
        return self.avals[value]


def opened(jaxpr: Any) -> tuple[core.Jaxpr, Sequence[Any]]:
    """A jaxpr and its constants, whether it came closed or open."""
    if hasattr(jaxpr, "consts") and hasattr(jaxpr, "jaxpr"):
        return jaxpr.jaxpr, jaxpr.consts
    return jaxpr, ()


def _scan_layout(eqn: Any) -> tuple[int, int]:
    """Numbers of constants and of carried values among a scan's inputs.

    Read from the ranks, since the names of a scan's parameters differ between JAX releases: what is
    scanned over or stacked has one axis more outside the body than inside.
    """
    body, _ = opened(eqn.params["jaxpr"])
    num_carry = sum(o.aval.ndim == b.aval.ndim for o, b in zip(eqn.outvars, body.outvars))
    num_xs = sum(o.aval.ndim > b.aval.ndim for o, b in zip(eqn.invars, body.invars))
    return len(eqn.invars) - num_carry - num_xs, num_carry


def _evaluator(jaxpr: core.Jaxpr, eqn: Any) -> Callable[..., list[Array]]:
    """Runs one equation as the jaxpr that holds it alone: custom derivatives stay intact."""
    places = {var: i for i, var in enumerate(eqn.invars) if isinstance(var, core.Var)}
    kept = [i for i, var in enumerate(eqn.outvars) if not isinstance(var, core.DropVar)]
    alone = jaxpr.replace(
        constvars=[],
        invars=list(places),
        outvars=[eqn.outvars[i] for i in kept],
        eqns=[eqn],
        effects=eqn.effects,
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    function = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))

    def run(*values: Array) -> list[Array]:
        found = dict(zip(kept, function(*(values[i] for i in places.values()))))
        return [found.get(i) for i in range(len(eqn.outvars))]

    return run
