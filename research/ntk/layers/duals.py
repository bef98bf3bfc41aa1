"""Dual kernels: E f(u) f(v) and E f'(u) f'(v) of a scalar function at two Gaussian numbers.

(u, v) has variances v1, v2 and covariance q. With r = sqrt(v1 v2), q = r cos(angle):

| function | source of E f(u) f(v) |
|---|---|
| max(x, 0)^n | arc-cosine kernels, Cho and Saul 2009 |
| erf | Williams 1997 |
| GELU | Tsuchida et al. 2021, arXiv:2002.08517; here by Stein's lemma |
| sine, Gaussian, exponential | moment-generating function of a Gaussian |
| polynomial | Hermite expansion (Mehler's formula) |

E f' f' is the derivative of E f f by q (Price's theorem). The slope's square root singularities at
angles 0 and pi are real; every formula here is finite there, and so are its derivatives. Near
duplicates keep their angle by the gap; of parallel inputs of different lengths, and of opposite
ones, it is the root of a rounding error. Jumps in series (sign) take a root of it each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.ntk.layers import state as states

# Below this share of r the gap says more about the angle than the covariance.
_NEAR = 0.05


@flax.struct.dataclass
class Pair:
    """Second moments of (u, v), of shapes that broadcast to one another.

    Attributes:
        var1: v1.
        var2: v2.
        nngp: q, within [-r, r].
        gap: d = E (u - v)^2.
        det: v1 v2 - q^2, not below zero.
    """

    var1: Array
    var2: Array
    nngp: Array
    gap: Array
    det: Array


class Dual(NamedTuple):
    """E f(u) f(v), E (f(u) - f(v))^2 or None for the difference of the rest, E f'(u) f'(v)."""

    nngp: Array
    gap: Array | None
    slope: Array


class Scalar(Protocol):
    """A scalar function whose dual kernel is known: a hashable frozen value."""

    def __call__(self, x: Array) -> Array:
        """f, elementwise."""

    def dual(self, pair: Pair) -> Dual:
        """Its dual kernels."""


def make_pair(var1: Array, var2: Array, nngp: Array, gap: Array) -> Pair:
    """Moments made consistent: |q| <= r, and det accurate where u and v are nearly equal."""
    std1, std2 = states.safe_sqrt(var1), states.safe_sqrt(var2)
    radius = std1 * std2
    lack = radius * one_minus_cosine(var1, var2, nngp, gap)  # r - q
    nngp = jnp.clip(nngp, -radius, radius)
    return Pair(var1, var2, nngp, gap, lack * (radius + nngp))


def variance(function: Scalar, var: Array) -> Array:
    """E f(u)^2 for u of variance `var`."""
    zero = jnp.zeros_like(var)
    return function.dual(Pair(var, var, var, zero, zero)).nngp


def one_minus_cosine(var1: Array, var2: Array, nngp: Array, gap: Array) -> Array:
    """1 - cos(angle), within [0, 2], from the gap where that is small; zero for zero variances."""
    std1, std2 = states.safe_sqrt(var1), states.safe_sqrt(var2)
    radius = std1 * std2
    inverse = states.safe_reciprocal(std1) * states.safe_reciprocal(std2)
    by_gap = 0.5 * (gap - (std1 - std2) ** 2) * inverse
    by_cosine = jnp.where(radius > 0, 1 - nngp * inverse, 0)
    return jnp.clip(jnp.where(gap < _NEAR * radius, by_gap, by_cosine), 0, 2)


def angle_and_sine(lack: Array) -> tuple[Array, Array]:
    """The angle in [0, pi] whose cosine is 1 - lack, and its sine."""
    half = 0.5 * jnp.minimum(lack, 2 - lack)  # sin^2 of half the angle to the nearer pole
    root = states.safe_sqrt(half)
    small = 2 * _arcsine(root, half)
    angle = jnp.where(lack < 1, small, math.pi - small)
    return angle, 2 * root * jnp.sqrt(1 - half)


def smooth(kernel: Callable[[Pair], Array], pair: Pair) -> Dual:
    """The dual of a kernel that is differentiable everywhere; its slope by Price's theorem."""
    one = jnp.ones_like(pair.nngp)

    def moving(q, d, det):
        return kernel(pair.replace(nngp=q, gap=d, det=det))

    at = pair.nngp, jnp.broadcast_to(pair.gap, one.shape), jnp.broadcast_to(pair.det, one.shape)
    value, slope = jax.jvp(moving, at, (one, -2 * one, -2 * pair.nngp))
    return Dual(value, None, slope)


