"""Weights in and out: Hugging Face checkpoints by tensor name, every shape checked."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from library.storage import files
from library.types import Params
from research.transformers import models
from research.transformers.huggingface import names

Source = str | os.PathLike | Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]  # of our parameters, by path


def from_huggingface(config: names.Config, source: Source, dtype: Any = None) -> Params:
    """Parameters of a config from a checkpoint of its family.

    Args:
        config: e.g. `published.GPT2_SMALL`, or `configs.read(folder)`.
        source: a folder with *.safetensors, one such file, or the tensors by name.
        dtype: of the result; None keeps the checkpoint's.
    Returns:
        {"params": ...} as `model.init` makes it, host arrays.
    Raises:
        ValueError: naming the tensor and both shapes if one does not fit, tensors that are missing
            or unknown, a copy of the embedding that is none, and a source that is an address.
        FileNotFoundError: if there is no checkpoint.
    """
    return read(names.of(config), _shapes(config), source, dtype)


def to_huggingface(config: names.Config, params: Params) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, the inverse of `from_huggingface`.

    Tied output matrices are left out, as Hugging Face's own safetensors files leave them out.

    Args:
        config: that of the parameters.
        params: {"params": ...}.
    Raises:
        ValueError: naming the parameter and both shapes if one does not fit the config.
    """
    return write(names.of(config), _shapes(config), params)


def save(file: str | os.PathLike, config: names.Config, params: Params) -> None:
    """Writes `to_huggingface(config, params)` as one safetensors file."""
    save_tensors(file, to_huggingface(config, params))


