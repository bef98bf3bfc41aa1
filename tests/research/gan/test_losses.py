"""Losses against NumPy, their gradients, their values at optimal critics, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from library import testing, training
from library.types import Aux
from research.gan import losses

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.normal(size=7) * 2, RNG.normal(size=7) * 2

log_sigmoid = special.log_expit
LOSSES = {
    "minimax": (
        lambda r, f: -(log_sigmoid(r) + np.log1p(-special.expit(f))).mean(),
        lambda r, f: np.log1p(-special.expit(f)).mean(),
    ),
    "non_saturating": (
        lambda r, f: -log_sigmoid(r).mean() - log_sigmoid(-f).mean(),
        lambda r, f: -log_sigmoid(f).mean(),
    ),
    "hinge": (
        lambda r, f: np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(),
        lambda r, f: -f.mean(),
    ),
    "wasserstein": (lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    "least_squares": (
        lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2,
        lambda r, f: ((f - 1) ** 2).mean() / 2,
    ),
    "relativistic": (
        lambda r, f: -log_sigmoid(r - f).mean(),
        lambda r, f: -log_sigmoid(f - r).mean(),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(x64, name):
    loss, expected = getattr(losses, name), LOSSES[name]
    for player, reference in zip((loss.discriminator, loss.generator), expected):
        np.testing.assert_allclose(player(REAL, FAKE), reference(REAL, FAKE), rtol=1e-13)
        check = lambda x, player=player: player(x[0], x[1])
        testing.check_gradient(check, jnp.stack([REAL, FAKE]))


@pytest.mark.parametrize("name", LOSSES)
def test_far_logits_have_finite_losses_and_gradients(name):
    for sign in (1.0, -1.0):
        real, fake = jnp.full(3, sign * 1e4), jnp.full(3, -sign * 1e4)
        for player in (getattr(losses, name).discriminator, getattr(losses, name).generator):
            value, grads = jax.value_and_grad(player, (0, 1))(real, fake)
            assert np.isfinite(value) and value.dtype == jnp.float32
            assert np.isfinite(grads).all() and np.abs(grads).max() <= 1e4


def test_pairs_are_kept_under_a_split_and_not_under_a_shuffle(x64):
    loss = losses.relativistic.discriminator
    parts = [loss(REAL[i : i + 1], FAKE[i : i + 1]) for i in range(7)]
    np.testing.assert_allclose(np.mean(parts), loss(REAL, FAKE), rtol=1e-13)
    assert abs(float(loss(REAL, FAKE[::-1]) - loss(REAL, FAKE))) > 1e-3


def test_an_undecided_critic_has_the_known_value(x64):
    """-log 4 where samples are as data, in the value that minimax and non-saturating share."""
    for loss in (losses.minimax, losses.non_saturating):
        np.testing.assert_allclose(loss.discriminator(jnp.zeros(2), jnp.zeros(2)), np.log(4))
    np.testing.assert_allclose(losses.hinge.discriminator(jnp.zeros(2), jnp.zeros(2)), 2)
    np.testing.assert_allclose(losses.relativistic.discriminator(REAL, REAL), np.log(2))
    half = jnp.full(2, losses.least_squares.undecided)
    np.testing.assert_allclose(losses.least_squares.discriminator(half, half), 0.25)


@pytest.mark.parametrize("name", LOSSES)
def test_no_critic_that_says_one_thing_of_all_does_better(x64, name):
    loss = getattr(losses, name)
    slope = jax.grad(lambda value: loss.discriminator(value, value))(jnp.full(2, loss.undecided))
    np.testing.assert_allclose(slope.sum(), 0, atol=1e-14)


# N(0, 1) against N(m, 1): m, -log 4 + 2 JS, total variation.
OPTIMAL = [
    (0.5, -1.325671760078213, 0.197412651365847),
    (1.0, -1.163451396750418, 0.382924922548026),
    (2.0, -0.712632720426228, 0.682689492137086),
]


@pytest.mark.parametrize("mean, value, total_variation", OPTIMAL)
def test_optimal_critics_reach_the_divergences(mean, value, total_variation):
    """The best logits by quadrature: the log ratio of densities, and its sign for the hinge."""
    p, q = stats.norm(0, 1).pdf, stats.norm(mean, 1).pdf
    log_ratio = lambda x: mean**2 / 2 - mean * x

    def loss_of(loss, critic):
        def at(x):
            logits = np.atleast_1d(critic(x))
            return p(x) * np.float64(loss.on_real(logits)[0]) + q(x) * loss.on_fake(logits)[0]

        halves = [(-12, mean / 2), (mean / 2, 14)]
        return sum(integrate.fixed_quad(np.vectorize(at), *half, n=40)[0] for half in halves)

    with jax.enable_x64(True):
        np.testing.assert_allclose(loss_of(losses.minimax, log_ratio), -value, rtol=1e-9)
        found = loss_of(losses.hinge, lambda x: np.sign(log_ratio(x)))
        np.testing.assert_allclose(found, 2 * (1 - total_variation), rtol=1e-9)


def test_trained_critics_reach_the_divergences():
    """Critics that are free in each of 64 intervals, on 4,096 quantiles of either law."""
    quantiles = stats.norm.ppf((np.arange(4096) + 0.5) / 4096)
    means = np.array([mean for mean, *_ in OPTIMAL])
    edges = np.linspace(-6, 6, 65)[1:-1]
    place = lambda x: np.stack([np.digitize(row, edges) for row in x])  # [3, N], about mean / 2
    real = place(quantiles[None] - means[:, None] / 2)
    fake = place(quantiles[None] + means[:, None] / 2)
    kinds = (losses.minimax, losses.hinge)

    def values(params):  # [2, 3]
        at = lambda loss: jax.vmap(lambda row, r, f: loss.discriminator(row[r], row[f]))
        return jnp.stack([at(loss)(rows, real, fake) for loss, rows in zip(kinds, params)])

    loss_fn = lambda params, *_: (values(params).sum(), Aux(1.0))
    params = training.quick(
        loss_fn,
        training.warmup_cosine(0.3, 300, 0),
        lambda _: jnp.zeros((2, 3, 64)),
        lambda step: np.zeros(1),
        num_steps=300,
        rng=jax.random.key(0),
        steps_per_call=300,
    )
    found = np.asarray(values(params))
    np.testing.assert_allclose(-found[0], [value for _, value, _ in OPTIMAL], atol=1e-3)
    np.testing.assert_allclose(found[1], [2 * (1 - tv) for *_, tv in OPTIMAL], atol=1e-3)


WRONG = [
    (np.zeros(3), np.zeros(4)),
    (np.zeros((3, 1)), np.zeros((3, 1))),
    (np.zeros(0), np.zeros(0)),
    (np.zeros(()), np.zeros(())),
]


@pytest.mark.parametrize("real, fake", WRONG)
@pytest.mark.parametrize("loss", [losses.hinge, losses.relativistic])
def test_bad_input(loss, real, fake):
    for player in (loss.discriminator, loss.generator):
        with pytest.raises(ValueError, match=r"logits real .*: expected \[B\] each, one size"):
            player(real, fake)
