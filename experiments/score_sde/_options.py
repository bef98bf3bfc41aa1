"""Groups of options that the image studies share, and the size of their smoke tests."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from library import training

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Model:
    """A U-Net."""

    channels: tuple[int, ...] = (32, 64)  # by resolution, the finest first
    # rate inside residual blocks
    dropout: float = dataclasses.field(default=0.0, metadata={"most": 1})


@dataclasses.dataclass(frozen=True)
class Fit:
    """Its training, apart from the number of updates."""

    batch_size: int = 64  # images per update
    learning_rate: float = 2e-3  # peak of the warm-up and cosine schedule
    # of the averaged parameters that are judged
    ema_decay: float = dataclasses.field(default=0.999, metadata={"most": 1})
    # rate at which training hides the class
    label_dropout: float = dataclasses.field(default=0.1, metadata={"most": 1})


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is drawn from the model."""

    num_samples: int = 1000  # samples of the model, and as many guided ones; hundreds
    num_steps: int = 20  # evaluations of the network per sample, twice as many where guided
    scale: float = 2.0  # guidance weight of the guided samples; 1 is the conditional model itself


@dataclasses.dataclass(frozen=True)
class Judge:
    """The classifier that is trained here to judge samples, apart from them."""

    num_steps: int = 1000  # updates
    batch_size: int = 128  # images per update


def smoke(config: Config, num_steps: int = 2, batch_size: int = 4) -> Config:
    """A study's config with a network, a training and samples that take seconds."""
    return dataclasses.replace(
        config,
        num_steps=num_steps,
        model=dataclasses.replace(config.model, channels=(8,)),
        fit=dataclasses.replace(config.fit, batch_size=batch_size),
        sampling=dataclasses.replace(config.sampling, num_samples=100, num_steps=2),
        run=training.RunOptions(log_every=max(1, num_steps // 4), checkpoint_every=num_steps // 2),
    )
