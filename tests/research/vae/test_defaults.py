"""What estimators, likelihoods and codebooks compute where a keyword is left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vae import annealing, bounds, gaussians, gradients, likelihoods, quantize
from tests import defaults

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X, MEAN = RNG.normal(size=(2, 2, 3)).astype(np.float32)  # [B, D]
Z = jnp.zeros((3, 2, 1))  # [K, B, L]
LEVELS = np.array([[0, 200], [128, 255]])
MIXTURE = RNG.normal(size=(3, 2, 2, 4)).astype(np.float32)
CODES = quantize.Codebook(X, np.array([0.6, 1.5], np.float32), X, jnp.ones(()))
VECTORS = RNG.normal(size=(4, 3)).astype(np.float32)

log_start = lambda z: gaussians.log_prob(z).sum(-1)
log_end = lambda z: gaussians.log_prob(z, 1.0).sum(-1)


def annealed(function, *size, **options):
    path = np.array([0.0, 0.5, 1.0], np.float32)
    run = lambda key: function(key, log_start, log_end, Z, path, *size, **options)
    return defaults.program(run, KEY)


def streamed(**options):
    draws = lambda x, key, num: jax.random.normal(key, (num, len(x)))
    run = functools.partial(bounds.log_likelihood, draws, **options)
    return defaults.program(run, X, KEY)


def score(**options):
    """Values and gradients with respect to the log-probabilities."""
    return jax.vjp(lambda log_probs: gradients.score_function(X, log_probs, **options), MEAN)[1](X)


def fitted(**options):
    """Of one image that is far off and one that is less so than the smallest scale."""
    off = np.array([[1.0], [1e-4]], np.float32)
    return likelihoods.optimal_gaussian(X, X + off, **options), smallest(**options)


def smallest(min_scale=None, **_):
    options = {} if min_scale is None else {"min_scale": min_scale}
    return likelihoods.optimal_gaussian(X, X, **options).log_scale


def mixture(make, **options):
    return defaults.program(lambda *args: make(*args, **options).log_prob(LEVELS), *MIXTURE)


gaussian = {"mean_p": (0.0, 0.5), "log_var_p": (0.0, 0.5)}
CASES = {
    "sigmoidal_path": (
        functools.partial(annealing.sigmoidal_path, 3),
        {"steepness": (4.0, 4.1)},
    ),
    "forward": (
        functools.partial(annealed, annealing.forward, 0.1),
        {"num_leapfrog": (10, 11)},
    ),
    "reverse": (
        functools.partial(annealed, annealing.reverse, 0.1),
        {"num_leapfrog": (10, 11)},
    ),
    "tune": (
        functools.partial(annealed, annealing.tune),
        {"step_size": (0.1, 0.11), "num_leapfrog": (10, 11), "acceptance": (0.65, 0.66)},
    ),
    "beta_elbo": (
        functools.partial(bounds.beta_elbo, X[:, 0], np.abs(MEAN)),
        {"beta": (1.0, 1.1), "free_bits": (0.0, 0.9)},
    ),
    "log_likelihood": (streamed, {"num_samples": (5000, 5001), "chunk": (100, 125)}),
    "kl": (functools.partial(gaussians.kl, X, MEAN), gaussian),
    "log_chi_square": (functools.partial(gaussians.log_chi_square, X, np.abs(MEAN)), gaussian),
    "log_prob": (
        functools.partial(gaussians.log_prob, X),
        {"mean": (0.0, 0.5), "log_var": (0.0, 0.5)},
    ),
    "sample": (functools.partial(gaussians.sample, KEY, X, MEAN), {"shape": ((), (1,))}),
    "pathwise": (
        functools.partial(gradients.pathwise, lambda z: z, KEY, X, MEAN),
        {"num_samples": (1, 2)},
    ),
    "score_function": (score, {"baseline": (0.0, 0.1)}),
    "gumbel_softmax": (
        functools.partial(gradients.gumbel_softmax, KEY, X),
        {"temperature": (1.0, 1.1), "hard": (False, True)},
    ),
    "sum_pixels": (functools.partial(likelihoods.sum_pixels, X), {"batch_axes": (1, 2)}),
    "Gaussian": (
        lambda **options: likelihoods.Gaussian(MEAN, **options).log_prob(X),
        {"log_scale": (0.0, 0.1)},
    ),
    "optimal_gaussian": (fitted, {"batch_axes": (0, 1), "min_scale": (1e-3, 1.1e-3)}),
    "logistic_mixture": (
        functools.partial(mixture, likelihoods.logistic_mixture),
        {"num_levels": (256, 257)},
    ),
    "LogisticMixture": (
        functools.partial(mixture, likelihoods.LogisticMixture),
        {"num_levels": (256, 257)},
    ),
    "restart": (
        functools.partial(quantize.restart, KEY, CODES, VECTORS),
        {"min_count": (1.0, 0.5, 1.6)},
    ),
    "gumbel": (
        functools.partial(quantize.gumbel, KEY, X, VECTORS[:3]),
        {"temperature": (1.0, 1.1), "hard": (False, True)},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keywords_left_out_have_their_documented_values(case):
    defaults.check(*case)
