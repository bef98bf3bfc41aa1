"""One small masked regression that the tests of every placement share."""

import jax
import jax.numpy as jnp
import optax

from library import testing
from library.train_step import init_state, make_train_step
from library.types import Aux

SIZES = (4, 64, 64, 1)  # 64 x 64 is large enough for FSDP to split at its default size


def loss_fn(params, model_state, rng, batch):
    """Masked squared error with per-example noise on the target."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (), batch["y"].dtype))(rng)
    error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"] - 0.1 * noise
    weight = batch["mask"].sum()
    loss = (batch["mask"] * error**2).sum() / weight
    return loss, Aux(weight, {"noise": (batch["mask"] * noise).sum() / weight})


def optimizer():
    """Adam for states that the tests compare after several steps."""
    return optax.adam(1e-2)


def make_step(axis_name=None, accumulate=1, optimizer=optimizer()):
    return make_train_step(
        loss_fn,
        optimizer,
        accumulate=accumulate,
        ema_decay=0.9,
        rng_per_example=True,
        axis_name=axis_name,
    )


def make_state(optimizer=optimizer()):
    params = testing.mlp_init(jax.random.key(1), SIZES)
    return init_state(params, optimizer, jax.random.key(2), ema=True)


def batch_at(step, batch_size=8):
    """Batch of update `step`, with masks that fall unequally on halves and strides."""
    x_rng, y_rng = jax.random.split(jax.random.fold_in(jax.random.key(3), step))
    return {
        "x": jax.random.normal(x_rng, (batch_size, SIZES[0])),
        "y": jax.random.normal(y_rng, (batch_size,)),
        "mask": jnp.asarray((jnp.arange(batch_size) + step) % 3 != 0, jnp.result_type(float)),
    }
