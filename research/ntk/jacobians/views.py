"""Which part of which parameter a value is, when it is a rearrangement of one parameter alone.

Transposes, slices, casts, unit axes and constant factors on the way from a parameter to its layer
keep the Jacobian's structure: the rearrangement R has R R' = scale^2 I, so inner products of
Jacobians with respect to the value and to the parameter differ by scale^2 only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax.numpy as jnp

from library.types import Array
from research.ntk.jacobians.jaxprs import Constant, Operand, Operation, Program

Bounds = tuple[tuple[int, int], ...]  # (start, limit) along every axis


@dataclasses.dataclass(frozen=True)
class View:
    """A value that is scale * a rearranged block of parameter leaf number `leaf`.

    Attributes:
        leaf: number of the parameter.
        root: () for the parameter's own axes; after a true reshape, what identifies it. Values
            with equal (leaf, root) share one set of axes, the root axes.
        root_shape: sizes of the root axes.
        axes: for every axis of the value its root axis, None for an axis of size 1.
        bounds: the block, along the root axes.
        region: the block along the parameter's own axes that the root covers.
        scales: operands, each a scalar; the flag says whether it divides.
    """

    leaf: int
    root: Hashable
    root_shape: tuple[int, ...]
    axes: tuple[int | None, ...]
    bounds: Bounds
    region: Bounds
    scales: tuple[tuple[Operand, bool], ...] = ()

    @staticmethod
    def of(leaf: int, shape: tuple[int, ...]) -> View:
        """The whole parameter."""
        bounds = tuple((0, size) for size in shape)
        return View(leaf, (), tuple(shape), tuple(range(len(shape))), bounds, bounds)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        sizes = [limit - start for start, limit in self.bounds]
        return tuple(1 if axis is None else sizes[axis] for axis in self.axes)

    def reshape(self, shape: Sequence[int]) -> View:
        """The same entries in another shape; new root axes unless only unit axes change."""
        shape = tuple(shape)
        if shape == self.shape:
            return self
        used = [axis for axis, size in zip(self.axes, self.shape) if size != 1]
        if [size for size in self.shape if size != 1] == [size for size in shape if size != 1]:
            rest = iter(used)
            return dataclasses.replace(
                self, axes=tuple(None if size == 1 else next(rest) for size in shape)
            )
        whole = tuple((0, size) for size in shape)
        return dataclasses.replace(
            self,
            root=(self.root, self.bounds, tuple(used), shape),
            root_shape=shape,
            axes=tuple(range(len(shape))),
            bounds=whole,
            region=self.bounds if self.root == () else self.region,
        )

    def slice(self, starts: Sequence[int], limits: Sequence[int]) -> View:
        """The block [start, limit) along every axis of the value."""
        bounds = list(self.bounds)
        for axis, start, limit in zip(self.axes, starts, limits):
            if axis is not None:
                offset = self.bounds[axis][0]
                bounds[axis] = (offset + start, offset + limit)
        return dataclasses.replace(self, bounds=tuple(bounds))

    def scaled(self, operand: Operand, divides: bool = False) -> View:
        """The value times (or divided by) a scalar."""
        return dataclasses.replace(self, scales=(*self.scales, (operand, divides)))

    def root_axes(self, axes: Sequence[int]) -> frozenset[int]:
        """The root axes of some axes of the value, without those of size 1."""
        shape = self.shape
        return frozenset(self.axes[axis] for axis in axes if shape[axis] != 1)

    def sort_order(self, axes: Sequence[int]) -> list[int]:
        """The order that puts `axes` of the value in the order of their root axes."""
        keys = [-1 if self.axes[axis] is None else self.axes[axis] for axis in axes]
        return sorted(range(len(axes)), key=keys.__getitem__)


def follow(
    operation: Operation, inputs: Sequence[View | None], program: Program
) -> list[View] | None:
    """The views that an operation on a view (and scalars) returns; None if it is not simple."""
    shape = program.aval(operation.outputs[0]).shape
    places = [i for i, view in enumerate(inputs) if view is not None]
    if len(places) == 2:  # a learned scalar times a parameter is that parameter, scaled
        places = [i for i in places if inputs[i].shape == shape and math.prod(shape) > 1]
    dtypes = [program.avals[value].dtype for value in operation.outputs]
    if len(places) != 1 or not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        return None
    place = places[0]
    if operation.name in ("mul", "div"):
        other = operation.inputs[1 - place]
        scalar = math.prod(program.aval(other).shape) == 1 and inputs[place].shape == shape
        if not scalar or (operation.name == "div" and place == 1):
            return None
        return [inputs[place].scaled(other, operation.name == "div")]
    return _rearrange(operation, inputs[place], shape)


def _rearrange(operation: Operation, view: View, shape: tuple[int, ...]) -> list[View] | None:
    """The views that an operation on one operand returns."""
    params = operation.params
    match operation.name:
        case "convert_element_type" | "copy":
            return [view]
        case "neg":
            return [view.scaled(Constant(-1.0))]
        case "transpose":
            axes = tuple(view.axes[axis] for axis in params["permutation"])
            return [dataclasses.replace(view, axes=axes)]
        case "squeeze" | "expand_dims":
            return [view.reshape(shape)]
        case "reshape" if params.get("dimensions") is None:
            return [view.reshape(shape)]
        case "broadcast_in_dim" if math.prod(shape) == math.prod(view.shape):
            return [view.reshape(shape)]
        case "slice" if params["strides"] is None or set(params["strides"]) == {1}:
            return [view.slice(params["start_indices"], params["limit_indices"])]
        case "split":
            return _split(view, params["sizes"], params["axis"])
    return None


def _split(view: View, sizes: Sequence[int], axis: int) -> list[View]:
    parts, start = [], 0
    for size in sizes:
        starts, limits = [0] * len(view.shape), list(view.shape)
        starts[axis], limits[axis] = start, start + size
        parts.append(view.slice(starts, limits))
        start += size
    return parts


def scale(view: View, read: Callable[[Operand], Array]) -> Array | None:
    """The product of the view's scalar factors, [] float; None when there is none."""
    result = None
    for operand, divides in view.scales:
        factor = jnp.reshape(read(operand), ())
        factor = 1 / factor if divides else factor
        result = factor if result is None else result * factor
    return result


def disjoint_groups(views: Sequence[View], layouts: Sequence[Any]) -> list[list[int]] | None:
    """Groups of views of one leaf that share entries, groups being disjoint from one another.

    Args:
        views: all views of one parameter leaf that enter a layer.
        layouts: for each a hashable value; views of one block must agree in it.
    Returns:
        Lists of positions; None if two views overlap without being the same block.
    """
    groups: list[list[int]] = []
    for i, view in enumerate(views):
        for group in groups:
            other = views[group[0]]
            same = (view.root, view.bounds, layouts[i]) == (
                other.root,
                other.bounds,
                layouts[group[0]],
            )
            if same:
                group.append(i)
                break
            if not _disjoint(view, other):
                return None
        else:
            groups.append([i])
    return groups


def _disjoint(a: View, b: View) -> bool:
    regions = [
        (view.bounds if view.root == () else view.region) for view in (a, b)
    ]  # both along the parameter's own axes
    if _apart(*regions):
        return True
    return a.root == b.root and _apart(a.bounds, b.bounds)


def _apart(a: Bounds, b: Bounds) -> bool:
    return any(start >= stop or begin >= limit for (start, limit), (begin, stop) in zip(a, b))
