"""Which operation of a function mixes the examples of a batch, seen by tracing alone.

A penalty of a critic's slope, or a batch that is split, takes functions [B, ...] -> [B, ...] whose
row i depends on row i of the input only. Batch norm and minibatch deviation do not, and give
numbers all the same. `find` follows the axis of examples through the operations of a function
(nothing is compiled or computed) and names the first that brings two examples together on the way
to the output. An operation that it does not know counts as one that mixes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from library.types import Array

# An axis is a product of factors (size, stride), major first: its position says
# position // stride ... of the example, or nothing of it where the stride is 0.
Axis = tuple[tuple[int, int], ...]
# Of a value: its axes; None if it depends on no example; the operation that mixed it.
Layout = tuple[Axis, ...] | None | str


def find(function: Callable[[Array], Array], x: Array, draws: bool = False) -> str | None:
    """The operation by which an output's row depends on other rows of the input, or None.

    Args:
        function: [B, ...] -> [B, ...]; it may close over traced values.
        x: [B, ...], an array or its shape.
        draws: count random numbers [B, ...] that the function draws from one key as inputs too.
    Returns:
        The name of a primitive of JAX, e.g. "reduce_sum"; "output" where it has no axis of B.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(x)
    size = x.shape[0]
    if size == 1:
        return None
    start = _plain(x.shape[1:])
    found = _run(closed.jaxpr, [(((size, 1),), *start)], size if draws else 0)[0]
    if isinstance(found, str):
        return found
    if shape.shape[:1] != (size,):
        return "output"
    rest = _plain(shape.shape[1:])
    return None if found is None or found == (((size, 1),), *rest) else "output"


def refuse(
    function: Callable[[Array], Array], x: Array, name: str, what: str, draws: bool = False
) -> None:
    """Raises ValueError, in the words of a penalty or a split `what`, if examples are mixed."""
    operation = find(function, x, draws)
    if operation is not None:
        raise ValueError(
            f"{name} mixes the examples of a batch (by {operation}): {what} needs an output of "
            "each example alone, so no batch norm by the batch and no minibatch deviation"
        )


