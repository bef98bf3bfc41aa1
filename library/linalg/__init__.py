"""Matrix-free linear algebra: operators on pytrees, never their matrices.

An operator is a linear function v -> A v on pytrees of one structure; a pytree of arrays is a
vector, its size D the number of all entries. The modules, from the most used down:

    operators   products with Jacobians, Hessians and Gauss-Newton matrices of any function
    cg          conjugate gradients for positive definite operators
    lanczos     tridiagonal form with full reorthogonalisation; extreme eigenpairs
    quadrature  stochastic Lanczos quadrature: spectral densities and traces of functions
    hutchinson  trace and diagonal from random probes, Hutch++
    trees       pytrees as vectors

Every function is pure and runs inside `jax.jit`. An operator gets vectors in their own dtypes; all
else (inner products, means, the iterates of a solver) is in float32 at least, and so are the
numbers that come out.
"""

from library.linalg import cg, hutchinson, lanczos, operators, quadrature, trees

__all__ = ["cg", "hutchinson", "lanczos", "operators", "quadrature", "trees"]
