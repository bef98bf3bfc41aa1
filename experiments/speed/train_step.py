"""What does the shared training step cost beside the same update written by hand?

Claims: step time <= 1.03 and compiled memory <= 1.05 of one hand-written jitted update (MLP 8x32
and a U-Net); the loop with all hooks <= 1.05 of a bare loop; ten steps per call >= 1.2 times faster
than one on the MLP; `import library.train_step` <= 1.15 of importing its packages.
Cost: 3 minutes on 2 idle CPU cores.
    python -m experiments speed.train_step
"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import claims, fit, report, sharding, testing, timing, training
from library.train_step import init_state, make_train_step
from library.types import Aux, Batch, LossFn, Params, TrainState
from research.diffusion import unet

SOURCE = "library overhead against the same update in one jitted function, same process"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions."""

    mlp_rounds: int = 25  # alternations of each pair on the MLP that are counted
    mlp_steps: int = 200  # updates of the MLP in one timing
    unet_rounds: int = 9  # alternations of each pair on the U-Net that are counted
    unet_steps: int = 10  # updates of the U-Net in one timing
    unet_batch: int = 4  # examples in a batch of the U-Net
    unet_channels: tuple[int, ...] = (32, 64, 64)  # of the U-Net, by resolution
    imports: int = 5  # fresh processes per import time


PRESETS = {
    "smoke": Config(
        mlp_rounds=1,
        mlp_steps=10,
        unet_rounds=1,
        unet_steps=1,
        unet_batch=2,
        unet_channels=(8,),
        imports=1,
    ),
    "default": Config(),
    "accelerator": Config(mlp_steps=1000, unet_steps=20, unet_batch=128),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its data and a learning problem."""

    loss_fn: LossFn
    params: Params
    batch: Batch
    num_steps: int
    rounds: int


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times every pair and states the claims."""
    metrics, stated = {}, []
    for name, case in {"mlp": _mlp(config), "unet": _unet(config)}.items():
        step, state, optimizer = _make(case)
        step_ratio, memory_ratio = _step_against_hand(case, step, state, optimizer)
        metrics |= {f"{name}_step_ratio": step_ratio, f"{name}_memory_ratio": memory_ratio}
        metrics |= _loops(name, case, step, state, many=name == "mlp")
        stated += [
            _claim(f"{name}: step time / by hand", step_ratio, "<=", 1.03),
            _claim(f"{name}: compiled memory / by hand", memory_ratio, "<=", 1.05),
            _claim(
                f"{name}: loop with hooks / bare loop", metrics[f"{name}_loop_ratio"], "<=", 1.05
            ),
        ]
    gain = metrics["mlp_ten_steps_per_call_gain"]
    stated.append(_claim("mlp: gain of ten steps per call", gain, ">=", 1.2))
    metrics["import_ratio"] = _import_ratio(config.imports)
    stated.append(_claim("import / import of its packages", metrics["import_ratio"], "<=", 1.15))
    return claims.Result(metrics=metrics, claims=stated)


def _claim(name: str, measured: float, relation: str, bar: float) -> claims.Claim:
    return claims.Claim(name, measured, bar, relation, 0.0, SOURCE)


def _mlp(config: Config) -> Case:
    """Regression with eight layers of width 32."""
    params = testing.mlp_init(jax.random.key(0), (32,) * 8 + (1,))

    def loss_fn(params, model_state, rng, batch):
        error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"]
        return (error**2).mean(), Aux(batch["y"].size)

    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(16, 32)), "y": rng.normal(size=16)}
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), batch)
    return Case(loss_fn, params, batch, config.mlp_steps, config.mlp_rounds)


def _unet(config: Config) -> Case:
    """Noise prediction on 32x32 colour images."""
    channels = config.unet_channels
    model = unet.UNet(
        out_channels=3, channels=channels, attention_sizes=(16,), head_dim=min(32, channels[-1])
    )
    x = jax.random.normal(jax.random.key(1), (config.unet_batch, 32, 32, 3))
    t = jnp.linspace(0.1, 0.9, config.unet_batch)
    params = jax.jit(model.init)(jax.random.key(0), x, t)

    def loss_fn(params, model_state, rng, batch):
        noise = jax.random.normal(rng, batch["x"].shape)
        error = model.apply(params, batch["x"] + noise, batch["t"]) - noise
        return (error**2).mean(), Aux(batch["t"].size)

    return Case(loss_fn, params, {"x": x, "t": t}, config.unet_steps, config.unet_rounds)


