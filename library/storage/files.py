"""Files that are whole or absent: paths, atomic writes, JSON that stays JSON with infinite numbers.

Non-finite floats are written as the strings "NaN", "Infinity" and "-Infinity" (the mapping of
protocol buffers); Python's `float` reads them back.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import sys
from typing import Any

TEMPORARY = ".tmp-"  # prefix of a file that is being written; one that a crash left is harmless


def is_writer() -> bool:
    """Whether this process writes the shared files: the first one, or the only one.

    It never starts JAX's backends, so it may be asked before `jax.distributed.initialize`.
    """
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def local(path: str | os.PathLike, name: str = "") -> pathlib.Path:
    """The path on this machine that a user means: `~` is the home folder, an address is refused.

    Python takes `gs://bucket/run` for a folder `gs:` below the current one, on a disk that may
    vanish with the machine.

    Args:
        path: as the user gave it.
        name: of the argument or variable that it came in, for the error line.
    Raises:
        ValueError: for an address (gs://, s3://, file://, ...), an empty path or an unknown user.
    """
    text, said = os.fspath(path), name and f"{name}="
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        came = text if "://" in text else text.replace(":/", "://", 1)  # pathlib keeps one slash
        raise ValueError(
            f"{said}{came} is an address: expected a path on this machine or of a file system "
            "mounted here"
        )
    if not text:
        raise ValueError(f"{name or 'the path'} is empty: expected a file or a folder")
    expanded = os.path.expanduser(text)
    if re.match(r"~\w*(/|$)", expanded):
        raise ValueError(f"{said}{text}: there is no home folder of that name")
    return pathlib.Path(expanded)


def write_atomic(path: str | os.PathLike, content: bytes | str) -> pathlib.Path:
    """Writes a whole file or leaves what was there; returns its path.

    The content is on the disk before the name points at it, so that neither a kill nor a power
    cut leaves half a file.

    Raises:
        OSError: if it cannot be written (full disk, no permission); the old file is then intact.
        ValueError: as `local`.
    """
    path = local(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def write_json(path: str | os.PathLike, value: Any, sort_keys: bool = False) -> pathlib.Path:
    """`write_atomic` of indented JSON."""
    text = json.dumps(jsonable(value), indent=2, sort_keys=sort_keys, ensure_ascii=False)
    return write_atomic(path, text + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: naming the file, if it is missing or is not JSON.
    """
    path = local(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def read_object(path: str | os.PathLike) -> dict[str, Any]:
    """`read_json` of a file that holds an object.

    Raises:
        ValueError: as `read_json`, and for any other value.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}: expected an object")
    return value


def jsonable(value: Any) -> Any:
    """The tree with non-finite floats as strings, tuples as lists and array scalars as numbers."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    number = value.item() if hasattr(value, "item") else value
    return number if isinstance(number, int) else finite_or_name(float(number))


def finite_or_name(number: float) -> float | str:
    """The number, or its name in JSON if it is not finite."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else ("Infinity" if number > 0 else "-Infinity")


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes a rename durable; some file systems and Windows refuse, and lose nothing else."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