@flax.struct.dataclass
class PiecewiseLinear:
    """Slope `negative` below zero and `positive` above: ReLU, leaky ReLU, absolute value."""

    negative: float = flax.struct.field(pytree_node=False)
    positive: float = flax.struct.field(pytree_node=False)

    def __call__(self, x: Array) -> Array:
        """See `Scalar`."""
        return jnp.where(x < 0, self.negative * x, self.positive * x)

    def dual(self, pair: Pair) -> Dual:
        """The arc-cosine kernel of degree 1, its slope that of degree 0."""
        std1, std2 = states.safe_sqrt(pair.var1), states.safe_sqrt(pair.var2)
        lack = one_minus_cosine(pair.var1, pair.var2, pair.nngp, pair.gap)
        angle, sine = angle_and_sine(lack)
        excess = (sine - angle * (1 - lack)) / math.pi  # k1 - cos
        bend = (self.positive - self.negative) ** 2 / 2
        both = self.positive * self.negative
        power = bend + both  # of the variance
        radius = std1 * std2
        return Dual(
            nngp=radius * (power * (1 - lack) + bend * excess),
            gap=power * (std1 - std2) ** 2 + 2 * radius * (power * lack - bend * excess),
            slope=power - bend * angle / math.pi,
        )


@flax.struct.dataclass
class Sign:
    """-1, 0 or 1. Its derivative is zero almost everywhere, and so is what it passes of the NTK."""

    def __call__(self, x: Array) -> Array:
        """See `Scalar`."""
        return jnp.sign(x)

    def dual(self, pair: Pair) -> Dual:
        """(2 / pi) asin(cos)."""
        alive1, alive2 = pair.var1 > 0, pair.var2 > 0
        lack = one_minus_cosine(pair.var1, pair.var2, pair.nngp, pair.gap)
        angle, _ = angle_and_sine(lack)
        nngp = jnp.where(alive1 & alive2, 1 - 2 * angle / math.pi, 0)
        gap = alive1.astype(nngp.dtype) + alive2.astype(nngp.dtype) - 2 * nngp
        return Dual(nngp, jnp.where(alive1 & alive2, 4 * angle / math.pi, gap), 0 * nngp)


@flax.struct.dataclass
class RectifiedPower:
    """max(x, 0)^n, the step function for n = 0."""

    degree: int = flax.struct.field(pytree_node=False)

    def __call__(self, x: Array) -> Array:
        """See `Scalar`."""
        alive = x > 0
        return jnp.where(alive, jnp.where(alive, x, 1) ** self.degree, 0)

    def dual(self, pair: Pair) -> Dual:
        """The arc-cosine kernel of degree n; its slope n^2 times that of degree n - 1."""
        lack = one_minus_cosine(pair.var1, pair.var2, pair.nngp, pair.gap)
        angle, sine = angle_and_sine(lack)
        radius = states.safe_sqrt(pair.var1) * states.safe_sqrt(pair.var2)

        def kernel(degree: int) -> Array:
            by_sine, by_angle = _arc_cosine(degree)
            cosine = 1 - lack
            value = sine * _horner(by_sine, cosine) + (math.pi - angle) * _horner(by_angle, cosine)
            return jnp.where(radius > 0, radius**degree * value / (2 * math.pi), 0)

        slope = self.degree**2 * kernel(self.degree - 1) if self.degree else 0 * radius * lack
        return Dual(kernel(self.degree), None, slope)


