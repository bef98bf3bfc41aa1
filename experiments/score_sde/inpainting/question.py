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
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde.inpainting import picture
from library import claims, report
from library.types import Array
from research.diffusion import inverse_problems, moments, oracles, processes, samplers
from research.diffusion.predictions import Score
from research.diffusion.sampling.solvers import Solver

PROCESS = processes.vp()
Y = 1.5  # the value seen of the pair
CONDITIONAL = claims.theorem("exact conditional")
BIASED = ("guidance", "replacement", "replacement_pc")
METHODS = ("exact", "guidance_true_covariance", *BIASED)


@dataclasses.dataclass(frozen=True)
class Config:
    """The pair, the field, steps and samples."""

    methods: tuple[str, ...] = METHODS  # names of the methods compared, the exact score first
    correlation: float = 0.8  # of the pair, whose variances are 1
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


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to sample given y: a score, a solver, and whether the seen part is replaced."""

    score: Score
    solver: Solver
    replaces: bool = False


def run(config: Config, out: report.RunDir) -> claims.Result:
    """The pair by recursion and by samples, the field by samples, one picture."""
    if config.methods[:1] != METHODS[:1] or set(config.methods) - set(METHODS):
        raise ValueError(
            f"methods={config.methods}: expected some of {', '.join(METHODS)}, in order"
        )
    if not 0 < abs(config.correlation) < 1 or len(config.num_steps) < 2:
        raise ValueError(
            f"correlation={config.correlation}, num_steps={config.num_steps}: expected a number "
            "between -1 and 1 other than 0, and two or more numbers of steps"
        )
    with jax.enable_x64(True):
        metrics, stated, curves = _pair(config)
    more, more_claims, images = _field(config)
    out.figure("inpainting", picture.draw(config.num_steps, curves, images))
    return claims.Result(metrics=metrics | more, claims=[*stated, *more_claims])


def _methods(
    config: Config,
    prior: Score,
    exact: Score,
    measurement: inverse_problems.Measurement,
    covariance: np.ndarray | None,
) -> dict[str, Method]:
    """The asked methods on one problem; the true covariance only where it is given."""
    predictor = samplers.reverse_diffusion()
    corrected = samplers.predictor_corrector(predictor, samplers.langevin(0.2, measured=False))
    guide = functools.partial(inverse_problems.posterior_mean_guidance, PROCESS, prior, measurement)
    methods = {
        "exact": Method(exact, predictor),
        "guidance": Method(guide(), predictor),
        "replacement": Method(prior, predictor, replaces=True),
        "replacement_pc": Method(prior, corrected, replaces=True),
    }
    if covariance is not None:
        at = inverse_problems.gaussian_covariance(PROCESS, covariance, measurement)
        methods["guidance_true_covariance"] = Method(guide(covariance=at), predictor)
    return {name: methods[name] for name in config.methods if name in methods}


def _pair(config: Config) -> tuple[dict, list[claims.Claim], dict[str, np.ndarray]]:
    """Error of mean and standard deviation of the hidden value, against the number of steps."""
    rho = config.correlation
    covariance = np.array([[1.0, rho], [rho, 1.0]])
    measurement = inverse_problems.inpainting(np.array([True, False]), np.array([Y, 0.0]))
    prior = oracles.gaussian(PROCESS, np.zeros(2), covariance)
    exact = inverse_problems.exact_conditional(PROCESS, np.zeros(2), covariance, measurement)
    project = inverse_problems.replaced_moments(PROCESS, measurement, (2,))
    spread = (1 - rho**2) ** 0.5
    metrics, curves, laws, deviations = {}, {}, {}, []
    for name, method in _methods(config, prior, exact, measurement, covariance).items():

        @jax.jit
        def law(method: Method = method) -> Array:
            rows = [
                moments.sampled_jointly(
                    method.solver, PROCESS, samplers.log_snr_grid(num), method.score, 2,
                    project=project if method.replaces else None,
                )
                for num in config.num_steps
            ]  # fmt: skip
            return jnp.stack([jnp.stack([mean[1], cov[1, 1] ** 0.5]) for mean, cov in rows])

        laws[name] = np.asarray(law())  # [S, 2]
        curves[name] = np.abs(laws[name] - [rho * Y, spread])
        metrics[f"pair_mean_error_{name}"] = float(laws[name][-1, 0] - rho * Y)
        metrics[f"pair_std_error_{name}"] = float(laws[name][-1, 1] - spread)
        draws = _draw(
            method, measurement, 2, samplers.log_snr_grid(config.num_steps[1]), config.num_draws
        )[:, 1]
        mean, std = laws[name][1]
        deviations += [(draws.mean() - mean) / (std / len(draws) ** 0.5)]
        deviations += [(draws.std() / std - 1) * (2 * len(draws)) ** 0.5]
    orders, stated = _pair_claims(curves, laws, deviations)
    return {**metrics, **orders}, stated, curves


def _pair_claims(
    curves: dict[str, np.ndarray], laws: dict[str, np.ndarray], deviations: list[float]
) -> tuple[dict[str, float], list[claims.Claim]]:
    """Orders of the biases and the claims, from errors and laws [S, 2] of each method."""
    metrics, halved = {}, curves["exact"][-2] / curves["exact"][-1]
    stated = [
        claims.within("pair: order at which the exact score's error of the std falls", np.log2(halved[1]), 1, 0.15, source=claims.theorem("first order of the sampler")),
        claims.largest("pair: samples, standard errors off the recursion", deviations, 4.5, claims.baseline("moment recursion; false alarm below 1e-4")),
    ]  # fmt: skip
    if "guidance_true_covariance" in laws:
        same = laws["guidance_true_covariance"] - laws["exact"]
        name = "pair: true-covariance guidance less the exact score"
        stated.append(claims.largest(name, same, 1e-8, CONDITIONAL))
    for name in (name for name in BIASED if name in laws):
        bias = curves[name].max(1)
        halvings = float(np.log2(bias[-2] / bias[-1]))
        metrics[f"pair_last_order_{name}"] = halvings
        if name != "replacement_pc":
            stated.append(claims.below(f"pair: order at which the bias of {name} falls", halvings, 0.1, source=claims.baseline("0 if the bias stays, 1 for a method that is right")))  # fmt: skip
        stated.append(claims.above(f"pair: bias of {name} over that of the exact score", bias[-1] / curves["exact"][-1].max(), 10, source=claims.baseline("1 for a method that is right")))  # fmt: skip
    return metrics, stated


def _draw(
    method: Method,
    measurement: inverse_problems.Measurement,
    dim: int,
    grid: samplers.Grid,
    num_draws: int,
) -> np.ndarray:
    """Samples [num_draws, dim] of one method."""
    hook = inverse_problems.replacement(PROCESS, measurement) if method.replaces else None
    draw = jax.jit(lambda rng: samplers.sample(
        method.score, PROCESS, rng, (num_draws, dim), solver=method.solver, grid=grid, project=hook
    )[0])  # fmt: skip
    return np.asarray(draw(jax.random.key(0)))


def _field(config: Config) -> tuple[dict, list[claims.Claim], dict[str, np.ndarray]]:
    """The field with its middle hidden: mean and spread in units of the exact conditional.

    With m and S the exact conditional mean and covariance of the H hidden pixels and m' the mean of
    N samples, N (m' - m).S^{-1}(m' - m)/H and the samples' mean of (x - m).S^{-1}(x - m)/H are
    chi-squares over their degrees of freedom, 1 on average, if the method is right.
    """
    size, dim = config.field_size, config.field_size**2
    shape = (size, size, 1)
    field = oracles.random_field(PROCESS, shape)
    truth = np.asarray(field.sample(jax.random.key(7), 1)).reshape(dim)
    seen = np.ones((size, size), bool)
    seen[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = False
    measurement = inverse_problems.inpainting(seen.reshape(dim), truth)
    impulse = np.fft.ifft2(field.spectrum).real
    places = [(row, col) for row in range(size) for col in range(size)]
    covariance = np.stack([np.roll(impulse, place, (0, 1)).reshape(dim) for place in places])
    exact = inverse_problems.exact_conditional(PROCESS, np.zeros(dim), covariance, measurement)

    def prior(x: Array, t: Array) -> Array:
        return field(x.reshape(-1, *shape), t).reshape(x.shape)

    hidden = ~seen.reshape(dim)
    posterior = (exact.eigenvectors[hidden] * exact.eigenvalues) @ exact.eigenvectors[hidden].T
    images = {"truth": truth, "seen": np.where(hidden, np.nan, truth), "mean": exact.mean}
    metrics = {}
    for name, method in _methods(config, prior, exact, measurement, None).items():
        grid = samplers.log_snr_grid(config.field_steps, t_end=1e-4)
        draws = _draw(method, measurement, dim, grid, config.field_draws)
        gaps = (draws[:, hidden] - exact.mean[hidden]).astype(np.float64)
        whitened = np.linalg.solve(np.linalg.cholesky(posterior), gaps.T)  # [H, N]
        metrics[f"field_mean_error_{name}"] = float(len(draws) * np.mean(whitened.mean(1) ** 2))
        metrics[f"field_spread_{name}"] = float(np.mean(whitened**2))
        images[name] = draws[0]
    num_hidden = int(hidden.sum())
    stated = [
        claims.within("field: squared error of the exact score's mean, in its own noise", metrics["field_mean_error_exact"], 1, 4 * (2 / num_hidden) ** 0.5, source=claims.theorem("chi-square of the exact conditional, 4 standard errors"))
    ]  # fmt: skip
    for name in (name for name in BIASED if name in config.methods):
        stated.append(claims.above(f"field: squared error of {name}'s mean, in the same noise", metrics[f"field_mean_error_{name}"], 1 + 4 * (2 / num_hidden) ** 0.5, source=claims.theorem("chi-square of the exact conditional, 4 standard errors")))  # fmt: skip
    return metrics, stated, {name: image.reshape(size, size) for name, image in images.items()}
