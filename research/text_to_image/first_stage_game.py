"""A round of an autoencoder and a critic of patches: `research.gan.training` with distances.

The critic's turn is the game's own. In the autoencoder's the critic's part is weighed by gradients
at the decoder's last layer, Esser et al. 2021, arXiv:2012.09841, eq. (7), and starts late.

    play = first_stage_game.Round(objective, patches.discriminate(critic), last=first_stage.LAST)
    optimizers = training.Optimizers(g_optimizer, d_optimizer)
    state = training.init_state({"generator": ..., "discriminator": ...}, optimizers, rng)
    step = first_stage_game.make_step(play, optimizers)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.train_step import Schedule, TrainStep, make_train_step
from library.types import (
    Array,
    Aux,
    Batch,
    Key,
    LossFn,
    Metrics,
    ModelState,
    Params,
    TrainState,
    at_least_float32,
)
from research.gan import games, mixing, patches, training
from research.gan.losses import Loss, hinge
from research.text_to_image import first_stage
from research.text_to_image.first_stage import Objective, Terms

_LARGEST = 1e4  # weight of the critic, Esser et al.
_EPSILON = 1e-4  # added to the norm that it is divided by


@dataclasses.dataclass(frozen=True)
class Round:
    """A round of the game: the critic's turn, then the autoencoder's.

    Attributes:
        objective: of the autoencoder.
        discriminate: the critic, see `games`; e.g. `patches.discriminate(module)`.
        loss: of both, over the critic's logits.
        weight: of the critic's part in the autoencoder's loss.
        last: path of the decoder's last kernel in the parameters: the weight is multiplied by the
            ratio of gradients there, |reconstruction's| / (|critic's| + 1e-4), at most 1e4, held
            constant (Esser et al., eq. (7)). None for the weight alone.
        start: rounds before the critic takes part: until then its loss is 0, for both.
    Raises:
        ValueError: for a weight that is negative or not finite, or a start below 0.
    """

    objective: Objective
    discriminate: games.Discriminate
    loss: Loss = patches.OnPatches(hinge)
    weight: float = 0.5
    last: tuple[str, ...] | None = None
    start: int = 0

    def __post_init__(self) -> None:
        first_stage.check_weight("weight", self.weight)
        checks.count("start", self.start, least=0, of="rounds")

    @property
    def game(self) -> games.Game:
        """The same without distances: reconstructions are what the critic's data are beside."""

        def generate(params: Params, model_state: ModelState, rng: Key, batch: Batch):
            terms = self.objective.terms(params, rng, games.images_of(batch))
            return terms.images, model_state

        return games.Game(self.loss, generate, self.discriminate)


def make_step(
    play: Round,
    optimizers: training.Optimizers,
    accumulate: int = 1,
    compute_dtype: Any = None,
    ema_decay: float | Schedule | None = None,
    rng_per_example: bool = False,
    axis_name: str | None = None,
) -> TrainStep:
    """The round as one pure step, for `library.training.train(..., make_step=make_step)`.

    Args:
        play: what is played.
        optimizers: of both, "generator" for the autoencoder.
        accumulate: microbatches of each turn. Refused where the sum is not the whole: with a
            measured weight, which is a ratio of the batch's gradients, and as
            `training.make_step` does.
        compute_dtype, rng_per_example, axis_name: see `library.train_step.make_train_step`.
        ema_decay: of the moving average of the autoencoder.
    Returns:
        The step. Metrics: losses, norms of gradients and logits as of `training.make_step`;
        `distance`, `features`, `rate`, `quantisation`, means over
        images; `critic_weight`, what the critic's part was multiplied by.
    Raises:
        ValueError: for options that do not go together; at trace time for networks that mix the
            examples that are split, or a `last` that is no path.
    """
    options = {
        "accumulate": checks.count("accumulate", accumulate, of="microbatches"),
        "compute_dtype": compute_dtype,
        "rng_per_example": rng_per_example,
        "axis_name": axis_name,
    }
    if accumulate > 1 and play.last is not None:
        raise ValueError(
            f"last={play.last} measures the weight on a batch: accumulate={accumulate} would "
            "measure it on each part; expected accumulate=1 or last=None"
        )
    if accumulate > 1:
        games.check_loss(play.loss, accumulate)
    make_train_step(play.objective.loss, optimizers.generator, ema_decay=ema_decay, **options)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        turns = games.Turns(play.game, compute_dtype, accumulate)
        if accumulate > 1:
            _check_split(play.objective, turns, state, batch, rng_per_example)
        started = state.step >= play.start
        metrics = {}
        losses = {
            "discriminator": lambda state: _only(started, turns.critic(state)),
            "generator": lambda state: _autoencoder_loss(play, turns, state, started, axis_name),
        }
        for number, (player, loss_of) in enumerate(losses.items()):
            decay = ema_decay if state.ema is None or player in state.ema else None
            optimizer = getattr(optimizers, player)
            update = make_train_step(loss_of(state), optimizer, ema_decay=decay, **options)
            state, found = training.update_player(update, player, number, state, batch)
            metrics |= {_NAMES.get(name, "{1}").format(player, name): found[name] for name in found}
        metrics["loss"] = metrics["discriminator_loss"] + metrics["generator_loss"]
        return state.replace(step=state.step + 1), metrics

    return step


