"""The Dirac game against closed forms: eigenvalues, radii, what is conserved, what converges."""

import cmath
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from research.gan import dirac, losses

# Of the critic's loss in its logit at the equilibrium: slope f', curvature f'' (minus).
LOGISTIC = (0.5, 0.25)
SLOPES = {
    "minimax": LOGISTIC,
    "non_saturating": LOGISTIC,
    "relativistic": LOGISTIC,
    "hinge": (1.0, 0.0),
    "wasserstein": (1.0, 0.0),
    "least_squares": (0.5, 1.0),
}


def pair(real, square):
    root = cmath.sqrt(square)
    return [real - root, real + root]


GAMES = {
    "none": ({}, lambda f, c: pair(0, -(f**2))),
    "R1": ({"r1": 0.3}, lambda f, c: pair(-0.15, 0.15**2 - f**2)),
    "R2": ({"r2": 0.7}, lambda f, c: pair(-0.35, 0.35**2 - f**2)),
    "R1, beyond critical": ({"r1": 3.0}, lambda f, c: pair(-1.5, 1.5**2 - f**2)),
    "R1 and R2": ({"r1": 0.3, "r2": 0.3}, lambda f, c: pair(-0.3, 0.09 - f**2)),
    "noise 1": ({"instance_noise": 1.0}, lambda f, c: pair(-c, c**2 - f**2)),
    "noise 2": ({"instance_noise": 2.0}, lambda f, c: pair(-4 * c, 16 * c**2 - f**2)),
    "consensus": ({"consensus": 0.8}, lambda f, c: pair(-0.8 * f**2, -(f**2))),
}
order = lambda values: sorted(values, key=lambda x: (round(x.real, 8), x.imag))


@functools.cache
def jacobians():
    """[2, 2] of every loss in every game, by one program."""
    of = lambda loss: {g: dirac.jacobian(loss, **options) for g, (options, _) in GAMES.items()}
    return jax.jit(lambda: {name: of(getattr(losses, name)) for name in SLOPES})()


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("game", GAMES)
def test_eigenvalues(x64, name, game):
    regularizer, expected = GAMES[game]
    matrix = np.asarray(jacobians()[name][game])
    assert matrix.shape == (2, 2) and matrix.dtype == np.float64
    expected = np.array(order(expected(*SLOPES[name])))
    trace, det = np.trace(matrix), np.linalg.det(matrix)
    np.testing.assert_allclose(trace, expected.sum().real, atol=1e-10)
    np.testing.assert_allclose(det, expected.prod().real, atol=1e-10)
    np.testing.assert_allclose(order(np.linalg.eigvals(matrix)), expected, atol=1e-10)
    assert matrix[0, 1] > 0 > matrix[1, 0]  # the sample moves to where the critic is larger


def test_published_eigenvalues(x64):
    """Figures of the closed forms: gamma 0.3, twice 0.3, noise of 1 and 2, consensus 0.8."""
    for game, expected in [
        ("R1", -0.15 + 0.4769696j),
        ("R1 and R2", -0.3 + 0.4j),
        ("noise 1", -0.25 + 0.4330127j),
        ("noise 2", -0.1339746),
        ("consensus", -0.2 + 0.5j),
    ]:
        found = order(np.linalg.eigvals(jacobians()["minimax"][game]))
        np.testing.assert_allclose(found[1], expected, atol=1e-7)


def zero_sum(loss):
    """The game in which the generator loses what the critic wins."""
    if isinstance(loss, losses.Paired):
        critic = loss.on_margin
        return losses.Separate(lambda real: 0 * real, lambda f: critic(-f), lambda f: -critic(-f))
    return dataclasses.replace(loss, on_generated=lambda fake: -loss.on_fake(fake))


START = np.array([1.1, -0.4])
squares = lambda points: np.square(points).sum(-1)


@functools.cache
def circles():
    start = jnp.asarray(START / 2)
    steps = {name: dirac.field(zero_sum(getattr(losses, name))) for name in SLOPES}
    flows = {name: dirac.flow(field, 0.5, 64) for name, field in steps.items()}
    return jax.jit(lambda: {name: dirac.trajectory(f, start, 40) for name, f in flows.items()})()


