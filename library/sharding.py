"""Where arrays live: meshes, path rules to shardings, and a training step compiled for them.

A *rule* is a pair (regular expression, spec). The first rule whose expression is found in the path
of a leaf, e.g. `params/Dense_0/kernel` or `opt_state/0/mu/Dense_0/kernel`, places that leaf, so one
rule serves parameters, their average and the optimizer's moments. A spec is a `PartitionSpec`, or
a function (shape, mesh) -> PartitionSpec such as `fsdp()`. Leaves without a rule are replicated.

    data parallel       rules=()
    FSDP                rules=((".*", fsdp()),)
    tensor parallel     rules=(("up/kernel", P(None, "model")), ("down/kernel", P("model", None)))
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from library import loops, multihost
from library.train_step import TrainStep, scan_steps
from library.types import Batch, Metrics, PyTree, TrainState

Spec = PartitionSpec | Callable[[tuple[int, ...], Mesh], PartitionSpec]
Rules = Sequence[tuple[str, Spec]]


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled update with the placement of its arguments; what `library.fit.fit` runs.

    Attributes:
        one: (state, batch) -> (state, metrics); donates the state.
        many: the same over batch leaves [K, B, ...] in one call, metrics [K].
        place_state: puts a state where `one` and `many` expect it.
        place_batch: (batch, stacked) -> the batch as `one` (or, stacked, `many`) takes it.
    """

    one: TrainStep
    many: TrainStep
    place_state: Callable[[TrainState], TrainState] = lambda state: state
    place_batch: Callable[[Batch, bool], Batch] = lambda batch, stacked: batch

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return self.one(state, self.place_batch(batch, False))