@flax.struct.dataclass
class Erf:
    """a erf(b x) + c."""

    a: float = flax.struct.field(pytree_node=False, default=1.0)
    b: float = flax.struct.field(pytree_node=False, default=1.0)
    c: float = flax.struct.field(pytree_node=False, default=0.0)

    def __call__(self, x: Array) -> Array:
        """See `Scalar`."""
        return self.a * jax.scipy.special.erf(self.b * x) + self.c

    def dual(self, pair: Pair) -> Dual:
        """(2 a^2 / pi) asin(2 b^2 q / sqrt((1 + 2 b^2 v1) (1 + 2 b^2 v2))) + c^2."""
        two = 2 * self.b**2
        scale = 2 * self.a**2 / math.pi
        # 1 - sin^2 of the angle, times the denominator, without a difference of large numbers.
        root = jnp.sqrt(1 + two * (pair.var1 + pair.var2) + two**2 * pair.det)
        angle = jnp.arctan2(two * pair.nngp, root)
        return Dual(scale * angle + self.c**2, None, scale * two / root)


@flax.struct.dataclass
class Gelu:
    """x Phi(x), Phi the normal distribution function."""

    def __call__(self, x: Array) -> Array:
        """See `Scalar`."""
        return jax.nn.gelu(x, approximate=False)

    def dual(self, pair: Pair) -> Dual:
        """Stein's lemma on E u v 1(a < u) 1(b < v) with standard normal a, b."""
        return smooth(self._kernel, pair)

    def _kernel(self, pair: Pair) -> Array:
        v1, v2, q = pair.var1, pair.var2, pair.nngp
        root = jnp.sqrt(1 + v1 + v2 + pair.det)
        orthant = 0.25 + jnp.arctan2(q, root) / (2 * math.pi)
        rest = v1 * v2 + q**2 * (1 / (1 + v1) - v2 / (1 + v2))
        return q * orthant + rest / (2 * math.pi * root)


@flax.struct.dataclass
class Sine:
    """a sin(b x + c)."""

    a: float = flax.struct.field(pytree_node=False, default=1.0)
    b: float = flax.struct.field(pytree_node=False, default=1.0)
    c: float = flax.struct.field(pytree_node=False, default=0.0)

    def __call__(self, x: Array) -> Array:
        """See `Scalar`."""
        return self.a * jnp.sin(self.b * x + self.c)

    def dual(self, pair: Pair) -> Dual:
        """(a^2 / 2) (E cos b (u - v) - cos(2 c) E cos b (u + v))."""
        return smooth(self._kernel, pair)

    def _kernel(self, pair: Pair) -> Array:
        half = self.b**2 / 2
        total = pair.var1 + pair.var2 + 2 * pair.nngp
        along = jnp.exp(-half * pair.gap) - math.cos(2 * self.c) * jnp.exp(-half * total)
        return self.a**2 / 2 * along


@flax.struct.dataclass
class Gaussian:
    """a exp(-b x^2) sin(c x + d), or without the sine where c is None: the Gabor functions."""

    a: float = flax.struct.field(pytree_node=False, default=1.0)
    b: float = flax.struct.field(pytree_node=False, default=1.0)
    c: float | None = flax.struct.field(pytree_node=False, default=None)
    d: float = flax.struct.field(pytree_node=False, default=0.0)

    def __call__(self, x: Array) -> Array:
        """See `Scalar`."""
        bell = self.a * jnp.exp(-self.b * x**2)
        return bell if self.c is None else bell * jnp.sin(self.c * x + self.d)

    def dual(self, pair: Pair) -> Dual:
        """E exp(-b (u^2 + v^2)) times 1, or cos c (u - v) and cos (c (u + v) + 2 d)."""
        return smooth(self._kernel, pair)

    def _kernel(self, pair: Pair) -> Array:
        two = 2 * self.b
        det = 1 + two * (pair.var1 + pair.var2) + two**2 * pair.det
        if self.c is None:
            return self.a**2 / jnp.sqrt(det)
        # k' (Sigma^-1 + 2b)^-1 k for k = (1, -1) and (1, 1), with v1 + v2 -+ 2q.
        minus = (pair.gap + 2 * two * pair.det) / det
        plus = (pair.var1 + pair.var2 + 2 * pair.nngp + 2 * two * pair.det) / det
        half = self.c**2 / 2
        waves = jnp.exp(-half * minus) - math.cos(2 * self.d) * jnp.exp(-half * plus)
        return self.a**2 / 2 * waves / jnp.sqrt(det)


