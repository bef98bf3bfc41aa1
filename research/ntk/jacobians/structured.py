"""Parameter Jacobians of a network kept in the structure of its layers.

The network's jaxpr is walked once. Every parameter that enters a dense layer, a convolution or an
embedding lookup gets its Jacobian as factors (`rules`, beside this file): what the layer saw, and
one cotangent per output. All other parameters (biases, scales, whatever has no rule) get their
plain Jacobian, for that parameter alone. The result is exact in every case. The idea is that of
Novak, Sohl-Dickstein and Schoenholz 2022, arXiv:2206.08720; the cotangents here come from one
ordinary `jax.vjp` with respect to zeros added to each layer's output.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from library.types import Array
from research.ntk import checks
from research.ntk.jacobians import pooled, rules, views, winograd
from research.ntk.jacobians.jaxprs import Constant, Operand, Program
from research.ntk.jacobians.pooled import Pool
from research.ntk.jacobians.rules import Factors, Rows

# Biases and scales enter so: their Jacobians are small, and have no factors.
_ENTRY_BY_ENTRY = ("add", "sub", "mul", "div", "broadcast_in_dim")


@flax.struct.dataclass
class Term:
    """sum_s left[s, g, i] right[s, g, o]: one use of a parameter, or several of one kind.

    Attributes:
        left: [N, S, G, I] float, or `Rows` with leaves [N, S].
        right: [N, C, S, G, O] float, or [N, C, 1, G, O] to be multiplied by the mask, where N is 1
            if it is the same for all examples.
        mask: [N, S, G, O] float of a pool or head, else None (`research.ntk.jacobians.pooled`).
        swapped: whether (i, o) are the parameter's (outer, inner) axes in place of (inner, outer).
    """

    left: Array | Rows
    right: Array
    mask: Array | None = None
    swapped: bool = flax.struct.field(pytree_node=False, default=False)


@flax.struct.dataclass
class Block:
    """The Jacobian of one part of a parameter; parts of one parameter do not overlap.

    Attributes:
        terms: factors, or None where the Jacobian is plain.
        plain: [N, C, P] float, or None.
    """

    terms: tuple[Term, ...] | None = None
    plain: Array | None = None


@dataclasses.dataclass(frozen=True)
class Use:
    """One place where a factored parameter enters: `operation` reads it as operand `place`."""

    operation: int
    place: int
    view: views.View
    factors: Factors
    pool: Pool | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the walk found.

    Attributes:
        program: the network on one example.
        blocks: for every factored parameter leaf its groups of uses; groups do not overlap.
        plain: the leaves that need their plain Jacobian, with the reason.
    """

    program: Program
    blocks: dict[int, tuple[tuple[Use, ...], ...]]
    plain: dict[int, str]


def plan(program: Program) -> Plan:
    """Decides for every parameter leaf whether it is factored, and how."""
    uses, plain = _find_uses(program)
    blocks = {}
    for leaf, found in uses.items():
        if leaf in plain:
            continue
        groups = views.disjoint_groups([use.view for use in found], [_layout(use) for use in found])
        if groups is None:
            plain[leaf] = "its uses overlap in part"
        else:
            blocks[leaf] = tuple(
                _with_pool(program, tuple(found[i] for i in group)) for group in groups
            )
    return Plan(program, blocks, plain)


def jacobian(
    plan: Plan, params: Sequence[Array], inputs: Sequence[Array], output: int
) -> tuple[dict[int, tuple[Block, ...]], dict[int, dict[int, Array]]]:
    """Factored Jacobians of one output leaf for one example; `vmap` it over examples.

    Args:
        plan: from `plan`.
        params: all parameter leaves.
        inputs: the input leaves of one example.
        output: which output leaf, flattened to C entries.
    Returns:
        For every parameter leaf that the output depends on its blocks, without the axis N; and
        {leaf: {number of the block: right}} of terms whose `right` is the same for all examples,
        which have None there.
    """
    taps = [use for groups in plan.blocks.values() for group in groups for use in group]
    avals = {
        op: plan.program.aval(plan.program.operations[op].outputs[0]) for op in map(_tapped, taps)
    }
    zeros = {op: jnp.zeros(aval.shape, aval.dtype) for op, aval in avals.items()}

    def network(tapped: dict, plain: dict) -> tuple[Array, dict]:
        leaves = [
            checks.as_before(plain[i], leaf) if i in plain else leaf
            for i, leaf in enumerate(params)
        ]
        results, seen = _run(plan.program, leaves, inputs, tapped, taps)
        return results[output].reshape(-1), seen

    plain = {leaf: checks.as_real(params[leaf]) for leaf in plan.plain}
    value, pull, seen = jax.vjp(network, zeros, plain, has_aux=True)
    cotangents, jacobians = jax.vmap(pull)(jnp.eye(value.size, dtype=value.dtype))
    blocks: dict[int, tuple[Block, ...]] = {
        leaf: (Block(plain=full.reshape(value.size, -1)),) for leaf, full in jacobians.items()
    }
    for leaf, groups in plan.blocks.items():
        blocks[leaf] = tuple(Block(terms=_terms(group, cotangents, seen)) for group in groups)
    return _without_shared(plan, blocks)


