"""Guided scores against Bayes' rule, and the law that guidance samples against its closed form."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import guidance, oracles, predictions, processes

VP = processes.vp()
EDM = processes.edm()
CLASS = guidance.Normal(np.array([1.0, 0.3]), np.array([0.2, 0.5]))
ALL = guidance.Normal(np.array([0.2, -0.1]), np.array([1.0, 0.4]))


def normal(process, law):
    return oracles.gaussian(process, law.mean, law.variance)


def flow_map(score, process, x):
    """The probability flow from t_max to t_min in t, by an independent tight solve."""

    def velocity(t, x, _):
        times = jnp.full(x.shape[:1], t)
        return process.drift(x, times) - 0.5 * process.diffusion(t) ** 2 * score(x, times)

    controller = diffrax.PIDController(rtol=1e-11, atol=1e-11)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(velocity), diffrax.Dopri8(), process.t_max, process.t_min, -1e-3, x,
        stepsize_controller=controller, max_steps=20_000,
    ).ys[0]  # fmt: skip


@pytest.mark.parametrize("process", [VP, processes.edm(0.01, 40.0)], ids=lambda p: p.name)
def test_guided_law_is_the_closed_form_and_not_the_tilted_law(process, x64):
    ends_of = jax.jit(
        lambda scale, x: flow_map(
            guidance.classifier_free(process, normal(process, CLASS), normal(process, ALL), scale),
            process,
            x,
        )
    )
    for scale in (0.0, 1.0, 2.0, 4.0):
        law = guidance.guided_law(process, CLASS, ALL, scale)
        # The map is affine: its value at 0 and its slope give mean and variance exactly.
        ends = np.asarray(ends_of(scale, np.array([[0.0, 0.0], [1.0, 1.0]])))
        np.testing.assert_allclose(ends[0], law.mean, atol=1e-8)
        variance = ((ends[1] - ends[0]) * process.prior_std) ** 2
        np.testing.assert_allclose(variance, law.variance, rtol=1e-8)
        tilted = guidance.tilted_law(CLASS, ALL, scale)
        gap = np.abs(law.variance / tilted.variance - 1)
        assert (gap < 2e-3).all() if scale in (0, 1) else (gap > 0.05).all(), (scale, gap)


def test_guided_law_of_equal_variances_in_closed_form(x64):
    """The mean moves: m_u + w (m_c - m_u)(1 - sqrt(S / (S + T^2))), less the prior's offset."""
    unit = lambda mean: guidance.Normal(np.array([mean]), np.array([0.7]))
    law = guidance.guided_law(EDM, unit(1.0), unit(0.4), 3.0)
    start, end = 0.7 + 0.002**2, 0.7 + 80.0**2
    shrink = np.sqrt(start / end)
    np.testing.assert_allclose(law.mean, 0.4 * (1 - shrink) + 3 * 0.6 * (1 - shrink), rtol=1e-10)
    np.testing.assert_allclose(law.variance, start * 80.0**2 / end, rtol=1e-12)


