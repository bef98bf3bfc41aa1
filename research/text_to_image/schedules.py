"""The noise schedules of Stable Diffusion's scheduler files, as values, and the steps they choose.

A schedule is DDPM's table with N = 1,000 steps; a network is asked at whole steps 0 ... N - 1.
`Schedule.process` is the same table as a continuous process (`diffusion.discrete.from_betas`), in
which step i lies at time (i + 1) / M, so that every solver of `diffusion.samplers` runs on it. A
sampler goes from each step to the next one of its list, whatever the spacing, and last to the
file's final noise: that of step 0, or none.

Lin et al. 2024, arXiv:2305.08891, compare the spacings (table 2) and say how a table is rescaled so
that its last step holds no signal (algorithm 1).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from library import checks
from research.diffusion import discrete
from research.diffusion.processes import Process
from research.diffusion.sampling import samplers
from research.text_to_image import scheduler_fields

SPACINGS = ("leading", "trailing", "linspace")
KINDS = {"epsilon": "noise", "v_prediction": "v", "sample": "data"}  # theirs: ours
TABLES = ("linear", "scaled_linear", "squaredcos_cap_v2")
SOLVERS = {  # the class that a file names: the solver that does the same
    "DDIMScheduler": samplers.ddim(),
    "DDPMScheduler": samplers.ancestral(),
    "PNDMScheduler": samplers.plms(),
    "EulerDiscreteScheduler": samplers.euler("sigma"),
    "EulerAncestralDiscreteScheduler": samplers.ancestral(),
    "HeunDiscreteScheduler": samplers.heun("sigma"),
    "DPMSolverMultistepScheduler": samplers.dpm_solver_pp(2),
    "UniPCMultistepScheduler": samplers.unipc(2),
}
_STARTS_AT_SIGMA = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
)
_MULTISTEP = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A table of noise levels, what its network predicts, and how it is usually stepped through.

    Attributes:
        num_train_steps: N.
        beta_start, beta_end: ends of the table; unused by "squaredcos_cap_v2" and `betas`.
        table: "linear" in beta, "scaled_linear" in its root, or "squaredcos_cap_v2" (Nichol and
            Dhariwal 2021, arXiv:2102.09672, betas of at most 0.999).
        betas: the N betas themselves, or None.
        kind: what the network predicts: "noise", "v" or "data".
        zero_terminal_snr: rescale the table so that step N - 1 is noise alone.
        solver: the class that a file names, a key of `SOLVERS`.
        spacing: of the steps, one of `SPACINGS`.
        steps_offset: added to the steps of "leading".
        to_zero: whether the last step ends without noise; else it ends at the noise of step 0.
    Raises:
        ValueError: for a value outside these, by its name, or noise predicted from noise alone.
    """

    num_train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    table: str = "scaled_linear"
    betas: tuple[float, ...] | None = None
    kind: str = "noise"
    zero_terminal_snr: bool = False
    solver: str = "DDIMScheduler"
    spacing: str = "leading"
    steps_offset: int = 1
    to_zero: bool = False

    def __post_init__(self) -> None:
        checks.count("num_train_steps", self.num_train_steps)
        choices = {"table": TABLES, "kind": KINDS.values(), "spacing": SPACINGS, "solver": SOLVERS}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(allowed)}")
        if self.betas is not None and len(self.betas) != self.num_train_steps:
            raise ValueError(f"{len(self.betas)} betas: expected {self.num_train_steps}")
        if checks.count("steps_offset", self.steps_offset, least=0) >= self.num_train_steps:
            raise ValueError(
                f"steps_offset={self.steps_offset}: expected 0 to {self.num_train_steps - 1}"
            )
        if self.zero_terminal_snr and self.kind == "noise":
            raise ValueError("zero_terminal_snr with kind='noise': expected 'v' or 'data'")
        if self.zero_terminal_snr and self.num_train_steps < 2:
            raise ValueError("zero_terminal_snr with one step: expected at least two")
        self.alpha_bar  # noqa: B018  checks the betas

    @functools.cached_property
    def alpha_bar(self) -> np.ndarray:
        """[N] float64, the share of signal in the variance after each step."""
        bar = discrete.Betas(self._betas()).alpha_bar
        return _without_last_signal(bar) if self.zero_terminal_snr else bar

    @functools.cached_property
    def process(self) -> Process:
        """The steps that hold signal, as a process on times up to 1; the same object every time."""
        bar = self.alpha_bar[:-1] if self.zero_terminal_snr else self.alpha_bar
        return discrete.from_betas(discrete.Betas(1 - bar / np.append(1.0, bar[:-1])))

    def time(self, steps: np.ndarray) -> np.ndarray:
        """Times of the process at whole or fractional steps, any shape."""
        return (np.asarray(steps, np.float64) + 1) / self._num_noisy

    def step(self, time: Any) -> Any:
        """Steps, not rounded, at times of the process; whole ones to the last bit of a float32."""
        fractional = time * self._num_noisy - 1
        whole = fractional.round()
        return whole + (fractional - whole) * (abs(fractional - whole) > 1e-3)

    @property
    def _num_noisy(self) -> int:
        return self.num_train_steps - self.zero_terminal_snr

    def _betas(self) -> np.ndarray:
        num = self.num_train_steps
        if self.betas is not None:
            return np.asarray(self.betas, np.float64)
        if self.table == "linear":
            return np.linspace(self.beta_start, self.beta_end, num)
        if self.table == "scaled_linear":
            return np.linspace(self.beta_start**0.5, self.beta_end**0.5, num) ** 2
        bar = np.cos((np.arange(num + 1) / num + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - bar[1:] / bar[:-1], 0.999)


def timesteps(schedule: Schedule, num_steps: int = 50, spacing: str | None = None) -> np.ndarray:
    """The whole steps at which a sampler asks the network, falling strictly.

    The lists are those of diffusers' schedulers where they stay on the table: an offset that would
    leave it is cut (1,000 steps of "leading" with offset 1), a rounding that repeats a step or goes
    below 0 does not occur. "leading" and "linspace" with one step start at the low end, as there.

    Args:
        schedule: the table; its solver says whether the list's last point is left out (multistep
            solvers, whose last step is the one to zero noise).
        num_steps: 1 to N.
        spacing: one of `SPACINGS`; None is the schedule's own.
    Returns:
        [num_steps] int64 in [0, N).
    Raises:
        ValueError: for another number or spacing.
    """
    most = schedule.num_train_steps
    if checks.count("num_steps", num_steps) > most:
        raise ValueError(f"num_steps={num_steps}: expected at most {most}, the steps of the table")
    spacing = schedule.spacing if spacing is None else spacing
    if spacing not in SPACINGS:
        raise ValueError(f"spacing={spacing!r}: expected one of {', '.join(SPACINGS)}")
    if spacing == "trailing":  # by arange, whose rounding decides ties as theirs does
        falling = np.arange(most, 0, -most / num_steps)[:num_steps]
        return falling.round().astype(np.int64) - 1
    left_out = schedule.solver in _MULTISTEP and num_steps < most
    num = num_steps + left_out
    if spacing == "linspace":
        steps = np.linspace(0, most - 1, num).round().astype(np.int64)
        return steps[::-1][:num_steps]
    steps = np.arange(num) * (most // num)
    return steps[::-1][:num_steps] + min(schedule.steps_offset, most - 1 - steps[-1])


def start_std(schedule: Schedule, steps: np.ndarray, spacing: str | None = None) -> float:
    """Standard deviation of the noise that sampling starts from, in the units of the network.

    1, but for the classes that step in sigma/alpha from the noisiest level (Euler's and Heun's with
    "trailing" or "linspace"): they start at sigma of the first step.
    """
    spacing = schedule.spacing if spacing is None else spacing
    if schedule.solver not in _STARTS_AT_SIGMA or spacing == "leading":
        return 1.0
    return float(np.sqrt(1 - schedule.alpha_bar[steps[0]]))


def solver(schedule: Schedule) -> samplers.Solver:
    """The solver that does what the schedule's class does."""
    return SOLVERS[schedule.solver]


def read(fields: Mapping[str, Any]) -> Schedule:
    """The schedule of a scheduler_config.json.

    Args:
        fields: its content.
    Raises:
        ValueError: for an unknown class or field, or a value that is not supported, by its name.
    """
    kind = fields.get("_class_name")
    if kind not in SOLVERS:
        raise ValueError(f"scheduler {kind!r}: expected one of {', '.join(SOLVERS)}")
    own = scheduler_fields.FIELDS[kind]
    given = {name: value for name, value in fields.items() if not name.startswith("_")}
    for name in given:
        if name not in own and name not in scheduler_fields.LEFTOVERS:
            raise ValueError(f"scheduler field {name}={given[name]!r} is unknown")
    found = {name: given.get(name, default) for name, default in own.items()}
    for name, default in own.items():
        if isinstance(default, bool) and not isinstance(found[name], bool):
            raise ValueError(f"scheduler field {name}={found[name]!r}: expected true or false")
    for name, only in _fixed(kind).items():
        if found[name] != only:
            raise ValueError(
                f"scheduler field {name}={found[name]!r} is not supported: expected {only!r} "
                f"({kind})"
            )
    if found["prediction_type"] not in KINDS:
        raise ValueError(
            f"prediction_type={found['prediction_type']!r}: expected one of {', '.join(KINDS)}"
        )
    betas = found["trained_betas"]
    return Schedule(
        num_train_steps=found["num_train_timesteps"],
        beta_start=found["beta_start"],
        beta_end=found["beta_end"],
        table=found["beta_schedule"],
        betas=None if betas is None else tuple(betas),
        kind=KINDS[found["prediction_type"]],
        zero_terminal_snr=found.get("rescale_betas_zero_snr", False),
        solver=kind,
        spacing=found["timestep_spacing"],
        steps_offset=found["steps_offset"],
        to_zero=_to_zero(found),
    )


def write(schedule: Schedule) -> dict[str, Any]:
    """The content of a scheduler_config.json of a schedule, the inverse of `read`."""
    kind = schedule.solver
    theirs = {ours: name for name, ours in KINDS.items()}
    fields = {
        **scheduler_fields.FIELDS[kind],
        **_fixed(kind),
        "num_train_timesteps": schedule.num_train_steps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.table,
        "trained_betas": None if schedule.betas is None else list(schedule.betas),
        "prediction_type": theirs[schedule.kind],
        "timestep_spacing": schedule.spacing,
        "steps_offset": schedule.steps_offset,
    }
    if "set_alpha_to_one" in fields:
        fields["set_alpha_to_one"] = schedule.to_zero
    elif "final_sigmas_type" in fields:
        fields["final_sigmas_type"] = "zero" if schedule.to_zero else "sigma_min"
    elif not schedule.to_zero:
        raise ValueError(f"to_zero=False: a {kind} always ends without noise")
    if "rescale_betas_zero_snr" in fields:
        fields["rescale_betas_zero_snr"] = schedule.zero_terminal_snr
    elif schedule.zero_terminal_snr:
        raise ValueError(f"zero_terminal_snr=True: the file of a {kind} cannot say so")
    return {"_class_name": kind, **fields}


def _fixed(kind: str) -> dict[str, Any]:
    """The fields of a class of which one value is done here, and that value."""
    followed = scheduler_fields.FOLLOWED | scheduler_fields.IDLE
    own = scheduler_fields.FIELDS[kind].items()
    return {
        name: scheduler_fields.ONLY.get(name, value) for name, value in own if name not in followed
    }


def _to_zero(fields: Mapping[str, Any]) -> bool:
    """Whether a file's last step ends without noise."""
    if "set_alpha_to_one" in fields:
        return fields["set_alpha_to_one"]
    return fields.get("final_sigmas_type", "zero") == "zero"


def _without_last_signal(bar: np.ndarray) -> np.ndarray:
    """The table with its roots shifted to end at 0 and scaled to start where it did."""
    root = np.sqrt(bar)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