@pytest.mark.parametrize("name", SLOPES)
def test_the_flow_of_a_zero_sum_game_goes_in_circles(x64, name):
    """theta^2 + psi^2 is conserved for every f, where its slope does not vanish."""
    start = START / 2  # f of least squares is flat at theta psi = -1/2, of the hinge at -1
    points = circles()[name]
    assert points.shape == (41, 2) and (points[0] == start).all()
    np.testing.assert_allclose(squares(points), squares(start), rtol=1e-9)
    assert np.abs(points - start[None]).max() > 0.5


def test_a_generator_that_does_not_saturate_comes_in_slower_than_any_exponential(x64):
    """d/dt (theta^2 + psi^2) / 2 = -theta psi tanh(theta psi / 2), of fourth order."""
    field = dirac.field(losses.non_saturating)
    x = np.array([0.8, -0.7])
    expected = -x.prod() * np.tanh(x.prod() / 2)
    np.testing.assert_allclose(np.dot(field(jnp.asarray(x)), x), expected, rtol=1e-12)
    points = jax.jit(lambda x: dirac.trajectory(dirac.flow(field, 1.0), x, 400))(x)
    assert (np.diff(squares(points)) <= 0).all()
    assert squares(points)[-1] > 1e-2 * squares(x)


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("step_size", [0.1, 0.5])
def test_radii_of_steps(x64, name, step_size):
    field, slope = dirac.field(getattr(losses, name)), SLOPES[name][0]
    steps = dirac.simultaneous(field, step_size), dirac.alternating(field, step_size)
    found = jax.jit(lambda: [dirac.radius(step) for step in steps])()
    expected = [np.sqrt(1 + (step_size * slope) ** 2), 1]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_radii_of_logistic_steps(x64):
    field = dirac.field(losses.non_saturating)
    regularized = lambda gamma: dirac.field(losses.non_saturating, r1=gamma)
    steps = [dirac.simultaneous(field, h) for h in (0.1, 0.5)]
    steps += [dirac.simultaneous(regularized(gamma), 0.1) for gamma in (0.1, 1.0, 2.0)]
    steps += [dirac.alternating(field, h) for h in (3.99, 4.2)]
    *found, within, beyond = jax.jit(lambda: [dirac.radius(step) for step in steps])()
    expected = [1.0012492197, 1.0307764064, 0.9962430, 0.95, 0.9866025]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert abs(within - 1) < 1e-12 and beyond > 1.2  # h f' < 2, and not


# Mescheder et al. 2018, arXiv:1801.04406, table 1: local convergence where data and samples may lie
# on manifolds, of which the Dirac game is the example of sec. 2 and 3.
CONVERGENT = {
    "unregularized GAN": (losses.minimax, {}, False),
    "non-saturating GAN": (losses.non_saturating, {}, False),
    "WGAN": (losses.wasserstein, {}, False),
    "WGAN-GP": (losses.wasserstein, {"gradient_penalty": 1.0}, False),
    "DRAGAN": (losses.minimax, {"gradient_penalty": 1.0}, False),
    "instance noise": (losses.minimax, {"instance_noise": 1.0}, True),
    "consensus optimization": (losses.minimax, {"consensus": 1.0}, True),
    "zero-centred, on data": (losses.minimax, {"r1": 1.0}, True),
    "zero-centred, on samples": (losses.minimax, {"r2": 1.0}, True),
    "zero-centred, on both": (losses.non_saturating, {"r1": 1.0, "r2": 1.0}, True),
    "zero-centred, Wasserstein": (losses.wasserstein, {"r1": 1.0}, True),
}


@functools.cache
def paths():
    """Alternating steps of 0.05 for a time of 100 from near the equilibrium, and Jacobians."""
    fields = {name: dirac.field(loss, **kw) for name, (loss, kw, _) in CONVERGENT.items()}
    update = lambda name: dirac.alternating(fields[name], 0.05)
    path = lambda name: dirac.trajectory(update(name), jnp.array([0.3, 0.1]), 2000)
    matrix = lambda name: jax.jacfwd(fields[name])(jnp.zeros(2))
    return jax.jit(lambda: {name: (path(name), matrix(name)) for name in CONVERGENT})()