@flax.struct.dataclass
class Exponential:
    """a exp(b x)."""

    a: float = flax.struct.field(pytree_node=False, default=1.0)
    b: float = flax.struct.field(pytree_node=False, default=1.0)

    def __call__(self, x: Array) -> Array:
        """See `Scalar`."""
        return self.a * jnp.exp(self.b * x)

    def dual(self, pair: Pair) -> Dual:
        """a^2 exp(b^2 (v1 + v2 + 2 q) / 2)."""
        half = self.b**2 / 2
        total = pair.var1 + pair.var2 + 2 * pair.nngp
        nngp = self.a**2 * jnp.exp(half * total)
        return Dual(nngp, None, self.b**2 * nngp)


@flax.struct.dataclass
class Polynomial:
    """sum_n coefficients[n] x^n."""

    coefficients: tuple[float, ...] = flax.struct.field(pytree_node=False)

    def __call__(self, x: Array) -> Array:
        """See `Scalar`."""
        return _horner(self.coefficients, x)

    def dual(self, pair: Pair) -> Dual:
        """sum_k q^k b_k(v1) b_k(v2) with the Hermite coefficients b_k v^(k/2)."""
        return smooth(self._kernel, pair)

    def _kernel(self, pair: Pair) -> Array:
        terms = []
        for k in range(len(self.coefficients)):
            weights = [
                c * _power_to_hermite(n, k)
                for n, c in enumerate(self.coefficients)
                if n >= k and (n - k) % 2 == 0
            ]
            terms.append(_horner(weights, pair.var1) * _horner(weights, pair.var2))
        return _horner(terms, pair.nngp)


def _power_to_hermite(power: int, order: int) -> float:
    """E x^n h_k(x) for a standard normal x and the orthonormal Hermite polynomial h_k."""
    rest = (power - order) // 2
    below = 2.0**rest * math.factorial(rest) * math.sqrt(math.factorial(order))
    return math.factorial(power) / below


def _arc_cosine(degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """P, Q with J_n = P(cos) sin + Q(cos) (pi - angle); J_n' = n^2 J_(n-1) gives P from Q.

    Q(cos) = E u^n v^n for unit variances, since J_n(cos) + (-1)^n J_n(-cos) = pi E u^n v^n.
    """
    by_angle = [0.0] * (degree + 1)
    for k in range(degree, -1, -2):
        by_angle[k] = _power_to_hermite(degree, k) ** 2
    if not degree:
        return (0.0,), tuple(by_angle)
    before = np.polynomial.Polynomial(_arc_cosine(degree - 1)[0])
    right = degree**2 * before * np.polynomial.Polynomial([1, 0, -1])
    right = right - np.polynomial.Polynomial(by_angle)
    rest = np.zeros(degree + 3)
    rest[: len(right.coef)] = right.coef
    by_sine = np.zeros(degree + 3)
    for j in range(degree, 0, -2):  # (j + 1) p_(j+1) - j p_(j-1) = rest_j
        by_sine[j - 1] = ((j + 1) * by_sine[j + 1] - rest[j]) / j
    return tuple(by_sine[:degree]), tuple(by_angle)


def _horner(coefficients, x: Array) -> Array:
    value = jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value


def _arcsine(root: Array, square: Array) -> Array:
    """asin(root), root = sqrt(square) <= sqrt(1/2); in float32 a polynomial, error below 1e-7."""
    if root.dtype != jnp.float32:
        return jnp.arcsin(root)
    return root * _horner(_ARCSINE, square)


def _arcsine_coefficients() -> tuple[float, ...]:
    """asin(sqrt(h)) / sqrt(h) on [0, 1/2] at Chebyshev points; relative error 2e-8 in degree 8."""

    def ratio(h):
        return np.arcsin(np.sqrt(h)) / np.sqrt(h)

    fit = np.polynomial.Chebyshev.interpolate(ratio, 8, [0, 0.5])
    return tuple(float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef)


_ARCSINE = _arcsine_coefficients()
