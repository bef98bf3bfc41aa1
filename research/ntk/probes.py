"""What random vectors tell of a kernel: products of probes, and functions of their means.

The compiled half of `research.ntk.spectrum`: every function takes the network as a static argument
and a batch of examples, and calls nothing but kernel-vector products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from library.linalg import lanczos, trees
from library.linalg.hutchinson import Estimate
from library.linalg.trees import Operator
from library.types import Array, Key, Params, PyTree
from research.ntk import checks, expansion
from research.ntk.checks import Apply


def compiled(function: Callable, apply: Apply, *statics: str) -> Callable:
    """`function` jitted for one network; anew at every call if `apply` is not hashable."""
    try:
        hash(apply)
    except TypeError:
        return jax.jit(functools.partial(function, apply=apply), static_argnames=statics)
    return functools.partial(_jitted(function, statics), apply=apply)


def zeros(apply: Apply, params: Params, x: PyTree) -> PyTree:
    """The zero vector: outputs of all examples, float32 or wider."""
    shapes = jax.eval_shape(lambda *args: checks.widened(apply(*checks.widened(args))), params, x)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def deflated_pairs(
    params: Params,
    x: PyTree,
    known: Array,
    size: Array,
    rng: Key,
    *,
    apply: Apply,
    num: int,
    num_steps: int,
    batch_size: int | None,
) -> lanczos.Eigenpairs:
    """The top eigenpairs orthogonal to what is known, on flat vectors.

    Args:
        known: [K, D], orthonormal rows or zero rows.
        size: [] float > 0; known vectors are sent to eigenvalue -size, below all others.
    Returns:
        `Eigenpairs` of `num` flat vectors.
    """
    chex.assert_rank(known, 2)
    operator = _operator(apply, params, x, batch_size)
    multiply, flat, _ = trees.flatten(operator, zeros(apply, params, x))

    def known_part(vector: Array) -> Array:
        return jnp.einsum("kd,k->d", known, jnp.einsum("kd,d->k", known, vector))

    def without(vector: Array) -> Array:
        part = known_part(vector)
        product = multiply(vector - part)
        return product - known_part(product) - size * part

    return lanczos.top_eigenpairs(without, flat, num, rng, num_steps)


def quadratic_forms(
    params: Params, x: PyTree, rng: Key, *, apply: Apply, num_probes: int, batch_size: int | None
) -> Array:
    """v . Theta v of every probe, [M]."""
    operator = _operator(apply, params, x, batch_size)
    return _of_probes(
        lambda v: trees.vdot(v, operator(v)), zeros(apply, params, x), rng, num_probes
    )


def squares(
    params: Params,
    x: PyTree,
    rng: Key,
    *,
    apply: Apply,
    num_probes: int,
    batch_size: int | None,
    centred: bool,
) -> Array:
    """|Theta v|^2 of every probe, [M]."""
    operator = _operator(apply, params, x, batch_size, centred)

    def sample(probe: PyTree) -> Array:
        product = operator(probe)
        return trees.vdot(product, product)

    return _of_probes(sample, zeros(apply, params, x), rng, num_probes)


def inner_products(
    params: Params,
    other: Params,
    x: PyTree,
    rng: Key,
    *,
    apply: Apply,
    num_probes: int,
    batch_size: int | None,
) -> Array:
    """Theta v . Theta' v, |Theta v|^2, |Theta' v|^2 of every probe, [M, 3]."""
    one, two = (_operator(apply, p, x, batch_size) for p in (params, other))

    def sample(probe: PyTree) -> Array:
        a, b = one(probe), two(probe)
        return jnp.stack([trees.vdot(a, b), trees.vdot(a, a), trees.vdot(b, b)])

    return _of_probes(sample, zeros(apply, params, x), rng, num_probes)


def target_form(
    params: Params,
    x: PyTree,
    targets: PyTree,
    *,
    apply: Apply,
    centred: bool,
    batch_size: int | None,
) -> tuple[Array, Array]:
    """y . Theta y and |y|^2 of the targets, [] float each."""
    like = zeros(apply, params, x)
    y = jax.tree.map(lambda leaf, zero: jnp.asarray(leaf, zero.dtype), targets, like)
    y = _centre(y) if centred else y
    return trees.vdot(y, _operator(apply, params, x, batch_size)(y)), trees.vdot(y, y)


@functools.partial(jax.jit, static_argnums=0)
def jackknife(function: Callable[..., Array], samples: Array, *args: Array) -> Estimate:
    """function(mean of samples [M, ...], *args) less its bias of order 1/M, and its error.

    Efron and Stein 1981; Quenouille 1956 for the correction.
    """
    num = len(samples)
    total = samples.sum(0)
    whole = function(total / num, *args)
    left_out = jax.vmap(lambda sample: function((total - sample) / (num - 1), *args))(samples)
    mean = left_out.mean(0)
    error = jnp.sqrt((num - 1) / num * jnp.sum(jnp.square(left_out - mean)))
    return Estimate(num * whole - (num - 1) * mean, error)


@functools.cache
def _jitted(function: Callable, statics: tuple[str, ...]) -> Callable:
    return jax.jit(function, static_argnames=("apply", *statics))


def _operator(
    apply: Apply, params: Params, x: PyTree, batch_size: int | None, centred: bool = False
) -> Operator:
    product = expansion.vector_product(apply, params, x, batch_size=batch_size)
    if not centred:
        return product
    return lambda vector: _centre(product(_centre(vector)))


def _centre(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf - leaf.mean(0, keepdims=True), tree)


def _of_probes(sample: Callable[[PyTree], Array], like: PyTree, rng: Key, num_probes: int) -> Array:
    """sample(probe i) for signs drawn from fold_in(rng, i), [M, ...]."""
    draw = lambda i: sample(trees.rademacher(jax.random.fold_in(rng, i), like))
    return jax.lax.map(draw, jnp.arange(num_probes))
