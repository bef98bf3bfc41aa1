"""Floating point operations and memory of a traced function, counted on its jaxpr."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

_FREE = {"reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "copy", "stop_gradient"}
_CHEAP = {"transpose", "slice", "pad", "concatenate", "gather", "iota", "dynamic_slice", "rev"}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a computation takes.

    Attributes:
        flops: multiplications and additions; 2 per multiply-add, 1 per entry of other operations.
        bytes: written by all operations (compilers fuse many of them away: an upper bound).
        peak_bytes: largest sum of values alive at once, without fusion.
    """

    flops: float = 0
    bytes: float = 0
    peak_bytes: float = 0


def count(function: Callable[..., Any], *args: Any) -> Cost:
    """The `Cost` of function(*args); the arguments may be shapes (`jax.ShapeDtypeStruct`)."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> Cost:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    last_use = {}
    for i, eqn in enumerate(jaxpr.eqns):
        last_use |= {var: i for var in eqn.invars if isinstance(var, core.Var)}
    last_use |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, core.Var)}
    dying: dict[int, list] = {}
    for var, i in last_use.items():
        dying.setdefault(i, []).append(var)
    alive = sum(_size(var.aval) for var in [*jaxpr.invars, *jaxpr.constvars])
    flops = moved = 0.0
    peak = float(alive)
    for i, eqn in enumerate(jaxpr.eqns):
        inner = _equation(eqn)
        flops, moved = flops + inner.flops, moved + inner.bytes
        alive += sum(_size(var.aval) for var in eqn.outvars)
        peak = max(peak, alive + inner.peak_bytes)
        alive -= sum(_size(var.aval) for var in dying.get(i, []))
    return Cost(flops, moved, peak)


def _equation(eqn: Any) -> Cost:
    """Cost of one equation; `peak_bytes` is what it needs beside its operands and results."""
    results = sum(_size(var.aval) for var in eqn.outvars)
    entries = sum(math.prod(var.aval.shape) for var in eqn.outvars)
    bodies = [_count(body) for body in _bodies(eqn)]
    name = eqn.primitive.name
    if bodies:
        times = eqn.params["length"] if name == "scan" else 1
        if name == "cond":  # one branch runs
            bodies = [max(bodies, key=lambda body: body.flops)]
        boundary = sum(_size(var.aval) for var in [*eqn.invars, *eqn.outvars])
        peak = max(body.peak_bytes for body in bodies)
        return Cost(
            times * sum(body.flops for body in bodies),
            times * sum(body.bytes for body in bodies),
            max(0.0, peak - (boundary if name != "scan" else 0)),
        )
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contract)
        return Cost(2.0 * entries * depth, results)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        features = eqn.params["dimension_numbers"].rhs_spec[0]
        return Cost(2.0 * entries * math.prod(kernel) / kernel[features], results)
    if name in _FREE:
        return Cost()
    if name in _CHEAP:
        return Cost(0.0, results)
    read = sum(math.prod(atom.aval.shape) for atom in eqn.invars)
    return Cost(float(max(entries, read)), results)


def _bodies(eqn: Any) -> list[Any]:
    """The jaxprs inside an equation's parameters."""
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
                found.append(item)
    return found


def _size(aval: Any) -> float:
    """Bytes of one value; 0 for what is no array."""
    try:
        return math.prod(aval.shape) * jnp.dtype(aval.dtype).itemsize
    except (AttributeError, TypeError):
        return 0.0
