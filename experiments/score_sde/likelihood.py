"""Are the log densities of the probability flow right, on densities that are known?

Claim: on a Gaussian of full covariance, a mixture and a random field, for every process, the error
is below 1e-4 nats a dimension beyond the process's own prior gap; Hutchinson's estimate has the
spread of a closed form; a perfect denoiser's variational bound is the entropy plus the prior gap.
Cost: 82 seconds on 2 CPU cores.
    python -m experiments score_sde.likelihood

log p(x) = log p_T(x_T) + the integral of the divergence along the flow (Song et al. 2021,
arXiv:2011.13456, eq. (39)). The prior stands for p_T, which it is not quite: what that costs at
each point is known here and reported apart. A library in use is 3.9 nats a dimension off on such a
Gaussian, because it takes sigma^2 for the prior's standard deviation; that mistake is made here on
purpose, to show that this study would see it.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde import _exact
from library import claims, plots, report
from library.types import Array
from research.diffusion import likelihood, oracles, processes, variational

VP = processes.vp()
MEAN = np.array([0.3, -0.5, 0.1])
COVARIANCE = np.array([[0.5, 0.3, 0.1], [0.3, 0.4, 0.0], [0.1, 0.0, 0.2]])
WEIGHTS, MEANS = [0.3, 0.7], np.array([[1.0, 0.0, -0.5], [-1.0, 0.5, 0.2]])
COVARIANCES = np.stack([COVARIANCE, 0.1 * np.eye(3)])
BAR = 1e-4  # nats a dimension
SHOWN = ("vp", "sub_vp", "ve", "edm", "cosine", "flow")  # of the processes
MISTAKE = -math.log(80) + 0.5 * (1 - 80**-2)  # of the prior std sigma^2 at sigma = 80: -3.882105


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
    if not (set(config.processes) | set(config.field_processes) <= known and config.processes):
        raise ValueError(f"processes: expected some of {', '.join(sorted(known))}")
    checks = {"hutchinson": _hutchinson, "mistaken_prior": _mistaken_prior, "bound": _bound}
    if set(config.checks) - set(checks):
        raise ValueError(f"checks={config.checks}: expected some of {', '.join(checks)}")
    metrics, stated, records = {}, [], []
    with jax.enable_x64(True):
        for name in config.processes:
            metrics |= _points(config, name, records)
        for name in config.field_processes:
            metrics |= _field(config, name)
        errors = {name: value for name, value in metrics.items() if name.startswith("error_")}
        stated += [
            claims.largest(f"{name}, nats a dimension", [value], BAR, claims.theorem("closed form"))
            for name, value in errors.items()
        ]
        for name in config.checks:
            more, more_claims = checks[name](config)
            metrics |= more
            stated += more_claims
    out.figure("likelihood", plots.curves(
        records, [name for name in SHOWN if name in config.processes], x="nfe", log_x=True,
        log_y=True, title="Log density of a mixture", x_label="evaluations of the score",
        y_label="largest error, nats a dimension",
    ))  # fmt: skip
    return claims.Result(metrics=metrics, claims=stated)


def _points(config: Config, name: str, records: list[dict]) -> dict[str, float]:
    """Errors and prior gaps on the Gaussian and the mixture, at every tolerance for the figure."""
    process = _exact.all_processes()[name]
    mixture = oracles.mixture(process, WEIGHTS, MEANS, COVARIANCES)
    gaussian = oracles.gaussian(process, MEAN, COVARIANCE)
    twice = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), gaussian)  # a mixture of equal parts

    @jax.jit
    def solve(components: oracles.Gaussian, x: Array, tolerance: Array) -> likelihood.Estimate:
        score = oracles.Mixture(process, mixture.log_weights, components)
        steps = likelihood.adaptive(tolerance, tolerance, 4000)
        return likelihood.estimate(score, process, x, steps=steps)

    metrics = {}
    for law, oracle, parts in (
        ("mixture", mixture, mixture.components),
        ("gaussian", gaussian, twice),
    ):
        x = oracle.sample(jax.random.key(0), config.num_points)
        for tolerance in config.tolerances:
            result = solve(parts, x, jnp.asarray(tolerance))
            error, gap = _error(oracle, x, result)
            if law == "mixture":
                records.append({"nfe": float(result.nfe.mean()), name: error})
            if tolerance == 1e-6:  # the default of `likelihood.adaptive`
                metrics[f"error_{law}_{name}"] = error
        metrics[f"error_at_tightest_{law}_{name}"] = error
        metrics[f"largest_prior_gap_{law}_{name}"] = gap
    moments = jnp.asarray(MEAN), jnp.asarray(COVARIANCE)
    metrics[f"mean_prior_gap_gaussian_{name}"] = float(likelihood.prior_gap(process, *moments))
    return metrics


def _error(
    oracle: oracles.Gaussian | oracles.RandomField, x: Array, result: likelihood.Estimate
) -> tuple[float, float]:
    """Largest error beyond the prior gap, and largest prior gap, in nats a dimension."""
    process, dim = oracle.process, x[0].size
    gap = result.prior_log_prob - oracle.log_prob(result.end, process.t_max)  # [B]
    error = result.log_prob - oracle.log_prob(x, process.t_min) - gap
    return float(jnp.abs(error).max() / dim), float(jnp.abs(gap).max() / dim)


def _field(config: Config, name: str) -> dict[str, float]:
    """Error and prior gap at image size, by the exact trace of all pixels."""
    process, size = _exact.all_processes()[name], config.field_size
    field = oracles.random_field(process, (size, size, 1))
    x = field.sample(jax.random.key(0), 2)
    result = jax.jit(lambda x: likelihood.estimate(field, process, x))(x)
    error, gap = _error(field, x, result)
    return {
        f"error_field_{name}": error,
        f"largest_prior_gap_field_{name}": gap,
        f"nfe_field_{name}": float(result.nfe.mean()),
    }


def _hutchinson(config: Config) -> tuple[dict, list[claims.Claim]]:
    """Random signs on the field: their spread in closed form, and the mean within it.

    The flow is linear, so a probe v gives v.Mv with M the sum of the derivatives along the path:
    a circulant matrix with the modes' log gains l as eigenvalues. Its diagonal is their mean, so
    the variance 2 sum_{i != j} M_ij^2 is 2 sum_k (l_k - mean l)^2.
    """
    field = oracles.random_field(VP, (config.field_size, config.field_size, 1))
    x = field.sample(jax.random.key(0), config.num_images)
    result = jax.jit(lambda x, rng: likelihood.estimate(
        field, VP, x, trace="hutchinson", rng=rng, num_probes=config.num_probes
    ))(x, jax.random.key(1))  # fmt: skip
    gap = result.prior_log_prob - field.log_prob(result.end, VP.t_max)
    errors = np.asarray(result.log_prob - field.log_prob(x, VP.t_min) - gap)
    start, end = (
        VP.alpha(t) ** 2 * field.spectrum + VP.sigma(t) ** 2 for t in (VP.t_min, VP.t_max)
    )
    gains = 0.5 * np.log(np.asarray(end / start))
    expected = math.sqrt(2 * np.sum((gains - gains.mean()) ** 2))  # of one probe, nats
    total = config.num_images * config.num_probes
    spread = float(np.sqrt(np.mean(result.standard_error**2) * config.num_probes))
    freedom = config.num_images * (config.num_probes - 1)
    deviation = errors.mean() / (expected / math.sqrt(total))
    metrics = {
        "hutchinson_spread_of_a_probe": spread,
        "hutchinson_spread_expected": expected,
        "hutchinson_standard_error_per_dim": spread / math.sqrt(config.num_probes) / x[0].size,
        "hutchinson_mean_error_in_standard_errors": float(deviation),
    }
    return metrics, [
        claims.within("Hutchinson on the field: spread of one probe, nats", spread, expected, 4 * expected / math.sqrt(2 * freedom), source=claims.theorem("closed form, 4 standard errors")),
        claims.largest("Hutchinson on the field: mean error in standard errors", [deviation], 4, claims.baseline("unbiased")),
    ]  # fmt: skip


def _mistaken_prior(config: Config) -> tuple[dict, list[claims.Claim]]:
    """The error with a prior of std sigma^2, at points that end on the prior's typical shell."""
    process = processes.edm(0.002, 80.0)
    oracle = oracles.gaussian(process, np.full(4, 0.3), 0.25)
    x = oracle.transport(80.0 * jnp.array([[1.0, -1.0, 1.0, 1.0]]), process.t_max, process.t_min)

    def wrong(x: Array) -> Array:
        std = 80.0**2
        return -0.5 * jnp.sum((x / std) ** 2, 1) - 4 * math.log(std * math.sqrt(2 * math.pi))

    steps = likelihood.adaptive(1e-10, 1e-10)
    result = jax.jit(lambda x: likelihood.estimate(
        oracle, process, x, steps=steps, prior_log_prob=wrong
    ))(x)  # fmt: skip
    mistaken = result.log_prob - oracle.log_prob(x, process.t_min)
    right = mistaken + process.prior_log_prob(result.end) - wrong(result.end)
    at_end = process.prior_log_prob(result.end) - oracle.log_prob(result.end, process.t_max)
    own, error, gap = (float(each[0] / 4) for each in (right, mistaken, at_end))
    metrics = {
        "error_of_mistaken_prior": error,
        "error_with_own_prior": own,
        "gap_of_own_prior_there": gap,
    }
    return metrics, [
        claims.within("mistaken prior std sigma^2 at 80: error, nats a dimension", error - own, MISTAKE, 1e-6, source=claims.baseline("-ln sigma + (1 - sigma^-2)/2")),
        claims.largest("the right prior at 80: error beyond its gap there, nats a dimension", [own - gap], BAR, claims.theorem("closed form")),
    ]  # fmt: skip


