"""The study of masked autoencoders: its encoder, its baseline, its pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.self_supervised import _labels, _mae, mae
from research.self_supervised import probes
from research.vision import patches

CONFIG = mae.PRESETS["smoke"]
RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.uniform(size=(count, 28, 28, 1)).astype(np.float32) for count in (6, 4))


@pytest.fixture(scope="module")
def variables():
    return _mae.fresh(mae.network(CONFIG, 0.75), 0)


def test_the_network_has_the_config_s_sizes():
    model = mae.network(mae.Config(normalise=True), 0.9)
    assert (model.image_size, model.channels, model.patch) == ((28, 28), 1, 7)
    assert (model.width, model.depth, model.decoder_width, model.decoder_depth) == (64, 3, 32, 1)
    assert (model.ratio, model.normalise) == (0.9, True)
    assert not mae.network(CONFIG, 0.5).normalise


def test_the_part_is_the_mean_over_patches_of_the_encoder_alone(variables):
    model = mae.network(CONFIG, 0.75)
    part, encoder = _mae.part(model), _mae.of(variables)
    shapes = jax.eval_shape(part.init, jax.random.key(0), TEST[:1])
    assert jax.tree.map(jnp.shape, encoder) == jax.tree.map(jnp.shape, shapes)
    found, stats = jax.jit(lambda x: part.apply(*encoder, x, True, None))(TEST)
    tokens = np.asarray(jax.jit(model.features)(variables, TEST))
    np.testing.assert_allclose(found, tokens[:, 1:].mean(1), rtol=1e-5, atol=1e-6)
    assert jax.tree.all(jax.tree.map(np.array_equal, stats, encoder[1]))


@pytest.mark.parametrize("normalise", [False, True])
def test_errors_and_pictures_by_numpy(variables, normalise):
    """Visible patches are their own, hidden ones grey, then predicted; in true units, if normal."""
    model = mae.network(mae.dataclasses.replace(CONFIG, normalise=normalise), 0.75)
    found = _mae.rebuilt(model, variables, TRAIN, TEST, 3)
    keys = jax.random.split(jax.random.key(3), 4)
    made = jax.jit(model.reconstruct)(variables, TEST, keys)
    hidden, prediction = np.asarray(made.mask) == 1, np.asarray(made.prediction)
    pixels, learnt = (patches.to_patches(x.astype(np.float64), 7) for x in (TEST, TRAIN))
    target, mean = pixels, learnt.mean(0)
    if normalise:
        scaled = lambda x: (
            (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)
        )
        target, mean = scaled(pixels), scaled(learnt).mean(0)
        spread = np.sqrt(pixels.var(-1, ddof=1, keepdims=True) + 1e-6)
        prediction = prediction * spread + pixels.mean(-1, keepdims=True)
        error = np.square(np.asarray(made.prediction) - target)[hidden].mean()
    else:
        error = np.square(prediction - target)[hidden].mean()
    np.testing.assert_allclose(found.error, error, rtol=1e-5)
    np.testing.assert_allclose(found.mean_error, np.square(target - mean)[hidden].mean(), rtol=1e-5)
    back = lambda x: patches.from_patches(x, (28, 28, 1), 7)
    grey = np.where(hidden[..., None], 0.5, pixels)
    np.testing.assert_allclose(found.masked, back(grey), rtol=1e-6)
    whole = np.where(hidden[..., None], prediction, pixels)
    np.testing.assert_allclose(found.pictures, back(whole), rtol=1e-4, atol=1e-5)


def test_the_title_says_that_normalised_pictures_leak():
    shown = {0.75: _mae.Rebuilt(0.0, 0.0, TEST, TEST)}
    told = [
        mae._draw(mae.Config(normalise=normal), TEST, shown).texts[0].get_text()
        for normal in (False, True)
    ]
    assert "leak" not in told[0] and "leak" in told[1]


def test_training_moves_all_but_the_tables(variables):
    model = mae.network(CONFIG, 0.75)
    ended = _mae.pretrained(model, variables, TRAIN, 2, 4, 1e-3, 0)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), ended, variables)
    assert jax.tree.all(moved["params"]) and not jax.tree.all(moved["tables"])
    assert not any(jax.tree.leaves(moved["tables"]))


def test_claims_need_their_shares():
    with pytest.raises(ValueError, match=r"ratios=\(0.5,\): expected 0.25 and 0.75 among them"):
        mae.run(mae.Config(ratios=(0.5,)), None)


def test_an_encoder_is_judged_by_draws_of_labels_in_one_program(variables):
    """Fine-tuned as by the study's own loop, a draw at a time; "rest" are others than labelled."""
    part, encoder = _mae.part(mae.network(CONFIG, 0.75)), _mae.of(variables)
    rng = np.random.default_rng(1)
    labels = np.arange(24, dtype=np.int32) % 3
    images = (rng.uniform(size=(24, 28, 28, 1)) + labels[:, None, None, None]).astype(np.float32)
    train, test = (images[:12], labels[:12]), (images[12:], labels[12:])
    judge = _mae.Judge(part, train, test, range(5, 7), 2, 10, 3e-3, batch_size=4)
    found = judge(encoder)
    assert found["rest"].shape == found["tuned"].shape == (2,)
    rows = _labels.few(labels[:12], 2, 6)
    rest = np.setdiff1d(np.arange(12), rows)
    expected = _labels.finetuned(
        part, encoder, (images[rows], labels[rows]), [(images[rest], labels[rest]), test],
        num_steps=10, learning_rate=3e-3, batch_size=4, seed=6,
    )  # fmt: skip
    np.testing.assert_allclose([found["rest"][1], found["tuned"][1]], expected, atol=1e-6)
    embed = lambda x: np.asarray(part.apply(*encoder, x, False, None)[0])
    sets = embed(images[:12]), labels[:12], embed(images[12:]), labels[12:]
    assert found["linear"] == probes.linear(*sets, l2=1e-4).accuracy
    assert found["knn"] == probes.knn(*sets, k=20).accuracy


def test_blocks_are_filled_up_and_cut():
    x = np.arange(7.0)[:, None]
    sizes = []
    apply = lambda part: (sizes.append(len(part)), 2 * part)[1]
    np.testing.assert_array_equal(_mae.by_block(apply, x, 3), 2 * x)
    assert sizes == [3, 3, 3]
