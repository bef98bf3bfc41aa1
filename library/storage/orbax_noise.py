"""Keeps the debris of a failed save by Orbax off the screen: the checkpoint says it in one line."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any


def silence() -> None:
    """Keeps the debris of a failed save off the screen, whose error `wait` raises in one line.

    Orbax logs a traceback in each of its threads; and when one array cannot be written, it drops
    the writes of the others, of which asyncio then complains in three ways.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    warnings.filterwarnings("ignore", r"coroutine '\w*serialize\w*\.", RuntimeWarning)
    if not hasattr(sys.unraisablehook, "silences_orbax"):
        sys.unraisablehook = _without_closed_loops(sys.unraisablehook)


def _is_news(record: logging.LogRecord) -> bool:
    failure = record.exc_info or record.name == "asyncio"
    # Of a file that is missing only the error itself says whose it was.
    cause = str(record.exc_info[1]) if record.exc_info else ""
    return not (failure and "orbax" in record.pathname + record.getMessage() + cause)


def _without_closed_loops(previous: Callable) -> Callable:
    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    hook.silences_orbax = True
    return hook
