"""Losses, averages, queues and heads in half precision: long sums, cold softmaxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.self_supervised import (
    heads,
    losses,
    masking,
    positions,
    queues,
    teachers,
    views,
)
from research.vision import augmentation
from tests import half_precision

RNG = np.random.default_rng(0)
normal = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)  # noqa: E731

PAIR = (normal(300, 48), normal(300, 48))  # bfloat16 counts to 256
VIEWS, TARGETS = normal(2, 300, 48), normal(2, 300, 48)
LABELS = jnp.arange(300) % 7
LOGITS, TEACHER, CENTRE = 3 * normal(3, 40, 600), 3 * normal(2, 40, 600), normal(600)
PROBABILITIES = jax.nn.softmax(TEACHER, axis=-1)
QUEUE = queues.init(jax.random.key(0), 300, 48)
PROTOTYPES = heads.Prototypes(300, hidden=(), bottleneck=48)
WEIGHTS = jax.eval_shape(PROTOTYPES.init, jax.random.key(2), PAIR[0])
WEIGHTS = jax.tree.map(lambda leaf: normal(*leaf.shape), WEIGHTS)
WEIGHTS["params"]["bottleneck"] = {"kernel": jnp.eye(48), "bias": jnp.zeros(48)}


def teacher_in_float32(student):
    """What is followed is in float32, the student in any format."""
    return teachers.follow({"w": PAIR[1]}, {"w": student}, 0.9)


CASES = {
    "losses.nt_xent": lambda: (losses.nt_xent, PAIR),
    "losses.sup_con": lambda: (lambda z: losses.sup_con(z, LABELS), (VIEWS,)),
    "losses.info_nce": lambda: (losses.info_nce, (*PAIR, QUEUE.keys)),
    "losses.moco_v3": lambda: (losses.moco_v3, (VIEWS, TARGETS)),
    "losses.spectral": lambda: (losses.spectral, PAIR),
    "losses.byol": lambda: (losses.byol, PAIR),
    "losses.simsiam": lambda: (losses.simsiam, (VIEWS, TARGETS)),
    "losses.barlow_twins": lambda: (losses.barlow_twins, PAIR),
    "losses.vicreg": lambda: (losses.vicreg, PAIR),
    "losses.dino": lambda: (losses.dino, (LOGITS, TEACHER, CENTRE)),
    "losses.view_cross_entropy": lambda: (losses.view_cross_entropy, (LOGITS, PROBABILITIES)),
    "losses.sinkhorn": lambda: (losses.sinkhorn, (TEACHER[0],)),
    "losses.koleo": lambda: (losses.koleo, PAIR[:1]),
    "masking.reconstruction_loss": lambda: (
        lambda p, x: masking.reconstruction_loss(p, x, jnp.arange(600).reshape(2, 300) % 3),
        (VIEWS, TARGETS),
    ),
    "masking.with_own_scale": lambda: (masking.with_own_scale, (VIEWS, 1 + TARGETS)),
    "queues.push": lambda: (lambda keys: queues.push(QUEUE, keys), PAIR[:1]),
    "teachers.follow": lambda: (teacher_in_float32, PAIR[:1]),
    "teachers.centre": lambda: (lambda t: teachers.centre(CENTRE, t), (TEACHER,)),
    "heads.Prototypes": lambda: (functools.partial(PROTOTYPES.apply, WEIGHTS), PAIR[:1]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    function, args = CASES[name]()
    half_precision.check(lambda: (jax.jit(function), args))
    found = jax.eval_shape(function, *half_precision.cast(args, jnp.bfloat16))
    floats = [x.dtype for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype("float32")}


IMAGES = jnp.asarray(RNG.uniform(size=(2, 8, 8, 3)), jnp.float32)
BLURRED = augmentation.chain(augmentation.gaussian_blur(3), augmentation.random_solarise(1.0))
KEEPING = {  # the type of what they are given
    "positions.interpolate": lambda: (
        lambda table: positions.interpolate(table, (4, 4), (3, 6)), (normal(1, 17, 5),),
    ),
    "views.repeat": lambda: (
        lambda images: views.repeat(BLURRED)(jax.random.split(jax.random.key(1), 2), images),
        (IMAGES,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEEPING)
def test_half_precision_is_kept(name):
    function, args = KEEPING[name]()
    half_precision.check(lambda: (jax.jit(function), args))
    found = jax.eval_shape(function, *half_precision.cast(args, jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
