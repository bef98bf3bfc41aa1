"""What do a cache, bytes for weights, drafts and batches buy in decoding, and what do they cost?

Claims: cached, batched, paged and speculative decoding write the tokens of the plain full pass;
8-bit weights and 8-bit caches cost at most 1 % of perplexity, 4-bit weights in groups of 32 at most
5 %; the cache, and batching, raise tokens/s. Cost: 4 minutes on 2 CPU cores.
    python -m experiments language_models.inference

A character GPT of nanoGPT's CPU size and a draft a tenth of it, both trained here; positions are
rotary, so that sequences may be longer than the training windows. Speculation: Leviathan et al.
2023, arXiv:2211.17192. Times are medians over rounds that alternate all methods in one process.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import optax

from experiments.language_models.inference import decoding as decoding
from library import claims, plots, report, training
from library.data import sources, text
from library.types import PyTree
from research.language_models import caches, perplexity, quantization
from research.transformers import losses

SHAKESPEARE = "text/tinyshakespeare.txt"
SAME = claims.baseline("the full pass without a cache, same weights")


@dataclasses.dataclass(frozen=True)
class Config:
    """The two models, their training, and what is timed."""

    num_steps: int = 1000  # updates of the target
    draft_steps: int = 1000  # updates of the draft; 0 leaves it as it starts
    batch_size: int = 12  # windows per update
    window: int = 64  # characters of a window
    width: int = 128  # of the target; the draft has a quarter
    depth: int = 4  # layers of the target; the draft has one
    num_tokens: int = 256  # characters written in each timing
    num_drafts: int = 4  # characters drafted per round
    batch_sizes: tuple[int, ...] = (1, 4, 16)  # rows of the timed batches
    eval_tokens: int = 20_000  # held-out characters that perplexity is measured on
    rounds: int = 3  # alternations of the timed methods
    caches: tuple[str, ...] = decoding.FURTHER_CACHES  # timed beside the contiguous one
    run: training.RunOptions = training.RunOptions()


PRESETS = {
    "smoke": Config(
        num_steps=4,
        draft_steps=0,
        batch_size=2,
        window=16,
        width=16,
        depth=1,
        num_tokens=8,
        num_drafts=2,
        batch_sizes=(1,),
        eval_tokens=100,
        rounds=1,
        caches=("paged cache",),
        run=training.RunOptions(log_every=2, checkpoint_every=4),
    ),
    "default": Config(),
    "accelerator": Config(
        num_steps=5000, draft_steps=5000, batch_size=64, window=256, width=768, depth=12
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains both models, measures quality and speed, states the claims."""
    if config.width % 32 and config.width != 16 or min(config.batch_sizes, default=0) < 1:
        raise ValueError(
            f"width={config.width}, batch_sizes={config.batch_sizes}: expected a multiple of 32 "
            "and rows of at least 1"
        )
    if not set(config.caches) <= set(decoding.FURTHER_CACHES):
        raise ValueError(f"caches={config.caches}: expected some of {decoding.FURTHER_CACHES}")
    train, test, vocab_size = _tokens(config)
    target = decoding.model(vocab_size, config.depth, config.width)
    draft = decoding.model(vocab_size, 1, max(config.width // 4, 8))
    target_params = _train(config, out, target, train)
    draft_params = decoding.quick_fit(
        draft, train, config.draft_steps, config.batch_size, config.window, config.run.seed + 1
    )
    quality, quality_claims = _quality(config, target, target_params, test)
    bench = decoding.Bench(
        (target, target_params),
        (draft, draft_params),
        config.num_tokens,
        config.num_drafts,
        config.caches,
    )
    speed, speed_claims = _speed(config, bench, test)
    out.figure("speed", _figure(config, speed))
    return claims.Result(metrics=quality | speed, claims=quality_claims + speed_claims)


def _tokens(config: Config) -> tuple[np.ndarray, np.ndarray, int]:
    """Training and held-out characters, and their number of kinds."""
    paths = sources.find("shakespeare", [SHAKESPEARE])
    whole = text.read(paths[0]) if paths else text.pydoc_topics()
    vocabulary = text.Vocabulary.of(whole)
    train, test = text.split(vocabulary.encode(whole))
    return train, test[: config.eval_tokens], len(vocabulary)


def _train(config: Config, out: report.RunDir, model, train: np.ndarray):
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, 1e-3, config.num_steps // 10, config.num_steps, 1e-4
    )
    state = training.train(
        losses.next_token(model.apply),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.99)),
        lambda rng: model.init(rng, np.zeros((1, config.window), np.int32)),
        training.batches(text.Windows(train, config.window), config.batch_size, config.run.seed),
        num_steps=config.num_steps,
        run=config.run,
        out=out,
    )
    return state.params


