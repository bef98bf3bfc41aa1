"""Checkpoints of a run: written in the background, whole or not at all, checked when read.

A checkpoint is the folder `<directory>/<step>`: Orbax writes the arrays,
`library.storage.sealed_folders` makes the folder appear at once and detects later damage. A damaged
folder is reported and passed over, never deleted; when the run goes on past it, it is renamed to
`<step>.damaged`. What the machine cannot do (no memory, no file handle) is an error of its own.

With several processes, all see one file system and call every method together.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from library import checks, multihost, types
from library.storage import files, orbax_noise, sealed_folders, system_errors
from library.types import Params, PyTree, TrainState

_BARE = "array"  # the name under which Orbax, which takes trees only, gets an item of one array
NONE, ALL_DAMAGED = -1, -2  # what process 0 tells the others when there is no step to use


class CheckpointError(RuntimeError):
    """A checkpoint could not be saved, or none of those there is usable."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over."""


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save.

    Args:
        directory: a folder of their own, made if missing, on a file system with atomic renames.
        every: steps between two checkpoints.
        keep: how many of the newest to keep.
    Raises:
        ValueError: for a period or number that is not positive, or an address such as gs://.
        CheckpointError: if the folder cannot be made.
    """

    def __init__(self, directory: str | os.PathLike, *, every: int, keep: int = 3):
        for name, value in (("every", every), ("keep", keep)):
            checks.count(f"checkpoints: {name}", value)
        self.directory = files.local(directory, "checkpoints: directory").absolute()
        self.every, self.keep = every, keep
        self._damaged: dict[int, str] = {}  # what was found and reported, by step
        self._num_saves = 0
        self._pending: tuple[int, concurrent.futures.Future] | None = None
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writer = _make_writer()
        try:
            if multihost.is_main_process():
                self.directory.mkdir(parents=True, exist_ok=True)
                sealed_folders.delete_unfinished(self.directory)
        except OSError as error:
            raise CheckpointError(
                f"no checkpoints in {self.directory}: {_one_line(error)}"
            ) from error
        multihost.barrier("checkpoints")

    def is_due(self, step: int) -> bool:
        """Whether `step` is a multiple of the period."""
        return step % self.every == 0

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write the state; returns once its buffers may be donated.

        Waits first for the save before, if that still runs.

        Raises:
            CheckpointError: if the save before failed, this one cannot start, or an undamaged
                checkpoint of this step is there.
        """
        from orbax.checkpoint import args

        self.wait()
        self._make_way(step)
        items = {
            name: args.StandardSave(jax.tree.map(_storable, item))
            for name, item in _as_trees(_items(state)).items()
            if jax.tree.leaves(item)
        }
        try:
            self._num_saves += 1
            staged = sealed_folders.unfinished(self.directory, step, self._num_saves)
            self._writer.save(staged, args=args.Composite(**items))
        except MemoryError:
            raise
        except Exception as error:
            raise self._failure(step, error) from error
        self._pending = step, self._background.submit(self._finish, staged, _layout(state))

    def wait(self) -> None:
        """Returns when the last save is whole on disk.

        Raises:
            CheckpointError: if it failed; earlier checkpoints are as they were.
        """
        if self._pending is None:
            return
        (step, future), self._pending = self._pending, None
        error = future.exception()
        if multihost.agreed_maximum(int(error is not None)):
            if isinstance(error, MemoryError):
                raise error
            raise self._failure(step, error or "another process failed") from error

    def close(self) -> None:
        """Waits for the last save and ends the background threads; raises what `wait` raises."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._writer.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if kind is None:
                raise
            warnings.warn(CheckpointWarning(str(failure)), stacklevel=2)  # must not hide `error`

    def latest(self) -> int | None:
        """The newest undamaged step; None when there is none. Warns of damaged ones."""
        self.wait()
        chosen = self._choose(None)
        return None if chosen < 0 else chosen

    def restore(self, state_like: TrainState, step: int | None = None) -> TrainState | None:
        """The state of the newest undamaged checkpoint, or of the one asked for.

        Args:
            state_like: arrays, or `jax.ShapeDtypeStruct`s with shardings: the shapes expected and
                where to put the leaves, on any mesh and number of processes.
            step: a step, or None for the newest.
        Returns:
            `TrainState`, equal to the one saved to the bit; None when there is no checkpoint.
        Raises:
            ValueError: if shapes, dtypes or structure differ, before any array is read.
            CheckpointError: if all checkpoints are damaged, or the one asked for is or is missing.
        OSError, MemoryError: if the machine cannot read, whatever is in the files.
        """
        self.wait()
        chosen = self._choose(step)
        if chosen == NONE:
            return None
        folder = _usable(self.directory, chosen)
        _check_layout(folder, sealed_folders.read_note(folder), _layout(state_like), "the run")
        items = _read(folder, _items(state_like))
        return state_like.replace(**items.pop("run"), **items)

    def _choose(self, step: int | None) -> int:
        chosen, damaged = _choose(self.directory, step, self._damaged)
        self._damaged |= damaged
        return chosen

    def _make_way(self, step: int) -> None:
        """Sets damaged checkpoints aside, one of this very step included."""
        conflict = False
        if multihost.is_main_process():
            sealed_folders.delete_unfinished(self.directory)
            folder = self.directory / str(step)
            unread = folder.exists() and step not in self._damaged
            conflict = unread and sealed_folders.damage(folder) is None
            for damaged in {*self._damaged, step} if not conflict else ():
                sealed_folders.set_aside(self.directory / str(damaged))
        if multihost.from_main_process(int(conflict)):
            raise CheckpointError(
                f"checkpoint of step {step} not saved: an undamaged one is in {self.directory}"
            )
        self._damaged.clear()

    def _finish(self, staged: pathlib.Path, layout: dict[str, str]) -> None:
        """In the background: waits for the arrays of all processes, then process 0 commits."""
        self._writer.wait_until_finished()
        if multihost.is_main_process():
            sealed_folders.seal(staged, layout)
            sealed_folders.keep_newest(self.directory, self.keep)

    def _failure(self, step: int, reason: BaseException | str) -> CheckpointError:
        if multihost.is_main_process():
            sealed_folders.delete_unfinished(self.directory)  # gives a full disk its space back
        return CheckpointError(
            f"checkpoint of step {step} not saved in {self.directory}: {_one_line(reason)}"
        )


def restore_params(
    directory: str | os.PathLike,
    params_like: Params | None = None,
    step: int | None = None,
    ema: bool = False,
) -> Params:
    """The parameters alone, whatever optimizer and model state the run had.

    Args:
        directory: the run's folder of checkpoints; it may be in use.
        params_like: shapes and shardings expected; None gives nested dicts and lists on one device.
        step: a step, or None for the newest undamaged one.
        ema: their moving average instead, which is in float32 at least.
    Returns:
        Parameters, equal to those saved to the bit.
    Raises:
        ValueError: if shapes, dtypes or structure differ from `params_like`, or the run kept no
            average.
        CheckpointError: if there is no undamaged checkpoint.
    """
    directory = files.local(directory).absolute()
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoints: {directory} is not a folder")
    folder = _usable(directory, _choose(directory, step)[0])
    name = "ema" if ema else "params"
    layout = sealed_folders.read_note(folder)
    saved = {path: leaf for path, leaf in layout.items() if path.partition("/")[0] == name}
    if not saved:
        what = "moving average of the parameters" if ema else "parameters"
        raise ValueError(f"checkpoint {folder} holds no {what}")
    if params_like is None:
        params_like = _stored_tree(folder / name)
        params_like = params_like[_BARE] if saved.keys() == {name} else params_like
    else:
        params_like = jax.tree.map(_averaged, params_like) if ema else params_like
        _check_layout(folder, saved, _layout({name: params_like}), "params_like")
    return _read(folder, {name: params_like})[name]


def _choose(
    directory: pathlib.Path, step: int | None, known: Mapping[int, str] = {}
) -> tuple[int, dict[int, str]]:
    """The step to use (or NONE, ALL_DAMAGED) and the damage found, of which it warns once.

    Process 0 reads the files and judges; all go the same way.
    """
    chosen, damaged = NONE, {}
    if multihost.is_main_process():
        whole, damaged = sealed_folders.newest_whole(directory, step, known)
        use = "nothing else to use" if whole is None else f"using step {whole} instead"
        for number in damaged.keys() - known.keys():
            line = f"checkpoint step {number} in {directory} is damaged: {damaged[number]}; {use}"
            warnings.warn(CheckpointWarning(line), stacklevel=4)
        unusable = ALL_DAMAGED if damaged else NONE
        chosen = unusable if whole is None else whole
    chosen = multihost.from_main_process(chosen)
    if step is not None and chosen != step:
        what = "is damaged" if chosen == ALL_DAMAGED else "is not there"
        raise CheckpointError(f"checkpoint step {step} in {directory} {what}")
    return chosen, damaged


def _usable(directory: pathlib.Path, chosen: int) -> pathlib.Path:
    if chosen >= 0:
        return directory / str(chosen)
    what = "no checkpoint" if chosen == NONE else "every checkpoint is damaged"
    raise CheckpointError(f"{what} in {directory}; nothing was changed there")


def _items(state: TrainState) -> dict[str, PyTree]:
    """The parts that are stored, and can be read, one by one."""
    run = {name: getattr(state, name) for name in ("step", "opt_state", "model_state", "rng")}
    items = {"params": state.params, "run": run}
    return items if state.ema is None else {**items, "ema": state.ema}


def _as_trees(items: dict[str, PyTree]) -> dict[str, PyTree]:
    """The items, one that is an array alone in a dict of its own."""
    return {name: {_BARE: item} if _is_bare(item) else item for name, item in items.items()}


def _is_bare(item: PyTree) -> bool:
    return jax.tree_util.all_leaves([item])


def _layout(tree: PyTree) -> dict[str, str]:
    """Dtype and shape by path, e.g. {"params/Dense_0/kernel": "float32[3,4]"}."""

    def describe(leaf: Any) -> str:
        leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"

    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): describe(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _check_layout(
    folder: pathlib.Path, saved: dict[str, str], wanted: dict[str, str], who: str
) -> None:
    """Raises ValueError at the first path that differs."""
    for path in [*wanted, *saved]:
        if saved.get(path) != wanted.get(path):
            raise ValueError(
                f"checkpoint {folder} does not fit {who}: {path} is "
                f"{saved.get(path, 'missing')} in the checkpoint and "
                f"{wanted.get(path, 'missing')} in {who}"
            )


def _storable(leaf: Any) -> Any:
    """A leaf as Orbax takes it, which has no place for arrays of size zero."""
    leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return None if leaf.size == 0 else leaf


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and place of a leaf; the first device where it names none."""
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    sharding = getattr(leaf, "sharding", None)
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _averaged(leaf: Any) -> jax.ShapeDtypeStruct:
    """The moving average of a leaf of the parameters."""
    like = _target(leaf)
    dtype = jax.eval_shape(types.copy_at_least_float32, like).dtype
    return jax.ShapeDtypeStruct(like.shape, dtype, sharding=like.sharding)


