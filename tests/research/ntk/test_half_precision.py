"""Kernels, products, spectra, predictions and attributions of numbers in half precision.

Whatever comes in half precision is widened, so most cases are equal to the last bit. The sums are
long: 4,096 terms of one sign lose their value in half precision, or overflow.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from tests import half_precision
from tests.research.ntk import networks

RNG = jax.random.key(0)
NET = ntk.layers.serial(ntk.layers.dense(8), ntk.layers.relu(), ntk.layers.dense(1))


def apply(params, x):
    return jnp.tanh(x @ params["in"]) @ params["out"]


def long(params, x):
    """A layer of 4,096 inputs of one sign."""
    return x @ params


PARAMS = {"in": networks.normal(0, 6, 40), "out": networks.normal(1, 40, 2) / 6}
X, MORE = networks.normal(2, 5, 6), networks.normal(3, 3, 6)
ONES = np.ones((2, 4096)), np.ones((4096, 2))
TARGETS = networks.normal(4, 5, 2)
PSD = X @ X.T + 3 * np.eye(5)
FEATURES, OTHERS = networks.normal(5, 40, 4), networks.normal(6, 3, 4)


def cosine(a, b):
    a, b = (x.astype(jnp.float32) / 2 for x in (a, b))
    return jnp.exp(-((a[:, None] - b[None]) ** 2).sum(-1))


def kernels(method):
    return lambda p, x: ntk.empirical(apply, p, x, method=method)


def network_flow(k, y, f, cross):
    return ntk.predict.network_flow(k, y, f, ridge=0.1)(2.0, cross, 0.5)


def dynamics(k, y, f):
    squared = lambda f, y: 0.5 * jnp.sum((f - y) ** 2)
    return ntk.dynamics.solve(squared, y, k, f, [1.0], learning_rate=0.1).train


def system(x, y):
    operator = ntk.kernel_systems.recomputed(cosine, x, 2)
    return ntk.kernel_systems.solve(operator, y, ridge=0.1).x


def nystrom(x, y):
    phi = ntk.nystrom.fit(cosine, x, 3).features(x)
    return phi, ntk.nystrom.regression(phi, y, 0.1), ntk.nystrom.preconditioner(phi, 0.1)(phi[:, 0])


CASES = {
    "finite.empirical[structured]": lambda: (kernels("structured"), (PARAMS, X)),
    "finite.empirical[jacobian]": lambda: (kernels("jacobian"), (PARAMS, X)),
    "finite.empirical[vector_products]": lambda: (kernels("vector_products"), (PARAMS, X)),
    "finite.empirical[long]": lambda: (
        lambda p, x: ntk.empirical(long, p, x, outputs="trace"), ONES[::-1]
    ),
    "finite.by_layer": lambda: (lambda p, x, z: ntk.by_layer(apply, p, x, z), (PARAMS, X, MORE)),
    "finite.nngp_empirical": lambda: (
        lambda p, x: ntk.nngp_empirical(long, p, x, outputs="trace"), ONES[::-1]
    ),
    "expansion.vector_product": lambda: (
        lambda p, x, v: ntk.vector_product(apply, p, x, batch_size=2)(v), (PARAMS, X, TARGETS)
    ),
    "projection.features": lambda: (
        lambda p, x: ntk.projection.features(apply, p, x, 4, rng=RNG), (PARAMS, X)
    ),
    "projection.kernel": lambda: (ntk.projection.kernel, (ONES[0], ONES[0])),
    "spectrum.top_eigenpairs": lambda: (
        lambda p, x: ntk.spectrum.top_eigenpairs(apply, p, x, 2, rng=RNG)[0], (PARAMS, X)
    ),
    "spectrum.trace": lambda: (
        lambda p, x: ntk.spectrum.trace(long, p, x, rng=RNG).value, ONES[::-1]
    ),
    "spectrum.exact_trace": lambda: (
        lambda p, x: ntk.spectrum.exact_trace(long, p, x), ONES[::-1]
    ),
    "spectrum.frobenius_norm": lambda: (
        lambda p, x: ntk.spectrum.frobenius_norm(apply, p, x, rng=RNG, num_probes=4).value,
        (PARAMS, X),
    ),
    "spectrum.effective_rank": lambda: (
        lambda p, x: ntk.spectrum.effective_rank(apply, p, x, rng=RNG, num_probes=4).value,
        (PARAMS, X),
    ),
    "spectrum.alignment": lambda: (
        lambda p, x, y: ntk.spectrum.alignment(apply, p, x, y, rng=RNG, num_probes=4).value,
        (PARAMS, X, TARGETS),
    ),
    "spectrum.distance": lambda: (
        lambda p, q, x: ntk.spectrum.distance(apply, p, q, x, rng=RNG, num_probes=4).value,
        (PARAMS, jax.tree.map(lambda leaf: leaf[::-1], PARAMS), X),
    ),
    "predict.gradient_flow": lambda: (
        lambda x, y, z: ntk.predict.gradient_flow(NET.kernel, x, y, ridge=0.1)(z, 2.0),
        (X, TARGETS, MORE),
    ),
    "predict.posterior": lambda: (
        lambda x, y, z: ntk.predict.posterior(NET.kernel, x, y, z, noise=0.1), (X, TARGETS, MORE)
    ),
    "predict.network_flow": lambda: (network_flow, (PSD, TARGETS, TARGETS / 3, PSD[:2])),
    "predict.log_evidence": lambda: (
        lambda k, y: ntk.predict.log_evidence(ntk.eigen.decompose(k, 0.1), y), (PSD, TARGETS)
    ),
    "dynamics.solve": lambda: (dynamics, (PSD, TARGETS, TARGETS / 3)),
    "dynamics.largest_learning_rate": lambda: (
        lambda k: ntk.dynamics.largest_learning_rate(ntk.eigen.decompose(k).values[-1]), (PSD,)
    ),
    "nystrom": lambda: (nystrom, (X, TARGETS)),
    "kernel_systems.solve": lambda: (system, (X, TARGETS)),
    "tiles.whole": lambda: (lambda x: ntk.tiles.whole(cosine, x, tile=2), (X,)),
    "attribution.margin": lambda: (
        lambda logits: ntk.attribution.margin(logits, jnp.arange(4)), (networks.normal(7, 4, 300),)
    ),
    "attribution.scores": lambda: (
        lambda *args: ntk.attribution.scores(*args, ridge=0.1), (FEATURES, OTHERS, FEATURES[:, 0])
    ),
    "attribution.linear_datamodeling_score": lambda: (
        lambda scores, outputs: ntk.attribution.linear_datamodeling_score(
            scores, jnp.arange(320).reshape(8, 40) % 3 > 0, outputs
        ),
        (networks.normal(8, 3, 40), networks.normal(9, 8, 3)),
    ),
    "layers.kernel": lambda: (lambda x, z: NET.kernel(x, z), (X, MORE)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])


def test_traced_kernels_in_half_precision_are_decomposed_in_float32():
    half = jnp.asarray(PSD, jnp.bfloat16)
    values = jax.jit(lambda k: ntk.eigen.decompose(k, 0.5).values)(half)
    expected = np.linalg.eigvalsh(np.float64(half)) + 0.5
    np.testing.assert_allclose(values, expected, rtol=1e-5)
