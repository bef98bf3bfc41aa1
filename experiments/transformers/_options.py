"""Groups of options that the questions on text share."""

from __future__ import annotations

import dataclasses
import functools

import optax

from library import training
from research.transformers import models


@dataclasses.dataclass(frozen=True)
class Size:
    """A transformer."""

    depth: int = 4  # layers
    width: int = 128  # features of a token
    num_heads: int = 4  # attention heads


@dataclasses.dataclass(frozen=True)
class Fit:
    """Its training by AdamW, apart from the number of updates."""

    batch_size: int  # windows per update
    learning_rate: float  # after the warm-up
    warmup: int = dataclasses.field(default=100, metadata={"least": 0})  # updates of linear warm-up

    def optimizer(
        self, num_steps: int, b2: float, weight_decay: float, end: float = 0.0
    ) -> optax.GradientTransformation:
        """With decay of matrices and tables only, and a cosine down to the rate `end`."""
        adamw = functools.partial(
            optax.adamw, b1=0.9, b2=b2, weight_decay=weight_decay, mask=models.matrices
        )
        return training.warmup_cosine(
            self.learning_rate, num_steps, self.warmup, end=end, clip=1.0, optimizer=adamw
        )