@pytest.mark.parametrize("name", CONVERGENT)
def test_the_convergent_set(x64, name):
    _, regularizer, converges = CONVERGENT[name]
    points, matrix = paths()[name]
    distance = np.sqrt(squares(points))
    assert (distance[-1] < 1e-6) == converges
    assert converges or distance[-100:].max() > 0.2
    if "gradient_penalty" not in regularizer:
        real = np.linalg.eigvals(matrix).real
        assert (real.max() < -1e-3) == converges


def test_the_field_with_noise_by_quadrature(x64):
    theta, psi, std = 0.7, 0.6, 0.5

    def mean(function):  # of a standard normal
        density = lambda x: np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * function(x)
        return integrate.quad(density, -10, 10, epsabs=1e-12)[0]

    sigmoid = special.expit
    critic = mean(lambda e: (theta + std * e) * sigmoid(psi * (theta + std * e)))
    critic -= mean(lambda e: std * e * sigmoid(-psi * std * e))
    generator = -mean(lambda e: psi * sigmoid(-psi * (theta + std * e)))
    field = dirac.field(losses.non_saturating, r1=0.2, r2=0.1, instance_noise=std)
    expected = [-generator, -critic - 0.3 * psi]
    np.testing.assert_allclose(jax.jit(field)(jnp.array([theta, psi])), expected, rtol=1e-10)
    # With a gradient penalty, the derivative of gamma/2 (|psi| - target)^2 more.
    with_penalty = dirac.field(
        losses.non_saturating, 0.2, 0.1, std, gradient_penalty=0.4, target=0.9
    )
    found = jax.jit(with_penalty)(jnp.array([theta, psi]))
    expected[1] -= 0.4 * (psi - 0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_consensus_descends_the_squared_field(x64):
    x, step = np.array([0.7, 0.6]), 1e-6
    plain = dirac.field(losses.minimax, r1=0.2)
    energy = lambda x: squares(np.asarray(plain(jnp.asarray(x)))) / 2
    slope = [(energy(x + e) - energy(x - e)) / (2 * step) for e in step * np.eye(2)]
    found = dirac.field(losses.minimax, r1=0.2, consensus=0.3)(jnp.asarray(x))
    np.testing.assert_allclose(found, plain(jnp.asarray(x)) - 0.3 * np.array(slope), rtol=1e-8)


def test_updates_by_hand(x64):
    """The linear game of Wasserstein, whose flow is a rotation."""
    field, x, h = dirac.field(losses.wasserstein), jnp.array([0.7, 0.6]), 0.1
    np.testing.assert_allclose(dirac.simultaneous(field, h)(x), [0.76, 0.53], rtol=1e-12)
    np.testing.assert_allclose(dirac.alternating(field, h)(x), [0.753, 0.53], rtol=1e-12)
    turn = np.array([[np.cos(2), np.sin(2)], [-np.sin(2), np.cos(2)]])
    np.testing.assert_allclose(dirac.flow(field, 2.0)(x), turn @ np.asarray(x), rtol=1e-5)
    np.testing.assert_allclose(dirac.flow(field, 2.0, 400)(x), turn @ np.asarray(x), rtol=1e-10)


WRONG = {
    "r1=-1: expected a finite number >= 0": lambda: dirac.jacobian(losses.hinge, r1=-1),
    "instance_noise=nan": lambda: dirac.field(losses.hinge, instance_noise=float("nan")),
    "num_substeps=0": lambda: dirac.flow(dirac.field(losses.hinge), 1.0, 0),
    "num_steps=-1": lambda: dirac.trajectory(lambda x: x, jnp.zeros(2), -1),
    r"start has shape \(3,\): expected \(theta, psi\)": lambda: dirac.trajectory(
        lambda x: x, jnp.zeros(3), 1
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