def _quality(config: Config, model, params, test: np.ndarray):
    """Perplexity per character of every way to store weights and cache."""
    stored, restored = _quantized(params, min(32, config.width // 4))
    options = {"window": config.window, "stride": config.window // 2}
    plain = perplexity.perplexity(perplexity.token_log_probs(model.apply, params, test, **options))
    values = {"float32": plain}
    for name, weights in restored.items():
        values[name] = perplexity.perplexity(
            perplexity.token_log_probs(model.apply, weights, test, **options)
        )
    if "int8 cache" in config.caches:
        through_cache = decoding.apply_through_cache(model, config.window, caches.int8)
        values["int8 cache"] = perplexity.perplexity(
            perplexity.token_log_probs(through_cache, params, test, **options)
        )
    source = "float32 weights and cache, same model and text"
    bounds = {"int8 weights": 1.01, "int8 cache": 1.01, "int4 weights, groups": 1.05}
    stated = [
        claims.at_most(f"perplexity, {name} / float32", values[name] / plain, bound, source=source)
        for name, bound in bounds.items()
        if name in values
    ]
    metrics = {f"perplexity {name}": value for name, value in values.items()}
    bits = {name: quantization.tree_bits(tree) for name, tree in stored.items()}
    return metrics | {f"bits a weight, {name}": value for name, value in bits.items()}, stated


@functools.partial(jax.jit, static_argnums=1)
def _quantized(params: PyTree, group: int) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """By name of the format: the stored trees, and the weights that they stand for."""
    formats = {
        "int8 weights": (8, None),
        "int4 weights, groups": (4, group),
        "int4 weights, channels": (4, None),
    }
    stored = {
        name: quantization.quantize_tree(params, *chosen, quantization.decoder_kernels)
        for name, chosen in formats.items()
    }
    return stored, {name: quantization.dequantize_tree(tree) for name, tree in stored.items()}


def _speed(config: Config, bench: decoding.Bench, test: np.ndarray):
    """Tokens/s of every method, and whether they all write the same."""
    written, metrics, stated = {}, {}, []
    for batch in config.batch_sizes:
        prompts = decoding.prompts(test, batch, length=min(16, config.window))
        methods = bench.methods(prompts, full=batch == config.batch_sizes[0])
        texts, rates, extra = bench.measure(methods, config.rounds)
        written |= {(name, batch): tokens for name, tokens in texts.items()}
        metrics |= {f"tokens/s, {name}, batch {batch}": rate for name, rate in rates.items()}
        metrics |= {f"{name}, batch {batch}": value for name, value in extra.items()}
    first = config.batch_sizes[0]
    plain = written["full pass", first]
    exact = [name for name in config.caches if name != "int8 cache"]
    for name in ("cache", *exact, "speculation"):
        differ = float((written[name, first] != plain).sum())
        stated.append(claims.exactly(f"tokens that differ, {name}", differ, 0, source=SAME))
    last = config.batch_sizes[-1]
    differ = float((written["cache", last][:first] != written["cache", first]).sum())
    source = "the same row decoded alone"
    stated.append(claims.exactly(f"tokens that differ, batch {last}", differ, 0, source=source))

    def rate(name: str, batch: int) -> float:
        return metrics[f"tokens/s, {name}, batch {batch}"]

    cache, full = rate("cache", first), rate("full pass", first)
    stated += [
        claims.above("tokens/s, cache / full pass", cache / full, 1.0, source=SAME),
        claims.above(
            f"tokens/s, batch {last} / batch {first}",
            rate("cache", last) / cache,
            1.0,
            source=claims.baseline("one row at a time, same model"),
        ),
    ]
    return metrics, stated


def _figure(config: Config, metrics: dict[str, float]):
    names = ("cache", *config.caches, "speculation")
    records = [
        {"rows": batch} | {name: metrics[f"tokens/s, {name}, batch {batch}"] for name in names}
        for batch in config.batch_sizes
    ]
    return plots.curves(
        records,
        names,
        x="rows",
        log_x=True,
        log_y=True,
        title="Decoding speed",
        x_label="rows in a batch",
        y_label="tokens a second",
    )