def _autoencoder_loss(
    play: Round, turns: games.Turns, state: TrainState, started: Array, axis_name: str | None
) -> LossFn:
    """The loss of the autoencoder's turn, in which the critic stands still."""
    objective = play.objective

    def both(params: Params, rng: Key, batch: Batch) -> tuple[Array, Array, Terms]:
        images, look = games.images_of(batch), turns.look(state, rng, batch)
        terms = objective.terms(params, games.child(rng, 0), images)
        judged = play.loss.generator(look(images), look(terms.images))
        return objective.reconstruction(terms), judged, terms

    def ratio(params: Params, rng: Key, batch: Batch) -> Array:
        fixed = jax.lax.stop_gradient(params)  # and with them the ratio
        kernel = _at(fixed, play.last)
        values, pull_back = jax.vjp(
            lambda k: both(_put(fixed, play.last, k), rng, batch)[:2], kernel
        )
        units = np.eye(2, dtype=values[0].dtype)
        own, critics = (
            _norm(pull_back(tuple(map(jnp.asarray, unit))), axis_name) for unit in units
        )
        return jnp.clip(own / (critics + _EPSILON), 0, _LARGEST)

    def loss_of(params: Params, total: ModelState, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        if jax.tree.leaves(total):
            raise ValueError("the autoencoder has a model state: expected none")
        reconstruction, judged, terms = both(params, rng, batch)
        weight = jnp.where(started, play.weight, 0.0).astype(reconstruction.dtype)
        if play.last is not None:
            weight = weight * ratio(params, rng, batch)
        value = reconstruction + objective.regulariser(terms) + weight * judged
        metrics = {**first_stage.metrics_of(terms), "critic_weight": weight}
        return value, Aux(float(len(terms.images)), metrics, total)

    return loss_of


def _check_split(
    objective: Objective, turns: games.Turns, state: TrainState, batch: Batch, rng_per_example: bool
) -> None:
    """Raises ValueError if the critic, the autoencoder or its features mix examples."""
    turns.check_split(state, batch, rng_per_example)
    images, what = games.images_of(batch), f"accumulate={turns.accumulate}"
    params, rng = state.params["generator"], jax.random.key(0)
    decoded = lambda x: objective.terms(params, rng, x).images
    mixing.refuse(decoded, images, "the autoencoder", what)
    if objective.features is not None:
        distance = lambda x: first_stage.feature_distance(objective.features, x, x[..., ::-1, :])
        mixing.refuse(distance, images, "features", what)


def _only(started: Array, loss_fn: LossFn) -> LossFn:
    """A loss that is 0 until then; what it reports beside stays."""

    def scaled(*args: Any) -> tuple[Array, Aux]:
        value, aux = loss_fn(*args)
        return started.astype(value.dtype) * value, aux

    return scaled


# Of an update's own metrics, by player; the weight is the last turn's.
_NAMES = {"loss": "{0}_loss", "grad_norm": "{0}_grad_norm"}


def _norm(gradient: tuple[Array], axis_name: str | None) -> Array:
    """Length of a gradient, that of the whole batch where devices have parts of it."""
    (gradient,) = gradient
    gradient = gradient.astype(at_least_float32(gradient))
    if axis_name is not None:
        gradient = jax.lax.pmean(gradient, axis_name)
    return jnp.sqrt(jnp.square(gradient).sum())


def _at(tree: Params, path: tuple[str, ...]) -> Array:
    """The leaf at a path; ValueError where there is none."""
    for depth, key in enumerate(path):
        if not isinstance(tree, Mapping) or key not in tree:
            raise ValueError(f"last={path}: the parameters have no {'/'.join(path[: depth + 1])}")
        tree = tree[key]
    return tree


def _put(tree: Params, path: tuple[str, ...], leaf: Array) -> Params:
    """The tree with another leaf at a path."""
    if not path:
        return leaf
    return {**tree, path[0]: _put(tree[path[0]], path[1:], leaf)}
