"""From factored Jacobians of two sets of examples to their kernel.

Two routes give the same block: inner products of the factors (cheap when few positions share the
parameter) or the block's Jacobian itself, formed by one matrix product (cheap when many do). Where
positions are pooled the second is one product for all outputs.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from library.types import Array
from research.ntk.jacobians.rules import Rows
from research.ntk.jacobians.structured import Block, Term

Outputs = Literal["full", "diagonal", "trace"]

# Output axes c of the first and d of the second argument: what is kept of the pair.
_SPEC = {"full": ("c", "d", "cd"), "diagonal": ("c", "c", "c"), "trace": ("c", "c", "")}
_PRECISION = jax.lax.Precision.HIGHEST  # no TF32 or bfloat16 passes: kernels are ill-conditioned
# Jacobians are formed and contracted in slices of about so many entries, which stay in a cache.
_SLICE = 2**21
# Operations in the time of writing and reading a number of a Jacobian of rows, nearly all zero.
_PASS = 16


def block_kernel(first: Block, second: Block, outputs: Outputs) -> Array:
    """The kernel of one block: [N1, N2] + the output axes kept."""
    if first.plain is not None:
        return _inner(first.plain, second.plain, outputs)
    route = flops(first, second, outputs)[0]
    if route == "pooled":
        return _pooled(first.terms[0], second.terms[0], outputs)
    if route == "masks":
        return _masks(first.terms[0], second.terms[0])
    if route == "factors":
        pairs = [(_spread(a), _spread(b)) for a in first.terms for b in second.terms]
        return sum(_cross(a, b, outputs) for a, b in pairs)
    if all(_sliceable(block.terms) for block in (first, second)):
        return _by_slices(first, second, outputs)
    return _inner(_materialise(first.terms), _materialise(second.terms), outputs)


def flops(first: Block, second: Block, outputs: Outputs) -> tuple[str, int]:
    """The cheaper route and the floating point operations it takes."""
    if first.plain is not None:
        (n1, c, p), n2 = first.plain.shape, second.plain.shape[0]
        return "plain", 2 * n1 * n2 * p * (c * c if outputs == "full" else c)
    costs = {"factors": _factor_flops(first, second, outputs)}
    if _shared(first.terms[0]):
        if outputs == "trace":
            costs["masks"] = _masks_flops(first.terms[0], second.terms[0])
    elif first.terms[0].mask is not None:
        costs["pooled"] = _pooled_flops(first.terms[0], second.terms[0], outputs)
    else:
        costs["jacobian"] = _jacobian_flops(first, second, outputs)
    route = min(costs, key=costs.get)
    return route, costs[route]


def _factor_flops(first: Block, second: Block, outputs: Outputs) -> int:
    total = 0
    for a in first.terms:
        for b in second.terms:
            c, _, g, o = a.right.shape[1:]
            n1, n2 = _num_examples(a), _num_examples(b)
            s, t = _num_positions(a), _num_positions(b)
            pairs = c * c if outputs == "full" else c
            inner = _num_inner(a)
            looked_up = isinstance(a.left, Rows) or isinstance(b.left, Rows)
            if a.swapped == b.swapped:
                work = (1 if looked_up else inner) + pairs * o
            else:
                work = c * (1 if looked_up else o) + c * inner + pairs
            total += 2 * n1 * n2 * s * t * g * work
    return total


def _jacobian_flops(first: Block, second: Block, outputs: Outputs) -> int:
    total, entries = 0, 0
    for block in (first,) if first is second else (first, second):
        for term in block.terms:
            n, c, s, g, o = term.right.shape
            entries = g * o * _num_inner(term)
            if isinstance(term.left, Rows):
                total += 2 * n * c * s * g * o + _PASS * n * c * entries
            else:
                total += 2 * n * c * s * entries
    n1, c = first.terms[0].right.shape[:2]
    n2 = second.terms[0].right.shape[0]
    return total + 2 * n1 * n2 * entries * (c * c if outputs == "full" else c)


def _pooled_flops(a: Term, b: Term, outputs: Outputs) -> int:
    n1, c, _, g, o = a.right.shape
    n2, s, inner = b.right.shape[0], _num_positions(a), _num_inner(a)
    pairs = c * c if outputs == "full" else c
    return 2 * g * o * ((n1 + n2) * s * inner + n1 * n2 * (inner + pairs))


def _masks_flops(a: Term, b: Term) -> int:
    g, o = a.mask.shape[2:]
    return 2 * _num_examples(a) * _num_examples(b) * g * (_num_inner(a) + o)


def _shared(term: Term) -> bool:
    """Whether all examples have the same vector of every output, and one position."""
    return term.mask is not None and len(term.right) == 1 and term.mask.shape[1] == 1


def _num_examples(term: Term) -> int:
    return len(term.right if term.mask is None else term.mask)


def _num_positions(term: Term) -> int:
    return (term.right if term.mask is None else term.mask[:, None]).shape[2]


def _num_inner(term: Term) -> int:
    return term.left.num_rows if isinstance(term.left, Rows) else term.left.shape[-1]


def _spread(term: Term) -> Term:
    """The same term with its mask multiplied in, if it has one."""
    if term.mask is None:
        return term
    return term.replace(right=term.right * term.mask[:, None], mask=None)


def _pooled(a: Term, b: Term, outputs: Outputs) -> Array:
    """The kernel of Jacobians [I, O] that all outputs share, times one vector [O] of each."""
    shared = [
        jnp.einsum("nsgi,nsgo->ngio", term.left, term.mask, precision=_PRECISION) for term in (a, b)
    ]
    seen = jnp.einsum("ngio,mgio->nmgo", *shared, precision=_PRECISION)
    return _einsum("n{0}go,m{1}go,nmgo->nm{2}", outputs, a.right[:, :, 0], b.right[:, :, 0], seen)


def _masks(a: Term, b: Term) -> Array:
    """The trace for masks of one position, times one vector of each output, [1, C, 1, G, O]."""
    seen = jnp.einsum("nsgi,msgi->nmg", a.left, b.left, precision=_PRECISION)
    weights = jnp.einsum("acsgo,acsgo->go", a.right, b.right, precision=_PRECISION)
    weighted = a.mask * weights[None, None]
    passed = jnp.einsum("nsgo,msgo->nmg", weighted, b.mask, precision=_PRECISION)
    return (seen * passed).sum(-1)


def _sliceable(terms: tuple[Term, ...]) -> bool:
    """Whether the Jacobian is larger than its factors, which slices copy, and no special case."""
    if any(term.swapped or isinstance(term.left, Rows) for term in terms):
        return False
    n, c, _, g, o = terms[0].right.shape
    entries = n * g * _num_inner(terms[0]) * c * o
    return entries > sum(term.left.size + term.right.size for term in terms)


def _by_slices(first: Block, second: Block, outputs: Outputs) -> Array:
    """The kernel of Jacobians that are formed a slice of the inner axis at a time."""
    blocks = (first.terms,) if first is second else (first.terms, second.terms)
    _, c, _, g, o = first.terms[0].right.shape
    inner = _num_inner(first.terms[0])
    num_examples = max(len(terms[0].right) for terms in blocks)
    num = -(-inner * num_examples * g * c * o // _SLICE)
    width = -(-inner // num)

    def lefts(term: Term) -> Array:  # [slices, N, G, width, S]
        left = jnp.transpose(term.left, (3, 0, 2, 1))
        left = jnp.pad(left, ((0, num * width - inner), (0, 0), (0, 0), (0, 0)))
        return jnp.moveaxis(left.reshape(num, width, *left.shape[1:]), 1, 3)

    def right(term: Term) -> Array:  # [N, G, S, O * C]
        right = jnp.transpose(term.right, (0, 3, 2, 1, 4))
        return right.reshape(*right.shape[:3], -1)

    rights = [[right(term) for term in terms] for terms in blocks]

    def step(total: Array, left: list[list[Array]]) -> tuple[Array, None]:
        formed = []
        for lefts, rights_ in zip(left, rights):
            products = [jnp.matmul(a, b, precision=_PRECISION) for a, b in zip(lefts, rights_)]
            formed.append(sum(products).reshape(len(products[0]), g * width, c, o))
        return total + _inner(formed[0], formed[-1], outputs), None

    slices = [[lefts(term) for term in terms] for terms in blocks]
    if num == 1:
        return step(0.0, jax.tree.map(lambda a: a[0], slices))[0]
    one = jax.eval_shape(lambda s: step(0.0, jax.tree.map(lambda a: a[0], s))[0], slices)
    return jax.lax.scan(step, jnp.zeros(one.shape, one.dtype), slices)[0]


def _inner(a: Array, b: Array, outputs: Outputs) -> Array:
    """Inner products of Jacobians [N, ..., C, P]; those of a trace are one matrix product."""
    if outputs == "trace":
        a, b = (j.reshape(len(j), -1) for j in (a, b))
        return jnp.matmul(a, b.T, precision=_PRECISION)
    a, b = (j.reshape(len(j), -1, *j.shape[-2:]) for j in (a, b))
    return _einsum("nk{0}p,mk{1}p->nm{2}", outputs, a, b)


def _cross(a: Term, b: Term, outputs: Outputs) -> Array:
    """sum over positions s of a and t of b of the products of their factors."""
    if a.swapped == b.swapped:
        seen = _left_left(a.left, b.left)  # [N1, S, N2, T, G]
        if a.right.shape[2] == b.right.shape[2] == 1 and outputs != "full":
            made = _einsum("n{0}sgo,m{1}tgo->nsmtg{2}", outputs, a.right, b.right)
            return jnp.einsum("nsmtg...,nsmtg->nm...", made, seen)
        made = _einsum("n{0}sgo,m{1}tgo->nsmtg{2}", outputs, a.right, b.right)
        return jnp.einsum("nsmtg...,nsmtg->nm...", made, seen, precision=_PRECISION)
    one = _left_right(a.left, b.right)  # [N1, S, N2, D, T, G]
    two = _left_right(b.left, a.right)  # [N2, T, N1, C, S, G]
    return _einsum("mtn{0}sg,nsm{1}tg->nm{2}", outputs, two, one)


def _left_left(a: Array | Rows, b: Array | Rows) -> Array:
    """Inner products of what two layers saw, [N1, S, N2, T, G]."""
    if isinstance(a, Rows) and isinstance(b, Rows):
        same = a.index[:, :, None, None] == b.index[None, None]
        both = a.valid[:, :, None, None] * b.valid[None, None]
        return (same * both)[..., None]
    if isinstance(a, Rows):
        found = jnp.take(b, a.index, axis=3)[..., 0, :, :]  # [N2, T, N1, S]
        return jnp.transpose(found * a.valid[None, None], (2, 3, 0, 1))[..., None]
    if isinstance(b, Rows):
        found = jnp.take(a, b.index, axis=3)[..., 0, :, :] * b.valid[None, None]
        return found[..., None]
    return jnp.einsum("nsgi,mtgi->nsmtg", a, b, precision=_PRECISION)


def _left_right(left: Array | Rows, right: Array) -> Array:
    """Inner products of what one layer saw with what another passed back, [N1, S, N2, C, T, G]."""
    if isinstance(left, Rows):
        found = jnp.take(right, left.index, axis=4)[:, :, :, 0]  # [N2, C, T, N1, S]
        return jnp.transpose(found * left.valid[None, None, None], (3, 4, 0, 1, 2))[..., None]
    return jnp.einsum("nsgi,mctgi->nsmctg", left, right, precision=_PRECISION)


def _materialise(terms: tuple[Term, ...]) -> Array:
    """The Jacobian of a block, [N, G, I, C, O]: C stands where one matrix product leaves it."""
    total = 0
    for term in terms:
        if isinstance(term.left, Rows):
            full = jax.vmap(_scatter)(term.left, term.right)  # [N, G, C, I, O]
            full = jnp.transpose(full, (0, 1, 4, 2, 3) if term.swapped else (0, 1, 3, 2, 4))
        else:
            spec = "nsgi,ncsgo->ngoci" if term.swapped else "nsgi,ncsgo->ngico"
            full = jnp.einsum(spec, term.left, term.right, precision=_PRECISION)
        total = total + full
    return total


def _scatter(rows: Rows, right: Array) -> Array:
    """[G, C, I, O] of one example: cotangents added up in the rows that were looked up."""
    weighted = right[:, :, 0] * rows.valid[None, :, None]  # [C, S, O]
    zeros = jnp.zeros((right.shape[0], rows.num_rows, right.shape[-1]), right.dtype)
    return zeros.at[:, rows.index].add(weighted)[None]


def _einsum(spec: str, outputs: Outputs, *arrays: Array) -> Array:
    return jnp.einsum(spec.format(*_SPEC[outputs]), *arrays, precision=_PRECISION)
