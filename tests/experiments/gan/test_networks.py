"""Pairs of networks: shapes, games, what the critic sees, what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.gan import _networks
from research.gan import biggan, dcgan, losses, stylegan2
from research.gan import training as rounds

SHAPE = (8, 8, 1)
LABELS = jnp.array([0, 1, 2, 0, 1])


def residual(**options):
    return _networks.residual(SHAPE, widths=(4, 4), gamma=0.3, **options)


def styled(**options):
    return _networks.styled(SHAPE, width=4, gamma=0.5, **options)


def plain(**options):
    return _networks.convolutional(SHAPE, width=4, gamma=0.6, **options)


def conditional(**options):
    return _networks.conditional(SHAPE, width=4, num_classes=3, **options)


def test_stages_double_towards_the_coarse_ones_four_times_at_most():
    assert _networks.pyramid(8, 6) == (12, 6)
    assert _networks.pyramid(16, 16) == (64, 32, 16)
    assert _networks.pyramid(64, 5) == (20, 20, 20, 10, 5)
    assert _networks.pyramid(4, 7) == (7,)


@pytest.mark.parametrize("make", [plain, residual, styled, conditional])
def test_both_players_fit_their_images(make):
    """Shapes of all, the model state that there is, and no call of a network's code."""
    players = make(latent_dim=7)
    both = jax.eval_shape(players._start, jax.random.key(0))
    assert set(both) == {"generator", "discriminator"}
    state = {"params": both["generator"]["params"], **_networks._without_params(both["generator"])}
    z, labels = jnp.zeros((5, players.latent_dim)), jnp.zeros(5, jnp.int32)
    drawn = jax.eval_shape(players.draw, state, z, labels, jax.random.key(0))
    assert drawn.shape == (5, *SHAPE)
    kinds = {name: set(each) - {"params"} for name, each in both.items()}
    assert (
        kinds
        == {
            plain: {"generator": {"batch_stats"}, "discriminator": set()},
            residual: {"generator": set(), "discriminator": set()},
            styled: {"generator": {"batch_stats"}, "discriminator": set()},
            conditional: {"generator": {"batch_stats", "spectral"}, "discriminator": {"spectral"}},
        }[make]
    )


def test_the_games_are_the_papers():
    one, two, three = residual().game, styled().game, conditional().game
    assert (one.loss, one.r1, one.r2, one.mixes) == (losses.relativistic, 0.3, 0.3, False)
    assert (two.loss, two.r1, two.r2, two.mixes) == (losses.non_saturating, 0.5, 0.0, True)
    assert (three.loss, three.penalised) == (losses.hinge, False)
    zero = plain().game
    assert (zero.loss, zero.r1, zero.r2, zero.mixes) == (losses.non_saturating, 0.6, 0.0, False)
    makes = (plain, residual, styled, conditional)
    assert [make().critic_rate for make in makes] == [1, 1, 1, 4]
    assert [make().latent_dim for make in makes] == [64, 64, 64, 64]
    assert [make(latent_dim=7).latent_dim for make in makes] == [7, 7, 7, 6]


@pytest.mark.parametrize("make", [residual, styled])
def test_images_go_through_the_end_before_the_critic_and_as_samples(make):
    """All 1.5 by a function of the test, so that no network runs: samples are clipped after it."""
    ended = lambda images: jnp.full_like(images, 1.5)
    players = make(latent_dim=3, end=ended)
    params = jax.eval_shape(players.params, jax.random.key(0))["generator"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    state = {"batch_stats": {"mapping": {"mean": jnp.zeros(3)}}} if make is styled else {}
    batch = {"images": jnp.zeros((2, *SHAPE))}

    def both(rng):
        seen = players.game.generate(params, state, rng, batch)[0]
        return seen, players.draw({"params": params, **state}, jnp.zeros((2, 3)), None, rng)

    seen, drawn = jax.jit(both)(jax.random.key(0))
    assert (seen == 1.5).all() and (drawn == 1).all()
    assert make().end is _networks.as_they_are


def test_options_reach_the_networks():
    one = residual(groups=2, num_blocks=3, num_classes=5)
    for module in (one.generator, one.critic):
        assert (module.widths, module.groups, module.num_blocks) == ((4, 4), (2, 2), (3, 3))
        assert module.num_classes == 5
    plain = residual()
    assert (plain.generator.groups, plain.generator.num_blocks) == ((1, 1), (1, 1))
    two = _networks.styled((8, 8, 3), width=4, gamma=1.0, num_mapping_layers=5)
    assert isinstance(two.generator, stylegan2.Generator)
    assert (two.generator.channel_base, two.generator.max_channels) == (32, 16)
    assert (two.generator.image_channels, two.generator.num_mapping_layers) == (3, 5)
    assert (two.critic.channel_base, two.critic.max_channels, two.critic.group) == (32, 16, 4)
    assert styled().generator.num_mapping_layers == 2
    zero = _networks.convolutional((16, 16, 3), width=5, gamma=1.0)
    assert zero.generator == dcgan.Generator(16, 5, 3)
    assert zero.critic == dcgan.Discriminator(16, 5, batch_norm=False)
    three = conditional()
    assert isinstance(three.generator, biggan.Generator)
    assert (three.generator.channels, three.critic.channels) == (1, 1)
    assert three.generator.num_classes == three.critic.num_classes == 3


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: _networks.pyramid(12, 4), "size=12: expected 4"),
        (lambda: _networks.pyramid(2, 4), "size=2: expected 4"),
        (lambda: _networks.residual((16, 16, 1), widths=(4, 4), gamma=0), "reach 8 pixels: exp"),
        (lambda: _networks.conditional(SHAPE, width=6, num_classes=2), "width=6: expected a mul"),
        (lambda: _networks.augmentation("mirror", 4, 8), "augment='mirror': expected none, diff"),
    ],
)
def test_bad_input(make, error):
    with pytest.raises(ValueError, match=error):
        make()


