"""What image games are fed, judged by and shown as: closed forms, NumPy, and loops."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.gan import _images, _networks
from library import training
from research.gan import training as rounds
from research.sample_quality import frechet


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def test_levels_become_the_range_of_images():
    found = _images.to_range(np.array([0, 51, 255], np.uint8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [-1, -0.6, 1], rtol=1e-6)
    np.testing.assert_allclose(_images.to_range(np.array([0, 4, 16]), 16), [-1, -0.5, 1])


def test_shrunk_images_are_means_of_squares():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 2))
    assert _images.shrunk(images, 32) is images
    for size in (16, 8):
        side = 32 // size
        small = _images.shrunk(images, size)
        assert small.shape == (3, size, size, 2)
        for n, i, j, c in [(0, 0, 0, 0), (1, 3, 5, 1), (2, size - 1, 2, 0)]:
            square = images[n, side * i : side * (i + 1), side * j : side * (j + 1), c]
            assert small[n, i, j, c] == square.mean()


@pytest.mark.parametrize("size", [4, 12, 28, 64])
def test_sizes_that_halving_does_not_reach(size):
    with pytest.raises(ValueError, match=f"size={size}: expected 32 halved to no less than 8"):
        _images.shrunk(np.zeros((1, 32, 32, 1)), size)


@pytest.mark.parametrize("options, num", [((), 20), ((0.05,), 5), ((0.001,), 1)])
def test_held_out_images_are_a_random_share_without_repetition(options, num):
    images = np.arange(100.0)
    train, held_out = _images.split(images, 3, *options)
    assert len(held_out) == num and sorted([*train, *held_out]) == sorted(images)
    again, other = _images.split(images, 3, *options)[1], _images.split(images, 4, *options)[1]
    np.testing.assert_array_equal(again, held_out)
    assert set(other) != set(held_out) and set(held_out) != set(range(num))


def test_one_gaussian_has_the_moments_of_the_images_on_its_components():
    """4,000 draws: means within 4 standard errors, covariance within 10 %; nothing beside them."""
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    scales = np.array([0.1, 0.07, 0.05, 0.002, 0, 0, 0, 0])
    flat = 0.2 + np.random.default_rng(1).normal(size=(3000, 8)) * scales @ directions.T
    samples = _images.gaussian_mixture(
        flat.reshape(-1, 2, 4, 1), 4000, num_components=1, num_dims=3, seed=0
    )
    assert samples.shape == (4000, 2, 4, 1) and samples.dtype == np.float32
    along = (samples.reshape(-1, 8) - flat.mean(0)) @ directions
    assert (np.abs(along.mean(0))[:3] < 4 * scales[:3] / 4000**0.5).all()
    np.testing.assert_allclose(along.std(0)[:3], scales[:3], rtol=0.1)
    assert np.abs(along[:, 3:].mean(0)).max() < 0.002 and along[:, 4:].std(0).max() < 1e-3


def test_a_mixture_finds_what_one_gaussian_does_not_and_stays_in_range():
    modes = np.repeat([[-0.9, 0.9], [0.9, -0.9], [0.9, 0.9]], 200, 0)
    flat = modes + np.random.default_rng(0).normal(size=modes.shape) * 0.05
    draw = lambda num: _images.gaussian_mixture(
        flat.reshape(-1, 1, 2, 1), 900, num_components=num, num_dims=2, seed=1
    ).reshape(-1, 2)
    near = lambda x: (np.abs(x[:, None] - modes[::200][None]).max(-1) < 0.3).any(1).mean()
    assert near(draw(3)) > 0.99 > 0.6 > near(draw(1))
    assert np.abs(draw(3)).max() == 1  # clipped


def test_components_are_those_of_the_singular_values():
    train, other = random_images(30, 2, 3, 1), random_images(5, 2, 3, 1, seed=1)
    flat = train.reshape(30, -1)
    _, _, rows = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    expected = (other.reshape(5, -1) - flat.mean(0)) @ rows[:4].T
    found = _images.components(train, 4)(other)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-4, atol=1e-6)
    assert _images.components(train, 50)(other).shape == (5, 6)


def test_the_nearest_training_images():
    train = random_images(20, 2, 2, 1)
    np.testing.assert_array_equal(_images.nearest(train[[7, 3]] + 1e-3, train), train[[7, 3]])


def test_distances_are_taken_in_the_features_of_each_kind():
    features = lambda images: images.reshape(len(images), -1) ** 2
    held_out, near, far = (random_images(40, 1, 2, 1, seed=seed) for seed in range(3))
    found = _images.feature_fids(features, held_out, {"near": near, "far": far + 1})
    assert list(found) == ["near", "far"]
    exact = frechet.distance(features(far + 1), features(held_out))
    assert found["far"] == pytest.approx(exact) and found["near"] < found["far"]


def test_precision_is_of_samples_and_recall_of_held_out_images():
    """All samples lie near one of two clusters of held-out points: precise, half recalled."""
    features = lambda images: images
    rng = np.random.default_rng(0)
    held_out = np.concatenate([rng.normal(size=(50, 2)), rng.normal(size=(50, 2)) + 100])
    precision, recall = _images.precision_recall(features, held_out, 0.3 * rng.normal(size=(60, 2)))
    assert precision > 0.9 and 0 < recall <= 0.5


def test_shares_of_classes():
    np.testing.assert_allclose(_images.shares(np.array([1, 1, 3, 0]), 5), [0.25, 0.5, 0, 0.25, 0])
    assert _images.shares(np.array([2])).shape == (10,)


def test_pictures_take_ten_of_each_row_and_one_of_each_class():
    images = random_images(12, 2, 2, 1)
    figure = _images.picture({"a": images, "b": images[:3]}, "title")
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert canvas.ndim == 2 or canvas.shape[-1] in (1, 3)
    data = {"images": images, "labels": np.array([2, 0, 2, 1, *[0] * 8])}
    np.testing.assert_array_equal(_images.one_of_each(data, 3), images[[1, 3, 0]])
    assert len(_images.one_of_each(data)) == 3


def test_how_games_are_played(monkeypatch):
    """Rates, their fall, betas, seeds and averages as they are asked for."""
    seen = {}

    def train(game, optimizers, params, batch_at, **named):
        seen.update(named, game=game, optimizers=optimizers, batch=batch_at(0), params=params)
        state = {"generator": {"batch_stats": 5}}
        return types.SimpleNamespace(ema={"generator": 7, "discriminator": 8}, model_state=state)

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "ema_warmup", lambda decay: ("warm", decay))
    players = types.SimpleNamespace(
        game="game", params="params", critic_rate=4.0, model_state=lambda rng: ("state", rng),
        settled=lambda variables, rng: (variables, rng),
    )  # fmt: skip
    options = dict(num_steps=900, batch_size=4, learning_rate=0.25, ema_decay=0.9)
    run = training.RunOptions(seed=3)
    play = lambda **more: _images.play(
        players, {"images": np.arange(40)}, "out", run=run, **options, **more
    )
    variables, rng = play()
    assert variables == {"params": 7, "batch_stats": 5}
    assert (rng == jax.random.key(4)).all()
    assert (seen["game"], seen["params"], seen["out"]) == ("game", "params", "out")
    assert (seen["num_steps"], seen["run"], seen["ema_decay"]) == (900, run, ("warm", 0.9))
    assert (seen["model_state"][1] == jax.random.key(3)).all()
    assert seen["make_step"] is rounds.make_step
    expected = training.batches({"images": np.arange(40)}, 4, 3)(0)["images"]
    np.testing.assert_array_equal(seen["batch"]["images"], expected)
    generator, critic = seen["optimizers"].generator, seen["optimizers"].discriminator
    square = (0.99 * 0.01 + 0.01 * 4) / (1 - 0.99**2)
    moves = [0.25, -0.25 * 2 / square**0.5]
    assert first_moves(generator) == pytest.approx(moves, rel=1e-4)
    assert first_moves(critic)[0] == pytest.approx(1.0, rel=1e-4)
    assert last_rate(generator) == pytest.approx(0.025, rel=1e-4)
    play(end=0.5)
    assert last_rate(seen["optimizers"].generator) == pytest.approx(0.125, rel=1e-4)


def first_moves(optimizer):
    """Steps down under gradients 1 and then -2."""
    state, moves = optimizer.init(np.float32(0)), []
    for grad in (1.0, -2.0):
        update, state = optimizer.update(np.float32(grad), state)
        moves.append(-float(update))
    return moves


def last_rate(optimizer):
    """The first step from a state whose schedule has ended."""
    state = optimizer.init(np.float32(0))
    late = jax.tree.map(lambda leaf: leaf, state)
    late = tuple(
        each._replace(count=each.count + 900) if isinstance(each, optax.ScaleByScheduleState)
        else each
        for each in late
    )  # fmt: skip
    return -float(optimizer.update(np.float32(1), late)[0])


def test_samples_are_drawn_in_blocks_with_labels_in_turn():
    """Of a generator whose pixels are its latent, its label and a number of its key."""
    column = lambda x: x[:, None, None, None]
    players = types.SimpleNamespace(
        draw=lambda variables, z, labels, rng: jnp.concatenate(
            [variables + z[:, :, None, None], column(1.0 * labels),
             jnp.broadcast_to(jax.random.uniform(rng), (len(z), 1, 1, 1))], 1,
        ),
        latent_dim=2, generator=types.SimpleNamespace(num_classes=3),
    )  # fmt: skip
    z = np.asarray(jax.random.normal(jax.random.key(1), (12, 2)))
    found, rows = _images.draw("net", players, np.float32(0), 12, 1, num_classes=3)
    assert found.shape == (12, 4, 1, 1)
    np.testing.assert_array_equal(found[:, 2, 0, 0], [0, 1, 2] * 4)
    np.testing.assert_array_equal(found[:, :2, 0, 0], z)
    assert list(rows) == ["net", "net, more", *(f"net, latent {i}" for i in (1, 2, 3))]
    np.testing.assert_array_equal(rows["net, more"], found[10:])
    second = rows["net, latent 2"][:, :, 0, 0]
    np.testing.assert_array_equal(second[:, 2], np.arange(10) % 3)
    np.testing.assert_array_equal(second[:, :2], np.repeat(z[1:2], 10, 0))
    small = _images.sampler(players, np.float32(0), 5)(z[:7], np.arange(7), 1)
    np.testing.assert_array_equal(small[:, :2, 0, 0], z[:7])
    np.testing.assert_array_equal(small[:, 2, 0, 0], np.arange(7))
    assert len(set(small[:5, 3, 0, 0])) == 1 != len(set(small[:, 3, 0, 0]))  # one key a block
    players.generator.num_classes = None
    path = _images.draw("net", players, np.float32(0), 12, 1)[1]["net, between"][:, :2, 0, 0]
    np.testing.assert_allclose(path[[0, 9]], z[:2], atol=1e-6)
    np.testing.assert_allclose(
        path[3], np.cos(np.pi / 6) * z[0] + np.sin(np.pi / 6) * z[1], rtol=1e-5
    )


def test_rows_of_styles():
    """Between, truncated and mixed, beside calls of the network itself."""
    players = _networks.styled((8, 8, 1), width=2, gamma=1.0, latent_dim=4)
    generator, rng = players.generator, jax.random.key(0)
    variables = jax.jit(lambda rng: players._start(rng)["generator"])(rng)
    variables["batch_stats"]["mapping"]["mean"] = jnp.arange(4.0)
    z = jax.random.normal(rng, (10, 4))
    styles = jax.jit(lambda variables: _images._styles(players, variables, z))
    rows = jax.device_get(styles(variables))
    exact = jax.jit(lambda psi: generator.apply(variables, z[:1], truncation=psi))
    truncated = np.concatenate([exact(psi) for psi in np.linspace(0, 1, 10)])
    close = lambda a, b: np.testing.assert_allclose(a, np.clip(b, -1, 1), rtol=1e-4, atol=1e-5)
    close(rows["psi from 0 to 1"], truncated)
    own = np.asarray(jax.jit(lambda: generator.apply(variables, z))())
    close(rows["between"][[0, 9]], own[:2])
    close(rows["coarse layers alike"][0], own[0])
    assert np.abs(rows["coarse layers alike"][1:] - np.clip(own[1:], -1, 1)).max() > 1e-3