def _run(jaxpr: Any, inputs: Sequence[Layout], draws: int) -> list[Layout]:
    """Layouts of the outputs of a jaxpr; its constants depend on no example."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    read = lambda atom: None if hasattr(atom, "val") else known.get(atom)
    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _apply(equation, operands, draws), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, operands: list[Layout], draws: int) -> list[Layout]:
    name, params = equation.primitive.name, equation.params
    outs = [atom.aval.shape for atom in equation.outvars]
    inner = [params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params]
    if name == "scan":
        return _scan(equation, operands, draws)
    if name == "cond":
        branches = [_run(branch.jaxpr, operands[1:], draws) for branch in params["branches"]]
        index = [name] if operands[0] is not None else []
        return [_join([*ways, *index], shape) for *ways, shape in zip(*branches, outs)]
    if inner:
        jaxpr = getattr(inner[0], "jaxpr", inner[0])
        if len(jaxpr.invars) == len(operands):
            return _run(jaxpr, operands, draws)
    if name == "random_bits" and draws and all(layout is None for layout in operands):
        drawn = lambda shape: (((draws, 1),), *_plain(shape[1:])) if shape[:1] == (draws,) else None
        return [drawn(shape) for shape in outs]
    mixed = next((layout for layout in operands if isinstance(layout, str)), None)
    if mixed or all(layout is None for layout in operands):
        return [mixed] * len(outs)
    shapes = [getattr(atom.aval, "shape", ()) for atom in equation.invars]
    return [_one(name, params, operands, shapes, out) for out in outs]


def _one(name: str, params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    """The layout of what one operation gives, at least one operand of which has examples."""
    x = operands[0]
    if name in _ELEMENTWISE:
        return _join(operands, out) or name
    if name in _RULES:
        return _RULES[name](params, operands, shapes, out) or name
    for key in ("axes", "axis", "dimension", "dimensions"):  # of reductions, sorts, scans, squeezes
        if key in params and x is not None:
            axes = params[key] if isinstance(params[key], tuple | list) else (params[key],)
            if any(_holds(x[axis]) for axis in axes):
                return name
            if len(out) == len(x):  # sorted or summed along an axis that has no examples
                return _join(operands, out) or name
            return tuple(axis for index, axis in enumerate(x) if index not in axes)
    return name


def _scan(equation: Any, operands: list[Layout], draws: int) -> list[Layout]:
    """A loop over an axis without examples; layouts of the carry until they stand."""
    jaxpr = equation.params["jaxpr"].jaxpr
    shapes = [atom.aval.shape for atom in equation.invars]
    outs = [atom.aval.shape for atom in equation.outvars]
    inside = [atom.aval.shape for atom in jaxpr.invars]
    looped = [len(shape) > len(one) for shape, one in zip(shapes, inside)]
    for layout, over in zip(operands, looped):
        if over and not isinstance(layout, str | None) and _holds(layout[0]):
            return ["scan"] * len(outs)
    inputs = [x[1:] if over and isinstance(x, tuple) else x for x, over in zip(operands, looped)]
    num_carry = sum(len(a) == len(b.aval.shape) for a, b in zip(outs, jaxpr.outvars))
    first = looped.index(True) - num_carry if True in looped else len(inputs) - num_carry
    carry = slice(first, first + num_carry)
    while True:
        results = _run(jaxpr, inputs, draws)
        new = [_join(pair, s) for *pair, s in zip(inputs[carry], results[:num_carry], outs)]
        if new == inputs[carry]:
            break
        inputs[carry] = new
    length = _plain((outs[num_carry][0],)) if outs[num_carry:] else ()
    rows = [(*length, *x) if isinstance(x, tuple) else x for x in results[num_carry:]]
    return [*new, *rows]


def _plain(shape: Sequence[int]) -> tuple[Axis, ...]:
    return tuple(((size, 0),) if size > 1 else () for size in shape)


def _holds(axis: Axis) -> bool:
    return any(stride for _, stride in axis)


def _join(layouts: Sequence[Layout], shape: Sequence[int]) -> Layout:
    """Of values that are combined place by place: "" or a name where their examples differ."""
    seen = [layout for layout in layouts if layout is not None]
    if not seen:
        return None
    named = next((layout for layout in seen if isinstance(layout, str)), None)
    if named is not None:
        return named
    held = {tuple(axis if _holds(axis) else None for axis in layout) for layout in seen}
    if len(held) > 1:
        return ""
    return tuple(axis or plain for axis, plain in zip(held.pop(), _plain(shape)))


def _merge(factors: Sequence[tuple[int, int]]) -> Axis:
    """Neighbours that count on make one factor."""
    merged: list[tuple[int, int]] = []
    for size, stride in factors:
        if merged and (merged[-1][1], stride) == (0, 0):
            merged[-1] = (merged[-1][0] * size, 0)
        elif merged and stride and merged[-1][1] == stride * size:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return tuple(merged)


def _reshape(params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    factors = [factor for axis in operands[0] for factor in axis]
    axes = []
    for size in out:
        axis = []
        while size > 1:
            (have, stride), *factors = factors
            take = math.gcd(have, size)
            if take < min(have, size):  # 6 = 2 * 3 cut at 4: no axis of its own for the examples
                return ""
            if take < have:
                factors.insert(0, (have // take, stride))
            axis.append((take, stride * (have // take)))
            size //= take
        axes.append(_merge(axis))
    return tuple(axes)


def _broadcast(params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    axes = list(_plain(out))
    for axis, target in zip(operands[0], params["broadcast_dimensions"]):
        axes[target] = axis if _holds(axis) else axes[target]
    return tuple(axes)


def _transpose(params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    return tuple(operands[0][axis] for axis in params["permutation"])


def _windowed(params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    """Slices, pads, rolls, pools: whatever leaves an axis with examples as long as it was."""
    x, shape = operands[0], shapes[0]
    kept = [
        size == new and params.get("window_dimensions", (1,) * len(x))[index] == 1
        for index, (size, new) in enumerate(zip(shape, out))
    ]
    padded = params.get("padding_config")
    if padded is not None:
        kept = [same and not any(pads) for same, pads in zip(kept, padded)]
    if any(layout is not None for layout in operands[1:]) or len(shape) != len(out):
        return ""  # where it is cut depends on examples
    if any(_holds(axis) and not same for axis, same in zip(x, kept)):
        return ""
    return tuple(a if _holds(a) else p for a, p in zip(x, _plain(out)))


def _update_slice(params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    joined = _join(operands[:2], out)
    if any(layout is not None for layout in operands[2:]) or not isinstance(joined, tuple):
        return ""
    cut = [_holds(axis) and a != b for axis, a, b in zip(joined, *shapes[:2])]
    return "" if any(cut) else joined


def _concatenate(params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    joined = _join(operands, out)
    axis = params["dimension"]
    return "" if not isinstance(joined, tuple) or _holds(joined[axis]) else joined


def _stack(params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    joined = _join(operands, shapes[0])
    if not isinstance(joined, tuple):
        return ""
    axis = params["axis"]
    return (*joined[:axis], *_plain(out[axis : axis + 1]), *joined[axis:])


def _dot(params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    (contract, batch), axes = params["dimension_numbers"], []
    sides = [layout or _plain(shape) for layout, shape in zip(operands, shapes)]
    if any(_holds(side[axis]) for side, summed in zip(sides, contract) for axis in summed):
        return ""
    for left, right in zip(*batch):
        pair = {side[axis] for side, axis in zip(sides, (left, right)) if _holds(side[axis])}
        if len(pair) > 1:
            return ""
        axes.append(pair.pop() if pair else sides[0][left])
    for side, summed, shared in zip(sides, contract, batch):
        axes += [x for index, x in enumerate(side) if index not in (*summed, *shared)]
    return _apart(axes)


def _apart(axes: Sequence[Axis]) -> Layout:
    """The axes, unless an entry belongs to a pair of examples."""
    strides = [stride for axis in axes for _, stride in axis if stride]
    return tuple(axes) if len(strides) == len(set(strides)) else ""


def _convolution(params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    """Examples along the batch, or as the groups of a grouped convolution."""
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    image, kernel = (x or _plain(shape) for x, shape in zip(operands, shapes))
    batch, feature, *space = numbers.lhs_spec
    kernel_out, *summed = numbers.rhs_spec
    axes = list(_plain(out))
    inner = [image[axis] for axis in space] + [kernel[axis] for axis in summed]
    if any(map(_holds, inner)) or (_holds(image[batch]) and params["batch_group_count"] > 1):
        return ""
    grouped = {axis[0] for axis in (image[feature], kernel[kernel_out]) if _holds(axis)}
    rest = [f for axis in (image[feature], kernel[kernel_out]) for f in axis if f not in grouped]
    if len(grouped) > 1 or any(stride for _, stride in rest):
        return ""
    if grouped:
        (size, stride) = grouped.pop()
        if not stride or groups % size or _holds(image[batch]):
            return ""
        channels = out[numbers.out_spec[1]] // size
        axes[numbers.out_spec[1]] = _merge([(size, stride), *_plain((channels,))[0]])
    elif _holds(image[batch]):
        axes[numbers.out_spec[0]] = image[batch]
    return tuple(axes)


def _gather(params: Any, operands: list, shapes: list, out: tuple) -> Layout:
    """Places that each example has for itself, in axes that all of it keeps."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    x, indices = (layout or _plain(shape) for layout, shape in zip(operands, shapes))
    paired = dict(zip(numbers.start_indices_batching_dims, numbers.operand_batching_dims))
    lost = {*paired.values(), *numbers.collapsed_slice_dims}
    places = [axis for axis in range(len(out)) if axis not in numbers.offset_dims]
    axes = list(_plain(out))
    for index, place in enumerate(places):
        own = x[paired[index]] if index in paired else ()
        held = {axis for axis in (own, indices[index]) if _holds(axis)}
        both = index not in paired or None in operands or _holds(own) == _holds(indices[index])
        if len(held) > 1 or not both:
            return ""
        axes[place] = held.pop() if held else axes[place]
    window = [axis for axis in range(len(x)) if axis not in lost]
    for axis, place in zip(window, numbers.offset_dims):
        if _holds(x[axis]):
            if sizes[axis] != shapes[0][axis]:
                return ""
            axes[place] = x[axis]
    cut = any(_holds(x[axis]) for axis in numbers.collapsed_slice_dims) or _holds(indices[-1])
    return "" if cut else _apart(axes)


