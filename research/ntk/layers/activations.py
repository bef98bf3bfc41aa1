"""Nonlinearities as layers: each the finite function and its dual kernel."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from library.types import Array, Params
from research.ntk import checks
from research.ntk.layers import algebra, dense, duals, positions, quadrature
from research.ntk.layers import state as states
from research.ntk.layers.duals import Scalar
from research.ntk.layers.layer import Layer, Shape, Signal
from research.ntk.layers.state import Needs, Pairs, State


@dataclasses.dataclass(frozen=True)
class Elementwise(Layer):
    """q -> E f(u) f(v), Theta -> Theta E f'(u) f'(v)."""

    function: Scalar

    def shape(self, shape: Shape) -> Shape:
        """The same."""
        positions.require_space(shape, 0, "a nonlinearity")
        return shape

    def needs(self, needs: Needs) -> Needs:
        """Variances too."""
        return needs._replace(variances=True)

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        return positions.hidden(signal.replace(x=self.function(signal.x)))

    def propagate(self, state: State) -> State:
        """See `Layer`.

        Raises:
            ValueError: if the layer before leaves no Gaussian channels.
        """
        if not state.gaussian:
            raise ValueError(
                f"{self.function} needs Gaussian channels: put dense, conv or self_attention "
                "before it (another nonlinearity, dropout, flatten or the inputs leave none)"
            )
        out1, out2 = (duals.variance(self.function, v) for v in (state.var1, state.var2))
        variances = {"1": (state.var1, out1), "2": (state.var2, out2)}

        def act(pairs: Pairs, first: str, second: str) -> Pairs:
            (v1, w1), (v2, w2) = variances[first], variances[second]
            pair = duals.make_pair(*pairs.sides(v1, v2), pairs.nngp, pairs.gap)
            dual = self.function.dual(pair)
            gap = dual.gap
            if gap is None:
                gap = states.gap_of(*pairs.sides(w1, w2), dual.nngp)
                gap = jnp.where(pairs.gap > 0, gap, 0)
            ntk = None if pairs.ntk is None else pairs.ntk * dual.slope
            return pairs.replace(nngp=dual.nngp, gap=gap, ntk=ntk)

        def apart(pairs: Pairs, first: str, second: str) -> Pairs:
            return states.apart(lambda pairs: act(pairs, first, second), pairs)

        after = state.map_pairs(apart)
        return after.replace(var1=out1, var2=out2, gaussian=False, fresh=False).hide_masked()


def relu() -> Layer:
    """max(x, 0)."""
    return ab_relu(0.0, 1.0)


def leaky_relu(slope: float = 0.01) -> Layer:
    """x above zero, slope x below."""
    return ab_relu(slope, 1.0)


def ab_relu(negative: float, positive: float) -> Layer:
    """Slope `negative` below zero and `positive` above."""
    _require_finite(negative=negative, positive=positive)
    return Elementwise(duals.PiecewiseLinear(float(negative), float(positive)))


def abs() -> Layer:
    """|x|."""
    return ab_relu(-1.0, 1.0)


def sign() -> Layer:
    """-1, 0 or 1; passes nothing of the tangent kernel."""
    return Elementwise(duals.Sign())


def erf(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Layer:
    """a erf(b x) + c."""
    _require_finite(a=a, b=b, c=c)
    return Elementwise(duals.Erf(float(a), float(b), float(c)))


def sigmoid_like() -> Layer:
    """(erf(x / 2.402) + 1) / 2, within 0.02 of the logistic function."""
    return erf(0.5, 1 / 2.4020563531719796, 0.5)


def gelu() -> Layer:
    """x Phi(x), the exact form."""
    return Elementwise(duals.Gelu())


def sin(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Layer:
    """a sin(b x + c)."""
    _require_finite(a=a, b=b, c=c)
    return Elementwise(duals.Sine(float(a), float(b), float(c)))


def cos(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Layer:
    """a cos(b x + c)."""
    return sin(a, b, c + math.pi / 2)


def rbf(gamma: float = 1.0) -> Layer:
    """sqrt(2) sin(sqrt(2 gamma) x + pi/4), whose kernel is exp(-gamma E (u - v)^2)."""
    _require_finite(gamma=gamma)
    if gamma < 0:
        raise ValueError(f"gamma={gamma}: expected at least 0")
    return sin(math.sqrt(2), math.sqrt(2 * gamma), math.pi / 4)


def exp_normalized(gamma: float = 1.0, shift: float = -1.0) -> Layer:
    """The kernel exp(gamma (cos + shift)), Shankar et al. 2020, arXiv:2003.02237.

    Of the angle alone. Channels of unit variance have cos = 1 - E (u - v)^2 / 2, so it is an `rbf`.
    """
    _require_finite(gamma=gamma, shift=shift)
    if gamma < 0:
        raise ValueError(f"gamma={gamma}: expected at least 0")
    size = math.sqrt(2) * math.exp(gamma * (1 + shift) / 2)
    return algebra.serial(dense.layer_norm(), sin(size, math.sqrt(gamma), math.pi / 4))


def gaussian(a: float = 1.0, b: float = 1.0) -> Layer:
    """a exp(-b x^2), b >= 0."""
    return _bell(a, b, None, 0.0)


def gabor(a: float = 1.0, b: float = 1.0, c: float = 1.0, d: float = 0.0) -> Layer:
    """a exp(-b x^2) sin(c x + d), b >= 0."""
    return _bell(a, b, float(c), d)


def exp(a: float = 1.0, b: float = 1.0) -> Layer:
    """a exp(b x)."""
    _require_finite(a=a, b=b)
    return Elementwise(duals.Exponential(float(a), float(b)))


def hermite(degree: int) -> Layer:
    """The Hermite polynomial of this degree, orthonormal under a standard normal distribution."""
    rows = [[1.0], [0.0, 1.0]]
    _degree(degree)
    for n in range(1, degree):
        shifted, low = [0.0, *rows[n]], [*rows[n - 1], 0.0, 0.0]
        rows.append([(a - math.sqrt(n) * b) / math.sqrt(n + 1) for a, b in zip(shifted, low)])
    return polynomial(rows[degree])


def monomial(degree: int) -> Layer:
    """x^degree."""
    return polynomial([0.0] * _degree(degree) + [1.0])


def rectified_monomial(degree: int) -> Layer:
    """max(x, 0)^degree; the step function for degree 0."""
    return Elementwise(duals.RectifiedPower(_degree(degree)))


def polynomial(coefficients: Sequence[float]) -> Layer:
    """sum_n coefficients[n] x^n."""
    if not len(coefficients):
        raise ValueError("coefficients=(): expected at least one")
    _require_finite(**{f"coefficients[{n}]": c for n, c in enumerate(coefficients)})
    return Elementwise(duals.Polynomial(tuple(float(c) for c in coefficients)))


def elementwise(
    function: Callable[[Array], Array],
    *,
    kernel: Callable[[Array, Array, Array], Array] | None = None,
    num_nodes: int = 64,
) -> Layer:
    """Any scalar function, with its tangent kernel.

    Args:
        function: elementwise, differentiable but for kinks.
        kernel: kernel(v1, v2, q) = E f(u) f(v), differentiable by q, where it is known; its
            derivative gives the NTK. None: by quadrature, see `quadrature.Numerical`.
        num_nodes: nodes of the Gauss-Hermite rule and terms of the series.
    Raises:
        ValueError: if `num_nodes` is not in [2, 180] (weights underflow beyond).
    """
    if kernel is not None:
        return Elementwise(quadrature.WithKernel(function, kernel))
    if checks.count("num_nodes", num_nodes) not in range(2, 181):
        raise ValueError(f"num_nodes={num_nodes}: expected 2 to 180")
    return Elementwise(quadrature.Numerical(function, num_nodes))


def _bell(a: float, b: float, c: float | None, d: float) -> Layer:
    _require_finite(a=a, b=b, c=c or 0.0, d=d)
    if b < 0:
        raise ValueError(f"b={b}: expected at least 0")
    return Elementwise(duals.Gaussian(float(a), float(b), c, float(d)))


def _degree(degree: int) -> int:
    return checks.count("degree", degree, least=0)


def _require_finite(**numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name}={number}: expected a finite number")
