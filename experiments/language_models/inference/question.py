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

import numpy as np
import optax

from experiments.language_models.inference import decoding, quality, speed
from library import claims, report, training
from library.data import sources, text
from library.types import Params
from research.transformers import losses, models

SHAKESPEARE = "text/tinyshakespeare.txt"


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
    bench = decoding.Bench(
        (target, target_params),
        (draft, draft_params),
        config.num_tokens,
        config.num_drafts,
        config.caches,
    )
    stored = quality.measured(
        target,
        target_params,
        test,
        window=config.window,
        group=min(32, config.width // 4),
        int8_cache="int8 cache" in config.caches,
    )
    prompt_length = min(16, config.window)
    timed = speed.measured(bench, test, config.batch_sizes, prompt_length, config.rounds)
    out.figure("speed", speed.figure(timed.metrics, config.batch_sizes, config.caches))
    return stored + timed


def _tokens(config: Config) -> tuple[np.ndarray, np.ndarray, int]:
    """Training and held-out characters, and their number of kinds."""
    paths = sources.find("shakespeare", [SHAKESPEARE])
    whole = text.read(paths[0]) if paths else text.pydoc_topics()
    vocabulary = text.Vocabulary.of(whole)
    train, test = text.split(vocabulary.encode(whole))
    return train, test[: config.eval_tokens], len(vocabulary)


def _train(config: Config, out: report.RunDir, model: models.Decoder, train: np.ndarray) -> Params:
    windows = text.Windows(train, config.window)
    state = training.train(
        losses.next_token(model.apply),
        training.warmup_cosine(
            1e-3,
            config.num_steps,
            config.num_steps // 10,
            end=1e-4,
            clip=1.0,
            optimizer=functools.partial(optax.adamw, b2=0.99),
        ),
        lambda rng: model.init(rng, np.zeros((1, config.window), np.int32)),
        training.batches(windows, config.batch_size, config.run.seed),
        num_steps=config.num_steps,
        run=config.run,
        out=out,
    )
    return state.params