def _read(folder: pathlib.Path, like: dict[str, PyTree]) -> dict[str, PyTree]:
    """The named items, placed as the leaves of `like` are."""
    import orbax.checkpoint as ocp

    def fill(leaf: jax.ShapeDtypeStruct, array: jax.Array | None) -> jax.Array:
        if array is not None:
            return array
        empty = jax.jit(lambda: jax.numpy.zeros(leaf.shape, leaf.dtype))
        return jax.device_put(empty(), leaf.sharding)

    targets = _as_trees(jax.tree.map(_target, like))
    requests = jax.tree.map(lambda leaf: None if leaf.size == 0 else leaf, targets)
    requests = {
        name: ocp.args.StandardRestore(item)
        for name, item in requests.items()
        if jax.tree.leaves(targets[name])
    }
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            items = reader.restore(folder, args=ocp.args.Composite(**requests))
    except Exception as error:
        system_errors.reraise(error)  # no file handle, no memory: the checkpoint is not to blame
        raise CheckpointError(f"checkpoint {folder} not readable: {_one_line(error)}") from error
    found = {name: items[name] if name in requests else targets[name] for name in like}
    filled = jax.tree.map(fill, targets, found)
    return {name: filled[name][_BARE] if _is_bare(like[name]) else filled[name] for name in like}


def _stored_tree(item: pathlib.Path) -> PyTree:
    """Shapes of an item as it was stored, containers as dicts and lists."""
    import orbax.checkpoint as ocp

    handler = ocp.StandardCheckpointHandler()
    tree = handler.metadata(item).tree
    handler.close()
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _make_writer() -> Any:
    import orbax.checkpoint as ocp

    orbax_noise.silence()
    return ocp.AsyncCheckpointer(
        ocp.CompositeCheckpointHandler(),
        # when made in the background, a folder that cannot be made fails only after minutes
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )


def _one_line(reason: BaseException | str) -> str:
    """The operating system's reason if there is one, else the first 300 characters."""
    code = re.search(r"os_error_code='(\d+)'|\[Errno (\d+)\]", str(reason))
    if code:
        return os.strerror(int(code[1] or code[2]))
    return " ".join(str(reason).split())[:300]
