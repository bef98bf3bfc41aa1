"""One small game that the tests of rounds share, and the same round written out by hand.

Images are [4, 4, 1]. The generator carries a running mean of what it draws, the critic the vector
of a spectral norm; both are conditioned on labels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from research.gan import games, spectral

LATENT = 3


def generate(params, model_state, rng, batch):
    num = len(batch["labels"])
    z = games.latents(rng, num, LATENT, params["out"].dtype)
    w = jnp.tanh(jnp.einsum("bz,zw->bw", z, params["map"]) + params["labels"][batch["labels"]])
    images = jnp.einsum("bw,whc->bhc", w, params["out"])
    new = {"mean": 0.9 * model_state["mean"] + 0.1 * w.mean(0), "count": model_state["count"] + 1}
    return images[..., None], new


def discriminate(params, model_state, rng, images, batch):
    noise = jax.vmap(lambda key: jax.random.uniform(key, (), images.dtype))(
        rng if rng.ndim else jax.random.split(rng, len(images))
    )
    sigma, u = spectral.norm(params["in"], model_state["u"])
    flat = images.reshape(len(images), -1) + 0.1 * noise[:, None]
    h = jnp.tanh(jnp.einsum("bi,ih->bh", flat, params["in"] / sigma))
    table = params["labels"][batch["labels"]]
    return jnp.einsum("bh,bh->b", h, table + params["out"][None]), {"u": u}


def generator_penalty(params, model_state, rng, batch):
    """Squared latents' effect: a penalty that draws, and changes what is its own."""
    z = games.latents(rng, len(batch["labels"]), LATENT, params["map"].dtype)
    lengths = jnp.square(jnp.einsum("bz,zw->bw", z, params["map"])).sum(1)
    return 0.3 * lengths, {**model_state, "count": model_state["count"] + 10}


def params(dtype=None):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2, dtype or jnp.result_type(float))
    return {
        "generator": {"map": normal(3, 5), "labels": normal(2, 5), "out": normal(5, 4, 4)},
        "discriminator": {"in": normal(16, 6), "labels": normal(2, 6), "out": normal(6)},
    }


def model_state(dtype=None):
    dtype = dtype or jnp.result_type(float)
    u = spectral.init(jax.random.key(4), (16, 6), dtype)
    mean = jnp.zeros(5, dtype)
    return {"generator": {"mean": mean, "count": jnp.zeros((), int)}, "discriminator": {"u": u}}


def batch_at(step, batch_size=8):
    rng = np.random.default_rng(step)
    images = rng.normal(size=(batch_size, 4, 4, 1)) + 0.5
    labels = rng.integers(0, 2, batch_size)
    return {"images": np.asarray(images, jnp.result_type(float)), "labels": labels}


def by_hand(loss, state, batch, *, rate_g, rate_d, steps=1, r1=0.0, r2=0.0, extra=None):
    """A round by plain gradient steps, keys one an example; returns params and model state.

    Args:
        extra: (critic, real, fake, keys) -> [B], a further penalty of the critic.
    """
    params, own = dict(state.params), dict(state.model_state)

    def keys(turn, num):
        root = jax.random.fold_in(jax.random.fold_in(state.rng, turn), state.step)
        slots = jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.arange(num))
        return [jax.vmap(jax.random.fold_in, (0, None))(slots, child) for child in range(3)]

    def part(j):
        return {name: leaf[j::steps] for name, leaf in batch.items()}

    def critic_loss(critic_params, turn, share):
        first, second, third = keys(turn, len(share["labels"]))
        fake, _ = generate(params["generator"], own["generator"], first, share)
        look = lambda x: discriminate(critic_params, own["discriminator"], second, x, share)[0]
        value = loss.discriminator(look(share["images"]), look(fake))
        slopes = lambda x: jax.vmap(jnp.sum)(jax.grad(lambda x: look(x).sum())(x) ** 2)
        value += r1 / 2 * slopes(share["images"]).mean() + r2 / 2 * slopes(fake).mean()
        return value + (extra(look, share["images"], fake, third).mean() if extra else 0)

    for turn in range(steps):
        grads = jax.grad(critic_loss)(params["discriminator"], turn, part(turn))
        look = (part(turn)["images"], part(turn))
        second = keys(turn, len(look[0]))[1]
        _, moved = discriminate(params["discriminator"], own["discriminator"], second, *look)
        params["discriminator"] = jax.tree.map(
            lambda a, b: a - rate_d * b, params["discriminator"], grads
        )
        own["discriminator"] = moved

    def generator_loss(generator_params):
        share = part(0)
        first, second, _ = keys(steps + 1, len(share["labels"]))
        fake, new = generate(generator_params, own["generator"], first, share)
        look = lambda x: discriminate(
            params["discriminator"], own["discriminator"], second, x, share
        )[0]
        return loss.generator(look(share["images"]), look(fake)), new

    grads, own["generator"] = jax.grad(generator_loss, has_aux=True)(params["generator"])
    params["generator"] = jax.tree.map(lambda a, b: a - rate_g * b, params["generator"], grads)
    return params, own
