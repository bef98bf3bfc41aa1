"""The few types that every floor shares: arrays, batches, the loss protocol and the train state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array
Key = jax.Array  # a typed key made by jax.random.key, or an array of them
PyTree = Any
Params = PyTree
ModelState = PyTree
Batch = PyTree  # leaves [B, ...]: the examples of one step, B along the first axis
Metrics = dict[str, Array]  # scalars, each a mean over the units of the batch


@flax.struct.dataclass
class Aux:
    """What a loss returns beside its value.

    Attributes:
        weight: [] >= 0, the number of units (examples, tokens) that the loss is a mean over;
            float32 at least, or an integer: bfloat16 counts to 256.
        metrics: scalars by name, means over the same units.
        model_state: the model state after this batch, of the structure it came in; None keeps it.
    """

    weight: Array | float
    metrics: Metrics = flax.struct.field(default_factory=dict)
    model_state: ModelState | None = None


class LossFn(Protocol):
    """A mean loss over the units of one batch, as a pure function."""

    def __call__(
        self, params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        """Returns the loss, [] float, and its `Aux`."""


@dataclasses.dataclass(frozen=True)
class BatchLoss:
    """A loss over the batch that is no mean of what its parts give: negatives, batch statistics.

    It is a `LossFn` of the whole batch. `library.train_step.make_train_step` refuses to split it
    into microbatches, and tells it the mapped axis, if there is one, over which its batch is split.

    Attributes:
        over_axis: axis name, or None -> the `LossFn` whose mean over that axis is the whole batch's
            loss, in value and in gradient.
    """

    over_axis: Callable[[str | None], LossFn]

    def __call__(
        self, params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        """The loss of a batch that is whole."""
        return self.over_axis(None)(params, model_state, rng, batch)


@flax.struct.dataclass
class TrainState:
    """All that a run needs to go on: a pytree, updated with `replace`.

    Attributes:
        step: [] int32, the number of updates done.
        params: what is differentiated.
        opt_state: the optimizer's state.
        model_state: what is carried but not differentiated (batch statistics, target networks).
        rng: [] key, the root of all randomness; never advanced: step t uses fold_in(rng, t).
        ema: the moving average of params, float32 at least; None when none is kept.
    """

    step: Array
    params: Params
    opt_state: PyTree
    model_state: ModelState
    rng: Key
    ema: Params | None = None


def at_least_float32(*dtypes: Any) -> jnp.dtype:
    """float32, or the widest of the dtypes where that is wider.

    Sums, means, norms and softmax are computed in it whatever the data's dtype. It also answers
    where `jax.numpy_dtype_promotion` is "strict", since the caller casts on purpose.
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(jnp.result_type(*dtypes), jnp.float32)


def copy_at_least_float32(tree: PyTree) -> PyTree:
    """A copy in buffers of its own, floating leaves in float32 at least: where averages are kept.

    In bfloat16 an average stands still: 0.999 old + 0.001 new rounds to old.
    """

    def copy(leaf: Array) -> Array:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.array(leaf, at_least_float32(leaf) if floating else None)

    return jax.tree.map(copy, tree)
