"""Numbered folders that are whole or not there, and that show when a byte was changed later.

A folder `<number>` is filled under the name `<number>.saving-<attempt>`, sealed with a manifest
(the size and digest of every file, and a note of the caller's) and renamed. So a folder named by a
number alone was written to its end, whenever its writer died. What is damaged later is found by
`damage` and never deleted here.
"""

from __future__ import annotations

import concurrent.futures
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

from library.storage import system_errors

MANIFEST = "manifest.json"


def numbers(directory: pathlib.Path) -> list[int]:
    """The numbers of the whole folders, ascending."""
    return sorted(int(path.name) for path in directory.iterdir() if re.fullmatch(r"\d+", path.name))


def unfinished(directory: pathlib.Path, number: int, attempt: int) -> pathlib.Path:
    """Where the folder of this number is filled.

    Each attempt of a process has its own: threads of a failed one may still be writing.
    """
    return directory / f"{number}.saving-{attempt}"


def seal(folder: pathlib.Path, note: Any) -> None:
    """Writes the manifest of an unfinished folder and gives the folder its final name.

    Args:
        folder: from `unfinished`, all other files complete.
        note: anything JSON holds; `read_note` returns it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(_file_digest, files))
    sizes = [path.stat().st_size for path in files]
    names = [str(path.relative_to(folder)) for path in files]
    body = {"note": note, "files": dict(zip(names, zip(sizes, digests)))}
    with open(folder / MANIFEST, "w") as file:
        json.dump({"body": body, "digest": _body_digest(body)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())  # the name must not reach the disk before the contents
    folder.rename(folder.with_name(folder.name.partition(".")[0]))


def read_note(folder: pathlib.Path) -> Any:
    """The note that the folder was sealed with."""
    return json.loads((folder / MANIFEST).read_text())["body"]["note"]


def newest_whole(
    directory: pathlib.Path, only: int | None = None, known: Mapping[int, str] = {}
) -> tuple[int | None, dict[int, str]]:
    """The newest undamaged folder, and what is wrong with those after it.

    Args:
        directory: where the numbered folders are.
        only: the one number to look at; None for all.
        known: damage found before, by number; those are not read again.
    Returns:
        (number or None, damage by number).
    """
    damaged: dict[int, str] = {}
    for number in reversed(numbers(directory)):
        if only in (None, number):
            what = known.get(number) or damage(directory / str(number))
            if what is None:
                return number, damaged
            damaged[number] = what
    return None, damaged


def damage(folder: pathlib.Path) -> str | None:
    """The first file that is not as it was sealed, and how; None if all are.

    Raises:
        OSError: if the machine cannot read, whatever is in the files: no handle, no permission.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if _body_digest(manifest["body"]) != manifest["digest"]:
            return f"{MANIFEST} has other bytes than were written"
        files = manifest["body"]["files"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        _check_machine(error)
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda name: _file_damage(folder / name, *files[name]), files)
        return next((f"{name} {what}" for name, what in zip(files, found) if what), None)


def set_aside(folder: pathlib.Path) -> None:
    """Renames a damaged folder, if it is there, to a free `<number>.damaged`, `.damaged-2`, ..."""
    target, count = folder.with_name(f"{folder.name}.damaged"), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"{folder.name}.damaged-{count}")
    if folder.exists():
        folder.rename(target)


def keep_newest(directory: pathlib.Path, count: int) -> None:
    """Deletes all but the newest; under another name, lest a half-deleted one look damaged."""
    for number in numbers(directory)[:-count]:
        doomed = directory / f"{number}.deleting"
        (directory / str(number)).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def delete_unfinished(directory: pathlib.Path) -> None:
    """Deletes what interrupted savings and deletions left."""
    for path in directory.iterdir():
        if re.fullmatch(r"\d+\.(saving.*|deleting)", path.name):
            shutil.rmtree(path, ignore_errors=True)


def _file_damage(path: pathlib.Path, size: int, digest: str) -> str | None:
    try:
        if path.stat().st_size != size:
            return f"has {path.stat().st_size} bytes, {size} were written"
        return None if _file_digest(path) == digest else "has other bytes than were written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        _check_machine(error)
        return f"cannot be read ({error.strerror})"


def _check_machine(error: Exception) -> None:
    """Raises what says nothing about the file; EIO is a place of the disk that cannot be read."""
    if getattr(error, "errno", None) != errno.EIO:
        system_errors.reraise(error)


def _file_digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _body_digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
