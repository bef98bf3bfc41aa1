"""When does BYOL collapse, and do its trained networks follow the equation that says so?

Claims: trained weights stay within 1e-3 of the differential equation of Tian et al. 2021,
arXiv:2102.06810; embeddings collapse without the stop-gradient, without the predictor, under heavy
weight decay, and only then; the verdict by name is right in every run.
Cost: 1 minute on 2 CPU cores.
    python -m experiments self_supervised.collapse

A linear encoder and predictor, two noisy views of Gaussian examples, plain gradient descent with a
small rate, four seeds a case. In float64.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.self_supervised import _linear
from experiments.self_supervised._linear import Case
from library import claims, figure_style, report, sweep
from research.self_supervised import diagnostics, linear_byol

CASES = {
    "BYOL": Case(True, True, 0.0, 1.0, "none"),
    "light decay": Case(True, True, 0.02, 1.0, "none"),
    "heavy decay": Case(True, True, 0.6, 1.0, "complete"),
    "one strong feature": Case(True, True, 0.3, 4.0, "dimensional"),
    "no stop-gradient": Case(True, False, 0.0, 1.0, "complete"),
    "no predictor": Case(False, True, 0.0, 1.0, "complete"),
}
EQUATION = claims.theorem("the gradient flow of the same weights, integrated by RK4")
VERDICT = claims.paper("Tian et al. 2021, arXiv:2102.06810, section 3 and theorem 3")


@dataclasses.dataclass(frozen=True)
class Config:
    """The data and the training."""

    num_examples: int = 64  # all of them in every update
    dim: int = 8  # of examples and embeddings
    num_seeds: int = 4  # runs of a case
    learning_rate: float = 5e-4  # of gradient descent: the equation's time for one update
    time: float = 30.0  # of the equation
    num_records: int = 60  # points of a path


PRESETS = {
    "smoke": Config(
        num_examples=8, dim=2, num_seeds=1, learning_rate=0.01, time=0.2, num_records=2
    ),
    "default": Config(),
    "accelerator": Config(num_examples=256, dim=32, num_seeds=20, learning_rate=2e-4),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains every case, and holds its path and its end against the equation."""
    with jax.enable_x64(True):
        paths = {name: _paths(case, config) for name, case in CASES.items()}
    stated, metrics = [], {}
    for name, (trained, exact, verdicts) in paths.items():
        off = float(np.abs(trained - exact).max())
        right = np.mean([each == CASES[name].ends for each in verdicts])
        metrics |= {
            f"{name}: off": off,
            f"{name}: length": float(_linear.lengths(trained)[:, -1].mean()),
        }
        stated += [
            claims.at_most(f"{name}: off the equation", off, 1e-3, EQUATION),
            claims.exactly(f"{name}: share judged {CASES[name].ends}", right, 1.0, VERDICT),
        ]
    out.figure("collapse", _draw(config, paths))
    return claims.Result(metrics, stated)


def _paths(case: Case, config: Config) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Encoders [R, T, D, D] as trained and by the equation, and the verdicts on their ends."""
    x1, x2 = _linear.views(case, config.num_examples, config.dim)
    law = linear_byol.Law(
        *linear_byol.moments(x1, x2), case.predictor, case.stop_gradient, case.decay
    )
    rngs = jax.random.split(jax.random.key(0), config.num_seeds)
    init = lambda rng: _linear.weights(rng, config.dim, case.predictor)
    start, advance = sweep.compile_stages(
        lambda rng: _linear.trained(init(rng), case), _linear.loss(case),
        lambda rate, decay: optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate)),
    )  # fmt: skip
    hyper = {
        "rate": jnp.full(config.num_seeds, config.learning_rate),
        "decay": jnp.full(config.num_seeds, case.decay),
    }
    num = round(config.time / config.learning_rate / config.num_records)
    batch = {"x1": x1, "x2": x2}
    batches = jax.tree.map(lambda x: np.broadcast_to(x, (num, *x.shape)), batch)
    states, records = start(rngs, hyper), []
    first = [init(jax.random.fold_in(rng, 0)) for rng in rngs]  # as the sweep draws them
    for _ in range(config.num_records):
        states, _ = advance(states, batches, hyper)
        records.append(np.asarray(states.params["encoder"]))
    trained = np.stack(records, axis=1)
    time = num * config.learning_rate * config.num_records
    flow = jax.jit(
        lambda at: linear_byol.flow(law, at, time, 20 * config.num_records).encoder[19::20]
    )
    exact = np.stack([np.asarray(flow(weights)) for weights in first])
    verdicts = [
        diagnostics.report(
            x1 @ w.T, x2 @ w.T, reference=np.linalg.norm((x1 @ np.asarray(one.encoder).T).std(0))
        ).collapsed
        for w, one in zip(trained[:, -1], first)
    ]
    return trained, exact, verdicts


def _draw(config: Config, paths):
    figure = figure_style.empty(1.56 * figure_style.WIDTH, 1.5 * figure_style.HEIGHT)
    times = config.time * (1 + np.arange(config.num_records)) / config.num_records
    for axes, (name, (trained, exact, _)) in zip(figure.subplots(2, 3).ravel(), paths.items()):
        axes.plot(times, _linear.lengths(exact).T, color=figure_style.INK, linewidth=1)
        axes.plot(times[::3], _linear.lengths(trained)[:, ::3].T, "o", markersize=3)
        axes.set_ylim(bottom=0)
        figure_style.style(axes, name, "time", "norm of W")
    return figure
