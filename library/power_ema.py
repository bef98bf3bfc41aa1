"""Averages of parameters whose length is chosen after training.

Karras et al. 2024, arXiv:2312.02696, sec. 3: an average at time t with the profile p(tau) =
(gamma + 1) tau^gamma / t^{gamma + 1} on [0, t] needs no start-up and no decay rate; its width is a
fixed share of the training so far. A few such averages saved now and then span all others: any
length can be reconstructed afterwards by least squares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import checks
from library.types import Array, Params, PyTree, at_least_float32, copy_at_least_float32


@dataclasses.dataclass(frozen=True)
class Profile:
    """The average that `power_ema` holds after some steps.

    Attributes:
        std: standard deviation of the profile over its length, in (0, 0.2887): the sigma_rel of
            the paper.
        step: number of updates done, >= 1.
    Raises:
        ValueError: outside these ranges.
    """

    std: float
    step: int

    def __post_init__(self) -> None:
        gamma_of_std(self.std)
        checks.count("step", self.step, of="updates")

    @property
    def gamma(self) -> float:
        """The exponent of the profile."""
        return gamma_of_std(self.std)


@flax.struct.dataclass
class PowerEmaState:
    """The state of `power_ema`.

    Attributes:
        count: [] int32, updates done.
        averages: one tree like the parameters, in float32 at least, for each asked std, in their
            order.
    """

    count: Array
    averages: tuple[Params, ...]


def power_ema(stds: Sequence[float] = (0.05, 0.10)) -> optax.GradientTransformation:
    """An Optax transformation that leaves the updates alone and averages the new parameters.

    It goes last in `optax.chain`, so that it sees the updates that are applied. Step t weighs the
    new parameters by 1 - (1 - 1/t)^{gamma + 1}, which makes
    the average exactly that of the profile over the piecewise constant path of the parameters.

    Args:
        stds: widths of the averages, see `Profile`.
    Returns:
        A transformation with `PowerEmaState`; its `update` needs `params`.
    Raises:
        ValueError: for a width outside (0, 0.2887), or an update without parameters.
    """
    gammas = [gamma_of_std(std) for std in stds]

    def init(params: Params) -> PowerEmaState:
        copies = tuple(copy_at_least_float32(params) for _ in gammas)
        return PowerEmaState(count=jnp.zeros((), jnp.int32), averages=copies)

    def update(
        updates: PyTree, state: PowerEmaState, params: Params | None = None
    ) -> tuple[PyTree, PowerEmaState]:
        if params is None:
            raise ValueError("power_ema averages parameters: pass params to update")
        new = optax.apply_updates(params, updates)
        count = state.count + 1
        averages = tuple(
            _toward(average, new, _share(count, gamma))
            for average, gamma in zip(state.averages, gammas, strict=True)
        )
        return updates, PowerEmaState(count=count, averages=averages)

    return optax.GradientTransformation(init, update)


def reconstruct(snapshots: Iterable[Params], saved: Sequence[Profile], target: Profile) -> Params:
    """The average of the target profile, from saved averages of other profiles.

    Args:
        snapshots: trees of parameters in the order of `saved`; read one at a time, so a generator
            may load them from disk.
        saved: what they are.
        target: the wanted average; its step may be any up to the last saved one.
    Returns:
        A tree like the snapshots, in float32 at least.
    Raises:
        ValueError: as `reconstruction_weights`, or if snapshots and profiles differ in number.
    """
    weights, total = reconstruction_weights(saved, target), None
    for snapshot, weight in zip(snapshots, weights, strict=True):
        scaled = jax.tree.map(lambda leaf, weight=weight: _scaled(leaf, weight), snapshot)
        total = scaled if total is None else jax.tree.map(jnp.add, total, scaled)
    return total


def reconstruction_weights(saved: Sequence[Profile], target: Profile) -> np.ndarray:
    """The combination of saved profiles that is nearest to the target in L2, [N] float64.

    It solves A w = b with the inner products of the profiles (the appendix of the paper).

    Raises:
        ValueError: if nothing is saved or the target lies after the last saved step.
    """
    if not saved or target.step > max(profile.step for profile in saved):
        raise ValueError(f"target={target}: expected a step up to the last of {len(saved)} saved")
    products = np.array([[_inner(a, b) for b in saved] for a in saved])
    wanted = np.array([_inner(a, target) for a in saved])
    # Unit diagonal first: profiles of early steps have much larger norms.
    norms = np.sqrt(np.diag(products))
    scaled = products / np.outer(norms, norms)
    weights = np.linalg.lstsq(scaled, wanted / norms, rcond=1e-14)[0] / norms
    return weights / weights.sum()  # the average of constant parameters is these parameters


def gamma_of_std(std: float) -> float:
    """The exponent of the profile with this relative standard deviation; 0 gives 1/sqrt(12).

    It is the largest root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / std^2.

    Raises:
        ValueError: for a width outside (0, 1/sqrt(12)), that of the flat average of all steps.
    """
    if not 0 < std < 12**-0.5:
        raise ValueError(f"std={std}: expected a number in (0, {12**-0.5:.4f})")
    inverse = std**-2.0
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def _inner(a: Profile, b: Profile) -> float:
    """int p_a p_b dtau, in logarithms because tau^gamma overflows."""
    total = a.gamma + b.gamma + 1
    log = np.log((a.gamma + 1) * (b.gamma + 1) / total) + total * np.log(min(a.step, b.step))
    return float(np.exp(log - (a.gamma + 1) * np.log(a.step) - (b.gamma + 1) * np.log(b.step)))


def _scaled(leaf: Array, weight: float) -> Array:
    dtype = at_least_float32(leaf)  # weights of both signs cancel
    return jnp.asarray(weight, dtype) * jnp.asarray(leaf, dtype)


def _share(count: Array, gamma: float) -> Array:
    """1 - (1 - 1/t)^{gamma + 1} without cancellation at large t; 1 at the first step."""
    first = count == 1
    steps = jnp.where(first, 2, count).astype(float)
    later = -jnp.expm1((gamma + 1) * jnp.log1p(-1 / steps))
    return jnp.where(first, 1.0, later)


def _toward(average: Params, new: Params, share: Array) -> Params:
    return jax.tree.map(
        lambda old, leaf: old + (leaf.astype(old.dtype) - old) * share.astype(old.dtype),
        average,
        new,
    )
