"""Closed forms of the noising processes against printed constants and autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from research.diffusion import processes

ALL = {
    "vp": lambda: processes.vp(),
    "vp_constant": lambda: processes.vp(beta_min=3.0, beta_max=3.0),
    "sub_vp": lambda: processes.sub_vp(),
    "ve": lambda: processes.ve(0.01, 50.0),
    "edm": lambda: processes.edm(),
    "cosine": lambda: processes.cosine(),
    "flow": lambda: processes.flow(),
    "any": lambda: processes.from_alpha_sigma(
        lambda t: 1 / (1 + t), lambda t: t * jnp.exp(t), 0.01, 3.0
    ),
}


def times_of(process, num=9):
    return np.linspace(process.t_min, process.t_max, num)


def test_vp_takes_the_printed_values(x64):
    vp, sub_vp = processes.vp(), processes.sub_vp()
    # beta_min + (beta_max - beta_min)/2 integrates to 10.05
    np.testing.assert_allclose(-2 * jnp.log(vp.alpha(1.0)), 10.05, rtol=1e-12)
    np.testing.assert_allclose(vp.alpha(1.0), 6.571586e-3, rtol=1e-6)
    np.testing.assert_allclose(vp.alpha(1.0) ** 2, 4.318575e-5, rtol=1e-6)
    np.testing.assert_allclose(vp.sigma(1.0), 0.99997841, atol=1e-8)
    np.testing.assert_allclose(sub_vp.sigma(1.0), 0.99995681, atol=1e-8)
    t = jnp.array([1.0, 0.5, 1e-3])
    ratios = [152.16697, 3.41291831, 0.010485993]
    np.testing.assert_allclose(vp.sigma(t) / vp.alpha(t), ratios, rtol=1e-7)
    np.testing.assert_allclose(vp.alpha(0.5), 0.28118288, atol=1e-8)
    np.testing.assert_allclose(vp.sigma(0.5), 0.95965420, atol=1e-8)
    np.testing.assert_allclose(vp.sigma(1e-5), 1.0004971e-3, rtol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_drift_and_diffusion_are_those_of_alpha_and_sigma(x64, name):
    process = ALL[name]()
    t = times_of(process)
    x = np.random.default_rng(0).normal(size=(t.size, 2, 3))

    @jax.jit
    def curves(t, x):
        slopes = [
            jax.vmap(jax.grad(c))(t) for c in (process.alpha, lambda t: process.sigma(t) ** 2)
        ]
        own = process.drift_rate(t), process.diffusion(t), process.drift(x, t)
        return process.alpha(t), process.sigma(t), slopes, own, process.alpha_prime(t)

    alpha, sigma, slopes, own, prime = jax.tree.map(np.asarray, curves(t, x))
    (alpha_prime, variance_prime), (drift_rate, diffusion, drift) = slopes, own
    rate = alpha_prime / alpha
    np.testing.assert_allclose(drift_rate, rate, rtol=1e-10)
    np.testing.assert_allclose(diffusion**2, variance_prime - 2 * rate * sigma**2, rtol=1e-10)
    np.testing.assert_allclose(drift, rate[:, None, None] * x, rtol=1e-10)
    np.testing.assert_allclose(prime, alpha_prime, rtol=1e-12)


def test_published_forms_of_the_diffusion(x64):
    t = np.linspace(0.01, 1.0, 7)
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 0.5 * 19.9 * t**2
    square = beta * (1 - np.exp(-2 * integral))
    sub_vp, ve = processes.sub_vp(), processes.ve(0.01, 50.0)
    curves = jax.jit(lambda t: (sub_vp.diffusion(t), ve.diffusion(t), ve.sigma(t)))
    diffusion, ve_diffusion, ve_sigma = jax.tree.map(np.asarray, curves(t))
    np.testing.assert_allclose(diffusion**2, square, rtol=1e-10)
    g = ve_sigma * np.sqrt(2 * np.log(50.0 / 0.01))
    np.testing.assert_allclose(ve_diffusion, g, rtol=1e-12)
    np.testing.assert_allclose(ve_sigma, 0.01 * 5000**t, rtol=1e-12)


RANGES = {
    "vp": lambda: processes.vp(t_max=0.7),
    "sub_vp": lambda: processes.sub_vp(beta_min=0.5, beta_max=9.0, t_min=1e-3, t_max=0.7),
    "ve": lambda: processes.ve(0.1, 4.0, t_min=0.2, t_max=0.7),
    "cosine": lambda: processes.cosine(t_min=0.01, t_max=0.7),
    "flow": lambda: processes.flow(t_min=0.01, t_max=0.7),
    "any": lambda: processes.from_alpha_sigma(jnp.ones_like, lambda t: t, 0.01, 0.7, prior_std=2.0),
}


@pytest.mark.parametrize("name, prior_std", [
    ("vp", 1.0), ("sub_vp", 1.0), ("ve", 0.1 * 40**0.7), ("cosine", 1.0), ("flow", 0.7),
    ("any", 2.0),
])  # fmt: skip
def test_ranges_end_where_they_are_told(name, prior_std):
    process = RANGES[name]()
    assert process.t_max == 0.7 and process.t_min == {
        "vp": 1e-5, "sub_vp": 1e-3, "ve": 0.2
    }.get(name, 0.01)  # fmt: skip
    np.testing.assert_allclose(process.prior_std, prior_std, rtol=1e-12)
    with pytest.raises(ValueError, match="t=0.8: expected times in"):
        process.check_times(0.8, "t")


def test_sub_vp_of_other_betas(x64):
    t = np.array([1e-3, 0.3, 0.7])
    integral = 0.5 * t + 0.5 * 8.5 * t**2
    found = jax.jit(lambda t: (RANGES["sub_vp"]().alpha(t), RANGES["sub_vp"]().sigma(t)))(t)
    np.testing.assert_allclose(found, (np.exp(-integral / 2), 1 - np.exp(-integral)), rtol=1e-10)


def test_cosine_is_the_published_schedule(x64):
    t = np.array([0.1, 0.5, 0.9])
    angle = (t + 0.008) / 1.008 * np.pi / 2
    alpha_bar = np.cos(angle) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    process = processes.cosine()
    squares = jax.jit(lambda t: (process.alpha(t) ** 2, process.sigma(t) ** 2))(t)
    np.testing.assert_allclose(squares, (alpha_bar, 1 - alpha_bar), rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_log_snr_and_its_inverse(x64, name):
    process = ALL[name]()
    t = times_of(process, 33)

    @jax.jit
    def curves(t):
        log_snr = process.log_snr(t)
        return log_snr, process.inverse_log_snr(log_snr), process.alpha(t), process.sigma(t)

    log_snr, back, alpha, sigma = jax.tree.map(np.asarray, curves(t))
    np.testing.assert_allclose(log_snr, 2 * np.log(alpha / sigma), rtol=1e-11, atol=1e-11)
    assert np.all(np.diff(log_snr) < 0)
    np.testing.assert_allclose(back, t, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in ALL if name != "any"])
def test_float32_holds_at_both_ends(name):
    """Relative errors of 1e-5 at most where naive forms lose all digits (1 - e^-B at small t)."""
    process = ALL[name]()
    near_start = process.t_min + 1e-4 * (process.t_max - process.t_min) * np.arange(4)
    t = np.append(near_start, np.linspace(0.3, 1.0, 4) * process.t_max).astype(np.float32)
    names = ("alpha", "sigma", "log_snr", "diffusion")
    curves = jax.jit(lambda t: {name: getattr(process, name)(t) for name in names})
    coarse = jax.tree.map(np.asarray, curves(t))
    back = np.asarray(jax.jit(process.inverse_log_snr)(coarse["log_snr"]))
    with jax.enable_x64(True):
        fine = jax.tree.map(np.asarray, curves(t.astype(float)))
    for curve in ("alpha", "sigma", "diffusion"):
        np.testing.assert_allclose(coarse[curve], fine[curve], rtol=1e-5, err_msg=curve)
    np.testing.assert_allclose(coarse["log_snr"], fine["log_snr"], atol=1e-5)
    np.testing.assert_allclose(back, t, rtol=2e-5, atol=2e-7)


def test_prior(x64):
    process = processes.edm(sigma_max=3.0)
    x = np.random.default_rng(0).normal(size=(5, 2, 4))
    expected = scipy.stats.norm(scale=3.0).logpdf(x).sum((1, 2))
    np.testing.assert_allclose(jax.jit(process.prior_log_prob)(x), expected, rtol=1e-12)
    draws = jax.jit(lambda key: process.prior_sample(key, (20000,)))(jax.random.key(1))
    assert abs(draws.std() / 3.0 - 1) < 0.02  # 4 standard errors


def test_equal_arguments_give_the_same_object():
    assert processes.vp() is processes.vp(0.1, beta_max=20.0)
    assert hash(processes.vp()) == hash(processes.vp(0.1))
    assert processes.vp() != processes.vp(0.2)
    traces = []
    step = jax.jit(lambda process, x: traces.append(0) or process.sigma(x), static_argnums=0)
    step(processes.flow(), 0.5)
    step(processes.flow(t_max=0.999), 0.5)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: processes.vp(beta_min=2.0, beta_max=1.0), "beta_min=2.0"),
        (lambda: processes.vp(t_min=0.0), "0 < t_min"),
        (lambda: processes.vp(beta_max=np.inf), "beta_max=inf"),
        (lambda: processes.vp(t_max=np.nan), "t_max=nan"),
        (lambda: processes.edm(sigma_max=np.inf), "sigma_max=inf"),
        (lambda: processes.cosine(offset=np.nan), "offset=nan"),
        (lambda: processes.from_alpha_sigma(None, None, 0.1, 1.0, -1.0), "prior_std=-1.0"),
        (lambda: processes.ve(2.0, 1.0), "sigma_min=2.0"),
        (lambda: processes.flow(t_max=1.0), "t_max < 1.0"),
        (lambda: processes.cosine(offset=-1.0), "offset=-1.0"),
        (lambda: processes.from_alpha_sigma(jnp.ones_like, jnp.cos, 0.1, 1.0), "alpha/sigma"),
        (lambda: processes.from_alpha_sigma(jnp.ones_like, jnp.sin, -0.1, 1.0), "positive"),
        (lambda: processes.vp().check_times([0.5, 1.5], "grid"), "grid="),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
