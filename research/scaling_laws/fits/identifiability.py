"""What runs can tell about a law: the spread of D / N, the Jacobian's rank, how far a plan reaches.

At a fixed ratio D / N the terms A / N^alpha and B / D^beta are two powers of one variable: any law
L(N, D) may then be read along a line only, and its optimum across that line is not in the data.
"""

from __future__ import annotations

import dataclasses
import math
import warnings

import chex
import numpy as np

from research.scaling_laws.laws import Law
from research.scaling_laws.runs import Runs, warn_of_units

REFUSED, NARROW = 0.02, 0.35  # standard deviation of log D given log N: 2 % and a factor of 1.4
RANK = 1e-9  # singular value, of the largest, below which a direction counts as lost


class Unidentifiable(ValueError):
    """The runs do not determine the law's parameters."""


class IdentifiabilityWarning(UserWarning):
    """The runs hardly determine some combination of the law's parameters."""


@dataclasses.dataclass(frozen=True)
class Report:
    """How well runs determine a law.

    Attributes:
        num_runs: how many.
        ratio_spread: largest D / N over the smallest; nan for laws of one column.
        conditional_spread: standard deviation of log D about its line in log N; nan likewise.
        rank: numerical rank of the Jacobian of the predictions by the free parameters.
        condition: of that Jacobian, its columns scaled to norm one.
        message: what is wrong, empty if nothing.
        largest_flops: of the runs, 6 N D where both are known; nan if unknown.
    """

    num_runs: int
    ratio_spread: float = math.nan
    conditional_spread: float = math.nan
    rank: int = 0
    condition: float = math.nan
    message: str = ""
    largest_flops: float = math.nan

    def extrapolation(self, flops: float) -> float:
        """How many times the largest run's compute a plan asks for."""
        return flops / self.largest_flops


def before(law: Law, runs: Runs, allow: bool) -> Report:
    """Refuses, or warns, before any fit; also of FLOPs that contradict the other columns.

    Raises:
        Unidentifiable: if the law is one of N and D and all runs share one D / N.
    """
    if not {"parameters", "tokens"} <= set(law.columns):
        largest = math.nan if runs.flops is None else float(runs.flops.max())
        return Report(len(runs), largest_flops=largest)
    warn_of_units(runs, stacklevel=4)
    # By the same count as the optimum of a plan, whatever a column of FLOPs says.
    largest = float(6 * (runs.column("parameters") * runs.column("tokens")).max())
    log_n, log_d = np.log(runs.column("parameters")), np.log(runs.column("tokens"))
    ratio = log_d - log_n
    centred = log_n - log_n.mean()
    slope = centred @ log_d / max(centred @ centred, 1e-300)
    rest = log_d - log_d.mean() - slope * centred
    spread = float(np.sqrt(np.mean(rest**2)))
    message = ""
    if np.std(ratio) < REFUSED:
        message = (
            f"{law.name} is not identifiable: all runs have D / N within "
            f"{np.ptp(ratio):.1%} of {np.exp(ratio.mean()):.4g}; vary tokens at fixed parameters"
        )
        if not allow:
            raise Unidentifiable(message)
    elif spread < NARROW:
        message = (
            f"{law.name} is hardly identifiable: tokens follow parameters^{slope:.2f} to within "
            f"{math.expm1(spread):.0%}; vary tokens at fixed parameters"
        )
    if message:
        warnings.warn(message, IdentifiabilityWarning, stacklevel=3)
    return Report(len(runs), float(np.exp(np.ptp(ratio))), spread, message=message,
                  largest_flops=largest)  # fmt: skip


def after(report: Report, jacobian: np.ndarray) -> Report:
    """The report with the rank of the Jacobian [n, F] at the optimum."""
    chex.assert_rank(jacobian, 2)
    norms = np.linalg.norm(jacobian, axis=0)
    if not np.all(np.isfinite(jacobian)) or np.any(norms == 0):
        scaled = np.where(np.isfinite(jacobian), jacobian, 0.0)
        rank, condition = int(np.linalg.matrix_rank(scaled)), math.inf
    else:
        values = np.linalg.svd(jacobian / norms, compute_uv=False)
        rank, condition = int(np.sum(values > RANK * values[0])), float(values[0] / values[-1])
    message = report.message
    if rank < jacobian.shape[1] and not message:
        message = (
            f"the runs determine {rank} of {jacobian.shape[1]} parameters: a term of the law "
            "has vanished or two terms are alike"
        )
    return dataclasses.replace(report, rank=rank, condition=condition, message=message)