def with_shared(
    blocks: dict[int, tuple[Block, ...]], shared: dict[int, dict[int, Array]]
) -> dict[int, tuple[Block, ...]]:
    """Blocks with axis N and what all examples share put back in, with an axis N of size 1."""
    whole = dict(blocks)
    for leaf, rights in shared.items():
        parts = list(blocks[leaf])
        for number, right in rights.items():
            term = parts[number].terms[0].replace(right=right[None])
            parts[number] = Block(terms=(term,))
        whole[leaf] = tuple(parts)
    return whole


def _without_shared(
    plan: Plan, blocks: dict[int, tuple[Block, ...]]
) -> tuple[dict[int, tuple[Block, ...]], dict[int, dict[int, Array]]]:
    """Takes the right factors out that are the same for all examples."""
    rest, shared = dict(blocks), {}
    for leaf, groups in plan.blocks.items():
        parts = list(blocks[leaf])
        for number, group in enumerate(groups):
            if group[0].pool and group[0].pool.shared:
                (term,) = parts[number].terms
                shared.setdefault(leaf, {})[number] = term.right
                parts[number] = Block(terms=(term.replace(right=None),))
        rest[leaf] = tuple(parts)
    return rest, shared


def _find_uses(program: Program) -> tuple[dict[int, list[Use]], dict[int, str]]:
    """Walks the operations: where parameters meet data, and which cannot be followed."""
    known: dict[int, Any] = {
        value: views.View.of(leaf, program.avals[value].shape)
        for leaf, value in enumerate(program.params)
        if jnp.issubdtype(program.avals[value].dtype, jnp.floating)
    }
    data = set(program.inputs)
    uses: dict[int, list[Use]] = collections.defaultdict(list)
    # Factors of complex numbers would need their conjugates in the right places: none are taken.
    plain: dict[int, str] = {
        leaf: "its real and its imaginary part"
        for leaf, value in enumerate(program.params)
        if jnp.issubdtype(program.avals[value].dtype, jnp.complexfloating)
    }

    def give_up(value: Operand, reason: str) -> None:
        if isinstance(value, int) and value in known:
            plain.setdefault(known[value].leaf, reason)

    for number, operation in enumerate(program.operations):
        numbers = [value for value in operation.inputs if isinstance(value, int)]
        if any(value in data for value in numbers):
            for place, value in enumerate(operation.inputs):
                if isinstance(value, int) and value in known:
                    use = _use(program, number, place, known[value])
                    if use is None:
                        give_up(value, _without_factors(operation.name))
                    else:
                        uses[known[value].leaf].append(use)
            data |= set(operation.outputs)
            continue
        inputs = [_known(value, known) for value in operation.inputs]
        found = views.follow(operation, inputs, program)
        if found is not None:
            known |= dict(zip(operation.outputs, found))
            for value in numbers:
                if _known(value, known) and known[value].leaf != found[0].leaf:
                    give_up(value, "it scales another parameter")
            continue
        if operation.name != "stop_gradient" and _differentiable(program, operation.outputs):
            for value in numbers:
                give_up(value, _without_factors(operation.name, " of parameters"))
    for value in program.outputs:
        give_up(value, "it is an output itself")
    return uses, plain


def _without_factors(name: str, of: str = "") -> str:
    """Why a use of a parameter is not factored."""
    if name in _ENTRY_BY_ENTRY:
        return f"{name} acts entry by entry: nothing to factor"
    return f"no factors are known for {name}{of}"


def _with_pool(program: Program, group: tuple[Use, ...]) -> tuple[Use, ...]:
    """A layer that is used once and then pooled, or a head, is tapped further on."""
    if len(group) > 1 or program.operations[group[0].operation].name == "gather":
        return group
    (use,) = group
    where = (program, use.operation, use.factors.positions)
    pool = pooled.find(*where) or pooled.head(*where)
    return (dataclasses.replace(use, pool=pool),)


def _tapped(use: Use) -> int:
    """The operation whose result gets the zeros of a use."""
    return use.pool.last if use.pool else use.operation


