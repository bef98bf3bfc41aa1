"""How biased are the ways to inpaint with a score that is exact?

Claim: on a correlated Gaussian pair the conditional score converges to the known conditional and
the guided posterior mean with the true covariance is the same to rounding, while replacement and
the usual diagonal guidance keep a bias that more steps do not remove; replacement with a corrector
is still biased at 1600 steps; on a random field of 32x32 pixels all three are, at 250 steps.
Cost: 2 minutes on 2 CPU cores.
    python -m experiments score_sde.inpainting

Replacement is the method of Song et al. 2021, arXiv:2011.13456, appendix I.2; posterior-mean
guidance that of Chung et al. 2023, arXiv:2209.14687, with the spread of pseudo-inverse guidance.
All laws on the pair are Gaussian and their moments follow by recursion, without sampling.
"""

from __future__ import annotations

import dataclasses

import jax

from experiments.score_sde.inpainting import field, methods, pair, picture
from library import claims, report


@dataclasses.dataclass(frozen=True)
class Config:
    """The pair, the field, steps and samples."""

    methods: tuple[str, ...] = methods.NAMES  # names of the methods compared, the exact score first
    # of the pair, whose variances are 1
    correlation: float = dataclasses.field(default=0.8, metadata={"least": -1, "most": 1})
    num_steps: tuple[int, ...] = (50, 100, 200, 400, 800, 1600)  # of the pair's sampler, rising
    num_draws: int = 20_000  # samples of the pair at the second number of steps
    field_size: int = 32  # pixels along a side; a square of half of it is hidden
    field_steps: int = 250  # of the field's sampler
    field_draws: int = 256  # samples of the field


PRESETS = {
    "smoke": Config(
        methods=("exact", "replacement"),
        num_steps=(5, 10),
        num_draws=100,
        field_size=4,
        field_steps=4,
        field_draws=8,
    ),
    "default": Config(),
    "accelerator": Config(field_size=64, field_draws=2048, field_steps=1000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """The pair by recursion and by samples, the field by samples, one picture."""
    known = methods.NAMES
    if config.methods[:1] != known[:1] or set(config.methods) - set(known):
        raise ValueError(f"methods={config.methods}: expected some of {', '.join(known)}, in order")
    if not 0 < abs(config.correlation) < 1 or len(config.num_steps) < 2:
        raise ValueError(
            f"correlation={config.correlation}, num_steps={config.num_steps}: expected a number "
            "between -1 and 1 other than 0, and two or more numbers of steps"
        )
    with jax.enable_x64(True):
        on_pair, curves = pair.measured(
            config.methods, config.correlation, config.num_steps, config.num_draws
        )
    on_field, images = field.measured(
        config.methods, config.field_size, config.field_steps, config.field_draws
    )
    out.figure("inpainting", picture.draw(config.num_steps, curves, images))
    return on_pair + on_field
