"""Half precision beside float32: how far a function is off, in units of the format's last place.

A topic's `test_half_precision.py` lists its losses, averages, likelihoods, kernels, products,
samplers and metrics as `CASES` and checks each with `check`. The table of all topics, by function:

    python -m tests.half_precision
"""

import importlib
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
FORMATS = (jnp.bfloat16, jnp.float16)
BOUND = 2.0  # units in the last place, beyond float32's own error

# {name of the function: a call that returns (the function, its arguments)}. Floating arguments are
# rounded to the format for one run, and widened to float32 again for the other.
Cases = dict[str, Callable[[], tuple[Callable, tuple]]]


def is_floating(leaf) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def cast(tree, dtype):
    """Every floating array of a tree in a dtype; the rest as it is."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf).astype(dtype) if is_floating(leaf) else leaf, tree
    )


def ulps(got, expected, dtype) -> float:
    """The largest difference in units of the last place that `expected` has in `dtype`.

    Equal infinities and nans at the same places differ by 0; any other of them by infinity. Below
    the smallest normal number the unit is that of the smallest normal number.
    """
    got, expected = np.float64(got), np.float64(expected)
    assert got.shape == expected.shape, (got.shape, expected.shape)
    info = jnp.finfo(dtype)
    unit = np.float64(info.eps) * 2.0 ** np.floor(
        np.log2(np.maximum(np.abs(expected), np.float64(info.tiny)))
    )
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    beyond = ~np.isfinite(got) & (np.abs(expected) > np.float64(info.max)) & (got * expected > 0)
    with np.errstate(invalid="ignore"):
        off = np.where(same | beyond, 0.0, np.abs(got - expected) / unit)
    return float(np.where(np.isnan(off), np.inf, off).max(initial=0.0))


def error(function: Callable, args: tuple, dtype) -> float:
    """The largest error of `function` in `dtype`, in units of the last place; see `ulps`."""
    low = cast(args, dtype)
    got, expected = function(*low), function(*cast(low, jnp.float32))
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return max((ulps(*pair, dtype) for pair in pairs if is_floating(pair[1])), default=0.0)


def check(case: Callable[[], tuple[Callable, tuple]]) -> None:
    """Fails where a function is off by more than `BOUND` in either format."""
    function, args = case()
    off = {jnp.dtype(dtype).name: error(function, args, dtype) for dtype in FORMATS}
    assert max(off.values()) <= BOUND, f"units in the last place: {off}"


def main() -> None:
    for path in sorted((ROOT / "tests").rglob("test_half_precision.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for case, make in importlib.import_module(name).CASES.items():
            off = [error(*make(), dtype) for dtype in FORMATS]
            topic = name.removeprefix("tests.").rpartition(".")[0]
            print(f"{topic + '.' + case:70} " + " ".join(f"{value:9.3g}" for value in off))


if __name__ == "__main__":
    main()
