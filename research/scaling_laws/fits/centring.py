"""A law's runs in centred units: logarithms about their means, so that coefficients stay near one.

In the caller's units the coefficients of Chinchilla's law are hundreds and its Hessian has a
condition number above 1e11: a float64 solver loses most of its digits before it starts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.scaling_laws.fits import lanes as solver
from research.scaling_laws.laws import Law
from research.scaling_laws.runs import Runs

SAME_UNIT = {"unique_tokens": "tokens"}  # columns measured in the unit of another


@dataclasses.dataclass(frozen=True)
class Centred:
    """A fitting problem in centred units.

    Attributes:
        law: the law.
        solver: the problem as the solver takes it.
        log_unit: {column: logarithm of the unit it is measured in}.
        fixed: {name: value held, in the caller's units}.
        raw_target: [n] the target column.
        others: further local minima that a fit found, theta [P] each.
    """

    law: Law
    solver: solver.Problem
    log_unit: dict[str, float]
    fixed: dict[str, float]
    raw_target: np.ndarray
    others: tuple = ()

    def theta_of(self, parameters: Mapping[str, float]) -> np.ndarray:
        """[P] theta of parameters in the caller's units.

        Raises:
            ValueError: if a parameter is missing, or a coefficient not positive.
        """
        missing = [name for name in self.law.names if name not in parameters]
        if missing:
            raise ValueError(f"{self.law.name} needs a value of {missing[0]!r}")
        shapes = {s.name: float(parameters[s.name]) for s in self.law.shapes}
        theta = []
        for scale in self.law.scales:
            value = float(parameters[scale.name])
            if not value > 0:
                raise ValueError(f"{scale.name}={value}: expected a positive coefficient")
            theta.append(math.log(value) - self._shift(scale, shapes))
        return np.array(theta + list(shapes.values()))

    def parameters_of(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """{name: [B]} of theta [P, B], in the caller's units."""
        count = len(self.law.scales)
        shapes = {s.name: theta[count + i] for i, s in enumerate(self.law.shapes)}
        with np.errstate(over="ignore"):  # a lost resample may have an infinite coefficient
            scales = {
                scale.name: np.exp(theta[i] + self._shift(scale, shapes))
                for i, scale in enumerate(self.law.scales)
            }
        return {**scales, **shapes}

    def parameters_from(self, other: Centred, theta: np.ndarray) -> np.ndarray:
        """[P, B] theta of another centring in this one's units."""
        theta = np.array(theta)
        count = len(self.law.scales)
        shapes = {s.name: theta[count + i] for i, s in enumerate(self.law.shapes)}
        for i, scale in enumerate(self.law.scales):
            theta[i] += other._shift(scale, shapes) - self._shift(scale, shapes)
        return theta

    def errors_of(self, theta: np.ndarray, covariance: np.ndarray) -> dict[str, float]:
        """{name: standard error} in the caller's units, by the delta method."""
        size = len(theta)
        step = 1e-6
        near = theta[:, None] + step * np.concatenate([np.eye(size), -np.eye(size)], 1)
        named = self.parameters_of(near)
        errors = {}
        for name in self.law.names:
            with np.errstate(invalid="ignore"):  # a scale beyond all numbers has no error: nan
                slope = (named[name][:size] - named[name][size:]) / (2 * step)
            variance = slope @ covariance @ slope
            errors[name] = math.sqrt(variance) if variance >= 0 else math.nan
        return errors

    def with_fixed(self, theta: np.ndarray) -> np.ndarray:
        """theta [P] with the values that are held put in.

        A coefficient that changes with the units forbids to change them (see `centre`), so its
        logarithm is the same here as in the caller's units.
        """
        held, count = theta.copy(), len(self.law.scales)
        for i, name in enumerate(self.law.names):
            if name in self.fixed:
                held[i] = math.log(self.fixed[name]) if i < count else self.fixed[name]
        return held

    def holding(self, name: str) -> Centred:
        """The same problem with one more parameter held."""
        index = self.law.names.index(name)
        plain = self.uncentred() if _moves(self.law, index, self.solver.free) else self
        free = plain.solver.free.copy()
        free[index] = False
        return dataclasses.replace(plain, solver=dataclasses.replace(plain.solver, free=free))

    def uncentred(self) -> Centred:
        """The same problem in the caller's units."""
        columns = {name: c + self.log_unit[name] for name, c in self.solver.columns.items()}
        return dataclasses.replace(
            self,
            solver=dataclasses.replace(self.solver, columns=columns),
            log_unit=dict.fromkeys(self.log_unit, 0.0),
            others=(),
        )

    def _shift(self, scale: object, shapes: Mapping[str, Array]) -> Array:
        """log coefficient in the caller's units less that in ours."""
        powers = scale.powers(shapes)
        return sum((power * self.log_unit[column] for column, power in powers.items()), 0.0)


def centre(
    law: Law, runs: Runs, loss: str, delta: float, space: str, fixed: Mapping[str, float]
) -> Centred:
    """The fitting problem of a law and runs, checked.

    Raises:
        ValueError: for a column that is missing, an option, too few runs.
    """
    if loss not in ("huber", "squared"):
        raise ValueError(f"loss={loss!r}: expected 'huber' or 'squared'")
    if space not in ("log", "linear"):
        raise ValueError(f"space={space!r}: expected 'log' or 'linear'")
    if not delta > 0:
        raise ValueError(f"delta={delta}: expected a positive threshold")
    unknown = [name for name in fixed if name not in law.names]
    if unknown:
        raise ValueError(f"{law.name} has no parameter {unknown[0]!r}: {', '.join(law.names)}")
    logs = {name: np.log(runs.column(name)) for name in law.columns}
    target = runs.column(law.target)
    num_free = len(law.names) - len(fixed)
    if len(runs) < max(num_free, 1):
        raise ValueError(f"{law.name} has {num_free} free parameters: {len(runs)} runs are too few")
    free = np.array([name not in fixed for name in law.names])
    log_unit = {name: 0.0 for name in law.columns}
    held = [i for i, is_free in enumerate(free) if not is_free and _moves(law, i, free)]
    if not held:  # a coefficient that is held in the caller's units forbids to change them
        shapes = {shape.name: shape.grid[0] for shape in law.shapes}
        moved = {column for scale in law.scales for column in scale.powers(shapes)}
        log_unit |= {name: float(logs[name].mean()) for name in moved}
        log_unit |= {a: log_unit[b] for a, b in SAME_UNIT.items() if a in log_unit}
    return Centred(
        law=law,
        solver=solver.Problem(
            predict=_predictor(law, space == "log"),
            columns={name: logs[name] - log_unit[name] for name in law.columns},
            targets=np.log(target) if space == "log" else target,
            delta=delta if loss == "huber" else math.inf,
            free=free,
        ),
        log_unit=log_unit,
        fixed={name: float(value) for name, value in fixed.items()},
        raw_target=target,
    )


def _moves(law: Law, index: int, free: np.ndarray) -> bool:
    """Whether the coefficient changes with the units by an exponent that is fitted."""
    if index >= len(law.scales):
        return False
    shapes = {shape.name: shape.grid[0] for shape in law.shapes}
    return bool(law.scales[index].powers(shapes))


@functools.cache
def _predictor(law: Law, in_log: bool) -> Callable:
    """(theta [P, B, 1], columns [1, n]) -> [B, n]; one object a law, so it compiles once."""

    def predict(theta: Array, columns: dict[str, Array]) -> Array:
        named = {name: theta[i] for i, name in enumerate(law.names)}  # [B, 1]
        value = law.log_value(named, columns)
        num_runs = max(column.shape[1] for column in columns.values())
        value = jnp.broadcast_to(value, (theta.shape[1], num_runs))
        return value if in_log else jnp.exp(value)

    return predict
