"""Are the log densities of the probability flow right, on densities that are known?

Claim: on a Gaussian of full covariance, a mixture and a random field, for every process, the error
is below 1e-4 nats a dimension beyond the process's own prior gap; Hutchinson's estimate has the
spread of a closed form; a perfect denoiser's variational bound is the entropy plus the prior gap.
Cost: 1.5 minutes on 2 CPU cores.
    python -m experiments score_sde.likelihood

log p(x) = log p_T(x_T) + the integral of the divergence along the flow (Song et al. 2021,
arXiv:2011.13456, eq. (39)). The prior stands for p_T, which it is not quite: what that costs at
each point is known here and reported apart. A library in use is 3.9 nats a dimension off on such a
Gaussian, because it takes sigma^2 for the prior's standard deviation; that mistake is made here on
purpose, to show that this study would see it.
"""

from __future__ import annotations

import dataclasses
import functools

import jax

from experiments.score_sde import _exact
from experiments.score_sde.likelihood import checks, densities
from library import claims, plots, report

SHOWN = ("vp", "sub_vp", "ve", "edm", "cosine", "flow")  # of the processes


@dataclasses.dataclass(frozen=True)
class Config:
    """Which processes, how many points, images and probes."""

    processes: tuple[str, ...] = tuple(_exact.all_processes())  # names of the processes
    tolerances: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10)  # of a step
    num_points: int = 16  # points of the Gaussian and of the mixture
    field_size: int = 32  # pixels along a side of the random field's images
    field_processes: tuple[str, ...] = ("vp", "edm", "flow")  # with the exact trace of the field
    num_images: int = 32  # images whose trace is estimated by probes
    num_probes: int = 32  # random probes an image
    num_draws: int = 100_000  # draws of time and noise for the variational bound
    checks: tuple[str, ...] = ("hutchinson", "mistaken_prior", "bound")  # what else is run


PRESETS = {
    "smoke": Config(
        processes=("edm",),
        tolerances=(1e-3, 1e-6),
        num_points=2,
        field_size=4,
        field_processes=(),
        num_images=2,
        num_probes=2,
        num_draws=100,
        checks=("bound",),
    ),
    "default": Config(),
    "accelerator": Config(
        num_points=256, field_size=64, field_processes=tuple(_exact.all_processes()), num_images=256
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """All parts in float64, and the error against the cost."""
    known = set(_exact.all_processes())
    for name in ("processes", "field_processes"):
        if set(asked := getattr(config, name)) - known or not config.processes:
            raise ValueError(f"{name}={asked}: expected some of {', '.join(sorted(known))}")
    further = {
        "hutchinson": functools.partial(
            checks.hutchinson, config.field_size, config.num_images, config.num_probes
        ),
        "mistaken_prior": checks.mistaken_prior,
        "bound": functools.partial(checks.bound, config.num_draws),
    }
    if set(config.checks) - set(further):
        raise ValueError(f"checks={config.checks}: expected some of {', '.join(further)}")
    with jax.enable_x64(True):
        points = [
            densities.on_points(name, config.tolerances, config.num_points)
            for name in config.processes
        ]
        fields = [densities.on_field(name, config.field_size) for name in config.field_processes]
        checked = [further[name]() for name in config.checks]
    figure = plots.curves(
        [record for _, records in points for record in records],
        [name for name in SHOWN if name in config.processes],
        x="nfe",
        log_x=True,
        log_y=True,
        title="Log density of a mixture",
        x_label="evaluations of the score",
        y_label="largest error, nats a dimension",
    )
    out.figure("likelihood", figure)
    return sum([*(result for result, _ in points), *fields, *checked], claims.Result())
