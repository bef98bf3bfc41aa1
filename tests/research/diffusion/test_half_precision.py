"""Losses, likelihoods, scores and samplers of numbers in half precision.

Times, states and data are widened to float32 before anything is summed, so that most cases are
equal to the last bit; what is rounded is the input alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import (
    bits,
    discrete,
    divergence,
    draws,
    embeddings,
    fokker_planck,
    guidance,
    inverse_problems,
    latent,
    likelihood,
    losses,
    moments,
    oracles,
    predictions,
    processes,
    samplers,
    solver_tables,
    variational,
    weightings,
)
from research.vae import likelihoods
from tests import half_precision

VP, RNG = processes.vp(t_min=1e-3), jax.random.key(0)
ORACLE = oracles.gaussian(VP, np.array([1.0, -0.5]), np.array([0.25, 0.5]))
FULL = oracles.gaussian(VP, np.array([1.0, -0.5]), np.array([[0.5, 0.2], [0.2, 0.3]]))
MIXTURE = oracles.mixture(VP, [0.3, 0.7], [[1.0, 0.0], [-1.0, 0.5]], 0.2)
FIELD = oracles.random_field(VP, (4, 4, 1))
POINTS = oracles.empirical(VP, np.array([[1.0, 0.0], [-1.0, 0.5], [0.25, 2.0]]), block_size=2)
X = np.array([[2.0, 1.0], [-0.3, 0.7], [1.4, -2.2]])
NOISE = np.random.default_rng(0).normal(size=(3, 2))
TIMES = np.array([0.013, 0.34, 0.96])
FIELDS = np.random.default_rng(1).normal(size=(3, 4, 4, 1))
MASKS = np.ones(4096)
MATRIX = inverse_problems.linear(np.array([[1.0, 0.5]]), np.array([0.3]), (2,), 0.2)
PIXEL = inverse_problems.inpainting(np.array([True, False]), np.array([0.3, 0.0]), 0.1)
GREY = inverse_problems.colourisation(np.zeros((1, 1)), 300)
TABLE = discrete.linear_betas(8, 0.1, 4.0)
STAGE = latent.FirstStage(
    lambda x: (x, -jnp.abs(x)), lambda z: likelihoods.Gaussian(z, -1.0), np.array([0.7, 3.0]), 0.3
)


def network(params, x, t, labels=None, rng=None):
    return jnp.tanh(x @ params + t[:, None].astype(x.dtype)).astype(jnp.float32)


def loss(make, *args, **options):
    loss_fn = make(*args, network, **options)

    def function(params, image, mask):
        params, image = params.astype(jnp.float32), image
        wide = lambda *args: network(params, args[1].astype(jnp.float32), *args[2:])
        value, aux = make(*args, wide, **options)(params, {}, RNG, {"image": image, "mask": mask})
        return value, aux.weight, aux.metrics

    assert callable(loss_fn)
    return lambda: (function, (np.eye(2), np.tile(X, (100, 1)), np.ones(300)))


def sampled(solver, grid=None, **options):
    grid = grid or samplers.log_snr_grid(4)
    rngs = jax.random.split(RNG, 3)
    return lambda: (
        lambda x: samplers.solve(ORACLE, VP, x, solver=solver, grid=grid, rngs=rngs, **options)[0],
        (X,),
    )


def densities(oracle, x=X):
    return lambda: (
        lambda x, t: (oracle(x, t), oracle.log_prob(x, t)), (x, TIMES),
    )  # fmt: skip


def curves(process):
    names = ("alpha", "sigma", "drift_rate", "diffusion", "log_snr", "alpha_prime", "sigma_prime")
    return lambda: (lambda t: [getattr(process, name)(t) for name in names], (TIMES,))


@jax.jit
def log_prob(x):
    return likelihood.estimate(ORACLE, VP, x, steps=likelihood.fixed(8)).log_prob


def guided(x, t):
    pull = lambda x, t: -0.5 * ((x - 1) ** 2).sum(1)
    return [
        guidance.classifier(VP, ORACLE, pull, 2.0)(x, t),
        guidance.classifier_free(VP, ORACLE, FULL, 7.5)(x, t),
        guidance.autoguidance(VP, ORACLE, FULL, 3.0)(x, t),
        guidance.rescale(x, 0.5 * x + 0.1, 0.7),
    ]


def measured(x, t):
    covariance = inverse_problems.gaussian_covariance(VP, np.eye(2), MATRIX)
    project = inverse_problems.replacement(VP, PIXEL)
    return [
        inverse_problems.posterior_mean_guidance(VP, ORACLE, PIXEL)(x, t),
        inverse_problems.posterior_mean_guidance(VP, ORACLE, MATRIX, covariance=covariance)(x, t),
        project(x, t, jax.random.split(RNG, 3)),
        MATRIX.lift(MATRIX.observe(x)),
    ]


def conversions(value, x, t):
    return [
        predictions.convert(VP, value, x, t, source, target)
        for source in predictions.KINDS
        for target in predictions.KINDS
    ]


def preconditioned(x, t):
    denoiser = predictions.edm_denoiser(VP, lambda x, t: jnp.tanh(x), 0.5)
    return denoiser(x, t), [*vars(predictions.edm_preconditioning(t, 0.5)).values()]


def weights(t):
    kinds = [weightings.uniform(kind) for kind in predictions.KINDS]
    others = [weightings.likelihood, weightings.edm(), weightings.min_snr(), weightings.sigmoid()]
    return [weighting(VP, t) for weighting in (*kinds, *others)]


def times(u):
    laws = (weightings.uniform_times, weightings.uniform_log_snr, weightings.log_normal())
    return [law(VP, u) for law in (*laws, weightings.on_steps(100))]


def traces(x):
    field = lambda x: x**3 + x.sum(1, keepdims=True)
    probes = divergence.probes(jax.random.normal, jax.random.split(RNG, 1), 5, x)
    return divergence.exact(field, x), divergence.slopes(field, x, probes)


def decoders(x, mean, std):
    return bits.gaussian_decoder(x, mean, std), bits.discretised_decoder(16, -4.0, 4.0)(
        x, mean, std
    )


def dequantised(values):
    log_density = lambda x, rng: (-0.5 * x**2).sum(1).astype(values.dtype)
    cells = jnp.arange(6).reshape(2, 3) % 4
    return bits.dequantised_log_prob(log_density, RNG, cells, num_values=4, num_samples=64)


def latent_bound(x):
    return latent.log_likelihood_bound(
        STAGE, ORACLE, VP, x, RNG, num_samples=2, steps=likelihood.fixed(8)
    )


def latent_loss(x):
    inner = losses.flow_matching(processes.flow(), lambda _, z, t, *__: z * t[:, None])
    value, aux = latent.on_latents(inner, STAGE)({}, {}, RNG, {"image": x})
    return value, aux.weight


def edited(x):
    edit = latent.image_to_image(
        STAGE, ORACLE, VP, RNG, x, strength=0.5, solver=samplers.heun(),
        grid=samplers.log_snr_grid(4),
    )  # fmt: skip
    painted = latent.inpaint(
        STAGE, ORACLE, VP, RNG, x, np.array([True, False]), solver=samplers.euler(),
        grid=samplers.log_snr_grid(4),
    )  # fmt: skip
    return edit.images, painted.images


def scaling(x):
    found = latent.measure(lambda x: (x, -x), [x, x[:1]], per_channel=True)
    return jnp.asarray(found.scale), jnp.asarray(found.shift)


CASES = {
    "processes.vp": curves(VP),
    "processes.sub_vp": curves(processes.sub_vp()),
    "processes.ve": curves(processes.ve(0.01, 50.0)),
    "processes.edm": curves(processes.edm()),
    "processes.cosine": curves(processes.cosine()),
    "processes.flow": curves(processes.flow()),
    "processes.from_alpha_sigma": curves(
        processes.from_alpha_sigma(jnp.ones_like, lambda t: t, 0.01, 1.0)
    ),
    "processes.prior_log_prob": lambda: (VP.prior_log_prob, (np.full((2, 4096), 1.5),)),
    "discrete.from_betas": curves(discrete.from_betas(TABLE)),
    "predictions.convert": lambda: (conversions, (NOISE, X, TIMES)),
    "predictions.edm_denoiser": lambda: (preconditioned, (X, TIMES)),
    "weightings": lambda: (weights, (TIMES,)),
    "weightings.times": lambda: (times, (TIMES,)),
    "oracles.gaussian": densities(ORACLE),
    "oracles.gaussian[full]": densities(FULL),
    "oracles.transport": lambda: (
        lambda x: [law.transport(x, 0.9, 0.1) for law in (ORACLE, FULL)], (X,)
    ),
    "oracles.mixture": densities(MIXTURE),
    "oracles.random_field": densities(FIELD, FIELDS),
    "oracles.random_field.transport": lambda: (lambda x: FIELD.transport(x, 0.9, 0.1), (FIELDS,)),
    "oracles.empirical": densities(POINTS),
    "losses.denoising_score_matching": loss(losses.denoising_score_matching, VP),
    "losses.implicit_score_matching": loss(losses.implicit_score_matching, VP, kind="v"),
    "losses.sliced_score_matching": loss(losses.sliced_score_matching, VP, num_probes=2),
    "losses.flow_matching": loss(losses.flow_matching, processes.flow()),
    "losses.dequantised": loss(
        lambda *args: losses.dequantised(losses.flow_matching(*args), 1 / 256), processes.flow()
    ),
    "variational.ddpm_simple": loss(variational.ddpm_simple, TABLE),
    "variational.ddpm_variational": loss(variational.ddpm_variational, TABLE),
    "variational.continuous_bound": loss(variational.continuous_bound, VP),
    "draws.masked_mean": lambda: (
        lambda losses, mask: jax.tree.leaves(draws.masked_mean(losses, mask)),
        (np.linspace(1, 2, 4096), MASKS),
    ),
    "draws.mean_square": lambda: (draws.mean_square, (300 * MASKS[None],)),
    "likelihood.log_prob": lambda: (log_prob, (X,)),
    "likelihood.prior_gap": lambda: (
        lambda *args: likelihood.prior_gap(VP, *args), (MASKS, 1.5 * MASKS)
    ),
    "divergence": lambda: (traces, (3 + np.arange(500.0)[None] % 7,)),
    "fokker_planck.residual": lambda: (
        lambda x, t: fokker_planck.residual(lambda x, t: -x * t[:, None], VP, x, t), (X, TIMES)
    ),
    "bits.bits_per_dim": lambda: (lambda x: bits.bits_per_dim(x, 2), (np.array([-3.3, 5.1]),)),
    "bits.decoders": lambda: (decoders, (X, NOISE, np.full(3, 0.7))),
    "bits.dequantised_log_prob": lambda: (dequantised, (np.ones(1),)),
    "guidance": lambda: (guided, (X, TIMES)),
    "inverse_problems": lambda: (measured, (X, TIMES)),
    "inverse_problems.colourisation": lambda: (
        GREY.observe, (np.ones((1, 1, 1, 300)) + 0.01 * np.arange(300.0),)
    ),
    "latent.first_stage": lambda: (
        lambda x: [STAGE.to_latent(x, RNG), STAGE.to_image(x), latent_loss(x)], (X,)
    ),
    "latent.measure": lambda: (scaling, (X,)),
    "latent.log_likelihood_bound": lambda: (latent_bound, (X,)),
    "latent.edits": lambda: (edited, (X,)),
    "latent.tiled_decode": lambda: (
        lambda x: latent.tiled_decode(lambda z: 3 * z, x, 3, 2), (FIELDS,)
    ),
    "samplers.heun": sampled(samplers.heun()),
    "samplers.heun[time]": sampled(samplers.heun("time"), samplers.uniform_grid(4)),
    "samplers.dpm_solver_pp": sampled(samplers.dpm_solver_pp(2, eta=0.5)),
    "samplers.unipc": sampled(samplers.unipc(3)),
    "samplers.ancestral": sampled(samplers.ancestral()),
    "samplers.predictor_corrector": sampled(
        samplers.predictor_corrector(samplers.reverse_diffusion(), samplers.langevin(0.1))
    ),
    "samplers.adaptive": sampled(samplers.adaptive(1e-3, 1e-3)),
    "solver_tables.run": lambda: (
        lambda x: solver_tables.run(
            samplers.solver_table(samplers.rk4(), VP, samplers.uniform_grid(2)), ORACLE, x
        )[0],
        (X,),
    ),
    "moments.sampled": lambda: (
        lambda *args: moments.sampled(
            samplers.ancestral(), VP, samplers.log_snr_grid(4), *args
        ),
        (X[0], np.array([0.25, 0.7])),
    ),
    "moments.distances": lambda: (
        lambda *args: [moments.kl_divergence(*args), moments.wasserstein(*args)],
        (0.3 * MASKS, 1.25 * MASKS, MASKS, 0.7 * MASKS),
    ),
    "embeddings": lambda: (
        lambda t: [embeddings.Sinusoidal(8)(t), embeddings.Fourier(8)(t)], (TIMES,)
    ),
    "embeddings.FineDetails": lambda: (
        lambda x, t: embeddings.FineDetails((4, 6), lambda t: t)(x, t), (FIELDS, TIMES / 100)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])


def test_likelihood_of_exact_half_precision_numbers_is_the_float32_one():
    """(2, 1) is exact in bfloat16: not a digit of the answer may change (it moved by 0.137)."""
    score = oracles.gaussian(processes.vp(), np.ones(2), 0.25)
    values = [
        likelihood.log_prob(
            score, processes.vp(), jnp.array([[2.0, 1.0]], dtype), steps=likelihood.fixed(24)
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    assert values[1].dtype == jnp.float32 and values[0] == values[1]
    np.testing.assert_allclose(values[0], [-2.4647], atol=5e-5)


def test_masks_are_counted_in_float32():
    """257 ones: in bfloat16 they sum to 256."""
    mask = jnp.ones(257, jnp.bfloat16)
    value, aux = draws.masked_mean(jnp.full(257, 3.0, jnp.bfloat16), mask)
    assert aux.weight == 257 and value == 3