def _bound(config: Config) -> tuple[dict, list[claims.Claim]]:
    """The variational bound of the exact denoiser, and of one that is 10 % too small.

    By I-MMSE the first is entropy + prior gap; the second adds (d^2/2) int E|eps*|^2 dlogSNR.
    """
    process, shrink, variances = processes.vp(t_min=1e-3), 0.1, np.diag(COVARIANCE)
    ends = jnp.asarray([process.t_min, process.t_max])
    snr = np.exp(np.asarray(process.log_snr(ends)))
    entropy = 0.5 * np.mean(np.log(2 * math.pi * math.e * (variances + 1 / snr[0])))
    gap = float(likelihood.prior_gap(process, jnp.zeros(3), jnp.asarray(variances)))
    log_parts = np.log(snr[:, None] / (1 + variances[None] * snr[:, None]))  # [2, D]
    excess = 0.5 * shrink**2 * np.mean(log_parts[0] - log_parts[1])
    rows = variances[None]

    def denoise(scale: Array, x: Array, t: Array, labels: None, rng: Array) -> Array:
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return scale * sigma * x / (alpha**2 * rows + sigma**2)

    loss_fn = variational.continuous_bound(process, denoise, stratified=False)

    @jax.jit
    def draw(rng: Array) -> Array:
        x = jnp.sqrt(rows) * jax.random.normal(rng, (config.num_draws // 20, 3))
        rng = jax.random.fold_in(rng, 1)
        return jnp.stack([loss_fn(s, {}, rng, {"image": x})[0] for s in (1.0, 1 - shrink)])

    draws = np.array([draw(key) for key in jax.random.split(jax.random.key(2), 20)])  # [20, 2]
    mean, error = draws.mean(0), draws.std(0, ddof=1) / math.sqrt(20)
    metrics = {
        "bound": mean[0], "bound_standard_error": error[0], "entropy": entropy,
        "bound_of_shrunk_denoiser": mean[1], "bound_of_shrunk_standard_error": error[1],
    }  # fmt: skip
    return metrics, [
        claims.within(f"variational bound of the {kind} denoiser, nats a dimension", mean[k], expected, 4 * error[k], source=claims.baseline(f"{source}, 4 standard errors"))
        for k, (kind, expected, source) in enumerate((
            ("exact", entropy + gap, "entropy + prior gap (I-MMSE)"),
            ("shrunk", entropy + gap + excess, "the same + closed-form excess"),
        ))
    ]  # fmt: skip
