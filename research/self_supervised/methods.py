"""The methods as frozen values: what each asks of its networks, what it minimises, what it carries.

A method sees projections (or predictions) only; `research.self_supervised.training` makes a loss
for the shared training step of it. Its own state, a queue or a centre, lives in `model_state`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp

from library import checks as library_checks
from library.types import Array, Key, Metrics, ModelState
from research.self_supervised import checks, layout, losses, queues, teachers

Schedule = Callable[[Array], Array]  # number of updates done -> value


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a method is given.

    Attributes:
        num_views: global views of an example; None is two or more.
        num_local: local crops of an example, which only the student sees.
        targets: what `loss` gets beside the student's output: nothing, the projections that the
            predictor was given, with their gradient, or a teacher's projections, without.
        predictor: whether the student's output is a predictor's.
        labels: whether batches have labels.
        student_views, teacher_views: first and end of the global views that each of them sees.
    """

    num_views: int | None = 2
    num_local: int = 0
    targets: Literal["own", "teacher"] | None = None
    predictor: bool = False
    labels: bool = False
    student_views: tuple[int, int | None] = (0, None)
    teacher_views: tuple[int, int | None] = (0, None)


@dataclasses.dataclass(frozen=True)
class Given:
    """What `Method.loss` gets beside the student's output and its own state.

    Attributes:
        targets: [T, B, D], see `Needs`.
        labels: [B] int, or None.
        step: [] int, updates done.
        axis_name: mapped axis over which the batch is split.
    """

    targets: Array | None
    labels: Array | None
    step: Array
    axis_name: str | None


class Method(Protocol):
    """One of the classes below, or a user's own; with a teacher it has a `momentum` too."""

    needs: Needs

    def init(self, rng: Key, dim: int) -> ModelState:
        """The method's own state, entries of `model_state`, for projections [D]."""

    def loss(
        self, student: Array, state: ModelState, given: Given
    ) -> tuple[Array, ModelState, Metrics]:
        """[] loss of the student's output [V, B, D], the method's state afterwards, metrics."""


class _Stateless:
    """A method that carries nothing."""

    def init(self, rng: Key, dim: int) -> ModelState:
        return {}


@dataclasses.dataclass(frozen=True)
class SimCLR(_Stateless):
    """`losses.nt_xent`, arXiv:2002.05709."""

    temperature: float = 0.5
    needs: ClassVar[Needs] = Needs()

    def loss(self, student: Array, state: ModelState, given: Given) -> tuple[Array, dict, Metrics]:
        z1, z2 = student
        return losses.nt_xent(z1, z2, self.temperature, given.axis_name), state, {}


@dataclasses.dataclass(frozen=True)
class SupCon(_Stateless):
    """`losses.sup_con` with labels, any number of views, arXiv:2004.11362."""

    temperature: float = 0.1
    needs: ClassVar[Needs] = Needs(num_views=None, labels=True)

    def loss(self, student: Array, state: ModelState, given: Given) -> tuple[Array, dict, Metrics]:
        loss = losses.sup_con(student, given.labels, self.temperature, given.axis_name)
        return loss, state, {}


@dataclasses.dataclass(frozen=True)
class Spectral(_Stateless):
    """`losses.spectral`, arXiv:2106.04156.

    Attributes:
        radius: projections are put on the sphere of this radius; None takes them as they are.
    """

    radius: float | None = None
    needs: ClassVar[Needs] = Needs()

    def loss(self, student: Array, state: ModelState, given: Given) -> tuple[Array, dict, Metrics]:
        if self.radius is not None:
            student = self.radius * checks.unit(*checks.wide(student))
        return losses.spectral(student[0], student[1], given.axis_name), state, {}


@dataclasses.dataclass(frozen=True)
class BarlowTwins(_Stateless):
    """`losses.barlow_twins`, arXiv:2103.03230, standardised as batch norm does."""

    weight: float = 5e-3
    epsilon: float = 1e-5
    needs: ClassVar[Needs] = Needs()

    def loss(self, student: Array, state: ModelState, given: Given) -> tuple[Array, dict, Metrics]:
        z1, z2 = student
        loss = losses.barlow_twins(z1, z2, self.weight, self.epsilon, given.axis_name)
        return loss, state, {}