def tensor_shapes(config: names.Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint of this config, without making one."""
    return shapes_of(names.of(config), _shapes(config))


def read(table: names.Names, shapes: Shapes, source: Source, dtype: Any = None) -> Params:
    """`from_huggingface` for any table of names.

    Args:
        table: theirs and ours.
        shapes: of our parameters, by path below `params`.
        source, dtype: as there; so are result and errors.
    """
    params: dict[str, np.ndarray] = {}
    with _open(source, table) as (known, get):
        wanted = dict(_tensors(table, shapes))
        missing = [name for name in wanted if name not in known]
        ignored = re.compile(table.ignored)
        unknown = [name for name in known if name not in wanted and not ignored.search(name)]
        if missing or unknown:
            raise ValueError(
                f"not a {table.family} checkpoint of this config: "
                f"missing {_some(missing)}; unknown {_some(unknown)}"
            )
        for copy, original in table.tied:
            if copy in known and copy not in wanted and original in wanted:
                if not np.array_equal(get(copy), get(original)):
                    raise ValueError(
                        f"tensor {copy} is not {original}: the config ties the output matrix"
                    )
        for entry in _entries(table, shapes):
            ours = [_layer_shape(entry, shapes[path]) for path in entry.paths]
            layers = range(shapes[entry.paths[0]][0]) if entry.layered else [None]
            rows = []
            for layer in layers:
                name = entry.name.format(layer)
                tensor = np.asarray(get(name))
                if tensor.shape != entry.shape(ours):
                    raise ValueError(
                        f"tensor {name} has shape {tensor.shape}, "
                        f"the config expects {entry.shape(ours)}"
                    )
                rows.append(entry.read(tensor if dtype is None else tensor.astype(dtype), ours))
            for path, parts in zip(entry.paths, zip(*rows)):
                params[path] = np.stack(parts) if entry.layered else parts[0]
    return {"params": flax.traverse_util.unflatten_dict(params, sep="/")}


def write(table: names.Names, shapes: Shapes, params: Params) -> dict[str, np.ndarray]:
    """`to_huggingface` for any table of names; arguments as `read`."""
    flat = checked(shapes, params)
    tensors = {}
    for entry in _entries(table, shapes):
        arrays = [np.asarray(flat[path]) for path in entry.paths]
        if not entry.layered:
            tensors[entry.name] = entry.write(arrays)
            continue
        for layer in range(len(arrays[0])):
            name = entry.name.format(layer)
            tensors[name] = entry.write([array[layer] for array in arrays])
    return tensors


def checked(shapes: Shapes, params: Params) -> dict[str, Any]:
    """Parameters by path.

    Raises:
        ValueError: naming those that are missing, unknown, or of another shape.
    """
    flat = flax.traverse_util.flatten_dict(params["params"], sep="/")
    if flat.keys() != shapes.keys():
        missing, unknown = sorted(shapes.keys() - flat), sorted(flat.keys() - shapes)
        raise ValueError(f"parameters: missing {_some(missing)}; unknown {_some(unknown)}")
    for path, shape in shapes.items():
        if flat[path].shape != shape:
            raise ValueError(f"{path} has shape {flat[path].shape}, the config expects {shape}")
    return flat


def save_tensors(file: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors by name as one safetensors file that PyTorch's readers accept.

    Raises:
        ValueError: if the file is an address.
    """
    file = files.local(file, "file")
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    import safetensors.numpy  # late: everything else works without it

    safetensors.numpy.save_file(contiguous, file, metadata={"format": "pt"})


def shapes_of(table: names.Names, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """`tensor_shapes` for any table of names."""
    return dict(_tensors(table, shapes))


def parameter_shapes(init: Callable[..., Params], *args: Any) -> Shapes:
    """Shapes of a model's parameters by path, by tracing `init(rng, *args)`."""
    tree = jax.eval_shape(init, jax.random.key(0), *args)["params"]
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def _shapes(config: names.Config) -> Shapes:
    """Our parameters' shapes by path."""
    token = jnp.zeros((1, 1), jnp.int32)
    if isinstance(config, models.DecoderConfig):
        model, args = models.Decoder(config), (token,)
    elif isinstance(config, models.EncoderConfig):
        model, args = models.Encoder(config), (token,)
    else:
        model, args = models.EncoderDecoder(config), (token, token)
    return parameter_shapes(model.init, *args)


def _entries(table: names.Names, shapes: Mapping) -> list[names.Entry]:
    """Those entries whose parameters the config has."""
    return [entry for entry in table.entries if entry.paths[0] in shapes]


def _tensors(table: names.Names, shapes: Mapping) -> Iterator[tuple[str, tuple[int, ...]]]:
    for entry in _entries(table, shapes):
        ours = [_layer_shape(entry, shapes[path]) for path in entry.paths]
        for layer in range(shapes[entry.paths[0]][0]) if entry.layered else [None]:
            yield entry.name.format(layer), entry.shape(ours)


def _layer_shape(entry: names.Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if entry.layered else shape


@contextlib.contextmanager
def _open(source: Source, table: names.Names) -> Iterator[tuple[set[str], Callable]]:
    """The names in a checkpoint, as the table spells them, and a function that reads one."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, Mapping):
            where = dict.fromkeys(source, source)

            def get(name: str) -> Any:
                return source[name]

        else:
            import safetensors  # late: tensors by name need nothing

            opened = [
                stack.enter_context(safetensors.safe_open(path, "numpy"))
                for path in _files(files.local(source, "source"))
            ]
            where = {name: file for file in opened for name in file.keys()}

            def get(name: str) -> Any:
                return where[name].get_tensor(name)

        spelled = {_spelling(name, table, where): name for name in where}
        yield set(spelled), lambda name: get(spelled[name])


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not found or not all(file.is_file() for file in found):
        raise FileNotFoundError(f"{path}: no safetensors file")
    return found


def _spelling(name: str, table: names.Names, all_names: Mapping) -> str:
    """A checkpoint's name as the table has it: with the prefix, and not in TensorFlow's words."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    bare = not any(other.startswith(table.prefix) for other in all_names)
    return table.prefix + name if bare and not name.startswith(("lm_head.", "cls.")) else name


def _some(items: list[str], most: int = 3) -> str:
    """A few of many names."""
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return (", ".join(items[:most]) or "nothing") + rest
