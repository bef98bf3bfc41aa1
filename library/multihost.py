"""Several processes as one run: start-up, which rows are whose, and small agreements.

Every process runs the same program. `initialize` comes first, before anything touches a device;
then `jax.devices()` spans all processes. All functions that talk to the other processes
(`barrier`, `agreed_maximum`, `to_host` of arrays that are split over processes) must be called by
all of them in the same order. With one process each function is its trivial case.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import warnings
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, Sharding

from library.types import Batch, PyTree

# Launchers that JAX detects, by the variable in which they announce the number of processes.
COUNT_VARIABLES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_seconds: int = 300,
) -> None:
    """Joins this process to its run; does nothing for a single process or when already joined.

    Without arguments, from the environment: `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID` if set, else what JAX finds itself: Slurm's `srun`, GKE, MPI, TPU pods.

    Args:
        coordinator_address: `host:port` of process 0, free there and the same for all.
        num_processes: processes of the run.
        process_id: this one, in [0, num_processes).
        timeout_seconds: how long to wait for the others.
    Raises:
        ValueError: if the three do not fit together.
        RuntimeError: if JAX has touched its devices already, or does not understand the launcher.

    If the others do not come in time, the process ends with one line and status 1.
    """
    if jax.distributed.is_initialized():
        return
    address = coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    num_processes = _from_environment(num_processes, "JAX_NUM_PROCESSES")
    process_id = _from_environment(process_id, "JAX_PROCESS_ID")
    if num_processes == 1:
        return
    _check(address, num_processes, process_id)
    try:
        _join(address, num_processes, process_id, timeout_seconds)
    except (ValueError, RuntimeError) as error:
        nothing_asked = address is None and num_processes is None
        no_cluster, too_late = (
            text in str(error) for text in ("should be defined", "before any JAX calls")
        )
        if nothing_asked and (no_cluster or too_late and not _launched_together()):
            return  # one process, perhaps a notebook or a test that has used its devices already
        reason = "it must come before anything touches a device" if too_late else str(error)
        raise RuntimeError(f"multihost.initialize() failed: {reason.splitlines()[0]}") from error


def is_main_process() -> bool:
    """Whether this process writes what is written once: logs, metrics, reports."""
    return jax.process_index() == 0


def local_rows(batch_size: int, sharding: Sharding | None = None) -> tuple[int, int]:
    """This process's part of the rows 0..B-1 of a global batch.

    Args:
        batch_size: B, the global number of rows.
        sharding: how the batch's first axis is placed. None splits it evenly over processes, in
            order; a sharding that splits it over fewer devices gives several processes the same.
    Returns:
        (start, size).
    Raises:
        ValueError: if B does not divide.
    """
    count = jax.process_count()
    if sharding is None:
        if batch_size % count:
            raise ValueError(f"batch size {batch_size} is not a multiple of the {count} processes")
        size = batch_size // count
        return jax.process_index() * size, size
    try:
        slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    except ValueError as error:
        raise ValueError(
            f"batch size {batch_size} does not divide over {sharding.num_devices} devices as "
            f"{sharding}"
        ) from error
    bounds = [rows[0].indices(batch_size) for rows in slices]
    start, stop = min(low for low, _, _ in bounds), max(high for _, high, _ in bounds)
    return start, stop - start


def global_batch(local_batch: Batch, sharding: Sharding) -> Batch:
    """The batch of all processes as global arrays, each process giving its own rows.

    Args:
        local_batch: host arrays or typed keys [B_local, ...], the rows `local_rows(B, sharding)`
            of this process.
        sharding: placement of the global leaves.
    Returns:
        `jax.Array` leaves [B, ...].
    Raises:
        ValueError: if a leaf does not divide over this process's devices.
    """

    def place(path: tuple, leaf: np.ndarray) -> jax.Array:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = place(path, jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        leaf = np.asarray(leaf)
        if not isinstance(sharding, NamedSharding):
            return jax.device_put(leaf, sharding)
        shape = _global_shape(jax.tree_util.keystr(path, simple=True), leaf.shape, sharding)
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return jax.tree_util.tree_map_with_path(place, local_batch)


def global_tree(tree: PyTree, shardings: PyTree) -> PyTree:
    """Values that every process has alike, e.g. a state from one seed, as global arrays.

    Args:
        tree: host or device arrays and typed keys; global arrays are moved.
        shardings: a sharding for every leaf, on devices of any process.
    Returns:
        `jax.Array` leaves in buffers of their own.
    """

    def place(leaf: PyTree, sharding: Sharding) -> jax.Array:
        if isinstance(leaf, jax.Array):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = place(jax.random.key_data(leaf), sharding)
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
            if not leaf.is_fully_addressable:
                return jax.jit(jax.numpy.copy, out_shardings=sharding)(leaf)
        host = np.array(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree, shardings)


def barrier(name: str) -> None:
    """Returns once every process has come to the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed_maximum(number: int) -> int:
    """The largest of the processes' numbers, the same everywhere."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def from_main_process(number: int) -> int:
    """Process 0's number, everywhere."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def to_host(tree: PyTree) -> PyTree:
    """numpy copies of global arrays, whole on every process."""

    def fetch(leaf: jax.Array) -> np.ndarray:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return np.array(leaf)
        if leaf.is_fully_replicated:
            return np.array(leaf.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(fetch, tree)


def _global_shape(
    name: str, local_shape: tuple[int, ...], sharding: NamedSharding
) -> tuple[int, ...]:
    """The shape whose part on this process's devices is `local_shape`."""
    mesh, local_mesh = sharding.mesh.shape, sharding.mesh.local_mesh.shape
    shape = list(local_shape)
    for dim, names in enumerate(sharding.spec):
        names = (names,) if isinstance(names, str) else tuple(names or ())
        num_local = math.prod(local_mesh[axis] for axis in names)
        if dim >= len(shape) or shape[dim] % num_local:
            raise ValueError(
                f"batch leaf {name!r} has shape {local_shape} on this process: expected axis {dim} "
                f"to be a multiple of its {num_local} devices along {'*'.join(names)}"
            )
        shape[dim] *= math.prod(mesh[axis] for axis in names) // num_local
    return tuple(shape)


def _from_environment(value: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if value is not None or text is None:
        return value
    if not text.isdecimal():
        raise ValueError(f"{variable}={text!r}: expected a whole number")
    return int(text)


def _check(address: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Raises ValueError for values that cannot belong to one run."""
    if address is not None and not address.rpartition(":")[2].isdecimal():
        raise ValueError(f"coordinator_address={address!r}: expected host:port")
    if num_processes is not None and num_processes < 1:
        raise ValueError(f"num_processes={num_processes}: expected a positive number")
    if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
        raise ValueError(
            f"process_id={process_id}: expected a number from 0 to num_processes - 1, "
            f"num_processes={num_processes}"
        )


def _join(
    address: str | None, num_processes: int | None, process_id: int | None, timeout_seconds: int
) -> None:
    late = (
        f"process {process_id} of {num_processes} gave up after {timeout_seconds} s: not all "
        f"processes of the run came to {address or 'the coordinator that JAX found'}"
    )
    with warnings.catch_warnings(), _time_limit(timeout_seconds, late):
        # a lone pod needs no `kubernetes` package
        warnings.filterwarnings("ignore", message="Kubernetes environment detected")
        jax.distributed.initialize(
            address, num_processes, process_id, initialization_timeout=timeout_seconds + 60
        )


@contextlib.contextmanager
def _time_limit(seconds: float, message: str) -> Iterator[None]:
    """Ends the process with one line when the others do not come.

    Nothing can be raised: JAX waits inside C++ and then aborts the process with a stack trace.
    """

    def give_up() -> None:
        print(message, file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _launched_together() -> bool:
    """Whether a launcher's variables speak of several processes."""
    counts = [os.environ.get(variable, "") for variable in COUNT_VARIABLES]
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(hosts) > 1 or any(text.isdecimal() and int(text) > 1 for text in counts)
