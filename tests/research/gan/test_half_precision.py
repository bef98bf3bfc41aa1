"""Losses, penalties, norms and augmentations in half precision: far logits, long sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.gan import augment, dcgan, games, losses, patches, penalties, spectral
from tests import half_precision

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
normal = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)

REAL, FAKE = 30 * normal(2, 4096)  # bfloat16 counts to 256
IMAGES, OTHERS = normal(2, 3, 48, 32, 3)  # 4,608 values
PIXELS = jnp.clip(IMAGES[0] / 3, -1, 1)
MATRIX = normal(300, 40)
VECTOR = spectral.init(KEY, (300, 40))
WEIGHT = normal(48, 32, 3) / 70
slope = lambda x: jnp.einsum("bhwc,hwc->b", x, WEIGHT.astype(x.dtype))
curved = lambda x: jnp.square(x.astype(jnp.float32)).sum((1, 2, 3)) / 2


def both(name):
    loss = getattr(losses, name)
    return lambda: (lambda *x: (loss.discriminator(*x), loss.generator(*x)), (REAL, FAKE))


def path_length(w):
    """A network that computes in float32: what is left are lengths, their mean, differences."""
    synthesize = lambda w: jnp.broadcast_to(
        jnp.square(w.astype(jnp.float32)).sum(1)[:, None, None], (2, 64, 72, 3)
    )
    return penalties.path_length(synthesize, w, KEY, 0.0)


def controlled(logits):
    controller = augment.Controller(4096)
    control = controller.observe(controller.init(), logits)
    return control.total


def changed(change):
    return lambda: (lambda x: change(jax.random.key(3), x), (PIXELS,))


CASES = {
    **{f"losses.{name}": both(name) for name in (
        "minimax", "non_saturating", "hinge", "wasserstein", "least_squares", "relativistic"
    )},
    "penalties.r1": lambda: (lambda x: penalties.r1(curved, x), (IMAGES,)),
    "penalties.r2": lambda: (lambda x: penalties.r2(slope, x), (IMAGES,)),
    "penalties.gradient_penalty": lambda: (
        lambda x, y: penalties.gradient_penalty(curved, x, y, KEY, 20.0), (IMAGES, OTHERS),
    ),
    "penalties.orthogonal": lambda: (lambda w: penalties.orthogonal({"kernel": w}), (MATRIX,)),
    "penalties.path_length": lambda: (path_length, (normal(2, 5, 3),)),
    "spectral.norm": lambda: (lambda m: spectral.norm(m, VECTOR, 3), (MATRIX,)),
    "games.Game.penalty": lambda: (
        games.Game(losses.hinge, None, None, r1=0.3, r2=0.2).penalty,
        (curved, IMAGES, OTHERS, KEY),
    ),
    "augment.brightness": changed(augment.brightness),
    "augment.saturation": changed(augment.saturation),
    "augment.contrast": changed(augment.contrast),
    "augment.diff_augment": changed(augment.translate()),
    "augment.cut_out": changed(augment.cut_out()),
    "augment.adaptive": changed(augment.adaptive(1.0, geometry=False, colour=False)),
    "augment.adaptive, colour": changed(augment.adaptive(1.0, False, False)),
    "augment.Controller": lambda: (controlled, (REAL,)),
    "patches.OnPatches": lambda: (
        lambda *x: [
            (loss.discriminator(*x), loss.generator(*x))
            for loss in (patches.OnPatches(losses.hinge), patches.OnPatches(losses.relativistic))
        ],
        (REAL.reshape(4, 32, 32), FAKE.reshape(4, 32, 32)),
    ),
    "dcgan.Discriminator": lambda: (critic, (IMAGES[:, :16, :16],)),
}  # fmt: skip


def critic(x):
    """The last sum alone is a claim: layers compute in the dtype of the images."""
    module = dcgan.Discriminator(16, 4, batch_norm=False)
    logits = module.apply(module.init(KEY, jnp.float32(x)), x)
    assert logits.dtype == jnp.float32
    return logits


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])
