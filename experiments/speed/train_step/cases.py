"""What `speed.train_step` trains: a small perceptron and a U-Net, and the update by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import testing
from library.types import Aux, Batch, LossFn, Params, TrainState
from research.diffusion import unet


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its data and a learning problem."""

    loss_fn: LossFn
    params: Params
    batch: Batch
    num_steps: int
    rounds: int


def mlp(num_layers: int, num_steps: int, rounds: int) -> Case:
    """Regression with layers of width 32."""
    params = testing.mlp_init(jax.random.key(0), (32,) * num_layers + (1,))

    def loss_fn(params, model_state, rng, batch):
        error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"]
        return (error**2).mean(), Aux(batch["y"].size)

    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(16, 32)), "y": rng.normal(size=16)}
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), batch)
    return Case(loss_fn, params, batch, num_steps, rounds)


def small_unet(
    channels: Sequence[int], num_blocks: int, batch_size: int, num_steps: int, rounds: int
) -> Case:
    """Noise prediction on 32x32 colour images."""
    model = unet.UNet(
        out_channels=3,
        channels=channels,
        num_blocks=num_blocks,
        attention_sizes=(16,),
        head_dim=min(32, channels[-1]),
    )
    rng = np.random.default_rng(0)
    normal = lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape).astype(np.float32))
    x = normal(np.empty((batch_size, 32, 32, 3)))
    t = jnp.asarray(np.linspace(0.1, 0.9, batch_size, dtype=np.float32))
    # No time depends on the values, and `init` compiles for longer than all of them are drawn.
    params = jax.tree.map(normal, jax.eval_shape(model.init, jax.random.key(0), x, t))

    def loss_fn(params, model_state, rng, batch):
        noise = jax.random.normal(rng, batch["x"].shape)
        error = model.apply(params, batch["x"] + noise, batch["t"]) - noise
        return (error**2).mean(), Aux(batch["t"].size)

    return Case(loss_fn, params, {"x": x, "t": t}, num_steps, rounds)


def by_hand(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> Callable:
    """The update as one would write it for this case alone: no weights, no options."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        rng = jax.random.fold_in(state.rng, state.step)
        loss, grads = jax.value_and_grad(lambda params: loss_fn(params, {}, rng, batch)[0])(
            state.params
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = jax.tree.map(lambda old, new: 0.999 * old + 0.001 * new, state.ema, params)
        state = TrainState(state.step + 1, params, opt_state, {}, state.rng, ema)
        return state, {"loss": loss, "grad_norm": optax.tree.norm(grads)}

    return jax.jit(step, donate_argnums=0)
