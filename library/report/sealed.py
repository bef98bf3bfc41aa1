"""A prediction that is written down before its run starts, and proof that it was."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from library.storage import files


def now() -> str:
    """The time in UTC to the microsecond, ISO 8601: sorts as text."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def write(path: str | os.PathLike, prediction: Mapping[str, Any]) -> str:
    """Writes a prediction with time and digest; one that is there must say the same.

    Args:
        path: of the JSON file.
        prediction: JSON values.
    Returns:
        The SHA-256 of the prediction, hexadecimal.
    Raises:
        ValueError: if another prediction is there, or one that was altered.
    """
    path = pathlib.Path(path)
    content = files.jsonable(dict(prediction))
    digest = _digest(content)
    if not path.exists():
        files.write_json(path, {"prediction": content, "sha256": digest, "written": now()})
    there = files.read_json(path)
    if there["sha256"] != digest or _digest(there["prediction"]) != digest:
        raise ValueError(f"{path} holds another prediction than the one just made")
    return digest


def check(path: str | os.PathLike, digest: str, started: str) -> float:
    """Seconds by which the prediction is older than the run that it predicts.

    Args:
        path: of the prediction.
        digest: that the run was started with.
        started: when the run started, by `now`.
    Raises:
        ValueError: if the prediction was altered, is another one, or is not older than the run.
    """
    there = files.read_json(path)
    if not there["sha256"] == _digest(there["prediction"]) == digest:
        raise ValueError(f"{path} is not the prediction that the run was started with")
    written, began = (datetime.datetime.fromisoformat(t) for t in (there["written"], started))
    lead = (began - written).total_seconds()
    if lead <= 0:
        raise ValueError(f"{path} was written {-lead} s after its run had started")
    return lead


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
