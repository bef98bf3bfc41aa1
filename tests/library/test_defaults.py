"""What the library computes where a keyword is left out."""

import functools
import inspect
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import (
    checkpoint,
    claims,
    figure_style,
    multihost,
    plots,
    power_ema,
    sharding,
    testing,
    train_step,
    training,
)
from library.data import pipeline, synthetic, text, transforms
from library.linalg import cg, hutchinson, lanczos, quadrature, trees
from library.report import curves, numbers
from library.statistics import intervals, paired
from library.storage import tiled_matrix
from library.types import Aux
from tests import defaults

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
FACTOR = RNG.normal(size=(30, 30)).astype(np.float32)
MATRIX = FACTOR @ FACTOR.T
VECTOR = RNG.normal(size=30).astype(np.float32)
PAIRS = RNG.normal(size=(2, 12)) + np.array([[0.4], [0.0]])
TOKENS = np.arange(40)
SOURCE = claims.theorem("a theorem")

product = lambda v: MATRIX @ v


def probed(function, *args, **options):
    run = lambda key: function(product, VECTOR, key, 3, *args, **options)
    return defaults.program(run, KEY)


def krylov(**options):
    run = lambda key: lanczos.top_eigenpairs(product, VECTOR, 2, key, **options)
    return defaults.program(run, KEY)


def split(**options):
    """Which leaf of one mesh axis of two devices is split, and over which axis."""
    mesh = sharding.make_mesh({"data": 1, "model": 2})
    spec = sharding.fsdp(**options)
    shapes = [(4096,), (4094,), (2, 2)]
    return [str(spec(shape, mesh)) for shape in shapes]


def updated(**options):
    """The program of one update of two examples."""

    def loss_fn(params, model_state, rng, batch):
        keys = rng if rng.shape else jax.random.split(rng, len(batch["x"]))
        noise = jax.vmap(jax.random.normal)(keys)  # one key or one an example
        return jnp.mean((batch["x"] @ params - noise) ** 2), Aux(batch["x"].size)

    optimizer = optax.sgd(0.1)
    state = train_step.init_state(jnp.ones(1), optimizer, KEY, ema=True)
    step = train_step.make_train_step(loss_fn, optimizer, **options)
    batch = {"x": np.ones((2, 1), np.float32)}
    return defaults.program(step, state, batch)


def started(**options):
    state = train_step.init_state(jnp.ones(1), optax.sgd(0.1), KEY, **options)
    return state.model_state, state.ema


def climbed(**options):
    """The updates of a gradient of norm 5."""
    optimizer = training.warmup_cosine(0.1, 5, 2, **options)
    params = jnp.ones(2)
    state = optimizer.init(params)
    run = lambda state: [optimizer.update(jnp.array([3.0, 4.0]), state, params)]
    return defaults.program(run, state)


def averaged(**options):
    """Of averages after two updates."""
    average = power_ema.power_ema(**options)
    params = jnp.ones(1)
    state = average.init(params)
    run = lambda state: average.update(params, state, params)
    return defaults.program(run, state)


def batched(make, source, **options):
    at = make(source, 4, seed=0, **options)
    return [at(step) for step in range(3)]


def stepped(**options):
    """Of a cube, whose central difference is off by the square of the step."""
    with jax.enable_x64(True):
        found = testing.finite_difference_gradient(lambda x: x[0] ** 3, jnp.ones(1), **options)
        return np.asarray(found)


def judged(make, **options):
    claim = make("what", 1.0, 2.0, source=SOURCE, **options)
    return claim.tolerance, claim.judged


def drawn(**options):
    figure = plots.image_grid(np.full((2, 2, 2, 1), 0.5), 1, 2, **options)
    return [image.get_array() for axes in figure.axes for image in axes.images]


def smoothed(**options):
    records = [{"step": i, "loss": float(i % 3 + 1), "time": 2 * i} for i in range(8)]
    figure = plots.curves(records, ["loss"], **options)
    axes = figure.axes[0]
    lines = [line.get_xydata() for line in axes.lines]
    return lines, axes.get_xscale(), axes.get_yscale()


def prefetched(**options):
    """Steps that have been computed once the first has been asked for."""
    calls = []
    at = pipeline.prefetch(lambda step: calls.append(step) or step, **options)
    at(0)
    closure = inspect.getclosurevars(at).nonlocals
    return sorted(closure["ahead"])


def kept(**options):
    with tempfile.TemporaryDirectory() as folder:
        return checkpoint.Checkpoints(folder, every=1, **options).keep


def waited(**options):
    """Seconds that a process waits for the others."""
    with mock.patch.object(multihost, "_join") as join:
        multihost.initialize("localhost:1", 2, 0, **options)
    return join.call_args.args[-1]


def inches(make, *args, **options):
    return make(*args, **options)[0].get_size_inches()


