"""What is played: two networks, a loss, penalties; and the loss of each player's turn.

Networks are pure functions that carry what is not differentiated:

    generate(params, model_state, rng, batch) -> images [B, ...], model_state
    discriminate(params, model_state, rng, images, batch) -> logits [B], model_state

`batch` is what the data gives, leaves [B, ...]: images alone, or a dict of "images" and whatever a
condition needs ("labels"). A generator takes its size and its conditions from there. `rng` is one
key, or one an example [B]; `latents` draws from either. `model_state` is a player's own: batch
statistics, spectral vectors, a mean of w, an augmentation's p.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import (
    Array,
    Aux,
    Batch,
    Key,
    LossFn,
    ModelState,
    Params,
    PyTree,
    TrainState,
    at_least_float32,
)
from research.gan import mixing, penalties
from research.gan.losses import Loss

Generate = Callable[[Params, ModelState, Key, Batch], tuple[Array, ModelState]]
Discriminate = Callable[[Params, ModelState, Key, Array, Batch], tuple[Array, ModelState]]
# (critic, real, fake, rng) -> [B], with its factor
CriticPenalty = Callable[[penalties.Critic, Array, Array, Key], Array]
# (params, model_state, rng, batch) -> [] or [B] with its factor, and the model state
GeneratorPenalty = Callable[[Params, ModelState, Key, Batch], tuple[Array, ModelState]]


@dataclasses.dataclass(frozen=True)
class Game:
    """What is played: a loss, two networks, penalties and how often.

    Attributes:
        loss: of both players, see `research.gan.losses`.
        generate, discriminate: the networks, see the module.
        discriminator_steps: turns of the critic in a round, each with a share of the batch of its
            own; the generator's turn has the first share again.
        r1, r2: gamma, weight of gamma/2 times the mean of `penalties.r1`, `penalties.r2`.
        critic_penalty: a further penalty, e.g. ten times `penalties.gradient_penalty`.
        penalty_every: n > 1 makes the critic's penalties a turn of their own, in every n-th round
            and times n: lazy regularisation (Karras et al. 2020, arXiv:1912.04958, sec. 3.1). On a
            CPU convolutions take three times as long in such a turn, which XLA sees as a branch.
        generator_penalty: of the generator, e.g. of path lengths or filters that are not
            orthogonal; changes of the model state only what is its own.
        generator_penalty_every: as `penalty_every`.
        mixes: lets the critic's penalties take a critic that mixes the batch, see `penalties`.
    Raises:
        ValueError: for a count that is not positive, or a weight that is negative or not finite.
    """

    loss: Loss
    generate: Generate
    discriminate: Discriminate
    discriminator_steps: int = 1
    r1: float = 0.0
    r2: float = 0.0
    critic_penalty: CriticPenalty | None = None
    penalty_every: int = 1
    generator_penalty: GeneratorPenalty | None = None
    generator_penalty_every: int = 1
    mixes: bool = False

    def __post_init__(self) -> None:
        for name in ("discriminator_steps", "penalty_every", "generator_penalty_every"):
            checks.count(name, getattr(self, name))
        for name in ("r1", "r2"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value}: expected a finite number >= 0")

    @property
    def penalised(self) -> bool:
        """Whether the critic has a penalty."""
        return bool(self.r1 or self.r2 or self.critic_penalty)

    def penalty(self, critic: penalties.Critic, real: Array, fake: Array, rng: Key) -> Array:
        """The critic's penalties, [] mean over the batch."""
        total = jnp.zeros((), jnp.float32)
        if self.r1:
            total += self.r1 / 2 * penalties.r1(critic, real, self.mixes).mean()
        if self.r2:
            total += self.r2 / 2 * penalties.r2(critic, fake, self.mixes).mean()
        if self.critic_penalty is not None:
            total += self.critic_penalty(critic, real, fake, rng).mean()
        return total


