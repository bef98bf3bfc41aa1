"""What is the bound of a latent model where all is known, and what does a wrong scale cost?

Claims: on a linear-Gaussian first stage with the exact latent score every draw of the exact
posterior gives log p to 1e-6 nats a dimension, and a posterior twice as wide its ELBO; a network
trained on latents of 1/16 or 16 times the right scale reaches a lower bound and samples further
from held-out latents, where one at the right scale beats the exact evidence of the Gaussian prior.
Cost: 2 minutes on 2 CPU cores.
    python -m experiments latent_diffusion.linear

The first stage is the likeliest linear model of 8x8 digits (Tipping and Bishop 1999), whose latents
have unit variance as they come; the noising process is Stable Diffusion's.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.latent_diffusion import _linear
from library import claims, figure_style, report
from research.diffusion import latent
from research.vae import linear

FITTED = claims.theorem("Tipping and Bishop 1999: sampled latents of the fit have the prior's law")
EVIDENCE = claims.theorem("bound = log p for the exact posterior; Vahdat et al. 2021, eq. (3)")
ELBO = claims.theorem("bound = log p - KL(q, posterior), closed form of research.vae.linear")
EXACT = claims.baseline("the same sampler and score at the right scale")
RIGHT = claims.baseline("the same network at the right scale, same run")
PRIOR = claims.baseline("exact log p of the linear model under its own N(0, I)")


@dataclasses.dataclass(frozen=True)
class Config:
    """The first stage, the bound, the scales and the networks."""

    latent_dim: int = 16  # L of the linear first stage
    num_test: int = 300  # held-out digits, the first ones
    num_samples: int = 16  # draws of each bound of a posterior that is too wide
    factors: tuple[float, ...] = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)  # of the right scale
    solver_steps: int = 20  # DDIM steps
    width: int = 256  # of the networks
    num_steps: int = 4000  # updates of each network
    batch_size: int = 256  # digits per update
    num_draws: int = 4  # draws of each bound with a network
    seed: int = 0  # of starts, orders and draws


PRESETS = {
    "smoke": Config(
        latent_dim=3, num_test=4, num_samples=4, factors=(1 / 16, 1.0, 16.0), solver_steps=4,
        width=8, num_steps=2, batch_size=8, num_draws=1,
    ),
    "default": Config(),
    "accelerator": Config(num_steps=40_000, width=512, num_draws=16),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Exact bounds, the exact cost of a scale, and a network at each scale."""
    if 1.0 not in config.factors or len(config.factors) < 3:
        raise ValueError(f"factors={config.factors}: expected 1 and others on both sides of it")
    train, test = _linear.rows("train"), _linear.rows("test")[: config.num_test]
    with jax.enable_x64(True):
        model = linear.fit(jnp.asarray(train, float), config.latent_dim)
        stage = _linear.first_stage(model)
        scaling = latent.measure(stage.encode, [train.astype(float)], per_channel=True)
        exact = _linear.bounds(model, test.astype(float), config.num_samples, config.seed)
        grid = np.geomspace(min(config.factors), max(config.factors), 41)
        cost = _linear.exact_cost(_linear.stable_diffusion(), grid, config.solver_steps)
        cost, model = jax.tree.map(np.asarray, (cost, model))
    model = jax.tree.map(np.float32, model)
    factors = sorted(config.factors)
    reached = _linear.diffuse(
        model, [np.float32(scaling.scale * factor) for factor in factors], train, test,
        width=config.width, num_steps=config.num_steps, batch_size=config.batch_size,
        solver_steps=config.solver_steps, num_draws=config.num_draws, seed=config.seed,
    )  # fmt: skip
    found = dict(zip(factors, reached, strict=True))
    out.figure("linear", _draw(grid, cost, found, exact.evidence))
    result = _exact_claims(scaling, exact, grid, cost)
    return result + _trained_claims(found, exact.evidence)


def _exact_claims(scaling, exact: _linear.Bounds, grid: np.ndarray, cost) -> claims.Result:
    at = lambda factor: float(np.interp(np.log(factor), np.log(grid), cost["sampler"]))
    off = np.abs(scaling.scale - 1).max()
    stated = [
        claims.largest("measured scale of the fit's latents less 1", off, 1e-6, FITTED),
        claims.largest("exact posterior: draw - log p, nats/dim", exact.exact, 1e-6, EVIDENCE),
        claims.largest(
            "twice as wide, by quadrature: bound - ELBO, nats/dim", exact.widened, 1e-6, ELBO
        ),
        claims.within(
            "twice as wide, by draws: share in 95 % intervals", exact.within, 0.95, 0.04, ELBO
        ),
        claims.above(
            "exact score, largest scale: KL of DDIM, nats/dim", at(grid[-1]), at(1.0), EXACT
        ),
    ]
    metrics = {"kl_exact_largest": at(grid[-1]), "kl_exact_1": at(1.0)}
    metrics |= {"kl_exact_smallest": at(grid[0]), "prior_gap_largest": float(cost["prior"][-1])}
    return claims.Result(metrics, stated)


def _trained_claims(found: dict[float, _linear.Reached], evidence: float) -> claims.Result:
    factors, right = list(found), found[1.0]
    metrics = {"evidence": evidence}
    for factor, reached in found.items():
        metrics |= {
            f"{name}_{factor:g}": value for name, value in dataclasses.asdict(reached).items()
        }
    stated = [
        claims.above("right scale: bound, nats", right.bound, evidence, PRIOR),
    ]
    for factor, name in ((factors[0], "smallest scale"), (factors[-1], "largest scale")):
        reached = found[factor]
        stated += [
            claims.below(f"{name}: bound, nats", reached.bound, right.bound, RIGHT),
            claims.above(f"{name}: Frechet distance", reached.frechet, right.frechet, RIGHT),
        ]
    return claims.Result(metrics, stated)


def _draw(grid: np.ndarray, cost, found: dict[float, _linear.Reached], evidence: float):
    figure, (left, right) = figure_style.row(2, width=1.56 * figure_style.WIDTH)
    left.plot(grid, cost["sampler"], color=figure_style.PALETTE[0], label="law of DDIM's samples")
    left.plot(grid, cost["prior"], "--", color=figure_style.PALETTE[1], label="prior gap")
    left.set(xscale="log", yscale="log")
    figure_style.legend(left)
    figure_style.style(left, "Exact score: KL, nats a dimension", "scale over the right one", "")
    factors = list(found)
    bounds = [found[factor].bound for factor in factors]
    right.errorbar(factors, bounds, [found[factor].error for factor in factors], fmt="o-",
                   color=figure_style.PALETTE[0], label="trained network")  # fmt: skip
    right.axhline(evidence, color=figure_style.FAINT, label="N(0, I), exact")
    right.set(xscale="log")
    figure_style.legend(right)
    title = "Held-out digits: bound on log p, nats"
    figure_style.style(right, title, "scale over the right one", "")
    return figure
