"""Muon for the parameters of this house: which leaves are matrices, and Adam for the others.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks": the momentum of a
matrix is made orthogonal by Newton-Schulz steps before it is added. Updates have the root mean
square of Adam's by the factor 0.2 sqrt(max(m, n)) of Liu et al. 2025, arXiv:2502.16982, section
2.2, so that one learning rate serves both. The iteration is optax's.

    training.warmup_cosine(3e-3, num_steps, 100, optimizer=muon.muon)
"""

from __future__ import annotations

from typing import Any

import jax
import optax
from optax import contrib

from library.types import Params, PyTree

_INTO_HEADS = ("query", "key", "value")
_RMS = 0.2  # of an update over the learning rate: about that of Adam


def muon(learning_rate: optax.ScalarOrSchedule, **options: Any) -> optax.GradientTransformation:
    """Muon for the leaves that `matrices` names, Adam for biases, scales and embeddings.

    Both have Nesterov's momentum, unless `nesterov=False`.

    Args:
        learning_rate: of both, the size of Adam's.
        options: further ones of `optax.contrib.muon`, such as `beta` or `weight_decay`.
    """
    return contrib.muon(
        learning_rate, muon_weight_dimension_numbers=matrices, consistent_rms=_RMS, **options
    )


def matrices(params: Params) -> PyTree:
    """What each leaf's inputs and outputs are: `optax.contrib.MuonDimensionNumbers`, or None.

    A leaf named "kernel" of two axes or more is a matrix: its last axis is the outputs and all
    others are inputs, as in a convolution; but query, key and value of three axes have heads among
    their outputs, and out among its inputs. A leaf under "layers" has layers stacked along its
    first axis, each a matrix of its own. Whatever has another name is none.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _matrix(path, leaf.ndim), params)


def _matrix(path: tuple, num_axes: int) -> contrib.MuonDimensionNumbers | None:
    names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    first = int("layers" in names)
    axes = tuple(range(first, num_axes))
    if names[-1:] != ["kernel"] or len(axes) < 2:
        return None
    parent = names[-2] if names[1:] else ""
    num_out = 2 if parent in _INTO_HEADS and len(axes) == 3 else 1
    return contrib.MuonDimensionNumbers(axes[:-num_out], axes[-num_out:])
