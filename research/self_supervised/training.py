"""A method and its networks as a loss for the shared training step.

    pretraining = training.Pretraining(method, networks, image_shape, views=views)
    state = library.training.train(
        pretraining.loss_fn, optimizer, pretraining.init_params, batch_at,
        model_state=pretraining.init_state(rng), rng_per_example=True, ...)

It has one meaning under jit, on a mesh, under pmap and with `num_chunks`: all negatives and all
statistics are those of the whole batch. Teachers, queues, centres and batch statistics are in
`model_state`. A teacher moves at the start of a step, towards the parameters that the last update
left; at the first it is a copy of the student.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from library import checks as library_checks
from library.types import Array, Aux, Batch, BatchLoss, Key, ModelState, Params, PyTree
from research.self_supervised import cached, checks, layout, methods, networks, teachers

Views = Callable[[Key, Array], Any]  # as `research.self_supervised.views` makes them


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """All that a loss needs beside parameters and data.

    Attributes:
        method: one of `methods`.
        networks: what is trained.
        image_shape: (H, W, C) of the global views.
        views: (keys [B], images [B, H, W, C]) -> views [V, B, H, W, C], or {"global": views,
            "local": crops [M, B, h, w, C]}, made of `batch["images"]`. None takes views as they
            come, `batch["views"]` [B, V, H, W, C] and perhaps `batch["local"]` [B, M, h, w, C].
        num_chunks: in which the batch is encoded, see `cached`; above 1 nothing may have batch
            statistics.
    """

    method: methods.Method
    networks: networks.Networks
    image_shape: tuple[int, int, int]
    views: Views | None = None
    num_chunks: int = 1

    def __post_init__(self) -> None:
        library_checks.count("num_chunks", self.num_chunks)
        wants, has = self.method.needs.predictor, self.networks.predictor is not None
        if wants != has:
            name = type(self.method).__name__
            raise ValueError(f"{name} {'needs a' if wants else 'has no'} predictor")

    def init_params(self, rng: Key) -> Params:
        """{"encoder": ..., "projector": ...[, "predictor": ...]}."""
        return self.networks.init(rng, self.image_shape)[0]

    def init_state(self, rng: Key) -> ModelState:
        """{"batch_stats": ..., "step": [][, "teacher": ...][, "queue" or "centre": ...]}."""
        params, stats = self.networks.init(rng, self.image_shape)
        state = {"batch_stats": stats, "step": jnp.zeros((), jnp.int32)}
        if self.method.needs.targets == "teacher":
            state["teacher"] = {"params": _followed(params), "batch_stats": _followed(stats)}
        z = jnp.zeros((1, 1, *self.image_shape))
        shape = jax.eval_shape(lambda: self.networks.project(params, stats, [z])[0])
        return {**state, **self.method.init(jax.random.fold_in(rng, 1), shape.shape[-1])}

    @property
    def loss_fn(self) -> BatchLoss:
        """The loss for `library.train_step.make_train_step`, which refuses to split its batch.

        Metrics: `spread`, 1 where the directions of projections are spread evenly and 0 where all
        are one; the method's own.

        Raises (at trace time):
            ValueError: for one view, views of several batches, crops that the method doesn't
                declare, missing labels, batch statistics in chunks; as the losses.
        """
        return BatchLoss(lambda axis_name: lambda *args: self._loss(axis_name, *args))

    def _loss(
        self, axis_name: str | None, params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        needs, state = self.method.needs, dict(model_state)
        views, local = self._views(rng, batch)
        crops = [views[:, slice(*needs.student_views)], *local]
        found, state["batch_stats"] = self._student(
            params, model_state["batch_stats"], crops, axis_name
        )
        targets = {"own": found["z"], None: None}.get(needs.targets)
        if needs.targets == "teacher":
            state["teacher"] = self._moved(model_state, params)
            targets, state["teacher"]["batch_stats"] = self._teacher(
                state["teacher"], params, views[:, slice(*needs.teacher_views)], axis_name
            )
        labels = batch["labels"] if needs.labels else None
        by_view = lambda z: None if z is None else jnp.swapaxes(z, 0, 1)  # noqa: E731
        given = methods.Given(by_view(targets), labels, model_state["step"], axis_name)
        own = {k: v for k, v in model_state.items() if k not in _SHARED}
        loss, own, metrics = self.method.loss(by_view(found["p"]), own, given)
        state = {**state, **own, "step": model_state["step"] + 1}
        metrics = {**metrics, "spread": _spread(found["z"], axis_name)}
        return loss, Aux(len(views), metrics, state)

    def _student(
        self, params: Params, stats: ModelState, crops: list[Array], axis_name: str | None
    ) -> tuple[dict[str, Array], ModelState]:
        """Projections "z" and predictions "p", [B, V, D] each."""

        def run(params: Params, crops: list[Array]) -> tuple[dict[str, Array], ModelState]:
            z, moved = self.networks.project(params, stats, crops, axis_name)
            p, moved = self.networks.predict(params, moved, z, axis_name)
            return {"z": z, "p": p}, moved

        return self._in_chunks(run, params, stats, crops)

    def _teacher(
        self, teacher: PyTree, params: Params, views: Array, axis_name: str | None
    ) -> tuple[Array, ModelState]:
        """The teacher's projections [B, V, D], computed in the student's precision."""
        narrow = lambda x, like: x.astype(like.dtype)  # noqa: E731
        weights = {
            part: jax.tree.map(narrow, x, params[part]) for part, x in teacher["params"].items()
        }
        run = lambda weights, crops: self.networks.project(  # noqa: E731
            weights, teacher["batch_stats"], crops, axis_name
        )
        found = self._in_chunks(run, weights, teacher["batch_stats"], [views])
        return jax.lax.stop_gradient(found)

    def _in_chunks(
        self, run: Callable, params: Params, stats: ModelState, crops: list[Array]
    ) -> tuple[PyTree, ModelState]:
        """(output, statistics) of a run, whole or in chunks."""
        if self.num_chunks == 1:
            return run(params, crops)
        if jax.tree.leaves(stats):
            raise ValueError(
                f"num_chunks={self.num_chunks} with batch norm, whose statistics would be those of "
                "a chunk: expected networks with norms of one example, or 1"
            )
        encode = lambda params, crops: run(params, crops)[0]  # noqa: E731
        return cached.representations(encode, params, crops, self.num_chunks), stats

    def _moved(self, model_state: ModelState, params: Params) -> dict[str, Any]:
        """The teacher of this step, and its statistics so far."""
        step, teacher = model_state["step"], model_state["teacher"]
        momentum = methods.at(self.method.momentum, jnp.maximum(step - 1, 0))
        student = _followed(params)
        moved = teachers.follow(teacher["params"], student, momentum)
        first = lambda new, old: jnp.where(step == 0, new.astype(old.dtype), old)  # noqa: E731
        return {**teacher, "params": jax.tree.map(first, student, moved)}

    def _views(self, rng: Key, batch: Batch) -> tuple[Array, list[Array]]:
        """Global views [B, V, H, W, C], and local ones if there are any, checked."""
        wanted = "views" if self.views is None else "images"
        labels = ["labels"] if self.method.needs.labels else []
        missing = [name for name in (wanted, *labels) if name not in batch]
        if missing:
            raise ValueError(f"the batch has {sorted(batch)}: {missing[0]!r} is missing")
        if self.views is None:
            views, local = batch["views"], batch.get("local")
        else:
            images = batch["images"]
            rngs = rng if rng.ndim else _each(rng, len(images))
            made = self.views(rngs, images)
            made = made if isinstance(made, Mapping) else {"global": made}
            made = {name: jnp.swapaxes(crops, 0, 1) for name, crops in made.items()}
            views, local = made["global"], made.get("local")
        return views, self._checked(views, local)

    def _checked(self, views: Array, local: Array | None) -> list[Array]:
        """The local crops in a list, where all crops are those that the method declares."""
        name, needs = type(self.method).__name__, self.method.needs
        crops = [x for x in (views, local) if x is not None]
        if any(x.ndim != 5 for x in crops) or len({len(x) for x in crops}) != 1:
            shapes = ", ".join(str(x.shape) for x in crops)
            raise ValueError(f"views {shapes}: expected [B, V, H, W, C] of one batch B")
        num, others = views.shape[1], 0 if local is None else local.shape[1]
        least = needs.num_views or 2
        if num < least or (needs.num_views is not None and num != needs.num_views):
            wants = "two or more" if needs.num_views is None else needs.num_views
            raise ValueError(f"{num} global views an example: {name} expects {wants}")
        if others != needs.num_local:
            raise ValueError(f"{others} local crops an example: {name} expects {needs.num_local}")
        return crops[1:]


_SHARED = ("batch_stats", "step", "teacher")


def _followed(tree: PyTree) -> PyTree:
    """What a teacher has of a student: all parts but the predictor."""
    return {name: part for name, part in tree.items() if name != "predictor"}


def _each(rng: Key, num: int) -> Key:
    """Keys [num]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(num))


def _spread(z: Array, axis_name: str | None) -> Array:
    """sqrt(1 - |mean direction|^2) of vectors [B, V, D], over the whole batch."""
    (z,) = checks.wide(jax.lax.stop_gradient(z))
    mean = layout.mean(checks.unit(z).mean((0, 1)), axis_name)
    return jnp.sqrt(jnp.maximum(0, 1 - jnp.square(mean).sum()))
