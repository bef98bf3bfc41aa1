"""What a game holds: weights of penalties, latents, running sums of model states, mixed losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.gan import games, losses, penalties
from tests.research.gan import rounds

KEY = jax.random.key(0)
REAL, FAKE = np.random.default_rng(0).normal(size=(2, 5, 3))
critic = lambda x: jnp.square(x).sum(1)


def test_the_weights_of_penalties(x64):
    """gamma/2 times the mean; a further penalty has its own factor."""
    play = games.Game(losses.hinge, rounds.generate, rounds.discriminate)
    assert not play.penalised and play.discriminator_steps == play.penalty_every == 1
    assert play.penalty(critic, REAL, FAKE, KEY) == 0
    further = lambda critic, real, fake, rng: 3 * critic(real) + critic(fake)
    play = games.Game(
        losses.hinge, rounds.generate, rounds.discriminate, r1=0.5, r2=3.0, critic_penalty=further
    )
    squares = lambda x: (x**2).sum(1).mean()
    expected = (0.25 * 4 + 3) * squares(REAL) + (1.5 * 4 + 1) * squares(FAKE)
    assert play.penalised
    found = play.penalty(critic, jnp.asarray(REAL), jnp.asarray(FAKE), KEY)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert all(
        games.Game(losses.hinge, rounds.generate, rounds.discriminate, **one).penalised
        for one in ({"r1": 1.0}, {"r2": 1.0}, {"critic_penalty": further})
    )


def test_latents_of_one_key_are_those_of_its_children(x64):
    keys = penalties.each_key(KEY, 4)
    of_one, of_each = games.latents(KEY, 4, 3), games.latents(keys, 4, 3)
    testing.assert_trees_equal(of_one, of_each)
    np.testing.assert_array_equal(games.latents(keys[1:2], 1, 3)[0], of_one[1])
    assert of_one.dtype == jnp.float64
    assert games.latents(KEY, 4, 3, jnp.bfloat16).dtype == jnp.bfloat16
    many = np.asarray(games.latents(KEY, 2000, 3))  # 4 standard errors: false alarms below 1e-3
    np.testing.assert_allclose(many.mean(0), 0, atol=4 / 2000**0.5)
    np.testing.assert_allclose(many.var(0), 1, atol=4 * (2 / 2000) ** 0.5)


def test_images_of_a_batch():
    assert games.images_of(REAL) is REAL
    assert games.images_of({"images": REAL, "labels": None}) is REAL


def test_a_turn_starts_from_no_share_of_the_model_state():
    model_state = {"mean": jnp.ones(3), "count": jnp.array(4)}
    expected = {"mean": jnp.zeros(3), "count": jnp.array(4)}
    testing.assert_trees_equal(games.no_share(model_state), expected)


@pytest.mark.parametrize("name", ["minimax", "hinge", "least_squares", "relativistic"])
def test_the_losses_are_means_over_pairs(name):
    games.check_loss(getattr(losses, name), 2)


class Averaged:
    """Relativistic average: each example against the mean of the others."""

    def discriminator(self, real, fake):
        return jax.nn.softplus(fake.mean() - real).mean()

    def generator(self, real, fake):
        return -fake.mean()


def test_a_loss_of_the_whole_batch_is_none():
    with pytest.raises(ValueError, match="the loss mixes pairs of examples: its parts give"):
        games.check_loss(Averaged(), 2)
