"""Locating, preparing and opening data sets: raw files, the cache, TFDS builders.

`ANSATZ_DATA` names the folder of raw files. Sets prepared by TFDS (array_record files, read without
TensorFlow) are kept in `ANSATZ_CACHE`, else `$XDG_CACHE_HOME/ansatz`, else `~/.cache/ansatz`. TFDS
writes into a folder of its own name and renames it when whole, so an interrupted preparation leaves
nothing that could be taken for a data set, and of several processes the first one to finish wins.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import shutil
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from library.storage import files, system_errors

Path = pathlib.Path
PathLike = str | os.PathLike

_PROBE_TIMEOUT_SECONDS = 5.0


def data_folder() -> Path | None:
    """The folder that `ANSATZ_DATA` names, or None when it is unset.

    Raises:
        FileNotFoundError: if it names something that is not a folder.
    """
    value = os.environ.get("ANSATZ_DATA")
    if not value:
        return None
    folder = files.local(value, "ANSATZ_DATA")
    if not folder.is_dir():
        raise FileNotFoundError(f"ANSATZ_DATA={value} is not a folder")
    return folder


def cache_folder() -> Path:
    """Where prepared data sets are kept; it need not exist yet."""
    if value := os.environ.get("ANSATZ_CACHE"):
        return files.local(value, "ANSATZ_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ansatz"


def find(name: str, files: Sequence[str]) -> list[Path] | None:
    """The raw files of a data set under `ANSATZ_DATA`, or None where none of them is there.

    Args:
        name: of the data set, for the error line.
        files: paths relative to the folder, all of which the set needs.
    Raises:
        FileNotFoundError: if some are there and others are not.
    """
    folder = data_folder()
    paths = [] if folder is None else [folder / file for file in files]
    missing = [path for path in paths if not path.is_file()]
    if len(missing) == len(paths):
        return None
    if missing:
        raise FileNotFoundError(f"data set {name!r} is incomplete: {missing[0]} is missing")
    return paths


def require(name: str, files: Sequence[str]) -> list[Path]:
    """Like `find`, for a data set that nothing else can provide.

    Raises:
        FileNotFoundError: naming the set, where it was looked for and what to do.
    """
    paths = find(name, files)
    if paths is None:
        raise missing(name, files)
    return paths


def missing(name: str, files: Sequence[str], reason: str = "") -> FileNotFoundError:
    """The one-line error for a data set that is nowhere."""
    folder = data_folder()
    where = "ANSATZ_DATA is not set" if folder is None else f"not in ANSATZ_DATA={folder}"
    return FileNotFoundError(
        f"data set {name!r} not found: {where}{reason and '; ' + reason}; "
        f"set ANSATZ_DATA to a folder that holds {', '.join(files)}"
    )


def download(
    dl_manager: Any, name: str, urls: Mapping[str, str], files: Sequence[str]
) -> dict[str, Path]:
    """TFDS's download of registered addresses, checked against their sizes and SHA-256.

    A short probe comes first: where there is no network, TFDS itself would retry for minutes.

    Args:
        dl_manager: of a TFDS builder.
        name, files: of the data set, for the error line.
        urls: addresses by file name.
    Raises:
        FileNotFoundError: if the address is out of reach.
        ValueError: if the download fails, or brings another file than the registered one.
        OSError, MemoryError: if the machine has no room for it.
    """
    _check_reachable(name, files, next(iter(urls.values())))
    try:
        return {key: Path(path) for key, path in dl_manager.download(dict(urls)).items()}
    except Exception as error:
        system_errors.reraise(error)
        raise ValueError(f"download of data set {name!r} failed: {_one_line(error)}") from error


def open_split(builder_cls: type, split: str, folder: PathLike | None = None) -> PreparedSource:
    """A prepared split as a random-access source: `len(source)`, `source[i] -> dict`.

    Args:
        builder_cls: a TFDS builder class; it is prepared on first use.
        split: a split name, or a TFDS slice of one such as "train[:50%]".
        folder: where prepared sets are kept, `cache_folder()` when None.
    Raises:
        ValueError: for an unknown split or a prepared set that is damaged.
    """
    builder = prepare(builder_cls, folder)
    if split.split("[")[0] not in builder.info.splits:
        names = sorted(builder.info.splits)
        raise ValueError(f"data set {builder.name!r} has the splits {names}, not {split!r}")
    return PreparedSource(builder, split)


class PreparedSource:
    """A prepared split: `len(source)`, `source[i]`, every example checked against its checksum.

    Reading a damaged file raises ValueError that names the set and the folder to delete. Where the
    machine cannot read (no memory, no file handle, no permission), its own error goes through.
    """

    def __init__(self, builder: Any, split: str):
        self._name, self._path = builder.name, builder.data_path
        try:
            with _quiet():
                self._source = builder.as_data_source(split=split)
                self._num_examples = len(self._source)
        except Exception as error:
            raise self._damaged(error) from error

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -self._num_examples <= index < self._num_examples:
            raise IndexError(f"example {index} of {self._num_examples}")
        try:
            return self._source[index % self._num_examples]
        except Exception as error:
            raise self._damaged(error) from error

    def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]:
        """Many examples in one call, in the order of `indices`, each in 0 ... len - 1."""
        try:
            return self._source.__getitems__(indices)
        except Exception as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ValueError:
        system_errors.reraise(error)
        return ValueError(
            f"prepared data set {self._name!r} is damaged ({_one_line(error)}): "
            f"delete {self._path} to have it prepared again"
        )


def prepare(builder_cls: type, folder: PathLike | None = None) -> Any:
    """The builder, its data prepared in the array_record format.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder = cache_folder() if folder is None else files.local(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error

    def make() -> Any:
        return builder_cls(data_dir=os.fspath(folder), file_format="array_record")

    with _quiet():
        builder = make()
        if not builder.data_path.exists():
            try:
                builder.download_and_prepare()
            except PermissionError as error:
                raise _unwritable(folder, error) from error
            except OSError:
                # Another process renamed its finished folder first: that one is whole, use it.
                if not builder.data_path.exists():
                    raise
            _remove_leftovers(builder.data_path.parent)
            builder = make()
    return builder


def _remove_leftovers(folder: Path) -> None:
    """Deletes what processes that were killed while preparing left more than a day ago."""
    for path in Path(folder).glob("incomplete.*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86_400:
                shutil.rmtree(path)


def _unwritable(folder: Path, error: OSError) -> OSError:
    reason = error.strerror or error
    return OSError(
        f"cannot keep data sets in {folder} ({reason}): set ANSATZ_CACHE to a writable folder"
    )


def _check_reachable(name: str, files: Sequence[str], url: str) -> None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PROBE_TIMEOUT_SECONDS).close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise missing(name, files, f"{url} is out of reach ({reason})") from error


def _one_line(error: BaseException) -> str:
    """The text of an error on one line of bounded length, or its type where it has no text."""
    return " ".join(str(error).split())[:400] or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines and bars that TFDS writes."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield
