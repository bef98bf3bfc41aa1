"""Neural tangent kernels: of any finite network, of infinitely wide ones, and what they predict.

>>> import jax, jax.numpy as jnp
>>> from research import ntk
>>> x = jax.random.normal(jax.random.key(0), (5, 3))
>>> serial, dense, relu = ntk.layers.serial, ntk.layers.dense, ntk.layers.relu
>>> net = serial(dense(4096), relu(), dense(1))
>>> params = net.init(jax.random.key(1), x.shape)
>>> finite = ntk.empirical(net.apply, params, x, outputs="trace")  # [5, 5], exact
>>> infinite = net.kernel(x).ntk
>>> bool(jnp.abs(finite - infinite).max() < 0.1 * infinite.max())
True

    finite.py          empirical, by_layer, nngp_empirical, explain: exact kernels of your network
    layers/            infinitely wide networks: layers with `init`, `apply` and `kernel`
    predict.py         what wide networks predict after training, in closed form
    dynamics.py        the same for any loss, in time
    spectrum.py        eigenvalues and functions of a kernel that is never formed
    nystrom.py projection.py attribution.py   few columns, few numbers, which examples count
    kernel_systems.py tiles.py batching.py    systems and kernels larger than memory
    expansion.py       a network as a polynomial of its parameters; products without the matrix
    eigen.py closed_form.py probes.py precision.py checks.py compositions.py   what they share
    methods.py jacobians/   the engine: Jacobians kept in the structure of the layers

README.md is the guide, from the first kernel to those that no memory holds.
"""

from research.ntk import (
    attribution,
    dynamics,
    eigen,
    kernel_systems,
    layers,
    nystrom,
    predict,
    projection,
    spectrum,
    tiles,
)
from research.ntk import kernel_systems as solvers  # its earlier name
from research.ntk.expansion import linearize, taylor_expand, vector_product
from research.ntk.finite import by_layer, empirical, explain, nngp_empirical

PARENTS = ()

__all__ = [
    "attribution",
    "by_layer",
    "dynamics",
    "eigen",
    "empirical",
    "explain",
    "kernel_systems",
    "layers",
    "linearize",
    "nngp_empirical",
    "nystrom",
    "predict",
    "projection",
    "solvers",
    "spectrum",
    "taylor_expand",
    "tiles",
    "vector_product",
]
