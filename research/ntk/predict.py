"""What wide networks predict after training by gradient flow on squared error, in closed form.

The convention of this file, with outputs f, targets y and N training points of C outputs:

    loss="sum"   L = 1/2 sum (f - y)^2                   df/dt = -Theta (f - y)
    loss="mean"  L = 1/2 mean (f - y)^2, over all N C    df/dt = -Theta (f - y) / (N C)

Time t at learning_rate eta is t steps of gradient descent of that size, in the limit of small ones;
the mean without the factor 1/2 is loss="mean" at twice the learning rate. A ridge r adds
1/2 r |theta - theta_0|^2 to the sum (divided by N C for the mean), so that r joins the eigenvalues
of Theta in the exponent and in the inverse alike.

    A_t = Theta(x, X) (1 - exp(-eta (Theta + r) t)) (Theta + r)^-1
    f_t(x) = f_0(x) + A_t (y - f_0(X))

Lee et al. 2019, arXiv:1902.06720, eqs. (10-11) and (14-16).
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from library.types import Array, PyTree
from research.ntk import checks, closed_form, eigen, precision
from research.ntk.eigen import Eigen

Kind = Literal["ntk", "nngp"]


class Kernel(Protocol):
    """A network's infinite-width kernels; the result carries .nngp and .ntk, [N1, N2]."""

    def __call__(self, x1: PyTree, x2: PyTree, get: tuple[str, ...]) -> Any: ...


@flax.struct.dataclass
class Flow:
    """Training of an ensemble of infinitely wide networks; see `gradient_flow`.

    Attributes:
        x_train: leaves [N, ...].
        y_train: [N, C] float.
        nngp: [N, N] float, covariance of the outputs at the start.
        eigen: by kind, the decomposed kernel, with its condition number.
        speed: [] float, learning rate over N C if the loss is a mean.
        flat: whether the targets came as [N].
        kernel: of the network.
    """

    x_train: PyTree
    y_train: Array
    nngp: Array
    eigen: dict[str, Eigen]
    speed: Array
    flat: bool = flax.struct.field(pytree_node=False)
    kernel: Kernel = flax.struct.field(pytree_node=False)

    def __call__(
        self, x_test: PyTree | None = None, time: Array | float | None = None, kind: Kind = "ntk"
    ) -> tuple[Array, Array]:
        """Mean and covariance of the ensemble's outputs at a time.

        Args:
            x_test: leaves [M, ...]; None stands for the training points.
            time: [] or [T] float >= 0, in steps; None is infinity.
            kind: "ntk" trains all layers; "nngp" trains the last one, on targets with independent
                noise of variance ridge, so that it ends in the Gaussian process posterior.
        Returns:
            mean [M, C] (or [M], as the targets came) and covariance [M, M], equal for all outputs;
            both with a leading [T] for several times.
        Raises:
            ValueError: if the arguments do not fit.
        """
        cross, cross_nngp = self._cross(x_test, kind, ("nngp", kind))
        points = self.x_train if x_test is None else jax.tree.map(jnp.asarray, x_test)
        test = self.nngp if x_test is None else self.kernel(points, points, get=("nngp",)).nngp
        noise = self.eigen[kind].ridge if kind == "nngp" else 0.0
        mean, covariance = precision.narrow(
            precision.wide(
                closed_form.ensemble,
                *(self.eigen[kind], self.speed, closed_form.as_time(time), self.y_train),
                *(cross, cross_nngp, test, self.nngp, noise),
            )
        )
        return (mean[..., 0] if self.flat else mean), covariance

    def mean(
        self, x_test: PyTree | None = None, time: Array | float | None = None, kind: Kind = "ntk"
    ) -> Array:
        """The mean alone, at the cost of a product: for many test points. Arguments as above."""
        cross, _ = self._cross(x_test, kind, (kind,))
        arguments = self.eigen[kind], self.speed, closed_form.as_time(time), self.y_train, cross
        mean = precision.narrow(precision.wide(closed_form.change, *arguments))
        return mean[..., 0] if self.flat else mean

    def _cross(
        self, x_test: PyTree | None, kind: Kind, get: tuple[str, ...]
    ) -> tuple[Array, Array]:
        """The kernel of the kind, and the NNGP kernel, between test and training points."""
        checks.choice("kind", kind, tuple(self.eigen))
        if x_test is None:
            return precision.wide(closed_form.recompose, self.eigen[kind]), self.nngp
        x_test = jax.tree.map(jnp.asarray, x_test)
        checks.same_examples(self.x_train, x_test, ("x_train", "x_test"))
        both = self.kernel(x_test, self.x_train, get=tuple(dict.fromkeys(get)))
        return getattr(both, kind), both.nngp