@dataclasses.dataclass(frozen=True)
class VICReg(_Stateless):
    """`losses.vicreg`, arXiv:2105.04906."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    needs: ClassVar[Needs] = Needs()

    def loss(self, student: Array, state: ModelState, given: Given) -> tuple[Array, dict, Metrics]:
        weights = (self.invariance, self.variance, self.covariance)
        return losses.vicreg(*student, *weights, given.axis_name), state, {}


@dataclasses.dataclass(frozen=True)
class SimSiam(_Stateless):
    """`losses.simsiam`, arXiv:2011.10566."""

    needs: ClassVar[Needs] = Needs(targets="own", predictor=True)

    def loss(self, student: Array, state: ModelState, given: Given) -> tuple[Array, dict, Metrics]:
        return losses.simsiam(student, given.targets), state, {}


@dataclasses.dataclass(frozen=True)
class BYOL(_Stateless):
    """`losses.byol` in both directions, added, arXiv:2006.07733.

    Attributes:
        momentum: of the teacher, or a schedule of it such as `teachers.momentum`.
    """

    momentum: float | Schedule = 0.996
    needs: ClassVar[Needs] = Needs(targets="teacher", predictor=True)

    def loss(self, student: Array, state: ModelState, given: Given) -> tuple[Array, dict, Metrics]:
        checks.pair("predictions", student, "targets", given.targets, "[2, B, D]")
        return 2 * losses.byol(student, given.targets[::-1]), state, {}


@dataclasses.dataclass(frozen=True)
class MoCoV2:
    """`losses.info_nce` against a queue, arXiv:2003.04297: the first view looks for the second.

    Through batch norm query and key of one batch know each other; the paper shuffles examples over
    devices. Take an encoder without batch statistics (`ResNet(num_groups=...)`) instead.

    Attributes:
        queue_size: Q, a multiple of the batch.
        temperature: tau.
        momentum: of the teacher, or a schedule of it.
    """

    queue_size: int = 4096
    temperature: float = 0.2
    momentum: float | Schedule = 0.999
    needs: ClassVar[Needs] = Needs(targets="teacher", student_views=(0, 1), teacher_views=(1, 2))

    def init(self, rng: Key, dim: int) -> ModelState:
        return {"queue": queues.init(rng, self.queue_size, dim)}

    def loss(self, student: Array, state: ModelState, given: Given) -> tuple[Array, dict, Metrics]:
        queue, keys = state["queue"], given.targets[0]
        loss = losses.info_nce(student[0], keys, queue.keys, self.temperature)
        return loss, {"queue": queues.push(queue, keys, given.axis_name)}, {}


@dataclasses.dataclass(frozen=True)
class MoCoV3(_Stateless):
    """`losses.moco_v3`, arXiv:2104.02057: the negatives are the batch.

    Attributes:
        temperature: tau.
        momentum: of the teacher, or a schedule of it such as `teachers.momentum`.
    """

    temperature: float = 0.2
    momentum: float | Schedule = 0.99
    needs: ClassVar[Needs] = Needs(targets="teacher", predictor=True)

    def loss(self, student: Array, state: ModelState, given: Given) -> tuple[Array, dict, Metrics]:
        loss = losses.moco_v3(student, given.targets, self.temperature, given.axis_name)
        return loss, state, {}


@dataclasses.dataclass(frozen=True)
class DINO:
    """`losses.dino`, arXiv:2104.14294, with multi-crop; the projector is `heads.Prototypes`.

    Metrics: `teacher_entropy`, nats, which is ln K where outputs are uniform, and
    `prototypes_kl` of the mean output from uniform, which is ln K where one prototype has all.

    Attributes:
        num_global, num_local: crops that the student sees; the teacher sees the global ones.
        student_temperature: tau_s.
        teacher_temperature: tau_t, or a schedule of it such as `teachers.warmup`; where training
            collapses, lower it.
        centre_momentum: of the running mean of the teacher's logits.
        momentum: of the teacher, or a schedule of it such as `teachers.momentum`.
        centring: "mean" subtracts the running mean; "sinkhorn" has `losses.sinkhorn` instead.
    """

    num_global: int = 2
    num_local: int = 0
    student_temperature: float = 0.1
    teacher_temperature: float | Schedule = 0.04
    centre_momentum: float = 0.9
    momentum: float | Schedule = 0.996
    centring: Literal["mean", "sinkhorn"] = "mean"

    def __post_init__(self) -> None:
        library_checks.count("num_global", self.num_global, of="crops")
        library_checks.count("num_local", self.num_local, least=0, of="crops")
        if self.centring not in ("mean", "sinkhorn"):
            raise ValueError(f"centring={self.centring!r}: expected 'mean' or 'sinkhorn'")

    @property
    def needs(self) -> Needs:
        return Needs(self.num_global, self.num_local, targets="teacher")

    def init(self, rng: Key, dim: int) -> ModelState:
        return {"centre": jnp.zeros(dim)}

    def loss(self, student: Array, state: ModelState, given: Given) -> tuple[Array, dict, Metrics]:
        (teacher,) = checks.wide(given.targets)
        num_views, size, _ = teacher.shape
        temperature = at(self.teacher_temperature, given.step)
        checks.positive("teacher_temperature", temperature)
        if self.centring == "sinkhorn":
            rows = teacher.reshape(num_views * size, -1)
            targets = losses.sinkhorn(rows, temperature, axis_name=given.axis_name)
            targets = targets.reshape(teacher.shape)
        else:
            logits = (teacher - state["centre"][None, None]) / temperature
            targets = jax.nn.softmax(logits, axis=-1)
        loss = losses.view_cross_entropy(student, targets, self.student_temperature)
        centre = teachers.centre(state["centre"], teacher, self.centre_momentum, given.axis_name)
        mean = layout.mean(targets.mean((0, 1)), given.axis_name)
        metrics = {
            "teacher_entropy": _entropy(targets).mean(),
            "prototypes_kl": jnp.log(jnp.asarray(len(mean), mean.dtype)) - _entropy(mean),
        }
        return loss, {"centre": centre}, jax.lax.stop_gradient(metrics)


def at(value: float | Schedule, step: Array) -> Any:
    """A number, or what a schedule says at a step."""
    return value(step) if callable(value) else value


def _entropy(p: Array) -> Array:
    """Nats, over the last axis; 0 log 0 = 0."""
    return -jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0).sum(-1)