def _layout(use: Use) -> Any:
    """Which root axes stand where; inner and outer may be exchanged between uses of one block."""
    group, inner, outer = (
        use.view.root_axes(axes)
        for axes in (use.factors.group, use.factors.inner, use.factors.outer)
    )
    return group, frozenset((inner, outer))


def _known(value: Operand, known: dict) -> views.View | None:
    return known.get(value) if isinstance(value, int) else None


def _differentiable(program: Program, values: Sequence[int]) -> bool:
    return any(jnp.issubdtype(program.avals[value].dtype, jnp.inexact) for value in values)


def _use(program: Program, number: int, place: int, view: views.View) -> Use | None:
    operation = program.operations[number]
    if len(operation.outputs) != 1 or operation.inputs.count(operation.inputs[place]) != 1:
        return None
    factors = rules.find(operation, place, [program.aval(value) for value in operation.inputs])
    if factors is None:
        return None
    view = view.reshape(factors.shape)
    return None if view is None else Use(number, place, view, factors)


def _run(
    program: Program, params: Sequence[Array], inputs: Sequence[Array], tapped: dict, taps: list
) -> tuple[list[Array], dict]:
    """Evaluates the program with `tapped` added to layer outputs; returns what the taps saw."""
    env: dict[int, Array] = dict(zip(program.params, params)) | dict(zip(program.inputs, inputs))
    wanted = {(tap.operation, tap.place): tap for tap in taps}
    pools: dict[int, list[Use]] = collections.defaultdict(list)
    for tap in taps:
        if tap.pool:
            pools[tap.pool.last].append(tap)
    seen: dict[tuple[int, int], tuple] = {}

    def read(value: Operand) -> Array:
        return value.value if isinstance(value, Constant) else env[value]

    for number, operation in enumerate(program.operations):
        values = [read(value) for value in operation.inputs]
        for place in range(len(values)):
            if (number, place) in wanted:
                tap = wanted[number, place]
                scale = views.scale(tap.view, read)
                seen[number, place] = (tap.factors.left(*values), scale)
        faster = winograd.find(operation, [program.aval(value) for value in operation.inputs])
        results = (faster or operation.run)(*values)
        for tap in pools.get(number, ()):
            seen[tap.operation, tap.place] += (pooled.mask(program, tap.pool, read),)
        if number in tapped:
            results[0] = results[0] + tapped[number]
        env |= {value: r for value, r in zip(operation.outputs, results) if r is not None}
    return [jnp.asarray(read(value)) for value in program.outputs], seen


def _terms(group: Sequence[Use], cotangents: dict, seen: dict) -> tuple[Term, ...]:
    """The terms of one block, uses of one kind joined along their positions."""
    made: dict[tuple[bool, bool], list[Term]] = collections.defaultdict(list)
    reference = group[0].view.root_axes(group[0].factors.inner)
    for use in group:
        left, scale, *mask = seen[use.operation, use.place]
        cotangent = cotangents[_tapped(use)]
        if use.pool:  # the axes that the sum took away
            cotangent = jnp.expand_dims(cotangent, tuple(1 + axis for axis in use.pool.axes))
        right = jax.vmap(use.factors.right)(cotangent)
        term = _in_root_order(use, left, right if scale is None else right * scale, *mask)
        swapped = set(use.view.root_axes(use.factors.inner)) != set(reference)
        made[swapped, isinstance(left, Rows)].append(term.replace(swapped=swapped))
    return tuple(_join(terms) for terms in made.values())


def _in_root_order(use: Use, left: Array | Rows, right: Array, mask: Array | None = None) -> Term:
    """Flattens [S, *group, *inner] to [S, G, I], each in the order of the parameter's own axes."""
    factors, num_groups = use.factors, len(use.factors.group)
    order = use.view.sort_order

    def arrange(array: Array, lead: int, tail: tuple[int, ...]) -> Array:
        group_order = [lead + i for i in order(factors.group)]
        tail_order = [lead + num_groups + i for i in order(tail)]
        array = jnp.transpose(array, (*range(lead), *group_order, *tail_order))
        split = lead + num_groups
        sizes = (math.prod(array.shape[lead:split]), math.prod(array.shape[split:]))
        return array.reshape(array.shape[:lead] + sizes)

    if not isinstance(left, Rows):
        left = arrange(left, 1, factors.inner)
    if mask is not None:
        mask = arrange(factors.right(mask), 1, factors.outer)
    return Term(left, arrange(right, 2, factors.outer), mask)


def _join(terms: list[Term]) -> Term:
    if len(terms) == 1:
        return terms[0]
    lefts = [term.left for term in terms]
    left = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=0), *lefts)
    right = jnp.concatenate([term.right for term in terms], 1)
    return Term(left, right, swapped=terms[0].swapped)
