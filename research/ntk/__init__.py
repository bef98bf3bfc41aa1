"""Neural tangent kernels: of any finite network, of infinitely wide ones, and what they predict."""

from research.ntk.expansion import linearize, taylor_expand, vector_product
from research.ntk.finite import by_layer, empirical, explain, nngp_empirical

__all__ = [
    "by_layer",
    "empirical",
    "explain",
    "linearize",
    "nngp_empirical",
    "taylor_expand",
    "vector_product",
]
