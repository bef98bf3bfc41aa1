"""The same update under `jax.pmap`: one program a device, sums across them by `psum`.

Kept for code that thinks in devices; `library.sharding.compile_step` is the default. The state goes
in and comes out whole (in_axes=None), so checkpoints, evaluation and the loop see the same
`TrainState` on either path, and a run can change from one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from library import sharding
from library.sharding import Step
from library.train_step import TrainStep, scan_steps
from library.types import Batch


def pmap_step(
    step_for_axis: Callable[[str], TrainStep],
    devices: Sequence[Any] | None = None,
    axis_name: str = "data",
) -> Step:
    """The step under pmap, equal to `compile_step` with data parallelism.

    Args:
        step_for_axis: axis name -> step, e.g.
            `lambda axis: make_train_step(loss_fn, optimizer, axis_name=axis)`.
        devices: local devices to use; all by default.
        axis_name: name of the mapped axis.
    Returns:
        `Step`; batch leaves [B, ...] are cut into [devices, B / devices, ...] in order.
    Raises:
        ValueError: if there is no device; at a call, if the devices do not divide the batch.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("devices=[]: expected one or more")
    step = step_for_axis(axis_name)

    def compiled(function: TrainStep, batch_axis: int) -> TrainStep:
        return jax.pmap(
            function,
            axis_name=axis_name,
            in_axes=(None, batch_axis),
            out_axes=(None, None),
            devices=devices if jax.process_count() == 1 else None,
            donate_argnums=0,
        )

    def place_batch(batch: Batch, stacked: bool) -> Batch:
        sharding.check_divides(batch, len(devices), int(stacked))
        return jax.tree.map(lambda leaf: _split(leaf, len(devices), int(stacked)), batch)

    mesh = Mesh(np.array(devices), (axis_name,), axis_types=(AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())
    return Step(
        one=compiled(step, 0),
        many=compiled(scan_steps(step), 1),
        place_state=lambda state: sharding.place(state, jax.tree.map(lambda _: replicated, state)),
        place_batch=place_batch,
    )


def _split(leaf: Any, num_devices: int, axis: int) -> Any:
    """[..., B, ...] as [..., devices, B / devices, ...]."""
    shape = leaf.shape
    return leaf.reshape(shape[:axis] + (num_devices, -1) + shape[axis + 1 :])
