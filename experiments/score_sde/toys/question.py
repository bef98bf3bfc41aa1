"""What do exact, memorising and trained scores make of densities in the plane?

Claim: samples of the exact score of a ring of Gaussians are as close to fresh draws as other fresh
draws are, and its entropy through the flow is the closed form; the exact score of a finite data set
recites it; a perceptron trained on a checkerboard is closer to it than scikit-learn's 10-component
mixture, and its likelihood lies between that mixture's and the entropy.
Cost: 2.5 minutes on 2 CPU cores.
    python -m experiments score_sde.toys

Variance-preserving flow (Song et al. 2021, arXiv:2011.13456), Heun's method in log SNR. Every
distance stands beside its floor: what two fresh samples of the same size show.
"""

from __future__ import annotations

import dataclasses

from experiments.score_sde.toys import checkerboard, comparison, exact, picture
from library import claims, report, training


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of samples and of the training."""

    parts: tuple[str, ...] = ("ring", "memorised", "checkerboard")  # what is run
    num_samples: int = 2000  # points compared
    num_draws: int = 100  # pairs of fresh samples behind a floor
    num_memorised: int = 100  # points of the data set that is recited
    sampler_steps: int = 50  # steps of Heun's method
    num_steps: int = 8000  # updates of the perceptron
    fit: checkerboard.Fit = checkerboard.Fit()  # its size and the rest of its training
    run: training.RunOptions = training.RunOptions(
        log_every=400, checkpoint_every=4000, steps_per_call=100
    )


PRESETS = {
    "smoke": Config(
        parts=("checkerboard",),
        num_samples=50,
        num_draws=2,
        num_memorised=10,
        sampler_steps=2,
        num_steps=4,
        fit=checkerboard.Fit(num_train=100, batch_size=8, width=8),
        run=training.RunOptions(log_every=2, checkpoint_every=4, steps_per_call=2),
    ),
    "default": Config(),
    "accelerator": Config(
        num_samples=10_000,
        num_steps=50_000,
        fit=checkerboard.Fit(batch_size=4096, width=256),
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """One panel and its claims for each of the three scores."""
    sizes = comparison.Sizes(config.num_samples, config.sampler_steps, config.num_draws)
    parts = {
        "ring": lambda: exact.ring(sizes),
        "memorised": lambda: exact.memorised(sizes, config.num_memorised),
        "checkerboard": lambda: checkerboard.learned(
            sizes, out, num_steps=config.num_steps, fit=config.fit, run=config.run
        ),
    }
    if not config.parts or set(config.parts) - set(parts):
        raise ValueError(f"parts={config.parts}: expected some of {', '.join(parts)}")
    results, panels = zip(*(parts[name]() for name in config.parts))
    out.figure("toys", picture.draw(panels))
    return sum(results, claims.Result())
