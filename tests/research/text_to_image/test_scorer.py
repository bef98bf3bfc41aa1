"""The contrastive loss and scores in NumPy; what it refuses; the order that it finds."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import train_step, training
from research.text_to_image import scorer
from tests.research.text_to_image import cases

KEY = jax.random.key(0)
MODEL = scorer.Model(cases.encoder(projection_dim=6), scorer.ImageEncoder(2, 6, depth=2))
TOKENS = cases.tokenizer().encode(["a red square", "sun", "b", "a tile"])
IMAGES = cases.wave(4, 8, 8, 3, rate=0.37)


def _log_softmax(logits, axis):
    shifted = logits - logits.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def _info_nce(logits):
    both = _log_softmax(logits, 0) + _log_softmax(logits, 1)
    return -np.diag(both).mean() / 2


def test_info_nce_in_numpy_and_at_equal_logits(x64):
    logits = 5 * cases.wave(7, 7, rate=2.1)
    assert float(scorer.info_nce(jnp.asarray(logits))) == pytest.approx(
        _info_nce(logits), rel=1e-12
    )
    for num in (1, 2, 9):
        even = float(scorer.info_nce(jnp.full((num, num), 3.0)))
        assert even == pytest.approx(math.log(num), rel=1e-12, abs=1e-14)
    # a mean over pairs, of both ways
    uneven = jnp.array([[0.0, 1.0], [0.0, 0.0]])
    a = math.log(1 + math.e)
    assert float(scorer.info_nce(uneven)) == pytest.approx((a + math.log(2)) / 2, rel=1e-12)


@dataclasses.dataclass(frozen=True)
class _Linear:
    """Stands for an encoder: a sum over all but the last axis, then a matrix."""

    text: bool
    projection_dim = 6

    def apply(self, params, x):
        out = jnp.einsum("...c,cd->...d", x.reshape(len(x), -1, 3).sum(1) + 0.0, params)
        return (None, out) if self.text else out


PAIR = scorer.Model(_Linear(True), _Linear(False))


def _parameters(log_scale):
    matrix = lambda rate: jnp.asarray(cases.wave(3, 6, rate=rate))
    return {"text": matrix(0.7), "image": matrix(1.9), "log_scale": jnp.asarray(log_scale)}


def _features(params):
    """Of texts and images, of length 1, in NumPy."""
    of_text = TOKENS.reshape(4, -1, 3).sum(1) @ np.asarray(params["text"])
    of_image = IMAGES.reshape(4, -1, 3).sum(1) @ np.asarray(params["image"])
    return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (of_text, of_image)]


@pytest.mark.parametrize(("log_scale", "scale"), [(1.5, math.exp(1.5)), (9.0, 100.0)])
def test_loss_by_hand_and_the_cap_of_its_temperature(x64, log_scale, scale):
    params = _parameters(log_scale)
    batch = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(TOKENS)}
    loss_fn = jax.value_and_grad(scorer.loss(PAIR), has_aux=True)
    (value, aux), grads = loss_fn(params, {}, KEY, batch)
    of_text, of_image = _features(params)
    logits = scale * of_image @ of_text.T
    assert float(value) == pytest.approx(_info_nce(logits), rel=1e-9)
    assert float(aux.metrics["accuracy"]) == np.mean(logits.argmax(1) == np.arange(4))
    assert float(aux.weight) == 4
    # d/d log scale, zero beyond the cap
    step = 1e-6
    slope = (_info_nce(logits * math.exp(step)) - _info_nce(logits * math.exp(-step))) / (2 * step)
    expected = slope if scale < 100 else 0.0
    assert float(grads["log_scale"]) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    # the order of the batch changes nothing
    turned = jax.tree.map(lambda leaf: leaf[::-1], batch)
    assert float(scorer.loss(PAIR)(params, {}, KEY, turned)[0]) == pytest.approx(float(value))


def test_scores_and_ranks(x64):
    params = _parameters(0.0)
    groups = np.stack([IMAGES, -IMAGES, IMAGES[::-1]], 1)  # [4, 3, 8, 8, 3]
    of_text, of_image = _features(params)
    own = (of_text * of_image).sum(1)
    expected = np.stack([own, -own, (of_text * of_image[::-1]).sum(1)], 1)
    args = (PAIR, params, jnp.asarray(TOKENS), jnp.asarray(groups))
    np.testing.assert_allclose(scorer.scores(*args), expected, rtol=1e-9)
    np.testing.assert_array_equal(scorer.rank(*args), np.argsort(-expected, 1, kind="stable"))


def test_it_learns_which_text_an_image_has():
    batch = {"image": np.float32(IMAGES), "label": TOKENS}
    made = scorer.init(MODEL, KEY, TOKENS, np.float32(IMAGES))
    assert float(made["log_scale"]) == pytest.approx(math.log(1 / 0.07), rel=1e-6)
    shapes = jax.eval_shape(MODEL.image.apply, made["image"], batch["image"])
    assert shapes.shape == (4, 6)
    params = training.quick(
        scorer.loss(MODEL), optax.adam(1e-2), lambda rng: made, lambda step: batch,
        num_steps=60, rng=KEY,
    )  # fmt: skip
    groups = jnp.asarray(np.broadcast_to(batch["image"], (4, *IMAGES.shape)))
    best = scorer.rank(MODEL, params, TOKENS, groups)[:, 0]
    np.testing.assert_array_equal(best, np.arange(4))


def test_the_step_is_the_shared_one():
    params = jax.tree.map(jnp.float32, _parameters(1.5))
    batch = {"image": jnp.float32(IMAGES), "label": jnp.asarray(TOKENS)}
    made = train_step.init_state(params, optax.sgd(0.1), KEY)
    steps = [
        make(scorer.loss(PAIR), optax.sgd(0.1))
        for make in (scorer.make_step, train_step.make_train_step)
    ]
    ours, theirs = (step(made, batch)[0].params for step in steps)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _step(accumulate=2), "accumulate=2: the loss tells the examples of a batch apart"),
        (lambda: _step(axis_name="data"), "axis_name=data: the loss tells the examples of a batch"),
        (lambda: scorer.info_nce(jnp.zeros((2, 3))), r"logits \[2, 3\]: expected \[N, N\]"),
        (lambda: scorer.scores(PAIR, {}, TOKENS, IMAGES), r"\[4, 8, 8, 3\]: expected \[4, k, H, W"),
        (lambda: scorer.scores(PAIR, {}, TOKENS, IMAGES[None]), r"\[1, 4, 8, 8, 3\]: expected \[4"),
        (lambda: scorer.Model(cases.encoder(), MODEL.image), "without projection_dim: expected"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _step(**options):
    return scorer.make_step(scorer.loss(PAIR), optax.sgd(0.1), **options)
