"""One path from any encoder to a labelled task: a head on it, trained alone, first, or with it.

    task = finetune.Task(networks.resnet(model), num_classes=10)
    params, model_state = finetune.init(task, rng, encoder_params, stats, images[:1])
    loss_fn = finetune.loss(task)                     # for the shared training step
    optimizer = optax.chain(optax.adamw(1e-3), finetune.head_first(100))

A frozen encoder lies in the model state, where no optimizer sees it; its batch statistics stand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import checks
from library.types import Array, Aux, Batch, Key, LossFn, ModelState, Params, PyTree
from research.attention import masks
from research.self_supervised import networks, probes
from research.transformers import models

Augment = Callable[[Key, PyTree], PyTree]  # keys [B], inputs [B, ...] -> inputs [B, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """An encoder and the classes that its features are mapped to.

    Attributes:
        encoder: inputs [B, ...] -> features [B, D].
        num_classes: C.
        frozen: whether only the head is trained.
        inputs: the batch's entry that the encoder reads.
        axis_name: mapped axis over which the batch is split, for batch statistics of all of it.
    """

    encoder: networks.Part
    num_classes: int
    frozen: bool = False
    inputs: str = "image"
    axis_name: str | None = None


def init(
    task: Task, rng: Key, encoder: Params, stats: ModelState, example: PyTree, scale: float = 0.0
) -> tuple[Params, ModelState]:
    """Parameters and model state; of a frozen encoder {"head"} and {"encoder", "stats"}.

    Args:
        task: the task.
        rng: of the head.
        encoder, stats: the encoder's own, pre-trained or fresh.
        example: inputs [1, ...].
        scale: standard deviation of the head's weights; 0 starts with even odds.
    Raises:
        ValueError: for fewer than two classes.
    """
    checks.count("num_classes", task.num_classes, least=2)
    features = jax.eval_shape(
        lambda params, stats, x: task.encoder.apply(params, stats, x, False, None)[0],
        encoder, stats, example,
    )  # fmt: skip
    shape = features.shape[-1], task.num_classes
    head = {"kernel": scale * jax.random.normal(rng, shape), "bias": jnp.zeros(shape[1])}
    if task.frozen:
        return {"head": head}, {"encoder": encoder, "stats": stats}
    return {"head": head, "encoder": encoder}, {"stats": stats}


def loss(task: Task, augment: Augment | None = None) -> LossFn:
    """Mean cross-entropy in nats of batches {task.inputs: [B, ...], "label": [B]}.

    Metric: accuracy. A frozen encoder is evaluated, one that trains uses batch statistics.

    Args:
        task: the task.
        augment: of inputs, a key for each example; None for none.
    """

    def loss_fn(
        params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        x, labels = batch[task.inputs], batch["label"]
        if augment is not None:
            x = augment(jax.random.split(rng, len(labels)), x)
        encoder = {**model_state, **params}["encoder"]
        found, stats = task.encoder.apply(
            encoder, model_state["stats"], x, not task.frozen, task.axis_name
        )
        if task.frozen:
            found, stats = jax.lax.stop_gradient(found), model_state["stats"]
        scores = _head(params["head"], found)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        right = (scores.argmax(-1) == labels).astype(jnp.float32)
        return losses.mean(), Aux(
            len(labels), {"accuracy": right.mean()}, {**model_state, "stats": stats}
        )

    return loss_fn


def logits(task: Task, params: Params, model_state: ModelState, x: PyTree) -> Array:
    """[B, C] of inputs [B, ...], with the statistics that training left."""
    encoder = {**model_state, **params}["encoder"]
    found, _ = task.encoder.apply(encoder, model_state["stats"], x, False, None)
    return _head(params["head"], found)


def accuracy(
    task: Task,
    params: Params,
    model_state: ModelState,
    inputs: np.ndarray,
    labels: np.ndarray,
    block: int = 250,
) -> float:
    """Share of inputs [N, ...] whose label [N] has the largest logit, `block` at a time."""
    apply = lambda x: logits(task, params, model_state, x)
    return float(np.mean(probes.features(apply, inputs, block).argmax(1) == np.asarray(labels)))


def head_first(num_steps: int) -> optax.GradientTransformation:
    """Holds the encoder still for the first updates; put it last in a chain.

    A fresh head's first gradients would spoil what an encoder has learnt (Kumar et al. 2022,
    arXiv:2202.10054). Moments of the chain's optimizer are gathered meanwhile.

    Args:
        num_steps: updates of the head alone.
    """
    checks.count("num_steps", num_steps, least=0, of="updates")

    def update(updates: PyTree, count: Array, params: PyTree = None) -> tuple[PyTree, Array]:
        moving = (count >= num_steps).astype(jnp.float32)
        encoder = jax.tree.map(lambda u: u * moving.astype(u.dtype), updates["encoder"])
        return {**updates, "encoder": encoder}, count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def layer_decay(layers: PyTree, depth: int, decay: float = 0.75) -> optax.GradientTransformation:
    """Updates of the encoder's layer l of `depth` times decay^(depth - l); put it last in a chain.

    Clark et al. 2020, arXiv:2003.10555; 0.65 to 0.75 for masked autoencoders. The head, which comes
    after the last layer, is not scaled.

    Args:
        layers: of the encoder's tree, each leaf the number of its layer, 0 for embeddings, or one
            for each entry of a stacked leaf's first axis, such as `vit_layers` gives.
        depth: number of the layer after the last.
        decay: in [0, 1]; 1 leaves updates as they are.
    """
    checks.share("decay", decay)

    def scaled(update: Array, layer: int | np.ndarray) -> Array:
        factor = np.asarray(decay ** (depth - np.asarray(layer)), np.float32)
        return update * factor.reshape(-1, *[1] * (update.ndim - 1)).astype(update.dtype)

    def update(updates: PyTree, params: PyTree = None) -> PyTree:
        return {**updates, "encoder": jax.tree.map(scaled, updates["encoder"], layers)}

    return optax.stateless(update)


def vit_layers(encoder: Params) -> tuple[PyTree, int]:
    """Layers of a `vision.ViT`'s parameters, and their depth: embeddings 0, block i i + 1.

    The final norm belongs to the last block. Blocks lie one behind the other in each leaf of
    encoder/layers.
    """
    stacked = encoder["encoder"]["layers"]
    depth = len(jax.tree.leaves(stacked)[0])
    blocks = {"layers": jax.tree.map(lambda _: np.arange(depth) + 1, stacked)}
    last = jax.tree.map(lambda _: depth, {**encoder["encoder"], "layers": None})
    first = jax.tree.map(lambda _: 0, {**encoder, "encoder": None})
    return {**first, "encoder": {**last, **blocks}}, depth + 1


def of_text(model: models.Encoder) -> networks.Part:
    """The mean of an encoder's features over the tokens of each text.

    Its inputs are {"tokens": [B, T] int, "lengths": [B] int}, lengths at least 1.
    """

    def run(params: Params, x: PyTree) -> Array:
        mask = masks.Padding(x["lengths"])
        hidden = model.apply({"params": params}, x["tokens"], mask=mask)["hidden"]
        there = jnp.arange(hidden.shape[1])[None] < x["lengths"][:, None]  # [B, T]
        hidden = jnp.where(there[..., None], hidden, 0).astype(jnp.float32)
        return hidden.sum(1) / x["lengths"][:, None]

    return networks.Part(
        lambda rng, x: (model.init(rng, x["tokens"])["params"], {}),
        lambda params, stats, x, train, axis_name: (run(params, x), stats),
    )


def _head(head: Params, features: Array) -> Array:
    """[B, D] -> [B, C], float32 at least."""
    return features.astype(head["kernel"].dtype) @ head["kernel"] + head["bias"][None]
