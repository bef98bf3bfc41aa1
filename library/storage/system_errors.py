"""Telling a machine that cannot (full disk, no memory, no file handles) from a file that is wrong.

Whoever reads a damaged file and says "damaged, delete it" must first ask here: with no file handle
left, every file looks damaged.
"""

from __future__ import annotations

import errno
import os
import re

_NAMES = (
    "ENOSPC", "EDQUOT", "EFBIG", "EMFILE", "ENFILE", "ENOMEM", "EACCES", "EPERM", "EROFS", "EIO",
    "ESTALE", "ENODEV", "ETIMEDOUT", "EBUSY",
)  # fmt: skip
CODES = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))
# Libraries in C++ keep the number or its text only: tensorstore, riegeli.
_NUMBER = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]")


def find(error: BaseException) -> MemoryError | OSError | None:
    """The machine's own error behind an exception, None where it is about something else.

    Args:
        error: as it was caught; what it was raised from, or during, is looked at as well.
    Returns:
        A MemoryError, or an OSError whose `errno` is in `CODES`: the one in the chain, or a new one
        where only a text tells of it.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, MemoryError):
            return error
        if isinstance(error, OSError) and error.errno in CODES:
            return error
        if (code := _told(str(error))) is not None:
            return OSError(code, f"{os.strerror(code)} ({' '.join(str(error).split())[:300]})")
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def reraise(error: BaseException) -> None:
    """Raises the machine's own error behind an exception, if there is one.

    Raises:
        MemoryError, OSError: as `find` gives them.
    """
    found = find(error)
    if found is error:
        raise error
    if found is not None:
        raise found from error


def _told(text: str) -> int | None:
    """The number of a system's error that a text names, by number or in the system's words."""
    number = _NUMBER.search(text)
    if number:
        code = int(number[1] or number[2])
        return code if code in CODES else None
    return next((code for code in sorted(CODES) if os.strerror(code) in text), None)
