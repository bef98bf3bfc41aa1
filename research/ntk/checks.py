"""What the entry points of this topic check once, and their view of a network: one example."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from library.checks import count as count  # the entry points of this topic find all here
from library.types import Array, Params, PyTree, at_least_float32
from research.ntk.jacobians import jaxprs

_ARITHMETIC = ("convert_element_type", "dot_general", "conv_general_dilated")
_SHAPES_ONLY = ("reshape", "broadcast_in_dim", "squeeze", "transpose", "slice")

Apply = Callable[[Params, PyTree], PyTree]


def one_example(apply: Apply) -> Apply:
    """The network on one example: inputs and outputs without the batch axis, float32 or wider."""

    def function(params: Params, x: PyTree) -> PyTree:
        batched = jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), x)
        return widened(jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), apply(params, batched)))

    return function


def widened(tree: PyTree) -> PyTree:
    """A tree with all real float leaves in one dtype: the widest of them, at least float32.

    What a kernel is computed in: of parameters in half precision its sums would be too.
    """
    is_real = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    floats = [leaf for leaf in jax.tree.leaves(tree) if is_real(leaf)]
    if not floats:
        return tree
    dtype = at_least_float32(*floats)
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(leaf, dtype) if is_real(leaf) and jnp.result_type(leaf) != dtype else leaf
        ),
        tree,
    )


def first(x: PyTree) -> PyTree:
    """Shapes and dtypes of one example of a batch."""
    return jax.tree.map(lambda leaf: shape_of(leaf, leaf.shape[1:]), x)


def shape_of(leaf: Array, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """That shape with the dtype that JAX computes the leaf in: NumPy's float64 may be narrowed."""
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(leaf.dtype))


def split_float(params: Params) -> tuple[dict[int, Array], Callable[[dict[int, Array]], Params]]:
    """The differentiable leaves by number, as real arrays, and the map from them back.

    A complex leaf is two real parameters, its real and its imaginary part: [2, ...].
    """
    leaves, structure = jax.tree.flatten(params)
    free = {i: as_real(leaf) for i, leaf in enumerate(leaves) if is_float(leaf)}

    def restore(free: dict[int, Array]) -> Params:
        whole = [as_before(free[i], leaf) if i in free else leaf for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, whole)

    return free, restore


def as_real(leaf: Array) -> Array:
    """A float leaf as it is, a complex one as its real and imaginary part, [2, ...]."""
    return jnp.stack([jnp.real(leaf), jnp.imag(leaf)]) if is_complex(leaf) else leaf


def as_before(real: Array, leaf: Array) -> Array:
    """The inverse of `as_real` for a leaf of this dtype."""
    return jax.lax.complex(real[0], real[1]) if is_complex(leaf) else real


def is_float(leaf: Any) -> bool:
    """Whether a leaf can be differentiated: it is real or complex."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def is_complex(leaf: Any) -> bool:
    """Whether a leaf is complex."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)


def num_examples(x: PyTree, name: str) -> int:
    """The common first axis of all leaves.

    Raises:
        ValueError: if there is none.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or () in sizes:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
        raise ValueError(f"{name} has leaves of shapes {shapes}: expected one common first axis")
    (size,) = sizes.pop()
    if not size:
        raise ValueError(f"{name} holds no example")
    return size


def same_examples(x1: PyTree, x2: PyTree | None, names: tuple[str, str] = ("x1", "x2")) -> None:
    """That two sets of inputs differ in their number of examples only.

    Raises:
        ValueError: if not, naming the leaves.
    """
    num_examples(x1, names[0])
    if x2 is None:
        return
    num_examples(x2, names[1])
    kind = lambda x: jax.tree.map(lambda leaf: (jnp.shape(leaf)[1:], str(leaf.dtype)), x)
    if jax.tree.structure(x1) != jax.tree.structure(x2) or kind(x1) != kind(x2):
        raise ValueError(
            f"{' and '.join(names)} hold different examples: {kind(x1)} and {kind(x2)} "
            "(shape, dtype)"
        )


def network(apply: Apply, params: Params, x1: PyTree, outputs: str) -> None:
    """That the network takes these inputs and has the outputs asked for.

    Raises:
        ValueError: if it does not take one example with a batch axis, keeps no batch axis, has no
            output axis for "diagonal" or "trace", has outputs that are not real, or turns integer
            inputs into floats.
    """
    one = jax.tree.map(lambda leaf: shape_of(leaf, (1, *leaf.shape[1:])), x1)
    try:
        results = jax.eval_shape(apply, params, one)
    except Exception as error:  # whatever the network raises, Flax's own classes too
        shapes = [tuple(jnp.shape(leaf)) for leaf in jax.tree.leaves(x1)]
        taken = [tuple(leaf.shape) for leaf in jax.tree.leaves(one)]
        raise ValueError(
            f"x1 of shape {_listed(shapes)} counts as {num_examples(x1, 'x1')} examples, and apply "
            f"does not take one of them, {_listed(taken)} (is the axis of examples missing?): "
            f"{str(error).splitlines()[0]}"
        ) from error
    for path, leaf in jax.tree_util.tree_leaves_with_path(results):
        name = "output" + jax.tree_util.keystr(path)
        if not leaf.shape or leaf.shape[0] != 1:
            raise ValueError(
                f"apply turns 1 example into {name} of shape {leaf.shape}: expected the "
                "examples along its first axis"
            )
        if outputs != "full" and len(leaf.shape) == 1:
            raise ValueError(
                f"outputs={outputs!r} needs an output axis, but {name} is [N], one number an "
                "example: use outputs='full', which is [N1, N2] here"
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name} has dtype {leaf.dtype}: expected a float to differentiate"
                + " (of a complex output take real and imaginary part as two)" * is_complex(leaf)
            )
    integers_stay_integers(apply, params, x1)


def integers_stay_integers(apply: Apply, params: Params, x1: PyTree) -> None:
    """That integer inputs index something: a cast to float means float inputs were forgotten.

    Raises:
        ValueError: if the network casts an integer input to float.
    """
    if all(is_float(leaf) for leaf in jax.tree.leaves(x1)):
        return
    program = jaxprs.trace(one_example(apply), params, first(x1))
    raw = {value for value in program.inputs if _is_integer(program.avals[value].dtype)}
    for operation in program.operations:
        if not any(isinstance(value, int) and value in raw for value in operation.inputs):
            continue
        (out,) = operation.outputs[:1]
        made = program.avals[out].dtype
        if operation.name in _ARITHMETIC and jnp.issubdtype(made, jnp.inexact):
            dtypes = sorted({str(program.avals[value].dtype) for value in raw})
            raise ValueError(
                f"x1 has dtype {', '.join(dtypes)}, which the network turns into {made}: pass "
                "float inputs (integers are for embedding lookups)"
            )
        if operation.name in _SHAPES_ONLY:
            raw |= set(operation.outputs)


def choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """That an argument has one of the values it may have.

    Raises:
        ValueError: if not.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}")


def size_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """Bytes of an array."""
    return math.prod(shape) * jnp.dtype(dtype).itemsize


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def _is_integer(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.integer)
