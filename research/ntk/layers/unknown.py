"""What has no known closed form at infinite width, and what to take instead."""

from __future__ import annotations

from typing import NoReturn


def max_pool(*_, **__) -> NoReturn:
    """The kernel of a maximum over correlated positions is not known in closed form.

    Raises:
        ValueError: always, naming the alternatives.
    """
    raise ValueError(
        "max_pool has no known closed form: use average_pool, global_average_pool or a conv with "
        "strides, or ntk.empirical on a finite network"
    )


def batch_norm(*_, **__) -> NoReturn:
    """Batch norm couples the examples of a batch: the kernel of a pair depends on all others.

    Raises:
        ValueError: always, naming the alternatives.
    """
    raise ValueError(
        "batch_norm has no known closed form for given pairs of inputs: use layer_norm, or "
        "ntk.empirical on a finite network with running statistics"
    )


def softmax(*_, **__) -> NoReturn:
    """The softmax of a layer's channels depends on all of them, at any width.

    Raises:
        ValueError: always, naming the alternatives.
    """
    raise ValueError(
        "softmax over channels has no known closed form: take the kernel of the logits, or use "
        "self_attention for softmax over positions"
    )