def test_biggan_plays_settles_and_draws(monkeypatch):
    """A round keeps the shapes of all that it carries; statistics are of fresh latents, labels."""
    players, key = conditional(latent_dim=6), jax.random.key(0)
    both = rounds.Optimizers(optax.sgd(0.1), optax.sgd(0.1))
    start = lambda: rounds.init_state(
        players.params(key), both, key, players.model_state(key), ema=True
    )
    batch = {"images": jnp.zeros((4, *SHAPE)), "labels": jnp.zeros(4, jnp.int32)}
    state = jax.eval_shape(start)
    step = rounds.make_step(players.game, both, ema_decay=0.9)
    new, _ = jax.eval_shape(step, state, batch)
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert shapes(new) == shapes(state)
    own = {"params": state.ema["generator"], **state.model_state["generator"]}
    end = lambda own: players.draw(players.settled(own, key, 2, 3), jnp.zeros((5, 6)), LABELS, key)
    assert jax.eval_shape(end, own).shape == (5, *SHAPE)
    given = lambda generator, variables, z, labels: (variables, z, labels)
    monkeypatch.setattr(biggan, "standing_statistics", given)
    variables, z, labels = players.settled({"a": 7}, key, 40, 50)
    assert variables == {"a": 7} and z.shape == (40, 50, 6) and labels.shape == (40, 50)
    assert abs(z.mean()) < 0.05 and abs(z.std() - 1) < 0.05
    assert (np.bincount(labels.ravel()) > 550).all() and labels.max() == 2
    assert plain().settled(variables, key) is variables


class Mean(nn.Module):
    """A critic of one parameter: the mean of its image, scaled."""

    num_classes = None

    @nn.compact
    def __call__(self, x):
        return self.param("scale", nn.initializers.ones, ()) * x.mean((1, 2, 3))


def test_what_a_critic_sees_through():
    """Unchanged, by DiffAugment, by adaptive augmentation of p = 0 and of a p that has risen."""
    images = jax.random.uniform(jax.random.key(0), (6, *SHAPE), minval=-1.0)
    params = {"scale": jnp.ones(())}

    def logits(kind, state=None):
        augmented = _networks.augmentation(kind, 6, 24)
        look = _networks._discriminate(Mean(), augmented)
        state = state if state is not None else {}
        return jax.jit(look)(params, state, jax.random.key(1), images, {"images": images})

    plain, none = logits("none")
    np.testing.assert_allclose(plain, images.mean((1, 2, 3)), rtol=1e-6)
    assert none == {}
    changed, _ = logits("diffaugment")
    assert (np.abs(changed - plain) > 1e-3).all()
    controller = _networks.augmentation("ada", 6, 24).controller
    assert (controller.batch_size, controller.num_images) == (6, 24)
    start = {"control": controller.init()}
    same, new = logits("ada", start)
    np.testing.assert_array_equal(same, plain)
    assert new["control"].total == pytest.approx(float(np.sign(plain).mean()))
    due = start["control"].replace(total=jnp.float32(4), count=jnp.int32(4))
    moved, new = logits("ada", {"control": due})
    assert new["control"].p == 1 and new["control"].count == 1  # 4 batches of 6 in 24 images
    assert (np.abs(moved - plain) > 1e-3).any()


def test_the_model_state_holds_what_is_there_and_a_control():
    assert residual().model_state(jax.random.key(0)) == {}
    augmented = _networks.augmentation("ada", 4, 8)
    assert plain(augmented=augmented).augmented is augmented
    held = residual(augmented=augmented).model_state(jax.random.key(0))
    assert held["discriminator"]["control"].p == 0 and set(held) == {"discriminator"}
