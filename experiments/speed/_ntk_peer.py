"""The reference package's side of `speed.ntk`: run by its own interpreter, with its own old JAX.

    python _ntk_peer.py ARRAYS.npz VALUES_FOLDER

reads the arrays, answers every line with the name of a case on standard input by one line with the
seconds that the case took, and leaves its result in VALUES_FOLDER. It imports neural_tangents and
jax only; the package's TensorFlow bridge, which nothing here uses, is replaced by an empty module.
"""

from __future__ import annotations

import pathlib
import sys
import time
import types
from collections.abc import Callable


def main(arrays: str, folder: str) -> None:
    """Serves cases until standard input ends."""
    sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
    import jax
    import neural_tangents as nt
    import numpy as np
    from neural_tangents import stax

    given = dict(np.load(arrays))
    print(f"neural_tangents {nt.__version__}, jax {jax.__version__}", flush=True)
    cases: dict[str, Callable] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in cases:
            cases[name] = _case(nt, stax, jax, given, name)
        start = time.perf_counter()
        value = jax.block_until_ready(cases[name]())
        seconds = time.perf_counter() - start
        np.save(pathlib.Path(folder) / f"{name}.npy", np.asarray(value))
        print(seconds, flush=True)


def _case(nt, stax, jax, given: dict, name: str) -> Callable:
    """The compiled call of one case on its arrays `name.x1`, `name.x2`, `name.weights.I`."""
    x1, x2 = (jax.numpy.asarray(given[f"{name}.{side}"]) for side in ("x1", "x2"))
    init, apply, kernel = _network(stax, name)
    if name.startswith("infinite"):
        compiled = jax.jit(lambda x1, x2: kernel(x1, x2, get="ntk"))
        return lambda: compiled(x1, x2)
    _, params = jax.eval_shape(lambda rng: init(rng, x1.shape), jax.random.PRNGKey(0))
    leaves, structure = jax.tree.flatten(params)
    weights = [jax.numpy.asarray(given[f"{name}.weights.{i}"]) for i in range(len(leaves))]
    assert [w.shape for w in weights] == [leaf.shape for leaf in leaves]
    params = jax.tree.unflatten(structure, weights)
    implementation = nt.NtkImplementation.STRUCTURED_DERIVATIVES
    theta = nt.empirical_ntk_fn(apply, trace_axes=-1, vmap_axes=0, implementation=implementation)
    compiled = jax.jit(theta)
    # The package divides by the number of traced outputs; the plain sum is compared.
    outputs = weights[-1].shape[-1]
    return lambda: compiled(x1, x2, params) * outputs


def _network(stax, name: str) -> tuple:
    std = 2.0**0.5
    relu, conv = stax.Relu(), stax.Conv(64, (3, 3), padding="SAME", W_std=std)
    if name == "mlp":
        dense = stax.Dense(1024, W_std=std)
        return stax.serial(dense, relu, dense, relu, stax.Dense(10, W_std=std))
    if name == "infinite_fc":
        dense = stax.Dense(512, W_std=std)
        return stax.serial(*(dense, relu) * 5, stax.Dense(1, W_std=std))
    outputs = 10 if name == "cnn" else 1
    return stax.serial(*(conv, relu) * 4, stax.GlobalAvgPool(), stax.Dense(outputs, W_std=std))


if __name__ == "__main__":
    main(*sys.argv[1:])