@dataclasses.dataclass(frozen=True)
class Turns:
    """The losses of a round's turns, in which the rival and the model states stand still.

    What a loss gets as model state is a running sum: each microbatch adds its share of where it
    would move the player's own from the start of the turn.

    Attributes:
        game: what is played.
        compute_dtype: of the rival's parameters; None leaves them.
        accumulate: microbatches of a turn.
    """

    game: Game
    compute_dtype: Any = None
    accumulate: int = 1

    def critic(self, state: TrainState) -> LossFn:
        """The critic's loss, with its penalties where they have no turn of their own."""
        game, start = self.game, own_state(state, "discriminator")

        def loss_of(params: Params, total: PyTree, rng: Key, batch: Batch) -> tuple[Array, Aux]:
            real, fake = self._images(state, rng, batch)
            look = lambda x: game.discriminate(params, start, child(rng, 1), x, batch)
            real_logits, new = look(real)
            fake_logits, _ = look(fake)
            loss = game.loss.discriminator(real_logits, fake_logits)
            metrics = {"real_logit": _mean(real_logits), "fake_logit": _mean(fake_logits)}
            if game.penalised and game.penalty_every == 1:
                critic = lambda x: look(x)[0]
                metrics["penalty"] = game.penalty(critic, real, fake, child(rng, 2))
                loss += metrics["penalty"]
            total = self._add(total, start, new, "discriminate")
            return loss, Aux(float(len(real)), metrics, total)

        return loss_of

    def critic_penalty(self, state: TrainState) -> LossFn:
        """The critic's penalties alone, times the number of rounds that they stand for."""
        game, start = self.game, own_state(state, "discriminator")

        def loss_of(params: Params, total: PyTree, rng: Key, batch: Batch) -> tuple[Array, Aux]:
            real, fake = self._images(state, rng, batch)
            critic = lambda x: game.discriminate(params, start, child(rng, 1), x, batch)[0]
            penalty = game.penalty(critic, real, fake, child(rng, 2))
            total = self._add(total, start, start, "discriminate")
            return game.penalty_every * penalty, Aux(float(len(real)), {}, total)

        return loss_of

    def generator(self, state: TrainState) -> LossFn:
        """The generator's loss, with its penalty where that has no turn of its own."""
        game, start = self.game, own_state(state, "generator")

        def loss_of(params: Params, total: PyTree, rng: Key, batch: Batch) -> tuple[Array, Aux]:
            real = images_of(batch)
            fake, new = game.generate(params, start, child(rng, 0), batch)
            look = self.look(state, rng, batch)
            loss = game.loss.generator(look(real), look(fake))
            if game.generator_penalty is not None and game.generator_penalty_every == 1:
                penalty, new = game.generator_penalty(params, new, child(rng, 2), batch)
                loss += _mean(penalty)
            total = self._add(total, start, new, "generate")
            return loss, Aux(float(len(real)), {}, total)

        return loss_of

    def generator_penalty(self, state: TrainState) -> LossFn:
        """The generator's penalty alone, times the number of rounds that it stands for."""
        game, start = self.game, own_state(state, "generator")

        def loss_of(params: Params, total: PyTree, rng: Key, batch: Batch) -> tuple[Array, Aux]:
            penalty, new = game.generator_penalty(params, start, child(rng, 2), batch)
            total = self._add(total, start, new, "generator_penalty")
            weight = float(len(images_of(batch)))
            return game.generator_penalty_every * _mean(penalty), Aux(weight, {}, total)

        return loss_of

    def look(self, state: TrainState, rng: Key, batch: Batch) -> Callable[[Array], Array]:
        """The critic of the generator's turn: images [B, ...] -> logits, parameters constant."""
        rival, rival_state = self._rival(state, "discriminator")
        own = child(rng, 1)
        return lambda x: self.game.discriminate(rival, rival_state, own, x, batch)[0]

    def check_split(self, state: TrainState, batch: Batch, rng_per_example: bool) -> None:
        """Raises ValueError if a network or a penalty mixes the examples that are split."""
        game, real = self.game, images_of(batch)
        rng = jax.random.key(0)
        rngs = jax.random.split(rng, len(real)) if rng_per_example else rng
        params, own = state.params, lambda player: own_state(state, player)
        of_draws = {
            "generate": lambda rng: game.generate(
                params["generator"], own("generator"), rng, batch
            )[0]
        }
        if game.generator_penalty is not None:
            of_draws["generator_penalty"] = lambda rng: jnp.broadcast_to(
                game.generator_penalty(params["generator"], own("generator"), rng, batch)[0],
                (len(real),),
            )
        look = lambda x: game.discriminate(
            params["discriminator"], own("discriminator"), rngs, x, batch
        )[0]
        what = f"accumulate={self.accumulate}"
        mixing.refuse(look, real, "discriminate", what)
        for name, function in of_draws.items():
            if rng_per_example:
                mixing.refuse(function, rngs, name, what)
            else:
                mixing.refuse(lambda _, f=function: f(rng), real, name, what, draws=True)

    def _images(self, state: TrainState, rng: Key, batch: Batch) -> tuple[Array, Array]:
        """Data and samples of the rival, of one shape."""
        real = images_of(batch)
        params, model_state = self._rival(state, "generator")
        fake, _ = self.game.generate(params, model_state, child(rng, 0), batch)
        if fake.shape != real.shape:
            raise ValueError(f"generate gives {fake.shape} beside data {real.shape}: expected same")
        return real, jax.lax.stop_gradient(fake)

    def _rival(self, state: TrainState, player: str) -> tuple[Params, ModelState]:
        return _cast(state.params[player], self.compute_dtype), own_state(state, player)

    def _add(self, total: PyTree, start: PyTree, new: PyTree, name: str) -> PyTree:
        """The running sum with the share of one microbatch; what is not floating is the new one."""
        if jax.tree.structure(new) != jax.tree.structure(start):
            raise ValueError(
                f"{name} gives the model state {outline(new)}: expected the structure of "
                f"{outline(start)}, which the state has"
            )
        add = lambda old, leaf: old + leaf / self.accumulate if _floating(leaf) else leaf
        return jax.tree.map(add, total, new)


