"""Is a training step of our character GPT as fast as nanoGPT's in PyTorch?

Claims: time of one update <= that of the same model, batch and optimizer in PyTorch on the same
cores in the same process; blocked attention's compiled memory <= 0.1 of plain attention's.
Cost: 2 minutes on 2 CPU cores.
    python -m experiments speed.transformer

Without PyTorch only our own time is measured.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import claims, report, sharding, timing
from library.train_step import init_state, make_train_step
from research.attention import dot_product, masks
from research.transformers import losses, models, published

PEER = claims.baseline("nanoGPT's model and update in PyTorch, eager, same process and cores")
PLAIN = claims.baseline("plain attention; XLA's account of the compiled gradients")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions; the defaults are nanoGPT's CPU configuration."""

    rounds: int = 15  # alternations that are counted
    num_steps: int = 20  # updates in one timing
    batch_size: int = 12  # windows per update
    length: int = 64  # tokens of a window
    depth: int = 4  # layers
    width: int = 128  # features of a token
    num_heads: int = 4  # attention heads
    vocab_size: int = 65  # characters
    dtype: str = "float32"  # of the forward and backward pass, on both sides
    steps_per_call: int = 20  # updates per compiled call of ours
    memory_length: int = 8192  # length at which attention's memory is compared


PRESETS = {
    "smoke": Config(1, 2, 2, 8, 1, 16, 2, steps_per_call=2, memory_length=2048),
    "default": Config(),
    "accelerator": Config(
        batch_size=16,
        length=1024,
        depth=12,
        width=768,
        num_heads=12,
        vocab_size=50_304,
        dtype="bfloat16",
        steps_per_call=1,
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times both sides in turn and compares the memory of attention."""
    tokens = np.random.default_rng(0).integers(
        0, config.vocab_size, (config.batch_size, config.length + 1), dtype=np.int32
    )
    runs = {"ours": _ours(config, tokens)}
    with_torch = importlib.util.find_spec("torch") is not None
    if with_torch:
        from experiments.speed.transformer import nano_gpt

        runs["torch"] = nano_gpt.training(config, tokens, len(os.sched_getaffinity(0)))
    times = timing.alternate(runs, config.rounds)
    metrics = {
        f"{name}_milliseconds": float(np.median(seconds) / config.num_steps * 1e3)
        for name, seconds in times.items()
    }
    stated = []
    if with_torch:
        metrics["ratio"] = timing.median_ratio(times, "ours", "torch")
        stated.append(claims.at_most("update / PyTorch", metrics["ratio"], 1.0, source=PEER))
    metrics["attention_memory_ratio"] = share = _memory_ratio(config.memory_length)
    what = f"memory of blocked / plain attention, T={config.memory_length}"
    stated.append(claims.at_most(what, share, 0.1, source=PLAIN))
    return claims.Result(metrics=metrics, claims=stated)


def _ours(config: Config, tokens: np.ndarray):
    """A function that does `num_steps` updates."""
    model = models.Decoder(
        published.nano_gpt(
            config.vocab_size,
            config.depth,
            config.width,
            config.num_heads,
            config.length,
            unroll=config.depth,
        )
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(1e-3, 0.9, 0.99, weight_decay=0.1, mask=models.matrices),
    )
    dtype = None if config.dtype == "float32" else jnp.dtype(config.dtype)
    step = make_train_step(losses.next_token(model.apply), optimizer, compute_dtype=dtype)
    params = jax.jit(model.init)(jax.random.key(0), tokens[:, :-1])
    state = init_state(params, optimizer, jax.random.key(1))
    step = sharding.compile_step(step, state, sharding.make_mesh({"data": 1}))
    holder = [step.place_state(state)]
    calls = config.num_steps // config.steps_per_call
    batch = {"tokens": tokens}
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * config.steps_per_call), batch)

    def update() -> jax.Array:
        for _ in range(calls):
            if config.steps_per_call == 1:
                holder[0], metrics = step.one(holder[0], batch)
            else:
                holder[0], metrics = step.many(holder[0], stacked)
        return metrics["loss"]

    return update


def _memory_ratio(length: int) -> float:
    """Compiled memory of the gradient of causal attention, one head of 64: blocked / plain."""
    x = jax.ShapeDtypeStruct((1, length, 1, 64), jnp.float32)

    def compiled_bytes(implementation: str) -> int:
        def loss(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            return dot_product.attend(
                query, key, value, masks.Causal(), implementation=implementation
            ).sum()

        return timing.compiled_bytes(jax.jit(jax.grad(loss, (0, 1, 2))), x, x, x)

    return compiled_bytes("blocked") / compiled_bytes("plain")
