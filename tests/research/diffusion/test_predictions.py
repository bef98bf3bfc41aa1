"""All conversions between kinds of prediction, and EDM's preconditioning constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import oracles, predictions, processes

PROCESSES = {
    "vp": processes.vp(),
    "sub_vp": processes.sub_vp(),
    "ve": processes.ve(0.1, 10.0),
    "edm": processes.edm(0.1, 10.0),
    "cosine": processes.cosine(),
    "flow": processes.flow(),
}


def pair(process, batch=4):
    data, noise = np.random.default_rng(0).normal(size=(2, batch, 2, 3))
    span = process.t_max - process.t_min
    t = process.t_min + span * np.linspace(0.1, 0.9, batch)
    column = t.reshape(batch, 1, 1)
    return data, noise, process.alpha(column) * data + process.sigma(column) * noise, t


@pytest.mark.parametrize("name", PROCESSES)
def test_every_kind_converts_to_every_other_and_back(x64, name):
    process = PROCESSES[name]
    for expected, found in jax.jit(lambda: conversions(process))():
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def conversions(process):
    """Pairs (expected, found) of all conversions of the truth, and of what is not, and back."""
    data, noise, x, t = pair(process)
    column = t.reshape(-1, 1, 1)
    alpha, sigma = process.alpha(column), process.sigma(column)
    pairs = []
    truth = {
        "data": data,
        "noise": noise,
        "score": -noise / sigma,
        "v": alpha * noise - sigma * data,
        "velocity": jax.jvp(
            lambda t: process.alpha(t) * data + process.sigma(t) * noise,
            (column,),
            (jnp.ones_like(column),),
        )[1],
    }
    assert set(truth) == set(predictions.KINDS)
    for source in truth:
        for target in truth:
            there = predictions.convert(process, truth[source], x, t, source, target)
            pairs.append((truth[target], there))
            # a value that is not the truth must come back too
            value = truth[source] + 1.0
            there = predictions.convert(process, value, x, t, source, target)
            back = predictions.convert(process, there, x, t, target, source)
            pairs.append((value, back))
    return pairs


def test_to_score_recovers_an_exact_score(x64):
    process = processes.flow()
    exact = oracles.gaussian(process, [0.3, -0.1], [[1.0, 0.4], [0.4, 0.5]])
    x, t = np.random.default_rng(0).normal(size=(5, 2)), np.linspace(0.1, 0.9, 5)

    @jax.jit
    def all_of(x, t):
        networks = {k: predictions.to_kind(process, exact, "score", k) for k in predictions.KINDS}
        scores = [predictions.to_score(process, f, k)(x, t) for k, f in networks.items()]
        flow = process.drift(x, t) - 0.5 * process.diffusion(t)[:, None] ** 2 * exact(x, t)
        return scores, exact(x, t), networks["velocity"](x, t), flow

    scores, expected, velocity, flow = all_of(x, t)
    for score in scores:
        np.testing.assert_allclose(score, expected, rtol=1e-10)
    np.testing.assert_allclose(velocity, flow, rtol=1e-10)


def test_one_time_for_the_whole_batch(x64):
    process = processes.vp()
    _, _, x, _ = pair(process)
    value = jnp.ones_like(x)
    convert = jax.jit(lambda t: [
        predictions.convert(process, value, x, t, kind, "data") for kind in predictions.KINDS[1:]
    ])  # fmt: skip
    for one, many in zip(convert(np.array(0.3)), convert(np.full(4, 0.3)), strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-14)


def test_edm_constants(x64):
    data_std = 0.7
    sigma = np.geomspace(0.002, 80.0, 13)
    names = ("skip", "out", "input", "noise", "weight")

    @jax.jit
    def coefficients(sigma):
        edm = predictions.edm_preconditioning(sigma, data_std)
        return [getattr(edm, name) for name in names]

    edm = predictions.Preconditioning(*map(np.asarray, coefficients(sigma)))
    np.testing.assert_allclose(edm.weight * edm.out**2, 1, rtol=1e-12)
    # input c_in (x_0 + sigma eps) and target (x_0 - c_skip x)/c_out have unit variance
    input_variance = edm.input**2 * (data_std**2 + sigma**2)
    target_variance = ((1 - edm.skip) ** 2 * data_std**2 + (edm.skip * sigma) ** 2) / edm.out**2
    np.testing.assert_allclose(input_variance, 1, rtol=1e-10)
    np.testing.assert_allclose(target_variance, 1, rtol=1e-10)
    loss_of_zero = edm.weight * (
        (1 - edm.skip) ** 2 * data_std**2 + (edm.skip * sigma) ** 2
    )  # of data with mean 0
    np.testing.assert_allclose(loss_of_zero, 1, rtol=1e-10)
    np.testing.assert_allclose(edm.noise, np.log(sigma) / 4, rtol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_edm_network_is_zero_on_its_own_gaussian(x64, name):
    """For data N(0, d^2) the best raw output is identically zero, for any process."""
    process = PROCESSES[name]
    _, _, x, t = pair(process)
    x = x.reshape(4, 6)
    exact = oracles.gaussian(process, np.zeros(6), 0.7**2)
    denoiser = predictions.edm_denoiser(process, lambda x, noise: jnp.zeros_like(x), 0.7)

    @jax.jit
    def both(x, t):
        scale = process.sigma(t)[:, None] ** 2  # of the score's error in units of the data
        score = predictions.to_score(process, denoiser, "data")
        return score(x, t) * scale, exact(x, t) * scale

    np.testing.assert_allclose(*both(x, t), atol=1e-12)


def test_edm_denoiser_feeds_the_network_what_the_paper_says(x64):
    process = processes.vp()
    _, _, x, t = pair(process)
    seen = {}

    def network(x, noise):
        seen.update(x=x, noise=noise)
        return jnp.ones_like(x)

    result = predictions.edm_denoiser(process, network, 0.5)(x, t)
    level = (process.sigma(t) / process.alpha(t)).reshape(-1, 1, 1)
    unscaled = x / process.alpha(t).reshape(-1, 1, 1)
    norm = jnp.sqrt(level**2 + 0.25)
    np.testing.assert_allclose(seen["x"], unscaled / norm, rtol=1e-12)
    np.testing.assert_allclose(seen["noise"], 0.25 * jnp.log(level[:, 0, 0]), rtol=1e-12)
    expected = 0.25 / norm**2 * unscaled + level * 0.5 / norm
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="kind='x0'"):
        predictions.to_score(processes.vp(), lambda x, t: x, "x0")
    with pytest.raises(ValueError, match="data_std=0"):
        predictions.edm_preconditioning(jnp.ones(2), 0.0)
