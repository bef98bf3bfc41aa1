"""Our sides of `speed.generative`: functions that make several updates."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import sharding
from library.train_step import init_state, make_train_step
from library.types import Array, Aux
from research.gan import dcgan as networks
from research.gan import losses, training
from research.vae import bounds
from research.vae.networks import Perceptron

LATENT = 100  # of DCGAN


def vae(batch_size: int, num_steps: int) -> Callable[[], Array]:
    """Updates of the IWAE paper's network on the bound of one draw, by Adam."""
    model = Perceptron((28, 28, 1))
    x = np.random.default_rng(0).integers(0, 2, (batch_size, 28, 28, 1)).astype(bool)

    def loss(params, model_state, rng, batch):
        keys = jax.random.split(rng, len(batch["x"]))
        terms = model.apply({"params": params}, batch["x"], keys, method="terms")
        return -bounds.average(terms.elbo[0]), Aux(weight=float(len(batch["x"])))

    optimizer = optax.adam(1e-3)
    init = lambda rng: model.init(rng, x, jax.random.split(rng, len(x)), method="terms")["params"]
    state = init_state(jax.jit(init)(jax.random.key(0)), optimizer, jax.random.key(1))
    step = sharding.compile_step(
        make_train_step(loss, optimizer), state, sharding.make_mesh({"data": 1})
    )
    holder, batches = [step.place_state(state)], {"x": np.stack([x] * num_steps)}

    def update() -> Array:
        holder[0], metrics = step.many(holder[0], batches)
        return metrics["loss"]

    return update


def dcgan(batch_size: int, num_steps: int, resolution: int, width: int) -> dict[str, Callable]:
    """Rounds of DCGAN in one call each, and the same rounds as two calls each."""
    generator = networks.Generator(resolution, width)
    critic = networks.Discriminator(resolution, width)
    params, model_state = networks.init(generator, critic, jax.random.key(0), LATENT)
    players = networks.players(generator, critic, LATENT)
    optimizer = optax.adam(2e-4, b1=0.5)
    optimizers = training.Optimizers(optimizer, optimizer)
    start = lambda: training.init_state(params, optimizers, jax.random.key(1), model_state)
    shape = (batch_size, resolution, resolution, 3)
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))
    step = training.make_round(losses.non_saturating, *players, optimizer, optimizer)
    step, holder = jax.jit(step, donate_argnums=0), [jax.tree.map(jnp.copy, start())]

    def update() -> Array:
        for _ in range(num_steps):
            holder[0], metrics = step(holder[0], images)
        return metrics["generator_loss"]

    return {"ours": update, "halves": _by_hand(players, optimizer, start(), images, num_steps)}


def _by_hand(players, optimizer, state, images: Array, num_steps: int) -> Callable[[], Array]:
    """The same round as two jitted functions, as a researcher would write it."""
    generate, discriminate = players

    def critic_loss(params, generator, g_state, d_state, rng):
        fake, _ = generate(generator, g_state, rng, images)
        real, new = discriminate(params, d_state, rng, images, images)
        fake, _ = discriminate(params, d_state, rng, jax.lax.stop_gradient(fake), images)
        return losses.non_saturating.discriminator(real, fake), new

    def generator_loss(params, critic, g_state, d_state, rng):
        fake, new = generate(params, g_state, rng, images)
        logits, _ = discriminate(critic, d_state, rng, fake, images)
        return losses.non_saturating.generator(logits, logits), new

    def updated(loss, params, opt_state, *others):
        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params, *others)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, new, value

    turns = {"discriminator": critic_loss, "generator": generator_loss}
    rivals = {"discriminator": "generator", "generator": "discriminator"}
    half = {
        name: jax.jit(lambda *args, loss=loss: updated(loss, *args), donate_argnums=(0, 1))
        for name, loss in turns.items()
    }
    held = jax.tree.map(jnp.copy, (state.params, state.opt_state, state.model_state))
    count = [0]

    def update() -> Array:
        params, opt_state, model_state = held
        for _ in range(num_steps):
            count[0] += 1
            for name in turns:
                rng = jax.random.fold_in(state.rng, count[0])
                params[name], opt_state[name], model_state[name], loss = half[name](
                    params[name], opt_state[name], params[rivals[name]],
                    model_state["generator"], model_state["discriminator"], rng,
                )  # fmt: skip
        return loss

    return update
