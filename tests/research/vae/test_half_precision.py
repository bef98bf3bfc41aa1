"""Likelihoods, bounds, gradients and codes in half precision: long sums, large values, tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vae import annealing, bounds, gaussians, gradients, likelihoods, linear, quantize
from tests import half_precision

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
normal = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)

LONG = jnp.ones((2, 64, 72))  # 4,608 pixels: bfloat16 counts to 256
PIXELS = jnp.asarray(RNG.integers(0, 2, (2, 64, 72)))
LEVELS = jnp.asarray(RNG.integers(0, 256, (2, 9)))
WEIGHTS = 100 + 10 * normal(128, 3)
SPREAD = normal(4, 2)
MODEL = linear.LinearGaussian(normal(5, 2), normal(5), 0.3)
X, Z = 3 * normal(4, 5), normal(3, 4, 2)
PATH = jnp.array([0.0, 0.25, 1.0])
VECTORS = 20 + normal(40, 3)
INDICES = jnp.asarray(RNG.integers(0, 4, 40))
LOG_Q = lambda mean, z: gaussians.log_prob(z, jnp.broadcast_to(mean, z.shape))


def pixels(likelihood, x):
    return likelihoods.sum_pixels(likelihood.log_prob(x))


def mixture(values):
    p = likelihoods.logistic_mixture(*values)
    return p.log_prob(LEVELS), p.mean


def chains(function):
    log_joint = lambda model, x: lambda z: model.log_joint(x, z)
    prior = lambda z: gaussians.log_prob(z).sum(-1)

    def run(model, x, z):
        if function is annealing.tune:
            return function(KEY, prior, log_joint(model, x), z, PATH)
        return function(KEY, prior, log_joint(model, x), z, PATH, 1e-3).log_weights

    return run


def codes(x):
    state = quantize.restart(KEY, quantize.init(KEY, 4, 3), x)
    return quantize.ema_update(state, x, INDICES, 0.9)


def doubly(mean, z):
    return gradients.doubly_reparameterized(gaussians.log_prob, LOG_Q, mean, mean + z)


CASES = {
    "gaussians.kl": lambda: (gaussians.kl, (SPREAD, SPREAD / 99, SPREAD, SPREAD / 98)),
    "gaussians.log_chi_square": lambda: (gaussians.log_chi_square, (SPREAD, SPREAD / 9)),
    "gaussians.log_prob": lambda: (gaussians.log_prob, (100 * SPREAD, SPREAD, SPREAD)),
    "gaussians.sample": lambda: (lambda *a: gaussians.sample(KEY, *a, (3,)), (SPREAD, SPREAD)),
    "likelihoods.sum_pixels": lambda: (likelihoods.sum_pixels, (LONG,)),
    "likelihoods.Bernoulli": lambda: (
        lambda logits: pixels(likelihoods.Bernoulli(logits), PIXELS), (0.01 * LONG,),
    ),
    "likelihoods.Bernoulli.mean": lambda: (lambda l: likelihoods.Bernoulli(l).mean, (SPREAD,)),
    "likelihoods.Gaussian": lambda: (
        lambda x, mean, scale: pixels(likelihoods.Gaussian(mean, scale), x),
        (1.01 * LONG, LONG, jnp.float32(-3)),
    ),
    "likelihoods.optimal_gaussian": lambda: (
        lambda x, mean: likelihoods.optimal_gaussian(x, mean).log_scale, (300 * X, X),
    ),
    "likelihoods.Bytes": lambda: (
        lambda logits: likelihoods.Bytes(logits).log_prob(LEVELS), (normal(2, 9, 256),),
    ),
    "likelihoods.Bytes.mean": lambda: (lambda l: likelihoods.Bytes(l).mean, (normal(2, 256),)),
    "likelihoods.logistic_mixture": lambda: (mixture, (normal(3, 2, 9, 5),)),
    "bounds.elbo": lambda: (bounds.elbo, (WEIGHTS,)),
    "bounds.iwae": lambda: (bounds.iwae, (WEIGHTS,)),
    "bounds.beta_elbo": lambda: (
        lambda *args: bounds.beta_elbo(*args, beta=0.3, free_bits=0.1),
        (-100 * jnp.abs(normal(2)), jnp.abs(LONG) / 7),
    ),
    "bounds.average": lambda: (
        lambda values: bounds.average(values, jnp.ones(9000)), (jnp.ones(9000),),
    ),
    "bounds.log_likelihood": lambda: (
        lambda x: bounds.log_likelihood(lambda x, rng, num: x[:num], x, KEY, 3, 3), (WEIGHTS[:3],),
    ),
    "bounds.diagnose": lambda: (lambda w: bounds.diagnose(w).effective_sample_size, (WEIGHTS,)),
    "gradients.pathwise": lambda: (
        lambda m, v: gradients.pathwise(jnp.square, KEY, m, v, 5).mean(0), (SPREAD, SPREAD),
    ),
    "gradients.score_function": lambda: (
        jax.grad(lambda l, v: gradients.score_function(v, l, 0.5).sum(), 1), (SPREAD, 99 * SPREAD),
    ),
    "gradients.leave_one_out": lambda: (gradients.leave_one_out, (300 + normal(400, 2),)),
    "gradients.gumbel_softmax": lambda: (
        lambda logits: gradients.gumbel_softmax(KEY, logits, 0.1), (normal(3, 4),),
    ),
    "gradients.doubly_reparameterized": lambda: (doubly, (jnp.float32(0.5), normal(6, 3))),
    "annealing.forward": lambda: (chains(annealing.forward), (MODEL, X, Z)),
    "annealing.reverse": lambda: (chains(annealing.reverse), (MODEL, X, Z)),
    "annealing.tune": lambda: (chains(annealing.tune), (MODEL, X, Z)),
    "linear.log_prob": lambda: (lambda model, x: model.log_prob(x), (MODEL, X)),
    "linear.posterior": lambda: (lambda model, x: model.posterior(x), (MODEL, X)),
    "linear.elbo": lambda: (
        lambda model, x, m: model.elbo(x, m, jnp.eye(2, dtype=m.dtype)), (MODEL, X, Z[0]),
    ),
    "linear.log_joint": lambda: (lambda model, x, z: model.log_joint(x, z), (MODEL, X, Z)),
    "linear.fit": lambda: (lambda x: linear.fit(x, 2), (300 + normal(50, 5),)),
    "linear.rate_distortion": lambda: (
        lambda values: linear.rate_distortion(values, 0.3, 2.0), (jnp.ones(9000) * 0.7,),
    ),
    "quantize.straight_through": lambda: (quantize.straight_through, (VECTORS, VECTORS + 1)),
    "quantize.rotate": lambda: (quantize.rotate, (VECTORS, VECTORS * 999)),
    "quantize.rotate, gradient": lambda: (
        jax.grad(lambda x, q: (quantize.rotate(x, q) * jnp.arange(3)[None]).sum()),
        (VECTORS / 999, VECTORS[::-1]),
    ),
    "quantize.commitment": lambda: (quantize.commitment, (30 * LONG[0], 33 * LONG[0])),
    "quantize.nearest": lambda: (
        lambda c, x: jnp.float32(quantize.nearest(c, x)), (VECTORS[:9], VECTORS),
    ),
    "quantize.ema_update": lambda: (codes, (VECTORS,)),
    "quantize.residual": lambda: (
        lambda c, x: quantize.residual(c, x)[0], (jnp.stack([VECTORS, VECTORS - 20]), VECTORS + 1),
    ),
    "quantize.finite_scalar": lambda: (
        lambda x: quantize.finite_scalar(x, (999, 8, 2)), (VECTORS / 30,),
    ),
    "quantize.finite_scalar_indices": lambda: (
        lambda q: jnp.float32(quantize.finite_scalar_indices(q, (3, 5, 2))),
        (jnp.array([[-1.0, 0.5, 1.0], [1.0, 0.0, -1.0]]),),
    ),
    "quantize.gumbel": lambda: (
        lambda l, c: quantize.gumbel(KEY, l, c, 0.5), (normal(6, 40), VECTORS),
    ),
    "quantize.kl_to_uniform": lambda: (quantize.kl_to_uniform, (normal(3, 4000),)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])
