"""A queue of jobs that leaves one result file each, on this machine or on a Slurm cluster.

A sweep over shapes is many programs: `run_queue` does them one after the other and skips what is
done; `submit_queue` gives them to Slurm.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from library.storage import files

Job = Mapping[str, Any]  # keyword arguments, JSON values


def run_queue(
    function: Callable[..., Mapping[str, Any]],
    jobs: Mapping[str, Job],
    folder: str | os.PathLike,
) -> dict[str, dict[str, Any]]:
    """Runs every job that has no result yet, in order, and returns all results by name.

    A result is written whole as `folder/NAME.json` when its job ends: a sweep that was stopped goes
    on at the job it was stopped in, and a job whose arguments changed is refused.

    Args:
        function: keyword arguments of a job -> a mapping of JSON values.
        jobs: {name: keyword arguments, JSON values}.
        folder: made if absent.
    Raises:
        ValueError: for a name that is no file name, or a result of other arguments.
    """
    _check_jobs(jobs)
    folder = files.local(folder)
    for name, arguments in jobs.items():
        if _result(folder, name, arguments) is None:
            run_job(function, name, dict(arguments), folder)
    return {name: _result(folder, name, arguments) for name, arguments in jobs.items()}


def run_job(
    function: Callable[..., Mapping[str, Any]], name: str, arguments: dict[str, Any], folder: Any
) -> None:
    """One job of a queue: calls the function and writes its result whole."""
    started = time.monotonic()
    result = dict(function(**arguments))
    seconds = round(time.monotonic() - started, 3)
    content = {"arguments": arguments, "result": result, "seconds": seconds}
    files.write_json(files.local(folder) / f"{name}.json", content)


def submit_queue(
    function: Callable[..., Mapping[str, Any]],
    jobs: Mapping[str, Job],
    folder: str | os.PathLike,
    *,
    cluster: str | None = None,
    **slurm: Any,
) -> list[Any]:
    """Submits every job that has no result yet to Slurm, one array task each, by `submitit`.

    The results appear in the same files as those of `run_queue`, which collects them once the jobs
    have ended (and runs those that were lost).

    Args:
        function, jobs, folder: as for `run_queue`; the function must be importable on the nodes.
        cluster: "slurm", "local" (processes on this machine) or None: Slurm where it is found.
        slurm: parameters of submitit's executor, e.g. timeout_min=60, slurm_partition="gpu".
    Returns:
        submitit's jobs, of which `.wait()` and `.exception()` tell the end.
    Raises:
        ValueError: if submitit is not installed, or as `run_queue`.
    """
    _check_jobs(jobs)
    try:
        import submitit
    except ModuleNotFoundError:
        raise ValueError("a queue on Slurm needs submitit: pip install 'ansatz[slurm]'") from None
    folder = files.local(folder)
    missing = [name for name, arguments in jobs.items() if _result(folder, name, arguments) is None]
    if not missing:
        return []
    executor = submitit.AutoExecutor(folder=str(folder / "slurm"), cluster=cluster)
    executor.update_parameters(**slurm)
    with executor.batch():
        submitted = [
            executor.submit(run_job, function, name, dict(jobs[name]), folder) for name in missing
        ]
    return submitted


def _result(folder: pathlib.Path, name: str, arguments: Job) -> dict[str, Any] | None:
    """The result of a job, None if it has none yet."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    content = files.read_json(path)
    if content.get("arguments") != json.loads(json.dumps(dict(arguments))):
        raise ValueError(f"{path} is the result of other arguments: {content.get('arguments')}")
    return content["result"]


def _check_jobs(jobs: Mapping[str, Job]) -> None:
    for name in jobs:
        if not name or not all(letter.isalnum() or letter in "-_.=" for letter in name):
            raise ValueError(f"job name {name!r}: expected letters, digits, '-', '_', '.' and '='")
