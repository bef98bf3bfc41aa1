"""A game of two networks as one training step, (state, batch) -> (state, metrics).

    play = training.make_round(losses.hinge, generate, discriminate, g_optimizer, d_optimizer)
    optimizers = training.Optimizers(g_optimizer, d_optimizer)
    state = training.init_state({"generator": ..., "discriminator": ...}, optimizers, rng)
    state, metrics = jax.jit(play)(state, images)

A round is the critic's turns and then the generator's, each an update of `library.train_step` in
which the rival stands still. Parameters, optimizer states and model states are dicts of the two
players; what the library does with a step (jit, pmap, FSDP, microbatches, resuming) it does with a
round. `research.gan.games` says what networks are, and what is played. A player's model state moves
once in a turn of its own: the critic's to where its call on data leaves it, as seen from the start
of the turn whatever the number of microbatches, over which it is averaged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax

from library import checks, train_step
from library.train_step import Schedule, TrainStep, make_train_step
from library.types import (
    Batch,
    Key,
    LossFn,
    Metrics,
    Params,
    PyTree,
    TrainState,
    copy_at_least_float32,
)
from research.gan import games
from research.gan.games import (
    CriticPenalty,
    Discriminate,
    Game,
    Generate,
    GeneratorPenalty,
    latents,
)
from research.gan.losses import Loss

__all__ = [
    "Game", "Optimizers", "init_state", "latents", "lazy_adam", "make_round", "make_step",
]  # fmt: skip

PLAYERS = ("generator", "discriminator")


@dataclasses.dataclass(frozen=True)
class Optimizers:
    """One Optax transformation a player, whose states stand in a dict of the two."""

    generator: optax.GradientTransformation
    discriminator: optax.GradientTransformation

    def init(self, params: Params) -> PyTree:
        """The states of both, for params {"generator": ..., "discriminator": ...}."""
        if not isinstance(params, Mapping) or set(params) != set(PLAYERS):
            raise ValueError(f"params are {games.outline(params)}: expected a dict of {PLAYERS}")
        return {player: getattr(self, player).init(params[player]) for player in PLAYERS}


def make_round(
    loss: Loss,
    generate: Generate,
    discriminate: Discriminate,
    g_optimizer: optax.GradientTransformation,
    d_optimizer: optax.GradientTransformation,
    discriminator_steps: int = 1,
    r1: float = 0.0,
    r2: float = 0.0,
    penalty_every: int = 1,
    ema_decay: float | Schedule | None = None,
    *,
    critic_penalty: CriticPenalty | None = None,
    generator_penalty: GeneratorPenalty | None = None,
    generator_penalty_every: int = 1,
    mixes: bool = False,
    **placement: Any,
) -> TrainStep:
    """A round of the game as one pure step; `make_step` with its parts by name.

    Args:
        loss, generate, discriminate, discriminator_steps, r1, r2, penalty_every, critic_penalty,
            generator_penalty, generator_penalty_every, mixes: see `Game`.
        g_optimizer, d_optimizer: any Optax transformations; `lazy_adam` for lazy penalties.
        ema_decay, placement: see `make_step`.
    Returns:
        The step, see `make_step`.
    Raises:
        ValueError: as `Game` and `make_step`.
    """
    game = Game(
        loss,
        generate,
        discriminate,
        discriminator_steps,
        r1,
        r2,
        critic_penalty,
        penalty_every,
        generator_penalty,
        generator_penalty_every,
        mixes,
    )
    optimizers = Optimizers(g_optimizer, d_optimizer)
    return make_step(game, optimizers, ema_decay=ema_decay, **placement)


def make_step(
    game: Game,
    optimizers: Optimizers,
    accumulate: int = 1,
    compute_dtype: Any = None,
    ema_decay: float | Schedule | None = None,
    rng_per_example: bool = False,
    axis_name: str | None = None,
) -> TrainStep:
    """The round as `library.training.train(game, optimizers, ..., make_step=make_step)` wants it.

    Args:
        game: what is played.
        optimizers: of both players.
        accumulate: microbatches of each turn. Refused where the sum is not the whole: for a loss,
            a generator or a critic that mixes examples. Noise is the same only with
            `rng_per_example`.
        ema_decay: of the moving average of the generator, from a state with an average.
        compute_dtype, rng_per_example, axis_name: see `library.train_step.make_train_step`.
    Returns:
        The step. Metrics: `discriminator_loss` and `generator_loss`, penalties included, and
        `loss`, their sum; `real_logit`, `fake_logit`, means; `penalty`, the critic's, where it is
        part of its loss; the norms of gradients `discriminator_grad_norm`,
        `generator_grad_norm`; `weight`, examples of the last turn.
    Raises:
        ValueError: as `make_train_step`; if examples are mixed where they are split; at trace time
            if the batch is no multiple of the steps, or images and samples differ in shape.
    """
    options = {
        "accumulate": checks.count("accumulate", accumulate, of="microbatches"),
        "compute_dtype": compute_dtype,
        "rng_per_example": rng_per_example,
        "axis_name": axis_name,
    }
    make_train_step(_nothing, optimizers.generator, ema_decay=ema_decay, **options)
    if accumulate > 1:
        games.check_loss(game.loss, accumulate)

    def turn(player: str, number: int, state: TrainState, batch: Batch, loss_fn: LossFn):
        decay = ema_decay if state.ema is None or player in state.ema else None
        update = make_train_step(loss_fn, getattr(optimizers, player), ema_decay=decay, **options)
        return update_player(update, player, number, state, batch)

    def lazily(player: str, number: int, every: int, state: TrainState, batch: Batch, loss_of):
        penalise = lambda state: turn(player, number, state, batch, loss_of(state))[0]
        return jax.lax.cond(state.step % every == 0, penalise, lambda state: state, state)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        turns = games.Turns(game, compute_dtype, accumulate)
        shares = _shares(batch, game.discriminator_steps)
        first, number = shares[0], len(shares)
        if accumulate > 1:
            turns.check_split(state, first, rng_per_example)
        for index, share in enumerate(shares):
            loss_fn = turns.critic(state)
            state, critic = turn("discriminator", index, state, share, loss_fn)
        if game.penalised and game.penalty_every > 1:
            every, loss_of = game.penalty_every, turns.critic_penalty
            state = lazily("discriminator", number, every, state, first, loss_of)
        state, generator = turn("generator", number + 1, state, first, turns.generator(state))
        if game.generator_penalty is not None and game.generator_penalty_every > 1:
            every, loss_of = game.generator_penalty_every, turns.generator_penalty
            state = lazily("generator", number + 2, every, state, first, loss_of)
        return state.replace(step=state.step + 1), _metrics(critic, generator)

    return step


def init_state(
    params: Params,
    optimizers: Optimizers,
    rng: Key,
    model_state: PyTree = None,
    ema: bool = False,
) -> TrainState:
    """The state before the first round; `library.train_step.init_state`, EMA of the generator only.

    Args:
        params: {"generator": ..., "discriminator": ...}.
        optimizers: of both.
        rng: [] key, root of the run's randomness.
        model_state: {"generator": ..., "discriminator": ...}, or of those that have any.
        ema: whether to keep a moving average: state.ema["generator"] is what samples come from.
    """
    state = train_step.init_state(params, optimizers, rng, model_state, ema=False)
    average = copy_at_least_float32(params["generator"]) if ema else None
    return state.replace(ema={"generator": average} if ema else None)


def lazy_adam(
    learning_rate: float | Schedule, every: int, b1: float = 0.9, b2: float = 0.999, **options: Any
) -> optax.GradientTransformation:
    """Adam for a player whose penalty has a turn of its own in every n-th round.

    As there are n + 1 updates in n rounds, rate and memory shrink by c = n / (n + 1): the rate is c
    times as large and a beta is beta^c (Karras et al. 2020, arXiv:1912.04958, app. B).

    Args:
        learning_rate: of the plain optimizer, or its schedule over updates.
        every: n; 1, the penalty in the loss, changes nothing.
        b1, b2, options: of `optax.adam`.
    Raises:
        ValueError: if `every` is no positive whole number.
    """
    checks.count("every", every, of="rounds")
    c = 1.0 if every == 1 else every / (every + 1)
    rate = learning_rate
    scaled = (lambda count: c * rate(count)) if callable(rate) else c * rate
    return optax.adam(scaled, b1**c, b2**c, **options)


def update_player(
    update: TrainStep, player: str, number: int, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
    """A turn: one update of one player, whose entries of the state make a state of their own.

    Args:
        update: of `library.train_step`, with the player's loss.
        player: "generator" or "discriminator".
        number: of the turn in its round, by which its draws differ from the others'.
        state: of both players.
        batch: of the turn.
    Returns:
        The state, in which only that player has moved, and the metrics of the update. The count of
        steps is as before: it is that of rounds.
    """
    ema = None if state.ema is None else state.ema.get(player)
    own = TrainState(
        step=state.step,
        params=state.params[player],
        opt_state=state.opt_state[player],
        model_state=games.no_share(games.own_state(state, player)),
        rng=jax.random.fold_in(state.rng, number),  # each turn draws afresh
        ema=ema,
    )
    own, metrics = update(own, batch)
    put = lambda tree, entry: {**tree, player: entry} if player in tree else tree
    new_state = state.replace(
        params=put(state.params, own.params),
        opt_state=put(state.opt_state, own.opt_state),
        model_state=put(state.model_state, own.model_state),
        ema=None if state.ema is None else put(state.ema, own.ema),
    )
    return new_state, metrics


def _shares(batch: Batch, num: int) -> list[Batch]:
    """The batch in as many parts; part j has the examples j, j + num, j + 2 num, ..."""
    size = len(games.images_of(batch))
    if size % num:
        raise ValueError(f"batch size {size} is not a multiple of discriminator_steps={num}")
    # With this stride every part is spread evenly over an axis that is sharded in blocks.
    part = lambda leaf, j: leaf.reshape(size // num, num, *leaf.shape[1:])[:, j]
    return [jax.tree.map(lambda leaf, j=j: part(leaf, j), batch) for j in range(num)]


def _metrics(critic: Metrics, generator: Metrics) -> Metrics:
    own = {"loss", "grad_norm", "weight"}
    return {
        "loss": critic["loss"] + generator["loss"],
        "discriminator_loss": critic["loss"],
        "generator_loss": generator["loss"],
        "discriminator_grad_norm": critic["grad_norm"],
        "generator_grad_norm": generator["grad_norm"],
        "weight": generator["weight"],
        **{name: value for name, value in critic.items() if name not in own},
    }


def _nothing(*_: Any) -> Any:
    """A loss that is never called: options are checked before there is one."""
    raise AssertionError