def gradient_flow(
    kernel: Kernel,
    x_train: PyTree,
    y_train: Array,
    *,
    ridge: float = 0.0,
    learning_rate: float = 1.0,
    loss: closed_form.Loss = "sum",
    kinds: tuple[Kind, ...] = ("ntk", "nngp"),
) -> Flow:
    """The ensemble of infinitely wide networks under gradient flow, at any time.

    Args:
        kernel: (x1, x2, get) -> object with .nngp and .ntk [N1, N2], e.g. `net.kernel`; its entries
            are computed in the dtype of the inputs, float32 at least, all that follows in float64.
        x_train: leaves [N, ...].
        y_train: [N, C] or [N] float.
        ridge: >= 0, weight decay towards each network's start; see the module's docstring.
        learning_rate: > 0, of one step.
        loss: "sum" or "mean", see the module's docstring.
        kinds: which kernels to decompose, N^3 operations each.
    Returns:
        `Flow`: flow(x_test, time, kind) -> mean, covariance.
    Warns:
        RuntimeWarning: if the kernel is singular to its rounding error, e.g. because training
            points are duplicated; predictions stay finite. See `flow.eigen[kind]`.
    Raises:
        ValueError: if the arguments do not fit together.
    """
    x_train = jax.tree.map(jnp.asarray, x_train)
    num = checks.num_examples(x_train, "x_train")
    y_train, flat = closed_form.as_targets(y_train, num)
    for kind in kinds:
        checks.choice("kinds", kind, ("ntk", "nngp"))
    eigen.require_ridge(ridge)
    speed = closed_form.as_speed(learning_rate, loss, y_train.size)
    both = kernel(x_train, x_train, get=("nngp", "ntk"))
    matrices = {kind: getattr(both, kind) for kind in kinds}
    parts = {kind: eigen.decompose(matrices[kind], ridge, kind) for kind in kinds}
    return Flow(x_train, y_train, both.nngp, parts, speed, flat, kernel)


@flax.struct.dataclass
class NetworkFlow:
    """Training of one linearised network; see `network_flow`.

    Attributes:
        eigen: the decomposed kernel of the training points, with its condition number.
        error: [D] float, y - f_0 on the training points, D = N or N C.
        f_train: [N, ...] float, outputs at the start.
        speed: [] float, learning rate over N C if the loss is a mean.
    """

    eigen: Eigen
    error: Array
    f_train: Array
    speed: Array

    def __call__(
        self,
        time: Array | float | None = None,
        k_test_train: Array | None = None,
        f_test: Array | float = 0.0,
    ) -> Array:
        """The network's outputs at a time.

        Args:
            time: [] or [T] float >= 0, in steps; None is infinity.
            k_test_train: [M, N] or [M, N, C, C]; None predicts on the training points.
            f_test: [M, C] or [M] float, the network's outputs there at the start.
        Returns:
            [M, C] or [M], like the targets; with a leading [T] for several times.
        Raises:
            ValueError: if the arguments do not fit.
        """
        if k_test_train is None:
            cross, start = precision.wide(closed_form.recompose, self.eigen), self.f_train
        else:
            cross = closed_form.as_matrix(k_test_train, self.f_train.shape, "k_test_train")
            if cross.shape[1] != len(self.error):
                raise ValueError(
                    f"k_test_train has shape {jnp.shape(k_test_train)}: expected "
                    f"{len(self.f_train)} columns, as k_train"
                )
            start = jnp.asarray(f_test)
        change = precision.narrow(
            precision.wide(
                closed_form.change,
                self.eigen,
                self.speed,
                closed_form.as_time(time),
                self.error,
                cross,
            )
        )
        times, outputs = change.shape[:-2], self.f_train.shape[1:]
        change = change.reshape(*times, -1, *outputs)
        expected = change.shape[len(times) :]
        if start.shape not in ((), expected):
            raise ValueError(f"f_test has shape {start.shape}: expected {expected}")
        return jnp.broadcast_to(start, change.shape) + change


