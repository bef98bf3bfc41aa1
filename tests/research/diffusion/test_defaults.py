"""What processes, losses, samplers and densities compute where a keyword is left out."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import (
    adaptive,
    bits,
    discrete,
    dit,
    embeddings,
    exponential,
    guidance,
    inverse_problems,
    likelihood,
    losses,
    mlp,
    oracles,
    processes,
    samplers,
    solvers,
    stochastic,
    unet,
    variational,
    weightings,
)
from tests import defaults

KEY = jax.random.key(0)
VP = processes.vp()
T = np.array([0.1, 0.4], np.float32)
X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)  # [B, D]
SCORE = oracles.gaussian(VP, np.zeros(3), 1.0)
TABLE = discrete.linear_betas(4, beta_max=3.0)


def process(make, **options):
    made = make(**options)
    curves = defaults.program(lambda t: (made.alpha(t), made.sigma(t)), T)
    return curves, made.t_min, made.t_max, made.prior_std


def loss(make, *args, **options):
    loss_fn = make(*args, lambda params, x, t, *_: x * t[:, None], **options)
    return defaults.program(lambda key: loss_fn({}, {}, key, {"image": X}), KEY)


def dropped(**options):
    """Labels of many examples, as the network sees them."""
    network = losses.drop_labels(lambda params, x, t, labels, rngs: labels, 7, **options)
    keys = jax.random.split(KEY, 4)
    return defaults.program(network, {}, X, T, np.zeros(4, int), keys)


def places(make, *args, **options):
    grid = make(*args, **options)
    return defaults.program(lambda: samplers.solver_table(solvers.euler(), VP, grid))


def weights(make, **options):
    return defaults.program(lambda t: make(**options)(VP, t), T)


def byte_bound(**options):
    log_density = lambda x, key: -jnp.square(x).sum(-1)
    run = lambda key: bits.dequantised_log_prob(log_density, key, np.array([[0, 1]]), **options)
    return defaults.program(run, KEY)


def decoded(**options):
    return defaults.program(bits.discretised_decoder(**options), X, X, T)


def field(**options):
    made = oracles.random_field(VP, (2, 4, 1), **options)
    return made.spectrum, made.mean


def blocks(**options):
    data = np.arange(300, dtype=np.float32)[:, None]
    return defaults.program(oracles.empirical(VP, data, **options), X[:, :1], T)


def classified(**options):
    score = guidance.classifier(VP, SCORE, lambda x, t: x.sum(-1), **options)
    return defaults.program(score, X, T)


def measured(make, *args, **options):
    return make(*args, **options).noise_std


def guided(**options):
    measurement = inverse_problems.linear(np.eye(3)[:1], np.ones(1), (3,), noise_std=0.1)
    score = inverse_problems.posterior_mean_guidance(VP, SCORE, measurement, **options)
    return defaults.program(score, X, T)


betas = {"beta_min": (0.1, 0.11), "beta_max": (20.0, 20.1)}
cells = {"num_values": (256, 255), "low": (-1.0, -1.1), "high": (1.0, 1.1)}
matching = {
    "kind": ("noise", "data"),
    "weighting": (None, weightings.edm(0.3)),
    "times": (weightings.uniform_times, weightings.uniform_log_snr),
    "stratified": (False, True),
}
variable = {"variable": ("sigma", "time")}
CASES = {
    "vp": (
        functools.partial(process, processes.vp),
        betas | {"t_min": (1e-5, 2e-5), "t_max": (1.0, 0.9)},
    ),
    "sub_vp": (
        functools.partial(process, processes.sub_vp),
        betas | {"t_min": (1e-4, 2e-4), "t_max": (1.0, 0.9)},
    ),
    "ve": (
        functools.partial(process, functools.partial(processes.ve, 0.01, 50.0)),
        {"t_min": (0.0, 1e-3), "t_max": (1.0, 0.9)},
    ),
    "edm": (
        functools.partial(process, processes.edm),
        {"sigma_min": (0.002, 0.003), "sigma_max": (80.0, 81.0)},
    ),
    "cosine": (
        functools.partial(process, processes.cosine),
        {"offset": (0.008, 0.009), "t_min": (1e-4, 2e-4), "t_max": (0.999, 0.99)},
    ),
    "flow": (
        functools.partial(process, processes.flow),
        {"t_min": (1e-4, 2e-4), "t_max": (0.999, 0.99)},
    ),
    "linear_betas": (
        lambda **options: discrete.linear_betas(**options).betas,
        {"num_steps": (1000, 999)} | betas,
    ),
    "denoising": (functools.partial(loss, losses.denoising_score_matching, VP), matching),
    "implicit": (functools.partial(loss, losses.implicit_score_matching, VP), matching),
    "sliced": (
        functools.partial(loss, losses.sliced_score_matching, VP),
        matching | {"num_probes": (1, 2)},
    ),
    "flow_matching": (
        functools.partial(loss, losses.flow_matching, VP),
        {"times": (weightings.uniform_times, weightings.uniform_log_snr)},
    ),
    "continuous_bound": (
        functools.partial(loss, variational.continuous_bound, VP),
        {
            "kind": ("noise", "data"),
            "decoder": (bits.gaussian_decoder, bits.discretised_decoder()),
            "times": (weightings.uniform_log_snr, weightings.uniform_times),
            "stratified": (True, False),
        },
    ),
    "ddpm_variational": (
        functools.partial(loss, variational.ddpm_variational, TABLE),
        {"decoder": (bits.gaussian_decoder, bits.discretised_decoder())},
    ),
    "drop_labels": (dropped, {"rate": (0.1, 0.11)}),
    "weightings.uniform": (
        functools.partial(weights, weightings.uniform),
        {"kind": ("noise", "v")},
    ),
    "weightings.edm": (functools.partial(weights, weightings.edm), {"data_std": (0.5, 0.51)}),
    "min_snr": (functools.partial(weights, weightings.min_snr), {"gamma": (5.0, 5.1)}),
    "sigmoid": (functools.partial(weights, weightings.sigmoid), {"bias": (0.0, 0.1)}),
    "log_normal": (
        functools.partial(weights, weightings.log_normal),
        {"mean": (-1.2, -1.3), "std": (1.2, 1.3)},
    ),
    "classifier": (
        classified,
        {"scale": (1.0, 1.1), "interval": (None, (0.2, 0.5))},
    ),
    "inpainting": (
        functools.partial(
            measured, inverse_problems.inpainting, np.ones((2, 2, 1)), np.ones((2, 2, 1))
        ),
        {"noise_std": (0.0, 0.1)},
    ),
    "colourisation": (
        lambda **options: inverse_problems.colourisation(np.ones((2, 2)), **options).observed,
        {"num_channels": (3, 2)},
    ),
    "colourisation with noise": (
        functools.partial(measured, inverse_problems.colourisation, np.ones((2, 2))),
        {"noise_std": (0.0, 0.1)},
    ),
    "linear": (
        functools.partial(measured, inverse_problems.linear, np.eye(2), np.ones(2), (2,)),
        {"noise_std": (0.0, 0.1)},
    ),
    "posterior_mean_guidance": (guided, {"data_std": (1.0, 1.1), "scale": (1.0, 1.1)}),
    "euler": (solvers.euler, variable),
    "midpoint": (solvers.midpoint, variable),
    "rk4": (solvers.rk4, variable),
    "heun": (solvers.heun, variable | {"churn": (0.0, 0.1)}),
    "heun with churn": (
        functools.partial(solvers.heun, churn=1.0),
        {"churn_min": (0.0, 1.0), "churn_max": (math.inf, 1.0), "churn_noise": (1.0, 1.1)},
    ),
    "ddim": (samplers.ddim, {"eta": (0.0, 0.1)}),
    "dpm_solver": (
        exponential.dpm_solver,
        {"order": (2, 3), "prediction": ("noise", "data")},
    ),
    "dpm_solver_pp": (
        exponential.dpm_solver_pp,
        {"order": (2, 3), "eta": (0.0, 0.1)},
    ),
    "unipc": (exponential.unipc, {"order": (2, 3)}),
    "reverse_diffusion": (
        stochastic.reverse_diffusion,
        {"flow": (False, True)},
    ),
    "ancestral": (
        stochastic.ancestral,
        {"variance": ("posterior", "upper")},
    ),
    "langevin": (
        functools.partial(stochastic.langevin, 0.1),
        {"num_steps": (1, 2), "measured": (True, False)},
    ),
    "adaptive": (
        adaptive.adaptive,
        {"rtol": (1e-5, 1e-4), "atol": (1e-5, 1e-4), "max_steps": (4096, 4095)},
    ),
    "uniform_grid": (
        functools.partial(places, samplers.uniform_grid, 3),
        {"to_zero": (False, True)},
    ),
    "log_snr_grid": (
        functools.partial(places, samplers.log_snr_grid, 3),
        {"to_zero": (False, True)},
    ),
    "karras_grid": (
        functools.partial(places, samplers.karras_grid, 3),
        {"rho": (7.0, 7.1), "to_zero": (False, True)},
    ),
    "steps of likelihoods": (
        likelihood.adaptive,
        {"rtol": (1e-6, 1e-5), "atol": (1e-6, 1e-5), "max_steps": (1000, 999)},
    ),
    "bits_per_dim": (functools.partial(bits.bits_per_dim, X, 3), cells),
    "dequantised_log_prob": (byte_bound, cells | {"num_samples": (1, 2)}),
    "discretised_decoder": (decoded, cells),
    "random_field": (field, {"power": (2.0, 2.1), "variance": (1.0, 1.1), "mean": (0.0, 0.1)}),
    "empirical": (blocks, {"block_size": (128, 129)}),
    "Sinusoidal": (
        lambda **options: defaults.program(embeddings.Sinusoidal(8, **options), T),
        {"scale": (1000.0, 1001.0), "max_period": (10_000.0, 10_001.0)},
    ),
    "Fourier": (
        lambda **options: defaults.program(embeddings.Fourier(8, **options), T),
        {"scale": (16.0, 16.1), "seed": (0, 1)},
    ),
    "MLP": (mlp.MLP, {"width": (128, 129), "depth": (3, 4), "num_classes": (None, 2)}),
    "DiT": (
        functools.partial(dit.DiT, 3),
        {
            "patch": (2, 4),
            "depth": (12, 11),
            "width": (384, 192),
            "num_heads": (6, 3),
            "mlp_ratio": (4, 3),
            "num_classes": (None, 2),
        },
    ),
    "UNet": (
        functools.partial(unet.UNet, 3),
        {
            "channels": ((32, 64), (32, 65)),
            "num_blocks": (1, 2),
            "attention_sizes": ((), (4,)),
            "head_dim": (None, 4),
            "num_groups": (8, 4),
            "num_classes": (None, 2),
            "dropout": (0.0, 0.1),
            "skip_scale": (1.0, 0.5),
            "attend_each_up_block": (True, False),
            "input_pyramid": (False, True),
            "patch": (1, 2),
        },
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keywords_left_out_have_their_documented_values(case):
    defaults.check(*case)
