"""How fast does GPT-2 write, one row at a time, beside `transformers.generate` and its memory?

Claims: at least 1.5 times the tokens/s of `transformers.generate` with the same weights on the same
cores in the same process; the same tokens. The share of the bound that memory sets is printed.
Cost: 2 minutes on 2 CPU cores.
    python -m experiments speed.decode

GPT-2 of 124 million parameters with random weights, float32, greedy. A token has to read every
weight once, so tokens/s <= bytes/s of memory / bytes of weights; the bandwidth is measured in the
same run. Without PyTorch and transformers only our own side is measured.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library import claims, report, timing
from library.types import Params
from research.language_models import generation
from research.transformers import models, published

SCANNED = claims.baseline("the same model with scanned layers")
PEER = claims.baseline("transformers.generate in PyTorch, greedy, same weights, process and cores")


@dataclasses.dataclass(frozen=True)
class Config:
    """The model's size and what is timed; the defaults are GPT-2 small."""

    rounds: int = 9  # alternations that are counted
    prompt_length: int = 32  # tokens that are read before the first is written
    num_tokens: int = 64  # tokens written in one timing
    depth: int = 12  # layers
    width: int = 768  # features of a token
    num_heads: int = 12  # attention heads
    vocab_size: int = 50_257  # tokens
    megabytes: int = 512  # of the array that is read to measure the memory's bandwidth


PRESETS = {
    "smoke": Config(1, 4, 4, 1, 16, 2, 50, megabytes=1),
    "default": Config(),
    "accelerator": Config(num_tokens=512, depth=48, width=1600, num_heads=25, megabytes=8192),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times both sides in turn, and the memory."""
    if min(dataclasses.astuple(config)) < 1:
        raise ValueError(f"{config}: expected all at least 1")
    gpt = published.gpt2(config.depth, config.width, config.num_heads)
    gpt = dataclasses.replace(gpt, vocab_size=config.vocab_size)
    tokens = (1, config.prompt_length)
    prompt = np.random.default_rng(0).integers(0, config.vocab_size, tokens, dtype=np.int32)
    model = models.Decoder(gpt)
    params = jax.jit(model.init)(jax.random.key(0), jnp.asarray(prompt))
    runs: dict[str, Callable] = {
        "ours": _ours(config, gpt, params, prompt, apart=True),
        "scanned": _ours(config, gpt, params, prompt, apart=False),
    }
    packages = ("torch", "transformers")
    if with_peer := all(importlib.util.find_spec(name) for name in packages):
        from experiments.speed.decode import gpt2_peer

        threads = len(os.sched_getaffinity(0))
        runs["transformers"] = gpt2_peer.generation(gpt, params, prompt, config.num_tokens, threads)
    written = {name: np.asarray(function()) for name, function in runs.items()}
    gigabytes = _bandwidth(config.megabytes)
    times = timing.alternate(runs, config.rounds)
    gigabytes = max(gigabytes, _bandwidth(config.megabytes))
    metrics = {
        f"{name}_tokens_per_second": float(config.num_tokens / np.median(seconds))
        for name, seconds in times.items()
    }
    read = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    read -= params["params"]["positions"].nbytes  # of which a token reads one row
    bound = 1e9 * gigabytes / read
    metrics |= {
        "gigabytes_per_second": gigabytes,
        "gigabytes_per_token": read / 1e9,
        "bound_tokens_per_second": bound,
    }
    for name in runs:
        metrics[f"{name}_share_of_bound"] = metrics[f"{name}_tokens_per_second"] / bound
    return claims.Result(metrics=metrics, claims=_claims(times, written, with_peer))


def _claims(
    times: dict[str, np.ndarray], written: dict[str, np.ndarray], with_peer: bool
) -> list[claims.Claim]:
    differ = float((written["ours"] != written["scanned"]).sum())
    stated = [claims.exactly("tokens that differ, layers apart", differ, 0, source=SCANNED)]
    if with_peer:
        ratio = timing.median_ratio(times, "transformers", "ours")
        differ = float((written["ours"] != written["transformers"]).sum())
        stated += [
            claims.at_least("tokens/s, ours / transformers", ratio, 1.5, source=PEER),
            claims.exactly("tokens that differ from transformers'", differ, 0, source=PEER),
        ]
    return stated


def _ours(
    config: Config, gpt: models.DecoderConfig, params: Params, prompt: np.ndarray, apart: bool
) -> Callable[[], jax.Array]:
    """A function that writes the tokens, in one compiled call."""
    capacity = config.prompt_length + config.num_tokens
    cache = models.empty_cache(gpt, 1, capacity)
    if apart:
        gpt, params, cache = models.unstack(gpt, params, cache)
    step = generation.DecoderStep(models.Decoder(gpt))
    rngs, lengths = jax.random.split(jax.random.key(0), 1), jnp.array([prompt.shape[1]])
    options = {"num_tokens": config.num_tokens, "capacity": capacity}

    def generate() -> jax.Array:
        return generation.generate(
            step, params, cache, jnp.asarray(prompt), lengths, rngs, **options
        ).tokens

    return generate


def _bandwidth(megabytes: int) -> float:
    """GB/s of reading a large matrix once, for its product with a vector; the best of ten."""
    matrix = jnp.ones((megabytes * 2**18 // 1024, 1024), jnp.float32)
    vector = jnp.ones(1024, jnp.float32)
    multiply = jax.jit(lambda matrix, vector: matrix @ vector)
    seconds = [timing.seconds(lambda: multiply(matrix, vector)) for _ in range(11)][1:]
    return matrix.nbytes / min(seconds) / 1e9
