"""What layers, kernels, spectra and flows compute where a keyword is left out."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from research.ntk import attribution, dynamics, kernel_systems, predict, projection, spectrum, tiles
from tests import defaults

L = ntk.layers
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
PARAMS = RNG.normal(size=(3, 2)).astype(np.float32)
FACTOR = RNG.normal(size=(4, 6))
KERNEL = FACTOR @ FACTOR.T


def apply(params, x):
    return jnp.tanh(x @ params)


def estimated(function, *args, **options):
    run = lambda params, x: function(apply, params, *args, x, rng=KEY, **options)
    return defaults.program(run, PARAMS, X)


class Seen(Exception):
    """What would have been computed."""


def aligned(**options):
    """Of the kernel's norm, which alone is estimated."""
    squares = mock.patch.object(spectrum, "_squares", side_effect=Seen)
    with squares as squares, pytest.raises(Seen):
        spectrum.alignment(apply, PARAMS, X, X[:, :2], rng=KEY, **options)
    return squares.call_args.args[4:]


def row_by_row(function, **options):
    return defaults.program(lambda params, x: function(apply, params, x, **options), PARAMS, X)


def moved(**options):
    other = PARAMS + 0.1
    run = lambda params, x: spectrum.distance(apply, params, other, x, rng=KEY, **options)
    return defaults.program(run, PARAMS, X)


def projected(**options):
    run = lambda params, x: projection.features(apply, params, x, 40, rng=KEY, **options)
    return defaults.program(run, PARAMS, X)


def leading(**options):
    """How many pairs are sought in how many steps."""
    run = mock.Mock(side_effect=Seen)
    compiled = mock.patch.object(spectrum.probes, "compiled", return_value=run)
    with compiled, pytest.raises(Seen):
        spectrum.top_eigenpairs(apply, PARAMS, X, rng=KEY, **options)
    return run.call_args.kwargs["num"], run.call_args.kwargs["num_steps"]


def flowed(**options):
    flow = predict.network_flow(KERNEL, np.ones(4), **options)
    return flow(np.array([0.5, 2.0]))


def scored(**options):
    rows = X[:, :2]
    return attribution.scores(rows[:6], rows[6:8], np.ones(6, np.float32), **options)


def evolved(**options):
    """Rate, tolerances and the largest number of steps that the solver is given."""
    arrays = np.ones((4, 1)), KERNEL, np.zeros((4, 1)), np.array([0.0, 1.0])
    wide = mock.patch.object(dynamics.precision, "wide", side_effect=Seen)
    with wide as wide, pytest.raises(Seen):
        dynamics.solve(lambda f, y: jnp.sum((f - y) ** 2), *arrays, **options)
    run, rate, _, *tolerances = (wide.call_args.args[i] for i in (0, -4, -3, -2, -1))
    return rate, tolerances, run.keywords["max_steps"]


def solved(**options):
    """The operator's values and the tolerance that conjugate gradients are given."""
    given = []

    def solve(operator, y, rtol, **others):
        given.append((operator(y), rtol))
        raise Seen

    with mock.patch.object(kernel_systems.cg, "solve", solve), pytest.raises(Seen):
        kernel_systems.solve(lambda v: 2 * v, np.ones(4), **options)
    return given[0]


abc = {"a": (1.0, 1.1), "b": (1.0, 1.1)}
weights = {
    "weight_std": (1.0, 1.1),
    "bias_std": (0.0, 0.1),
    "parameterisation": ("ntk", "standard"),
}
strides = {"strides": ((1,), (2,)), "padding": ("SAME", "VALID")}
sizes = {"num_probes": (32, 31)}
CASES = {  # layers are compared by value: what each value does is tested beside them
    "leaky_relu": (L.leaky_relu, {"slope": (0.01, 0.02)}),
    "erf": (L.erf, abc | {"c": (0.0, 0.1)}),
    "sin": (L.sin, abc | {"c": (0.0, 0.1)}),
    "cos": (L.cos, abc | {"c": (0.0, 0.1)}),
    "rbf": (L.rbf, {"gamma": (1.0, 1.1)}),
    "exp_normalized": (L.exp_normalized, {"gamma": (1.0, 1.1), "shift": (-1.0, -0.9)}),
    "gaussian": (L.gaussian, abc),
    "gabor": (L.gabor, abc | {"c": (1.0, 1.1), "d": (0.0, 0.1)}),
    "exp": (L.exp, abc),
    "elementwise": (functools.partial(L.elementwise, jnp.tanh), {"num_nodes": (64, 63)}),
    "dense": (functools.partial(L.dense, 3), weights),
    "layer_norm": (L.layer_norm, {"over_positions": (False, True), "epsilon": (1e-12, 1e-6)}),
    "conv": (functools.partial(L.conv, 3, (2,)), weights | {"padding": ("SAME", "VALID")}),
    "conv_local": (
        functools.partial(L.conv_local, 3, (2,)),
        weights | {"padding": ("SAME", "VALID")},
    ),
    "self_attention": (
        functools.partial(L.self_attention, 4),
        {
            "num_heads": (1, 2),
            "query_std": (1.0, 1.1),
            "key_std": (1.0, 1.1),
            "value_std": (1.0, 1.1),
            "weight_std": (1.0, 1.1),
            "bias_std": (0.0, 0.1),
            "mechanism": ("softmax", "identity"),
            "scaling": ("linear",),
        },
    ),
    "trace": (functools.partial(estimated, spectrum.trace), sizes),
    "diagonal": (functools.partial(row_by_row, spectrum.diagonal), {"batch_size": (32, 20)}),
    "exact_trace": (functools.partial(row_by_row, spectrum.exact_trace), {"batch_size": (32, 20)}),
    "frobenius_norm": (functools.partial(estimated, spectrum.frobenius_norm), sizes),
    "effective_rank": (functools.partial(estimated, spectrum.effective_rank), sizes),
    "alignment": (aligned, sizes | {"centred": (False, True)}),
    "distance": (moved, sizes),
    "top_eigenpairs": (leading, {"num": (10, 9)}),
    "features": (projected, {"block": (16, 8)}),
    "scores": (scored, {"ridge": (1e-3, 1.1e-3)}),
    "network_flow": (
        flowed,
        {
            "f_train": (0.0, 0.1),
            "ridge": (0.0, 0.1),
            "learning_rate": (1.0, 1.1),
            "loss": ("sum", "mean"),
        },
    ),
    "dynamics": (
        evolved,
        {
            "learning_rate": (1.0, 1.1),
            "rtol": (1e-8, 1e-7),
            "atol": (1e-8, 1e-7),
            "max_steps": (100_000, 99_999),
        },
    ),
    "largest_learning_rate": (
        functools.partial(dynamics.largest_learning_rate, np.float32(2.0)),
        {"momentum": (0.0, 0.1), "loss": ("sum",)},
    ),
    "kernel_systems": (solved, {"ridge": (0.0, 0.1), "rtol": (1e-8, 1e-7)}),
    "plan": (
        functools.partial(tiles.plan, 4096, memory_bytes=10**9, bytes_of=lambda size: 8 * size**2),
        {"largest": (2048, 2047), "smallest": (1,)},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keywords_left_out_have_their_documented_values(case):
    defaults.check(*case)
