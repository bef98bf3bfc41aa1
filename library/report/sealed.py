"""A prediction that is written down before its run starts, and proof that it was."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from library.storage import files


def now() -> str:
    """The time in UTC to the microsecond, ISO 8601: sorts as text."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def write(path: str | os.PathLike, prediction: Mapping[str, Any], tolerance: float = 0.0) -> str:
    """Writes a prediction with time and digest; one that is there must say the same.

    What is there stays as it is. It says the same if all its numbers are those of `prediction` to
    within the relative tolerance that it was sealed with: a resumed study may have been computed by
    another version of its code, whose last bits differ.

    Args:
        path: of the JSON file.
        prediction: JSON values.
        tolerance: >= 0, relative, of numbers with a fraction; all else must be equal. It is part of
            what is sealed: of a prediction that is there, its own counts.
    Returns:
        The SHA-256 of the prediction that was written first, hexadecimal.
    Raises:
        ValueError: if another prediction is there, or one that was altered.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance}: expected a relative one in [0, 1)")
    path = files.local(path)
    content = files.jsonable(dict(prediction))
    if not path.exists():
        seal = {"prediction": content, "tolerance": float(tolerance)}
        files.write_json(path, {**seal, "sha256": _digest(seal), "written": now()})
    there = _read(path)
    if there["sha256"] != _digest(there):
        raise ValueError(f"{path} holds another prediction than the one that was sealed there")
    difference = _difference(there["prediction"], content, there.get("tolerance", 0.0))
    if difference:
        raise ValueError(f"{path} holds another prediction than the one just made: {difference}")
    return there["sha256"]


def check(path: str | os.PathLike, digest: str, started: str) -> float:
    """Seconds by which the prediction is older than the run that it predicts.

    Args:
        path: of the prediction.
        digest: that the run was started with.
        started: when the run started, by `now`.
    Raises:
        ValueError: if the prediction was altered, is another one, or is not older than the run.
    """
    there = _read(path)
    if not there["sha256"] == _digest(there) == digest:
        raise ValueError(f"{path} is not the prediction that the run was started with")
    written, began = (datetime.datetime.fromisoformat(t) for t in (there["written"], started))
    lead = (began - written).total_seconds()
    if lead <= 0:
        raise ValueError(f"{path} was written {-lead} s after its run had started")
    return lead


def _read(path: str | os.PathLike) -> dict[str, Any]:
    there = files.read_json(path)
    wanted = ("prediction", "sha256", "written")
    if not isinstance(there, dict) or not all(name in there for name in wanted):
        raise ValueError(f"{path} is no sealed prediction: expected {', '.join(wanted)} in it")
    return there


def _difference(theirs: Any, ours: Any, tolerance: float, name: str = "") -> str:
    """The first place at which two predictions differ by more than allowed; empty if none."""
    if isinstance(theirs, dict) and isinstance(ours, dict) and theirs.keys() == ours.keys():
        pairs = [(f"{name}.{key}" if name else key, theirs[key], ours[key]) for key in theirs]
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        pairs = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(theirs, ours))]
    else:
        both = isinstance(theirs, float) and isinstance(ours, float)
        same = type(theirs) is type(ours) and theirs == ours
        same = same or (both and math.isclose(theirs, ours, rel_tol=tolerance))
        return "" if same else f"{name or 'all'} is {theirs!r} there and {ours!r} now"
    return next((text for n, a, b in pairs if (text := _difference(a, b, tolerance, n))), "")


def _digest(seal: Mapping[str, Any]) -> str:
    """Of the prediction, and of its tolerance where it has one."""
    content = seal["prediction"]
    if seal.get("tolerance", 0.0):
        content = {"prediction": content, "tolerance": seal["tolerance"]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