left_out = {"tolerance": (0.0, 0.1), "judged": (True, False)}
shuffled = {"shuffle": (True, False), "shard": ((0, 1), (0, 2))}
sided = {"alternative": ("two-sided", "greater")}
probes = {"sampler": (trees.rademacher, trees.gaussian), "batch_size": (None, 2)}
CASES = {
    "cg": (
        lambda **options: defaults.program(lambda b: cg.solve(product, b, **options), VECTOR),
        {"rtol": (1e-6, 1e-5), "max_steps": (300, 299)},
    ),
    "trace": (functools.partial(probed, hutchinson.trace), probes),
    "diagonal": (functools.partial(probed, hutchinson.diagonal), probes),
    "quadrature": (functools.partial(probed, quadrature.estimate, 4), probes),
    "top_eigenpairs": (krylov, {"num_steps": (24, 23)}),
    "percentile": (functools.partial(intervals.percentile, VECTOR), {"level": (0.95, 0.94)}),
    "clopper_pearson": (
        functools.partial(intervals.clopper_pearson, 3, 9),
        {"level": (0.95, 0.94)},
    ),
    "normal_mean": (functools.partial(intervals.normal_mean, VECTOR), {"level": (0.95, 0.94)}),
    "t_test": (functools.partial(paired.t_test, *PAIRS), sided),
    "sign_test": (functools.partial(paired.sign_test, *PAIRS), sided),
    "wilcoxon": (functools.partial(paired.wilcoxon, *PAIRS), sided),
    "fsdp": (
        lambda **options: split(**{"axis": "model"} | options),
        {"min_size": (4096, 4094, 4097)},
    ),
    "fsdp's axis": (split, {"axis": ("data", "model")}),
    "make_train_step": (
        updated,
        {
            "accumulate": (1, 2),
            "compute_dtype": (None, jnp.bfloat16),
            "ema_decay": (None, 0.9),
            "rng_per_example": (False, True),
        },
    ),
    "init_state": (started, {"ema": (False, True)}),
    "RunOptions": (
        training.RunOptions,
        {
            "seed": (0, 1),
            "mesh": ("", "data=2"),
            "parallel": ("jit", "pmap"),
            "fsdp": (False, True),
            "accumulate": (1, 2),
            "steps_per_call": (1, 2),
            "log_every": (50, 49),
            "checkpoint_every": (500, 499),
            "keep_checkpoints": (3, 2),
        },
    ),
    "warmup_cosine": (
        climbed,
        {"end": (0.0, 0.01), "clip": (None, 1.0), "optimizer": (optax.adam, optax.sgd)},
    ),
    "power_ema": (averaged, {"stds": ((0.05, 0.10), (0.05, 0.11), (0.06, 0.10))}),
    "array_batch_at": (
        functools.partial(batched, pipeline.array_batch_at, {"x": TOKENS}),
        shuffled,
    ),
    "prefetch": (prefetched, {"depth": (2, 3)}),
    "random_markov": (
        lambda **options: synthetic.random_markov(3, 1, 4, seed=0, **options).transition,
        {"concentration": (1.0, 1.1)},
    ),
    "PowerLawRegression": (
        lambda **options: synthetic.PowerLawRegression(3, 1.0, 2.0, **options).truncated_risk(1),
        {"noise_std": (0.0, 0.1)},
    ),
    "split": (functools.partial(text.split, TOKENS), {"validation_fraction": (0.1, 0.15)}),
    "Windows": (
        lambda **options: text.Windows(TOKENS, 3, **options).take(np.arange(3)),
        {"stride": (1, 2)},
    ),
    "to_unit_range": (
        lambda **options: transforms.to_unit_range(4.0, **options)({"image": VECTOR, "b": VECTOR}),
        {"key": ("image", "b")},
    ),
    "finite_difference_gradient": (stepped, {"step": (1e-5, 2e-5)}),
    "mlp_init": (
        functools.partial(testing.mlp_init, KEY, (2, 1)),
        {"dtype": (jnp.float32, jnp.bfloat16)},
    ),
    "at_least": (functools.partial(judged, claims.at_least), left_out),
    "at_most": (functools.partial(judged, claims.at_most), left_out),
    "above": (functools.partial(judged, claims.above), left_out),
    "below": (functools.partial(judged, claims.below), left_out),
    "exactly": (functools.partial(judged, claims.exactly), {"judged": (True, False)}),
    "largest": (
        lambda **options: claims.largest("what", [1.0], 2.0, SOURCE, **options).judged,
        {"judged": (True, False)},
    ),
    "Claim": (
        lambda **options: claims.Claim("what", 1.0, 2.0, "<=", SOURCE, **options),
        left_out,
    ),
    "within": (
        lambda **options: claims.within("what", 1.0, 2.0, 1.0, source=SOURCE, **options).judged,
        {"judged": (True, False)},
    ),
    "Checkpoints": (
        kept,
        {"keep": (3, 2)},
    ),
    "number": (functools.partial(numbers.number, 1 / 3), {"digits": (4, 5)}),
    "ticks": (functools.partial(curves.ticks, 0.0, 1.0), {"count": (4, 8)}),
    "image_grid": (drawn, {"value_range": ((0.0, 1.0), (0.0, 2.0), (-1.0, 1.0))}),
    "curves": (
        smoothed,
        {
            "x": ("step", "time"),
            "smooth": (1, 2),
            "log_x": (False, True),
            "log_y": (False, True),
        },
    ),
    "single": (
        functools.partial(inches, figure_style.single, "a title"),
        {"width": (6.4, 6.5), "height": (3.8, 3.9)},
    ),
    "row": (
        functools.partial(inches, figure_style.row, 2),
        {"width": (6.4, 6.5), "height": (3.8, 3.9)},
    ),
    "multihost": (waited, {"timeout_seconds": (300, 301)}),
    "Grid": (
        functools.partial(tiled_matrix.Grid, 4, 4, 2),
        {"symmetric": (False, True)},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keywords_left_out_have_their_documented_values(case):
    defaults.check(*case)
