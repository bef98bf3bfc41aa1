"""How many codes of a codebook does an image autoencoder use, and what keeps them alive?

Claims: with moving averages and restarts less than 1 % of the codes are dead over the whole set,
where a codebook trained by gradients alone leaves more than 30 % dead; the reconstruction is no
worse for it.
Cost: 2 minutes on 2 CPU cores.
    python -m experiments vae.codebook

Van den Oord et al. 2017, arXiv:1711.00937 (codes, straight-through gradients, moving averages) and
Dhariwal et al. 2020, arXiv:2005.00341 (restarts), on 8x8 digits: each of 16 patches of 2x2 pixels
has a code. Usage is counted over all images: perplexity in a batch depends on its size.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax

from experiments.vae import _codes
from library import claims, figure_style, report, training
from library.data.sets import digits
from research.vae import quantize

BAR = claims.bar("vector-quantize-pytorch, issue 63: 40 to 90 % dead codes without restarts")
WORSE = claims.baseline("the codebook trained by gradients, same run")


@dataclasses.dataclass(frozen=True)
class Config:
    """The autoencoder, its codes and their training."""

    kinds: tuple[str, ...] = ("gradient", "average", "restart")  # how codes learn
    num_codes: int = 256  # K
    dim: int = 8  # numbers of a code
    width: int = 64  # hidden units of encoder and decoder
    decay: float = 0.99  # of the moving averages
    commitment: float = 0.25  # weight of the encoder's distance to its codes
    num_steps: int = 6000  # updates of each kind
    batch_size: int = 64  # images per update, of 16 codes each
    learning_rate: float = 1e-3  # of Adam
    run: training.RunOptions = training.RunOptions(
        log_every=500, checkpoint_every=3000, steps_per_call=50
    )


PRESETS = {
    "smoke": Config(
        kinds=("gradient", "restart"), num_codes=16, dim=2, width=8, num_steps=2, batch_size=8,
        run=training.RunOptions(log_every=2, checkpoint_every=2, steps_per_call=2),
    ),
    "default": Config(),
    "accelerator": Config(num_codes=4096, width=256, num_steps=50_000, batch_size=512),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """An autoencoder for each kind; its usage, its error, its codes as patches."""
    _check(config)
    train, test = (_codes.patches(digits.arrays(split)["image"]) for split in ("train", "test"))
    found = {kind: _train(config, kind, train, test, out) for kind in config.kinds}
    usages = {kind: usage for kind, (usage, _) in found.items()}
    metrics = {
        f"{name}_{kind}": value
        for kind, usage in usages.items()
        for name, value in dataclasses.asdict(usage).items()
    }
    out.figure("codebook", _draw({kind: shares for kind, (_, shares) in found.items()}))
    return claims.Result(metrics, _claims(usages))


def _train(config: Config, kind: str, train, test, out: report.RunDir):
    model = _codes.Autoencoder(config.width, config.dim)
    codes = _codes.Codes(kind, config.num_codes, config.decay, config.commitment)
    loss = _codes.loss(model, codes)
    init = lambda rng: _codes.init(model, codes, rng, train.shape[1:])
    state = training.train(
        loss, optax.adam(config.learning_rate), init,
        training.batches({"patches": train}, config.batch_size, config.run.seed),
        num_steps=config.num_steps, run=config.run, out=report.RunDir(out.path / kind),
        model_state=quantize.init(jax.random.key(config.run.seed), config.num_codes, config.dim),
    )  # fmt: skip
    params, model_state = jax.device_get((state.params, state.model_state))
    book = _codes.codebook(codes, params, model_state)
    return _codes.judge(model, params, book, np.concatenate([train, test]), test)


def _claims(found: dict[str, _codes.Usage]) -> list[claims.Claim]:
    stated = []
    if "restart" in found:
        dead = 100 * found["restart"].dead
        stated.append(claims.below("averages and restarts: dead codes, %", dead, 1.0, BAR))
    if "gradient" in found:
        dead = 100 * found["gradient"].dead
        stated.append(claims.above("gradients: dead codes, %", dead, 30.0, BAR))
    if {"restart", "gradient"} <= set(found):
        errors = found["restart"].error, found["gradient"].error
        stated.append(claims.at_most("averages and restarts: square error", *errors, WORSE))
    return stated


def _draw(found: dict[str, np.ndarray]):
    shares = {kind: np.sort(each)[::-1] for kind, each in found.items()}
    figure, axes = figure_style.single(
        "Share of patches of each code, most used first", "code", "share"
    )
    for colour, (kind, values) in zip(figure_style.PALETTE, shares.items(), strict=False):
        used = values > 0
        axes.plot(np.arange(len(values))[used], values[used], color=colour, label=kind)
    axes.set(yscale="log", xlim=(0, len(values)))
    figure_style.legend(axes)
    return figure


def _check(config: Config) -> None:
    if not config.kinds or set(config.kinds) - {"gradient", "average", "restart"}:
        raise ValueError(f"kinds={config.kinds}: expected some of gradient, average, restart")
    if config.num_codes > 16 * config.batch_size:
        raise ValueError(
            f"num_codes={config.num_codes}: a restart takes no more than the "
            f"{16 * config.batch_size} vectors of a batch"
        )