def make_mesh(axes: Mapping[str, int] | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh whose axes the compiler may use freely (`AxisType.Auto`).

    Args:
        axes: size by name, e.g. {"data": 4, "model": 2}; None puts all devices on "data".
        devices: the devices to use; all by default.
    Returns:
        Mesh over the first prod(sizes) devices.
    Raises:
        ValueError: if a size is no positive whole number or there are too few devices.
    """
    devices = jax.devices() if devices is None else devices
    axes = {"data": len(devices)} if axes is None else dict(axes)
    count = math.prod(axes.values())
    text = ",".join(f"{name}={size}" for name, size in axes.items())
    whole = all(isinstance(size, int | np.integer) for size in axes.values())
    if not axes or not whole or min(axes.values()) < 1:
        raise ValueError(
            f"mesh {text!r}: expected positive sizes, whole numbers, e.g. data=4,model=2"
        )
    if count > len(devices):
        raise ValueError(f"mesh {text!r} needs {count} devices, {len(devices)} are there")
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(AxisType.Auto,) * len(axes),
        devices=devices[:count],
    )


def parse_mesh(text: str) -> dict[str, int] | None:
    """Axes by name from `data=4,model=2`; None for the empty text.

    Raises:
        ValueError: if the text is not a list of name=size.
    """
    if not text:
        return None
    pairs = re.findall(r"([A-Za-z_]\w*)=(\d+)(?:,|$)", text)
    if ",".join(f"{name}={size}" for name, size in pairs) != text or len(dict(pairs)) < len(pairs):
        raise ValueError(f"mesh {text!r}: expected NAME=SIZE,..., e.g. data=4,model=2")
    return {name: int(size) for name, size in pairs}


def fsdp(axis: str = "data", min_size: int = 4096) -> Spec:
    """A spec that splits the largest axis that the mesh axis divides; small leaves stay whole.

    With the batch on the same mesh axis this is fully sharded data parallelism (ZeRO stage 3,
    Rajbhandari et al. 2020, arXiv:1910.02054): the compiler gathers a weight where it is used.

    Args:
        axis: mesh axis to split over.
        min_size: leaves with fewer elements are replicated.
    """

    def spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        size = mesh.shape[axis]
        splittable = [dim for dim, length in enumerate(shape) if length % size == 0]
        if math.prod(shape) < min_size or not splittable:
            return PartitionSpec()
        best = max(splittable, key=lambda dim: shape[dim])
        return PartitionSpec(*(axis if dim == best else None for dim in range(len(shape))))

    return spec


def shardings(tree: PyTree, mesh: Mesh, rules: Rules = ()) -> PyTree:
    """A `NamedSharding` for every leaf of a tree of arrays or shapes.

    Raises:
        ValueError: if a rule names an axis the mesh lacks, does not divide a leaf's shape, or
            matches no leaf.
    """
    used: set[int] = set()

    def place(path: tuple, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for index, (pattern, spec) in enumerate(rules):
            if re.search(pattern, name):
                used.add(index)
                spec = spec(leaf.shape, mesh) if callable(spec) else spec
                if len(spec) > len(leaf.shape) and name.startswith("opt_state"):
                    break  # factored or scalar statistics of a matrix: too small to split
                _check_spec(name, leaf.shape, spec, mesh, pattern)
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    placed = jax.tree_util.tree_map_with_path(place, tree)
    for index, (pattern, _) in enumerate(rules):
        if index not in used:
            raise ValueError(f"sharding rule {pattern!r} matches no leaf")
    return placed


def compile_step(
    step: TrainStep,
    state: TrainState,
    mesh: Mesh,
    rules: Rules = (),
    batch_axes: str | tuple[str, ...] = "data",
) -> Step:
    """The step under jit on a mesh: state by rules, batch split over `batch_axes`, state donated.

    Args:
        step: from `make_train_step`, with axis_name=None.
        state: the state or its shapes (`jax.eval_shape`).
        mesh: from `make_mesh`.
        rules: see the module's docstring.
        batch_axes: mesh axes that the first axis of every batch leaf is split over.
    Returns:
        `Step`; metrics come back replicated.
    Raises:
        ValueError: for a rule that does not fit, or at a call with a batch that does not divide.
    """
    names = (batch_axes,) if isinstance(batch_axes, str) else tuple(batch_axes)
    batch_sharding = NamedSharding(mesh, _known_axes(PartitionSpec(names), mesh, "batch_axes"))
    stacked_sharding = NamedSharding(mesh, PartitionSpec(None, names))
    state_shardings = shardings(state, mesh, rules)
    replicated = NamedSharding(mesh, PartitionSpec())
    num_shards = math.prod(mesh.shape[name] for name in names)

    def compiled(function: TrainStep, batch_sharding: NamedSharding) -> TrainStep:
        return jax.jit(
            function,
            in_shardings=(state_shardings, batch_sharding),
            out_shardings=(state_shardings, replicated),
            donate_argnums=0,
        )

    alone = jax.process_count() == 1

    def place_batch(batch: Batch, stacked: bool) -> Batch:
        if not alone:
            return multihost.global_batch(batch, stacked_sharding if stacked else batch_sharding)
        check_divides(batch, num_shards, int(stacked))
        return batch

    one = compiled(step, batch_sharding)
    return Step(
        one=one,
        many=loops.many(step, one, compiled(scan_steps(step), stacked_sharding)),
        place_state=lambda state: place(state, state_shardings),
        place_batch=place_batch,
    )


def place(tree: PyTree, tree_shardings: PyTree) -> PyTree:
    """The tree on its shardings, in buffers of its own, so that donating it spares the original."""
    if jax.process_count() > 1:
        return multihost.global_tree(tree, tree_shardings)
    # device_put alone may hand back the buffer it was given on one of the devices.
    return jax.tree.map(jnp.copy, jax.device_put(tree, tree_shardings))


def init_on_mesh(make_state: Callable[[], PyTree], mesh: Mesh, rules: Rules = ()) -> PyTree:
    """The result of `make_state`, made in place on the mesh: no device ever holds all of it."""
    abstract = jax.eval_shape(make_state)
    return jax.jit(make_state, out_shardings=shardings(abstract, mesh, rules))()


def split_over_devices(params: PyTree, batch: Batch) -> tuple[PyTree, Batch]:
    """Parameters on all devices and a batch split over them, for a jitted function of both.

    What comes out is split as the batch is, and equal to one device's but for the rounding of its
    sums. With several processes everything stays where it is.

    Args:
        params: any pytree that every device needs whole.
        batch: leaves [B, ...].
    Returns:
        Both, on the largest number of devices that divides B.
    """
    if jax.process_count() > 1:
        return params, batch
    size, devices = len(jax.tree.leaves(batch)[0]), jax.devices()
    mesh = make_mesh({"data": largest_divisor(size, len(devices))})
    whole, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    return jax.device_put(params, whole), jax.device_put(batch, split)


def on_one_device(tree: PyTree) -> PyTree:
    """A tree whole on the first device, so that what uses it is computed once and not on each.

    With several processes it stays where it is.
    """
    return tree if jax.process_count() > 1 else jax.device_put(tree, jax.devices()[0])


def largest_divisor(size: int, most: int) -> int:
    """The largest number up to `most` that divides a size >= 1."""
    return max(count for count in range(1, most + 1) if size % count == 0)


def check_divides(batch: Batch, num_shards: int, axis: int = 0) -> None:
    """Raises ValueError if a leaf's batch axis is not a multiple of the number of shards."""
    if num_shards == 1:
        return
    for leaf in jax.tree.leaves(batch):
        if np.shape(leaf)[axis] % num_shards:
            raise ValueError(
                f"batch size {np.shape(leaf)[axis]} is not a multiple of the {num_shards} devices "
                "that the batch is split over"
            )


def _check_spec(
    name: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh, pattern: str
) -> None:
    _known_axes(spec, mesh, f"sharding rule {pattern!r}")
    if len(spec) > len(shape):
        raise ValueError(f"{name} of shape {shape} has too few axes for {spec}, rule {pattern!r}")
    for dim, names in enumerate(spec):
        names = (names,) if isinstance(names, str) else tuple(names or ())
        size = math.prod(mesh.shape[axis] for axis in names)
        if shape[dim] % size:
            raise ValueError(
                f"{name} of shape {shape}: axis {dim} is not a multiple of the mesh's "
                f"{'*'.join(names)}={size}, rule {pattern!r}"
            )


def _known_axes(spec: PartitionSpec, mesh: Mesh, what: str) -> PartitionSpec:
    """The spec, if the mesh has all its axes."""
    for names in spec:
        for axis in (names,) if isinstance(names, str) else tuple(names or ()):
            if axis not in mesh.shape:
                raise ValueError(f"{what} names axis {axis!r}; the mesh has {tuple(mesh.shape)}")
    return spec
