"""Averages, statistics and linear algebra of the library in half precision beside float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import evaluate, fleet, power_ema, sweep
from library.data import transforms
from library.linalg import cg, hutchinson, lanczos, operators, quadrature, trees
from library.statistics import intervals, paired, power_law, ranks
from library.train_step import init_state, make_train_step, weighted_sums
from library.types import Aux
from tests import half_precision

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
LONG = np.full(8192, 3.0)  # a sum that bfloat16 ends at 1,024 and float16 near 8,192
SOME = RNG.normal(size=40)
OTHER = SOME + 0.3 * RNG.normal(size=40)
VECTORS = {"a": RNG.normal(size=5), "b": RNG.normal(size=(2, 3))}
MATRIX = np.float32(np.eye(6) * 4 + 0.2 * np.ones((6, 6)) + np.diag(np.arange(6.0)))
SIX = RNG.normal(size=6)


def multiply(vector):
    """A symmetric positive definite operator, its numbers in float32."""
    return (jnp.asarray(MATRIX) @ vector.astype(jnp.float32)).astype(vector.dtype)


def times(vector):
    """The same with products in float32."""
    return jnp.asarray(MATRIX) @ vector.astype(jnp.float32)


def mean_loss(params, model_state, rng, batch):
    """The mean of w x over the batch, in float32."""
    values = params.astype(jnp.float32) * batch.astype(jnp.float32)
    return values.mean().astype(params.dtype), Aux(float(batch.shape[0]), {"m": params})


def step_metrics(params, batch, **options):
    optimizer = optax.sgd(0.0)
    step = make_train_step(mean_loss, optimizer, **options)
    return step(init_state(params, optimizer, KEY), batch)[1]


def one_average(params, updates):
    transform = power_ema.power_ema((0.1,))
    state = transform.init(params)
    for _ in range(3):
        state = transform.update(updates, state, params)[1]
    return state.averages


def ema(params, batch):
    optimizer = optax.sgd(0.5)
    step = make_train_step(mean_loss, optimizer, ema_decay=0.9)
    return step(init_state(params, optimizer, KEY, ema=True), batch)[0].ema


def evaluation(params, batch):
    means = evaluate.make_evaluator(mean_loss)(params, {}, KEY, [batch, batch[:7]])
    return jax.tree.map(np.float64, means)


def fleet_metrics(params, batch):
    loss, aux = fleet.loss(mean_loss)(params, {}, KEY, batch)
    return loss, aux.metrics


def many_losses(params, batch):
    init = lambda key: params
    return sweep.train_many(
        init, mean_loss, lambda rate: optax.sgd(rate), batch, jax.random.split(KEY, 2),
        {"rate": jnp.zeros(2)},
    )[1]  # fmt: skip


def rules(vector):
    return quadrature.quadratic_form(times, vector, 6)


QUADRATURE = quadrature.Quadrature(np.sort(RNG.normal(size=(3, 4)), 1), RNG.random((3, 4)))
GRID = np.linspace(-2, 2, 5)
ONE = np.asarray(1.5)

PROGRAMS: half_precision.Cases = {
    "train_step.make_train_step": lambda: (step_metrics, (ONE, LONG)),
    "train_step.make_train_step, 64 microbatches": lambda: (
        lambda params, batch: step_metrics(params, batch, accumulate=64), (ONE, LONG),
    ),
    "train_step.make_train_step, average": lambda: (ema, (ONE, LONG)),
    "train_step.weighted_sums": lambda: (
        lambda params, batch: weighted_sums(mean_loss, params)({}, KEY, batch)[:3], (ONE, LONG),
    ),
    "linalg.trees.vdot": lambda: (trees.vdot, ({"w": LONG}, {"w": LONG / 3})),
    "linalg.trees.norm": lambda: (trees.norm, ({"w": 100 * LONG},)),
    "linalg.trees.add_scaled": lambda: (trees.add_scaled, (VECTORS, ONE, VECTORS)),
    "linalg.operators.mean_over": lambda: (
        lambda batches, v: operators.mean_over(lambda batch: lambda u: batch * u, batches)(v),
        (1 + RNG.random((1000, 3)), np.ones(3)),
    ),
    "linalg.operators.shifted": lambda: (
        lambda v: operators.shifted(multiply, 0.3)(v), (SIX,),
    ),
    "linalg.operators.dense": lambda: (lambda v: operators.dense(times, v), (SIX,)),
    "linalg.operators.hvp": lambda: (
        lambda at, v: operators.hvp(lambda x: (x.astype(jnp.float32) ** 3).sum(), at)(v),
        (SIX, np.ones(6)),
    ),
    "linalg.operators.ggn": lambda: (
        lambda at, v: operators.ggn(
            lambda x: x.astype(jnp.float32) * 2, lambda y: (y**2).sum(), at
        )(v),
        (SIX, np.ones(6)),
    ),
    "linalg.operators.jvp": lambda: (
        lambda at, v: operators.jvp(lambda x: (x.astype(jnp.float32) ** 2).sum(), at)(v),
        (LONG, np.ones(8192)),
    ),
    "linalg.operators.vjp": lambda: (
        lambda at, u: operators.vjp(lambda x: x.astype(jnp.float32).sum(), at)(
            u.astype(jnp.float32)
        ),
        (LONG, ONE),
    ),
    "linalg.cg.solve": lambda: (lambda b: cg.solve(times, b).x, (SIX,)),
    "linalg.cg.solve, preconditioned": lambda: (
        lambda b, d: cg.solve(times, b, b, preconditioner=cg.jacobi(d)).x, (SIX, np.diag(MATRIX)),
    ),
    "linalg.hutchinson.trace": lambda: (
        lambda v: hutchinson.trace(times, v, KEY, 16), (SIX,),
    ),
    "linalg.hutchinson.diagonal": lambda: (
        lambda v: hutchinson.diagonal(times, v, KEY, 16, batch_size=4), (SIX,),
    ),
    "linalg.hutchinson.hutch_plus_plus": lambda: (
        lambda v: hutchinson.hutch_plus_plus(times, v, KEY, 18).value, (SIX,),
    ),
    "linalg.hutchinson.summarise": lambda: (
        hutchinson.summarise, ({"w": 100 + RNG.normal(size=(5000, 2))},),
    ),
    "linalg.lanczos.tridiagonalise": lambda: (
        lambda v: lanczos.tridiagonalise(times, v, 3).diagonal, (SIX,),
    ),
    "linalg.lanczos.top_eigenpairs": lambda: (
        lambda v: lanczos.top_eigenpairs(times, v, 2, KEY).values, (SIX,),
    ),
    "linalg.quadrature.quadratic_form": lambda: (lambda v: (lambda n, w: w @ n)(*rules(v)), (SIX,)),
    "linalg.quadrature.estimate": lambda: (
        lambda v: quadrature.trace(quadrature.estimate(times, v, KEY, 4, 6), jnp.sqrt).value,
        (SIX,),
    ),
    "linalg.quadrature.trace": lambda: (
        lambda r: quadrature.trace(r, jnp.exp), (QUADRATURE,),
    ),
    "linalg.quadrature.density": lambda: (
        lambda r, grid: quadrature.density(r, grid, 0.3), (QUADRATURE, GRID),
    ),
}  # fmt: skip

CASES: half_precision.Cases = {
    # Compiled: op by op they take five times as long.
    **{
        name: lambda make=make: (lambda function, args: (jax.jit(function), args))(*make())
        for name, make in PROGRAMS.items()
    },
    "evaluate.make_evaluator": lambda: (evaluation, (ONE, LONG)),
    "fleet.loss": lambda: (fleet_metrics, (np.linspace(1, 2, 40), np.ones((3, 40)))),
    "sweep.train_many": lambda: (many_losses, (ONE, LONG.reshape(2, -1))),
    "power_ema.power_ema": lambda: (one_average, (SOME, 1e-3 * OTHER)),
    "power_ema.reconstruct": lambda: (
        lambda *snapshots: power_ema.reconstruct(
            snapshots, [power_ema.Profile(s, t) for s in (0.05, 0.1) for t in (3, 6)],
            power_ema.Profile(0.07, 6),
        ),
        (SOME, OTHER, SOME + 1, OTHER - 1),
    ),
    "data.transforms.to_unit_range": lambda: (
        lambda x: transforms.to_unit_range(16)({"image": np.asarray(x)})["image"],
        (np.arange(17.0),),
    ),
    "data.transforms.from_unit_range": lambda: (
        lambda x: np.float32(transforms.from_unit_range(x, 16)), (np.arange(-8, 9) / 8,),
    ),
    "statistics.intervals.percentile": lambda: (
        lambda x: np.array(intervals.percentile(x, 0.9)), (100 * SOME,),
    ),
    "statistics.intervals.normal_mean": lambda: (
        lambda x: np.array(intervals.normal_mean(x)), (SOME + 50,),
    ),
    **{
        f"statistics.paired.{test.__name__}": lambda test=test: (
            lambda a, b: (lambda found: np.array([found.difference, found.p_value]))(test(a, b)),
            (SOME, OTHER),
        )
        for test in (paired.t_test, paired.sign_test, paired.wilcoxon)
    },
    "statistics.power_law.fit": lambda: (
        lambda x, y, w: (lambda law: np.array([law.exponent, law.coefficient, law.r_squared]))(
            power_law.fit(x, y, w)
        ),
        (np.exp(SOME), np.exp(OTHER), np.ones(40)),
    ),
    "statistics.ranks.spearman": lambda: (ranks.spearman, (LONG[:300] * 0 + np.arange(300) % 97,
                                                           np.arange(300.0) % 89)),
    "statistics.ranks.friedman": lambda: (ranks.friedman, (RNG.normal(size=(50, 4)),)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_float32_but_for_the_last_place(name):
    half_precision.check(CASES[name])