def test_classifier_guidance_is_bayes_rule(x64):
    """score(x) + grad log p(c|x) = score(x|c), and the classifier-free form interpolates them."""
    parts = [([1.0, 0.0], [0.3, 0.2]), ([-1.0, 0.5], [0.5, 0.6])]
    mixture = oracles.mixture(
        VP, [0.4, 0.6], np.array([mean for mean, _ in parts]), np.array([v for _, v in parts])
    )
    conditional = oracles.gaussian(VP, *map(np.array, parts[0]))
    log_likelihood = lambda x, t: jnp.log(mixture.responsibilities(x, t)[:, 0])
    x, t = np.random.default_rng(0).normal(size=(5, 2)), np.linspace(0.1, 1.0, 5)

    @jax.jit
    def all_of(scale, x, t):
        by_classifier = guidance.classifier(VP, mixture, log_likelihood, scale)(x, t)
        free = guidance.classifier_free(VP, conditional, mixture, scale)(x, t)
        plain = guidance.classifier(VP, mixture, log_likelihood)(x, t)
        return by_classifier, free, plain, conditional(x, t)

    for scale in (1.0, 2.5):
        by_classifier, free, plain, expected = all_of(scale, x, t)
        np.testing.assert_allclose(by_classifier, free, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(plain, expected, rtol=1e-9)


def test_guidance_is_the_same_for_every_kind_of_prediction(x64):
    """Extrapolating predictions of any kind extrapolates the scores: all are affine in others."""
    x, t = np.random.default_rng(0).normal(size=(4, 2)), np.linspace(0.2, 0.9, 4)
    main, guide = normal(VP, CLASS), normal(VP, ALL)

    def by_kind(kind, x, t):
        one, other = (predictions.to_kind(VP, score, "score", kind) for score in (main, guide))
        guided = lambda x, t: other(x, t) + 1.7 * (one(x, t) - other(x, t))
        return predictions.to_score(VP, guided, kind)(x, t)

    @jax.jit
    def all_of(x, t):
        expected = guidance.autoguidance(VP, main, guide, 1.7)(x, t)
        return expected, [by_kind(kind, x, t) for kind in predictions.KINDS]

    expected, found = all_of(x, t)
    for score in found:
        np.testing.assert_allclose(score, expected, rtol=1e-9)


def test_guidance_acts_inside_its_interval_only(x64):
    x, t = np.ones((4, 2)), np.array([0.1, 0.3, 0.5, 0.9])
    main, guide = normal(VP, CLASS), normal(VP, ALL)
    inside = (t >= 0.3) & (t <= 0.5)
    log_likelihood = lambda x, t: jnp.sum(x, 1) * t

    @jax.jit
    def all_of(x, t):
        score = guidance.classifier_free(VP, main, guide, 3.0, (0.3, 0.5))(x, t)
        full = guidance.classifier_free(VP, main, guide, 3.0)(x, t)
        limited = guidance.classifier(VP, main, log_likelihood, 2.0, (0.3, 0.5))(x, t)
        return score, full, limited, main(x, t)

    score, full, limited, plain = jax.tree.map(np.asarray, all_of(x, t))
    np.testing.assert_allclose(score, np.where(inside[:, None], full, plain), rtol=1e-12)
    pull = np.where(inside, 2 * t, 0)[:, None]
    np.testing.assert_allclose(limited, plain + pull, rtol=1e-12)


def test_scale_may_be_swept_in_one_compilation(x64):
    x, t = np.ones((2, 2)), np.full(2, 0.5)
    main, guide = normal(VP, CLASS), normal(VP, ALL)

    @jax.jit
    def all_of(scales, x, t):
        swept = jax.vmap(lambda w: guidance.classifier_free(VP, main, guide, w)(x, t))(scales)
        return swept, guide(x, t), main(x, t)

    swept, *ends = all_of(np.array([0.0, 1.0, 3.0]), x, t)
    np.testing.assert_allclose(swept[0], ends[0], rtol=1e-12)
    np.testing.assert_allclose(swept[1], ends[1], rtol=1e-12)
    np.testing.assert_allclose(swept[2], ends[0] + 3 * (ends[1] - ends[0]), rtol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: guidance.classifier_free(VP, s, None, 2.0), "needs an unconditional score"),
        (lambda s: guidance.classifier_free(VP, s, s, 2.0, (0.5, 2.0)), r"interval=\[0.5 2. \]"),
        (lambda s: guidance.autoguidance(VP, s, s, 2.0, (0.5, 0.4)), "low < high"),
        (lambda s: guidance.tilted_law(ALL, CLASS, 3.0), "cannot be normalised"),
        (lambda s: guidance.classifier(VP, s, None, float("inf")), "scale=inf"),
        (lambda s: guidance.classifier_free(VP, s, s, float("nan")), "scale=nan"),
        (lambda s: guidance.autoguidance(VP, s, s, jnp.array([1.0, jnp.nan])), "scale=.*nan"),
        (lambda s: guidance.guided_law(VP, ALL, CLASS, float("nan")), "scale=nan"),
        (lambda s: guidance.tilted_law(ALL, CLASS, float("nan")), "scale=nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(VP, ALL))


def test_scale_one_needs_no_unconditional_score():
    score = normal(VP, ALL)
    assert guidance.classifier_free(VP, score, None, 1.0) is score


def test_rescaling_brings_back_the_spread_of_each_example(x64):
    guided, conditional = np.random.default_rng(0).normal(2.0, [[3.0]], (2, 4, 5))
    spread = conditional.std(1) / guided.std(1)
    for amount in (0.0, 0.7, 1.0):
        got = guidance.rescale(jnp.asarray(guided), jnp.asarray(conditional), amount)
        expected = amount * spread[:, None] * guided + (1 - amount) * guided
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    np.testing.assert_array_equal(guidance.rescale(jnp.ones((1, 3)), jnp.ones((1, 3)), 0.0), 1)


def test_rescaling_refuses():
    with pytest.raises(ValueError, match="amount=1.2: expected"):
        guidance.rescale(jnp.ones((1, 3)), jnp.ones((1, 3)), 1.2)
    with pytest.raises(ValueError, match="guided"):
        guidance.rescale(jnp.ones((1, 3)), jnp.ones((2, 3)), 0.5)
