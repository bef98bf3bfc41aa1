"""Which law does classifier-free guidance sample?

Claim: not p(x|c)^w p(x)^(1-w), although the guided score extrapolates to that at every noise level:
for Gaussian classes the flow ends in another law, known in closed form and met to 1e-8 by the
sampler's map and within its noise by its samples; at w = 2 the two variances differ by more than
5 %; on a mixture of two classes the total variation between the two laws is above 0.1.
Cost: 1 minute on 2 CPU cores.
    python -m experiments score_sde.guidance

Ho and Salimans 2022, arXiv:2207.12598. w s(x|c) + (1-w) s(x) would be the score of the tilted law
if noise and tilting commuted; they do not, and for w other than 0 and 1 the guided field is the
score of no diffused law at all, so that the flow and the reverse SDE of the same field end in
different laws. The flow's law on the mixture comes without sampling, as the model's likelihood.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.score_sde.guidance import gaussian_classes, mixture, picture
from library import claims, report


@dataclasses.dataclass(frozen=True)
class Config:
    """Strengths, samples and steps."""

    scales: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)  # guidance weights w; 2.0 is judged
    num_samples: int = 20_000  # samples at every weight
    num_steps: int = 800  # steps of RK4 in log SNR
    num_points: int = 241  # points of the mixture's densities
    sde_steps: int = 4000  # steps of the recursion for the reverse SDE


PRESETS = {
    "smoke": Config(scales=(2.0,), num_samples=50, num_steps=20, num_points=21, sde_steps=20),
    "default": Config(),
    "accelerator": Config(num_samples=1_000_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """The Gaussian classes, then the mixture, then the picture of both."""
    if 2.0 not in config.scales:
        raise ValueError(f"scales={config.scales}: expected 2.0, which is judged, among them")
    with jax.enable_x64(True):
        gaussian = gaussian_classes.measured(
            config.scales,
            num_samples=config.num_samples,
            num_steps=config.num_steps,
            sde_steps=config.sde_steps,
        )
        densities, samples = mixture.at_two(config.num_points, config.num_samples)
        fine = np.linspace(0, max(config.scales), 81)
        stds = gaussian_classes.stds(fine)
    measured = {
        name: [gaussian.metrics[f"{name}_variance_w{w:g}"] ** 0.5 for w in config.scales]
        for name in ("sampled", "reverse_sde")
    }
    figure = picture.draw(densities, samples, fine, stds, config.scales, measured)
    out.figure("guidance", figure)
    return gaussian + mixture.compared(densities, samples)