def no_share(tree: PyTree) -> PyTree:
    """Where the running sum of a turn starts: zeros, and what is not floating as it is."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if _floating(leaf) else leaf, tree)


def own_state(state: TrainState, player: str) -> ModelState:
    """The player's entry of the model state, an empty dict where it has none."""
    return state.model_state.get(player, {})


def check_loss(loss: Loss, accumulate: int) -> None:
    """Raises ValueError for a loss that is no mean over pairs of logits."""
    draw = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    pairs = [draw[:, i : i + 1] for i in range(4)]
    with jax.ensure_compile_time_eval():
        for player in (loss.discriminator, loss.generator):
            parts = np.mean([np.asarray(player(*map(jnp.asarray, pair))) for pair in pairs])
            whole = np.asarray(player(*map(jnp.asarray, draw)))
            if not np.isclose(parts, whole, rtol=1e-4, atol=1e-6):
                raise ValueError(
                    f"the loss mixes pairs of examples: its parts give {parts:.6g}, the whole "
                    f"{whole:.6g}, so accumulate={accumulate} is not the whole batch"
                )


def images_of(batch: Batch) -> Array:
    """The images of a batch: itself, or its entry "images"."""
    return batch["images"] if isinstance(batch, Mapping) else batch


def latents(rng: Key, num: int, size: int, dtype: Any = None) -> Array:
    """z ~ N(0, 1), [num, size], from one key or from one an example [num]."""
    draw = jax.vmap(lambda key: jax.random.normal(key, (size,), dtype))
    return draw(penalties.each_key(rng, num))


def outline(tree: PyTree) -> str:
    """The structure of a tree in words, for an error line."""
    return str(jax.tree.structure(tree)).removeprefix("PyTreeDef")


def child(rng: Key, index: int) -> Key:
    """One child of a key, or of each example's: 0 is the generator's, 1 the critic's in a turn."""
    fold = lambda key: jax.random.fold_in(key, index)
    return jax.vmap(fold)(rng) if rng.ndim else fold(rng)


def _mean(values: Array) -> Array:
    return jnp.mean(values, dtype=at_least_float32(values))


def _floating(leaf: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    if dtype is None:
        return tree
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if _floating(leaf) else leaf, tree)
