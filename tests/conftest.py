"""Two virtual CPU devices, quick compilation kept on disk, strict ranks, float64 on request."""

import importlib.metadata
import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# LLVM compiles the same programs without its optimizations: tests run code once, and compile a lot.
# Not on JAX 0.10: there one elementary function then errs at 1e-16, which a hard input reaches.
if not importlib.metadata.version("jax").startswith("0.10."):
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """float64 for the duration of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def ansatz_data() -> pathlib.Path:
    """The folder of real data sets; the test is skipped where none is named."""
    folder = os.environ.get("ANSATZ_DATA")
    if not folder:
        pytest.skip("ANSATZ_DATA names no folder of data sets")
    if not pathlib.Path(folder).is_dir():
        pytest.skip(f"ANSATZ_DATA={folder} is not a folder")
    return pathlib.Path(folder)