_RULES: dict[str, Callable[..., Layout]] = {
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    **dict.fromkeys(("slice", "dynamic_slice", "pad"), _windowed),
    **dict.fromkeys(("reduce_window_max", "reduce_window_sum", "reduce_window_min"), _windowed),
    "tile": lambda params, operands, shapes, out: (
        "" if any(_holds(a) and reps > 1 for a, reps in zip(operands[0], params["reps"]))
        else tuple(a if _holds(a) else p for a, p in zip(operands[0], _plain(out)))
    ),
    "dynamic_update_slice": _update_slice,
    "concatenate": _concatenate,
    "stack": _stack,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    # Constants written over places that are the same for all examples.
    **dict.fromkeys(
        ("scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter_mul"),
        lambda params, operands, shapes, out: (
            operands[0] if operands[1:] == [None, None] else ""
        ),
    ),
    "random_bits": lambda params, operands, shapes, out: (
        *operands[0], *_plain(out[len(shapes[0]) :])
    ),
    "random_wrap": lambda params, operands, shapes, out: operands[0][:-1],
    "random_unwrap": lambda params, operands, shapes, out: (*operands[0], *_plain(out[-1:])),
}  # fmt: skip

_ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp convert_element_type copy copy_p cos cosh digamma div eq
    erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic
    lt max min mul name ne neg nextafter not or pow random_fold_in reduce_precision rem round rsqrt
    select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stop_gradient sub tan tanh xor""".split()
)