def by_hand(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> Callable:
    """The update as one would write it for this case alone: no weights, no options."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        rng = jax.random.fold_in(state.rng, state.step)
        loss, grads = jax.value_and_grad(lambda params: loss_fn(params, {}, rng, batch)[0])(
            state.params
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = jax.tree.map(lambda old, new: 0.999 * old + 0.001 * new, state.ema, params)
        state = TrainState(state.step + 1, params, opt_state, {}, state.rng, ema)
        return state, {"loss": loss, "grad_norm": optax.tree.norm(grads)}

    return jax.jit(step, donate_argnums=0)


def _make(case: Case) -> tuple[sharding.Step, TrainState, optax.GradientTransformation]:
    optimizer = optax.adam(1e-3)
    state = init_state(case.params, optimizer, jax.random.key(2), ema=True)
    step = make_train_step(case.loss_fn, optimizer, ema_decay=0.999)
    return sharding.compile_step(step, state, sharding.make_mesh({"data": 1})), state, optimizer


def _step_against_hand(
    case: Case,
    step: sharding.Step,
    state: TrainState,
    optimizer: optax.GradientTransformation,
) -> tuple[float, float]:
    """Ratios of time and of compiled memory."""
    hand = by_hand(case.loss_fn, optimizer)
    states = {"ours": step.place_state(state), "hand": step.place_state(state)}

    def advance(name: str, update: Callable) -> Callable:
        def run() -> jax.Array:
            for _ in range(case.num_steps):
                states[name], metrics = update(states[name], case.batch)
            return metrics["loss"]

        return run

    runs = {"ours": advance("ours", step.one), "hand": advance("hand", hand)}
    times = timing.alternate(runs, case.rounds)
    memory = timing.compiled_bytes(step.one, state, case.batch)
    return (
        timing.median_ratio(times, "ours", "hand"),
        memory / timing.compiled_bytes(hand, state, case.batch),
    )


def _loops(
    name: str, case: Case, step: sharding.Step, state: TrainState, many: bool
) -> dict[str, float]:
    """The loop with every hook that training installs, against a bare one, and ten steps a call."""
    num_steps = 10 * max(case.num_steps // 10, 1)

    def bare() -> jax.Array:
        current = step.place_state(state)
        for _ in range(num_steps):
            current, metrics = step.one(current, case.batch)
            jax.block_until_ready(metrics["loss"])
        return metrics["loss"]

    def loop(steps_per_call: int, hooks: list[fit.Hook]) -> Callable:
        return lambda: fit.fit(
            step,
            state,
            lambda index: case.batch,
            num_steps=num_steps,
            hooks=hooks,
            steps_per_call=steps_per_call,
        )

    with (
        tempfile.TemporaryDirectory() as folder,
        training.recorders(
            pathlib.Path(folder), num_steps, start=0, log_every=training.RunOptions().log_every
        ) as hooks,
    ):
        runs = {"bare": bare, "hooks": loop(1, hooks)}
        runs |= {"one": loop(1, []), "ten": loop(10, [])} if many else {}
        times = timing.alternate(runs, case.rounds)
    metrics = {
        f"{name}_loop_ratio": timing.median_ratio(times, "hooks", "bare"),
        f"{name}_step_microseconds": float(np.median(times["bare"]) / num_steps * 1e6),
    }
    if many:
        metrics[f"{name}_ten_steps_per_call_gain"] = timing.median_ratio(times, "one", "ten")
    return metrics


def _import_ratio(repeats: int) -> float:
    """Median import time of `library.train_step` over that of the packages it stands on."""
    times = {
        name: [_import_seconds(name) for _ in range(repeats)]
        for name in ("import library.train_step", "import jax, optax, flax.linen")
    }
    ours, theirs = (np.array(values) for values in times.values())
    return float(np.median(ours / theirs))


def _import_seconds(statement: str) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    root = pathlib.Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    return float(run.stdout)
