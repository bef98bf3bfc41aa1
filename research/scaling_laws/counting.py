"""Conventions for counting parameters and FLOPs, always an explicit argument.

The exponent of N(C) moves from 0.71 to 0.50 on one set of runs by what is counted (Porian et al.
2024, arXiv:2406.19146), so every count here says what is in it.
"""

from __future__ import annotations

import dataclasses

PF_DAY = 8.64e19  # FLOP


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The sizes that a decoder's counts depend on.

    Attributes:
        depth: blocks.
        width: of the residual stream.
        hidden: of the feed-forward block, 4 width when None.
        vocabulary: symbols.
        context: tokens a sequence.
        gated: whether the feed-forward block has a third matrix (SwiGLU).
        tied: whether head and embedding are one matrix.
        learned_positions: whether positions have a table.
    """

    depth: int
    width: int
    vocabulary: int
    context: int
    hidden: int | None = None
    gated: bool = False
    tied: bool = False
    learned_positions: bool = False

    def __post_init__(self) -> None:
        for name in ("depth", "width", "vocabulary", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")


def block_parameters(shape: Transformer) -> int:
    """Weights of the matrices of all blocks: 12 depth width^2 for the plain block (Kaplan's N)."""
    hidden = 4 * shape.width if shape.hidden is None else shape.hidden
    feed_forward = (3 if shape.gated else 2) * shape.width * hidden
    return shape.depth * (4 * shape.width**2 + feed_forward)


def parameters(shape: Transformer, *, embeddings: bool, head: bool) -> int:
    """Weights: of the blocks, with the embeddings (and positions) and with the head, or without.

    A tied matrix counts once: as the head when `head`, else with the embeddings.

    Args:
        shape: the model.
        embeddings: whether the input tables count.
        head: whether the output matrix counts.
    """
    matrix = shape.vocabulary * shape.width
    count = block_parameters(shape) + (matrix if head else 0)
    if embeddings:
        count += 0 if shape.tied and head else matrix
        count += shape.context * shape.width if shape.learned_positions else 0
    return count


def flops_per_token(shape: Transformer, *, attention: bool, head: bool) -> float:
    """Training FLOP of one token: 6 a matrix weight, 6 depth width context for causal scores.

    Args:
        shape: the model.
        attention: whether query-key products and mixing count: 2 products of context / 2 width
            multiply-adds a block on average under a causal mask, three passes.
        head: whether the output matrix counts. Embedding look-ups never do.
    """
    total = 6.0 * (block_parameters(shape) + (shape.vocabulary * shape.width if head else 0))
    return total + (6.0 * shape.depth * shape.width * shape.context if attention else 0.0)


def training_flops(
    shape: Transformer, tokens: float, *, attention: bool = False, head: bool = False
) -> float:
    """FLOP of a training run; with neither option it is 6 N D of Kaplan's N."""
    return tokens * flops_per_token(shape, attention=attention, head=head)