def network_flow(
    k_train: Array,
    y_train: Array,
    f_train: Array | float = 0.0,
    *,
    ridge: float = 0.0,
    learning_rate: float = 1.0,
    loss: closed_form.Loss = "sum",
) -> NetworkFlow:
    """One network, linearised at its start, under gradient flow: from its empirical kernel.

    Args:
        k_train: [N, N, C, C] from `empirical(..., outputs="full")`, or [N, N] if all outputs share
            one kernel (that is the trace kernel divided by C).
        y_train: [N, C] or [N] float.
        f_train: like y_train, the network's outputs at the start.
        ridge, learning_rate, loss: as in `gradient_flow`.
    Returns:
        `NetworkFlow`: flow(time, k_test_train, f_test) -> outputs.
    Warns:
        RuntimeWarning: as `gradient_flow`.
    Raises:
        ValueError: if the arguments do not fit together.
    """
    y_train = jnp.asarray(y_train)
    if not y_train.ndim or not jnp.issubdtype(y_train.dtype, jnp.floating):
        raise ValueError(
            f"y_train is {y_train.dtype}{list(y_train.shape)}: expected floats, [N, C] or [N]"
        )
    if jnp.shape(f_train) not in ((), y_train.shape):
        raise ValueError(f"f_train has shape {jnp.shape(f_train)}: expected {y_train.shape}")
    eigen.require_ridge(ridge)
    y_train, f_train = checks.widened((y_train, jnp.broadcast_to(f_train, y_train.shape)))
    matrix = closed_form.as_matrix(k_train, y_train.shape, "k_train")
    if matrix.shape[0] not in (y_train.size, len(y_train)):
        raise ValueError(
            f"k_train has {k_train.shape[0]} rows and y_train {len(y_train)}: expected as many"
        )
    columns = 1 if matrix.shape[0] == y_train.size else -1
    error = (y_train - f_train).reshape(matrix.shape[0], columns)
    parts = eigen.decompose(matrix, ridge, "k_train")
    return NetworkFlow(
        parts, error, f_train, closed_form.as_speed(learning_rate, loss, y_train.size)
    )


def posterior(
    kernel: Kernel, x_train: PyTree, y_train: Array, x_test: PyTree, *, noise: float = 0.0
) -> tuple[Array, Array]:
    """Gaussian process inference with the NNGP kernel: the posterior of the noise-free function.

    mean = K_xX (K_XX + noise)^-1 y, covariance = K_xx - K_xX (K_XX + noise)^-1 K_Xx; Rasmussen and
    Williams 2006, eqs. (2.23-2.24).

    Args:
        kernel, x_train, y_train, x_test: as in `gradient_flow` and `Flow`.
        noise: >= 0, variance of the targets' noise.
    Returns:
        mean [M, C] or [M], covariance [M, M].
    Warns:
        RuntimeWarning: as `gradient_flow`.
    Raises:
        ValueError: if the arguments do not fit together.
    """
    eigen.require_ridge(noise, "noise")
    flow = gradient_flow(kernel, x_train, y_train, ridge=noise, kinds=("nngp",))
    return flow(x_test, None, "nngp")


def log_evidence(parts: Eigen, y_train: Array) -> Array:
    """log p(y) of targets under a zero-mean Gaussian process, Rasmussen and Williams, eq. (2.30).

    Args:
        parts: `eigen.decompose(k_train, noise)`, e.g. `flow.eigen["nngp"]`; noise > 0.
        y_train: [N, C] or [N] float, columns independent.
    Returns:
        [] float, nats, the sum over columns.
    Raises:
        ValueError: if an eigenvalue is not positive: the targets then have no density.
    """
    if not precision.traced(parts) and not parts.values[0] > 0:
        raise ValueError(
            f"parts have an eigenvalue of {float(parts.values[0]):.3g}: expected noise > 0"
        )

    def evidence(parts: Eigen, y: Array) -> Array:
        coordinates = jnp.einsum("nk,nc->kc", parts.vectors, y)
        fit = jnp.sum(jnp.square(coordinates) / parts.values[:, None])
        volume = y.shape[1] * jnp.sum(jnp.log(2 * jnp.pi * parts.values))
        return -0.5 * (fit + volume)

    y, _ = closed_form.as_targets(y_train, len(parts.values))
    return precision.narrow(precision.wide(evidence, parts, y))
