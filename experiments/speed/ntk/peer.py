"""The reference package's side of `speed.ntk`: run by its own interpreter, with its own old JAX.

    python peer.py ARRAYS.npz FOLDER

reads the arrays, answers every line with a case's name on standard input by one line with the
seconds that the case took, and leaves its result in FOLDER. It imports neural_tangents and jax
only; the package's TensorFlow bridge, which nothing here uses, is replaced by an empty module.
"""

from __future__ import annotations

import math
import pathlib
import sys
import time
import types
from collections.abc import Callable
from typing import Any


def main(arrays: str, folder: str) -> None:
    """Serves cases until standard input ends."""
    sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
    import jax
    import neural_tangents as nt
    import numpy as np

    given = dict(np.load(arrays))
    print(f"neural_tangents {nt.__version__} on jax {jax.__version__}", flush=True)
    cases: dict[str, Callable] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in cases:
            cases[name] = _case(nt, jax, given, name)
        start = time.perf_counter()
        value = jax.block_until_ready(cases[name]())
        seconds = time.perf_counter() - start
        np.save(pathlib.Path(folder) / f"{name}.npy", np.asarray(value))
        print(seconds, flush=True)


def _case(nt: Any, jax: Any, given: dict, name: str) -> Callable:
    """The compiled call of one case on its arrays NAME.x1, NAME.x2, NAME.weights.I."""
    x1, x2 = (jax.numpy.asarray(given[f"{name}.{side}"]) for side in ("x1", "x2"))
    count = sum(key.startswith(f"{name}.weights.") for key in given)
    weights = [jax.numpy.asarray(given[f"{name}.weights.{i}"]) for i in range(count)]
    if not weights:
        kernel = _infinite(nt.stax, name, int(given[f"{name}.depth"]))[2]
        compiled = jax.jit(lambda x1, x2: kernel(x1, x2, get="ntk"))
        return lambda: compiled(x1, x2)
    theta = nt.empirical_ntk_fn(
        _finite(jax, weights),
        trace_axes=(-1,),
        vmap_axes=0,
        implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
    )
    # The package divides by the number of traced outputs; ours is the plain sum.
    compiled = jax.jit(lambda x1, x2, weights: theta(x1, x2, weights) * weights[-1].shape[-1])
    return lambda: compiled(x1, x2, weights)


def _finite(jax: Any, weights: list) -> Callable:
    """The same plain function as `experiments.speed.ntk.cases.apply`."""

    def apply(weights: list, x: Any) -> Any:
        for i, w in enumerate(weights):
            scale = math.sqrt(2 / math.prod(w.shape[:-1]))
            if w.ndim == 4:
                numbers = ("NHWC", "HWIO", "NHWC")
                x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)
            else:
                x = jax.numpy.dot(x.mean((1, 2)) if x.ndim == 4 else x, w)
            x = x * scale
            if i < len(weights) - 1:
                # As the package's own layer writes it; of jax.nn.relu it has no rule.
                x = jax.numpy.maximum(x, 0)
        return x

    return apply


def _infinite(stax: Any, name: str, depth: int) -> tuple:
    std, relu = math.sqrt(2), stax.Relu()
    if name == "infinite_fc":
        return stax.serial(*(stax.Dense(1, W_std=std), relu) * depth, stax.Dense(1, W_std=std))
    conv = stax.Conv(1, (3, 3), padding="SAME", W_std=std)
    return stax.serial(*(conv, relu) * depth, stax.GlobalAvgPool(), stax.Dense(1, W_std=std))


if __name__ == "__main__":
    main(*sys.argv[1:])
