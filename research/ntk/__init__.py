"""Neural tangent kernels: of any finite network, of infinitely wide ones, and what they predict."""

from research.ntk import (
    attribution,
    dynamics,
    eigen,
    layers,
    nystrom,
    predict,
    projection,
    solvers,
    spectrum,
    tiles,
)
from research.ntk.expansion import linearize, taylor_expand, vector_product
from research.ntk.finite import by_layer, empirical, explain, nngp_empirical

__all__ = [
    "attribution",
    "by_layer",
    "dynamics",
    "eigen",
    "empirical",
    "explain",
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
