"""Two virtual CPU devices, quick compilation kept on disk, strict ranks, float64 on request."""

import importlib.metadata
import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The compilation cache outlives the clone, so that a second run of the suite is warm.
FOLDER = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
FOLDER = os.environ.get("ANSATZ_CACHE") or os.path.join(FOLDER, "ansatz")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.path.expanduser(FOLDER), "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
# LLVM compiles the same programs without its optimizations: tests run code once, and compile a lot.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# JAX 0.10 has XLA's older emitters of fused loops too, whose code LLVM compiles in a third of the
# time. Later versions end the process at a flag that they no longer know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"

import jax
import pytest

from tests import seconds

jax.config.update("jax_numpy_rank_promotion", "raise")
seconds.listen()


def pytest_configure(config):
    config.pluginmanager.register(seconds, "seconds by topic")


def pytest_addoption(parser):
    parser.addoption(
        "--generation",
        action="store_true",
        help="only what may differ between versions of Python and JAX: library, house, every "
        "smoke, and of each module of research its tests marked `generation`, else its first",
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--generation"):
        return
    marked = {item.path for item in items if item.get_closest_marker("generation")}
    seen, kept, left = set(), [], []
    for item in items:
        first = item.path not in seen and item.path not in marked
        chosen = "research" not in item.path.parts or first or item.get_closest_marker("generation")
        seen.add(item.path)
        (kept if chosen else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


@pytest.fixture
def optimized():
    """Programs compiled as users compile them: for one test whose inputs see the difference."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


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
