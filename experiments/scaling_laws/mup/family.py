"""Our GPT at several widths, with muP and without: its parts, its search, its coordinate check."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.scaling_laws import _gpt
from library.types import Array
from research.transformers import models, mup

WARMUP = 0.1  # share of the updates; one update in the coordinate check


@dataclasses.dataclass(frozen=True)
class Family:
    """Models that differ in width.

    Attributes:
        base_width: where muP and "standard" are one model.
        depth, num_heads, vocab_size, length: of all models.
    """

    base_width: int
    depth: int
    num_heads: int
    vocab_size: int
    length: int

    def model(self, kind: str, width: int) -> models.DecoderConfig:
        """The GPT of a width; kind is "muP" or "standard"."""
        return mup.widened(
            self._plain(width), self._plain(self.base_width if kind == "muP" else width)
        )

    def stages(self, kind: str, width: int) -> tuple[Callable, Callable]:
        """Its compiled start and updates; see `_gpt.compiled`."""
        m = width / self.base_width
        at_once = None if width <= 2 * _gpt.VMAP_WIDTH else 1
        return _gpt.compiled(
            self.model(kind, width), m, m if kind == "muP" else 1.0, WARMUP, at_once
        )

    def _plain(self, width: int) -> models.DecoderConfig:
        return _gpt.plain(self.vocab_size, self.depth, width, self.num_heads, self.length)


def lowest(
    measure: Callable[[float], list[float]], unit: float, start: int
) -> tuple[int, dict[int, list[float]]]:
    """The k with the lowest mean loss at unit * 2^k, and all measured: both neighbours are."""
    table = {k: measure(unit * 2.0**k) for k in (start - 1, start, start + 1)}
    while True:
        best = min(table, key=lambda k: np.mean(table[k]))
        missing = [k for k in (best - 1, best + 1) if k not in table]
        if not missing:
            return best, table
        table[missing[0]] = measure(unit * 2.0 ** missing[0])


def coordinate_slopes(
    family: Family,
    kind: str,
    widths: Sequence[int],
    train: np.ndarray,
    num_steps: int,
    rate: float,
    seed: int,
) -> dict[str, float]:
    """The power of the width in the mean change of features and logits by the first updates."""
    batches, tokens = train[:num_steps], jnp.asarray(train[0][:, :-1])
    changes: dict[str, list[float]] = {}
    for width in widths:
        model = family.model(kind, width)
        stages = family.stages(kind, width)
        was, now = (
            _features(model, _gpt.advance(stages, batches, num_steps, [step_size], [seed]), tokens)
            for step_size in (0.0, rate)
        )
        for name in was:
            changes.setdefault(name, []).append(float(jnp.abs(now[name] - was[name]).mean()))
    # By NumPy's polyfit: `library.statistics.power_law` differs from it in the last bits.
    log_width = np.log(widths)
    return {n: float(np.polyfit(log_width, np.log(c), 1)[0]) for n, c in sorted(changes.items())}


@functools.partial(jax.jit, static_argnums=0)
def _features(config: models.DecoderConfig, params: object, tokens: Array) -> dict[str, Array]:
    """`mup.features` of the first run of parameters with leaves [R, ...]."""
    return mup.features(config, jax.tree.map(lambda leaf: leaf[0], params), tokens)
