"""Where a run ran: packages, Python, devices, cores, host, commit."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

PACKAGES = (
    "ansatz",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "tensorflow-datasets",
    "grain",
    "diffrax",
    "scikit-learn",
    "matplotlib",
)


def describe(seed: int | None = None) -> dict[str, Any]:
    """What `versions.json` holds; starts JAX's backend to name the devices."""
    import jax

    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "host": platform.node(),
        "backend": jax.default_backend(),
        "device": device_kind(),
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "seed": seed,
        "commit": commit(),
    }


def device_kind() -> str:
    """The name of the device that JAX computes on, e.g. 'cpu' or 'NVIDIA H200'."""
    import jax

    return jax.devices()[0].device_kind


def commit() -> str | None:
    """The commit of this code, with '+changes' if files differ from it; None outside git."""
    folder = pathlib.Path(__file__).parent
    # An installed copy may lie inside somebody else's repository, whose commit says nothing.
    if _git(folder, "ls-files", "--error-unmatch", pathlib.Path(__file__).name) is None:
        return None
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    changes = _git(folder.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+changes" if head and changes else head


def cores_as_devices() -> None:
    """Makes as many CPU devices as this process has cores, each of which runs programs of its own.

    Inside one program a CPU shares out only large products among its cores; on devices of their own
    whole convolutions run side by side, and what lies between them (see experiments/speed). Nothing
    changes where the number was chosen already (JAX_NUM_CPU_DEVICES, XLA_FLAGS), or where JAX has
    started its backends; accelerators are not touched.
    """
    import jax

    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    try:
        jax.config.update("jax_num_cpu_devices", num_cores())
    except RuntimeError:  # a backend is there
        pass


def _git(folder: pathlib.Path, *args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
