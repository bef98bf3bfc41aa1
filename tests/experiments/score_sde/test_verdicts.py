"""What the exact studies of diffusion make of errors, moments and densities."""

import math
import types

import numpy as np
import pytest

from experiments.score_sde import _options
from experiments.score_sde.digits import question as digits
from experiments.score_sde.guidance import gaussian_classes, mixture
from experiments.score_sde.guidance import question as guidance
from experiments.score_sde.inpainting import field, methods, pair
from experiments.score_sde.inpainting import picture as inpainting_picture
from experiments.score_sde.inpainting import question as inpainting
from experiments.score_sde.likelihood import checks, densities
from experiments.score_sde.likelihood import question as likelihood
from experiments.score_sde.orders import known_errors, problems, stochastic
from experiments.score_sde.orders import question as orders
from experiments.score_sde.predictor_corrector import picture, recursion
from experiments.score_sde.predictor_corrector import question as correctors
from experiments.score_sde.toys import checkerboard, comparison, exact
from experiments.score_sde.toys import question as toys
from research.diffusion import processes


def by_name(result):
    return {claim.name: claim for claim in getattr(result, "claims", result)}


def held(claim):
    return claim.measured, claim.relation, claim.expected, claim.tolerance


# As the README's table of orders has them: theory, and on Gaussians where that differs.
ORDERS = {
    1: "euler euler_time euler_log_snr reverse_flow",
    2: "heun heun_time heun_log_snr midpoint midpoint_log_snr dpm_2 dpm_pp_2s dpm_pp_2m unipc_1",
    3: "dpm_3 dpm_pp_3s dpm_pp_3m unipc_2",
    4: "unipc_3 rk4 rk4_time rk4_log_snr",
}


def test_orders_are_those_of_theory():
    found = {name: entry.order for name, entry in problems.SOLVERS.items()}
    assert found == {name: order for order, row in ORDERS.items() for name in row.split()}
    special = {n: e.on_gaussians for n, e in problems.SOLVERS.items() if e.on_gaussians}
    assert special == {"midpoint": 3}
    short = "dpm_3 dpm_pp_3s rk4 rk4_time rk4_log_snr".split()  # rounding shows beyond 2,048 steps
    assert all((e.most == 2048) == (n in short) for n, e in problems.SOLVERS.items())


def test_slopes_are_those_of_the_last_doublings(monkeypatch, tmp_path):
    """Errors of steps^-order, but for the coarsest; those of first order on their own grids."""
    asked = []

    def errors_on(entry, sizes, span, num_rows):
        asked.append((entry.order, list(sizes), span, num_rows))
        n = np.array(sizes, float)
        off = np.where(n < 100, 2.0, 1.0)
        slow = 3 * n ** -(entry.order + 0.125)
        return [2 * size for size in sizes], {"gaussian": n**-entry.order * off, "mixture": slow}

    monkeypatch.setattr(problems, "errors_on", errors_on)
    drawn = {}
    monkeypatch.setattr(
        orders.plots,
        "curves",
        lambda records, names, **_: drawn.update(records=records, names=names),
    )
    out = types.SimpleNamespace(figure=lambda *_: None)
    config = orders.Config(solvers=("euler", "heun", "midpoint"), max_steps=4096,
                           max_steps_first_order=1600)  # fmt: skip
    result = orders._deterministic(config, out)
    whole = (problems.PROCESS.t_max, problems.PROCESS.t_min)
    coarse = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    assert asked == [
        (1, coarse, whole, 8192), (1, [100, 200, 400, 800, 1600], (0.3, 0.25), 1600),
        (2, coarse, whole, 8192), (2, coarse[-5:], whole, 8192),
    ]  # fmt: skip
    found = result.metrics
    assert found["last_slope_gaussian_heun"] == pytest.approx(2, rel=1e-12)
    assert found["last_error_mixture_euler"] == pytest.approx(3 * 1600.0**-1.125, rel=1e-12)
    claims = by_name(result)
    slope, last = "slope - order at any doubling", "error that the slope is kept to"
    assert claims[f"heun: {slope}"].measured == pytest.approx(0.125, rel=1e-9)
    assert claims[f"midpoint: {slope}"].measured == pytest.approx(1, rel=1e-9)  # 3 on Gaussians
    assert claims[f"heun: {last}"].measured == pytest.approx(3 * 4096.0**-2.125, rel=1e-9)
    assert drawn["names"] == ["DDIM (Euler)", "Heun"] and len(drawn["records"]) == 25
    assert drawn["records"][0] == {"nfe": 16, "DDIM (Euler)": pytest.approx(3 * 8.0**-1.125)}


def test_the_last_slopes_of_stochastic_solvers_are_shown_and_all_are_judged(monkeypatch):
    """Gaps 8, 4, 2, 1.25 at 128 to 1,024 steps."""
    gaps = iter([8.0, 4.0, 2.0, 1.25])
    monkeypatch.setattr(stochastic._exact, "stacked_tables", lambda *asked: asked[-1])
    monkeypatch.setattr(stochastic, "_moments_at", lambda *_: (0.0, 1.0))
    monkeypatch.setattr(stochastic, "_strong_slopes", lambda *_: np.array([1.0, 0.5, 1.25]))
    monkeypatch.setattr(
        stochastic.problems, "moments_after",
        lambda process, stacked, *_: (np.arange(4), np.arange(4)) if stacked == 1024 else None,
    )  # fmt: skip
    monkeypatch.setattr(stochastic.moments, "wasserstein", lambda *_: next(gaps))
    result = stochastic.orders(("ancestral",), 3, 7)
    last = math.log2(2 / 1.25)
    assert result.metrics == {
        "weak_slope_ancestral": pytest.approx(last), "strong_slope_euler_maruyama": 1.25,
    }  # fmt: skip
    assert [held(claim)[:3] for claim in result.claims] == [
        (pytest.approx(1 - last), "<=", 0.15), (0.5, "<=", 0.15),
    ]  # fmt: skip


def test_known_errors_are_met_by_all_three_solvers(x64):
    """They were computed without this library, so they hold: 30 errors, three slopes."""
    result = known_errors.compared(("euler", "heun", "dpm_pp_2m", "rk4"))
    assert len(result.claims) == 6 + 3 and all(claim.holds for claim in result.claims)
    assert result.metrics["rmse_euler_160"] == pytest.approx(8.8023e-3, rel=1e-4)


@pytest.mark.parametrize(
    "run, config, words",
    [
        (orders.run, orders.Config(solvers=()), "solvers="),
        (orders.run, orders.Config(stochastic=("euler",)), "stochastic="),
        (toys.run, toys.Config(parts=()), "parts="),
        (toys.run, toys.Config(parts=("spiral",)), "parts="),
        (guidance.run, guidance.Config(scales=(1.0,)), "scales="),
        (inpainting.run, inpainting.Config(methods=("guidance",)), "methods="),
        (inpainting.run, inpainting.Config(methods=("exact", "other")), "methods="),
        (inpainting.run, inpainting.Config(correlation=0.0), "correlation=0.0"),
        (inpainting.run, inpainting.Config(correlation=-1.0), "correlation=-1.0"),
        (inpainting.run, inpainting.Config(num_steps=(5,)), "two or more"),
        (correctors.run, correctors.Config(predictors=()), "predictors="),
        (correctors.run, correctors.Config(predictors=("heun",)), "predictors="),
        (likelihood.run, likelihood.Config(processes=()), "processes="),
        (likelihood.run, likelihood.Config(field_processes=("x",)), "field_processes="),
        (likelihood.run, likelihood.Config(checks=("x",)), "checks="),
        (digits.run, digits.Config(sampling=_options.Sampling(num_samples=90)), "num_samples=90"),
        (digits.run, digits.Config(sampling=_options.Sampling(num_samples=105)), "num_samples=105"),
    ],
)
def test_bad_options_are_named(run, config, words):
    with pytest.raises(ValueError, match=words):
        run(config, None)


def test_correctors_are_judged_by_ratios_of_the_table():
    table = {("ve", "P2000_flow"): 4.0, ("ve", "PC1000_flow"): 1.0, ("ve", "C2000"): 8.0,
             ("ve", "P1000_flow"): 5.0, ("vp", "P2000_flow"): 0.5, ("vp", "PC1000_flow"): 0.8,
             ("vp", "C2000"): 0.1, ("vp", "P1000_flow"): 0.2}  # fmt: skip
    ratio, near, ve, vp = correctors._claims(("flow",), table)
    assert held(ratio) == (0.25, "<=", pytest.approx(3.51 / 10.54), 0)
    assert held(near) == (pytest.approx(0.3 / 3), "<", 0.1, 0)
    assert held(ve) == (8 / 5, ">", 1, 0) and held(vp) == (pytest.approx(0.125), ">", 1, 0)
    found = [(a / b) for b, a in correctors.PUBLISHED.values()]
    np.testing.assert_allclose(found, [0.74, 0.76, 0.33], atol=0.005)  # the README's bars


def test_every_column_of_the_table_has_its_solver_and_steps():
    columns = recursion.samplers_of(("ancestral", "flow"), 10, 0.16)
    steps = {name: num for name, (_, num) in columns.items()}
    assert steps == {"C2000": 20, "P1000_ancestral": 10, "P2000_ancestral": 20,
                     "PC1000_ancestral": 10, "P1000_flow": 10, "P2000_flow": 20,
                     "PC1000_flow": 10}  # fmt: skip
    assert columns["P1000_flow"][0] == columns["P2000_flow"][0] == recursion.PREDICTORS["flow"]


def test_the_field_has_its_spectrum_and_every_mode_is_counted():
    setting = recursion.Setting(processes.vp(), 0.5, 1e-3, 0.0)
    variances, counts = recursion._spectrum(8, setting)
    k = np.fft.fftfreq(8) * 8
    square = np.maximum(k[:, None] ** 2 + k**2, 1)
    assert counts.sum() == 64 and len(variances) == len(np.unique(square))
    np.testing.assert_allclose(variances[0] / variances, np.unique(square), rtol=1e-12)
    assert np.sum(counts * variances) / 64 == pytest.approx(0.25, rel=1e-12)  # of a pixel


def test_samples_have_the_moments_of_the_recursion(x64):
    config = correctors.Config(num_steps=3, field_size=4, num_samples=400, predictors=("flow",))
    columns = recursion.samplers_of(("flow",), 3, 0.16)
    setting = recursion.Setting(processes.ve(0.01, 50.0), 0.25, 1e-5, -0.05)
    result = correctors._sampled(config, columns, setting)
    deviation = result.metrics["sampling_largest_deviation"]
    assert 0.5 < deviation < 4.5  # of 24 moments; false alarm below 2e-4
    (claim,) = result.claims
    assert held(claim) == (deviation, "<=", 5.5, 0)
    other = recursion.deviation_of_samples({"C2000": columns["C2000"]}, setting, 4, 400)
    assert 0 < other <= deviation  # the largest of all


def test_distances_are_drawn_against_the_size_of_the_error():
    deltas = -np.array([0.01, 0.1])
    rows = {name: np.array([1e-4, 1e-3, 1e-2]) for name in ("C2000", "P2000_flow", "PC1000_flow")}
    curves = {"ve": rows, "vp": rows}
    left, right = picture.draw(deltas, curves, {"ve": -0.05, "vp": -0.005}, ["flow"]).axes
    for axes, mark in ((left, 0.05), (right, 0.005)):
        for line in axes.lines[:3]:
            np.testing.assert_array_equal(line.get_data(), [[0.01, 0.1], [1e-4, 1e-3]])
        assert axes.lines[3].get_xdata() == [mark, mark]


def test_guidance_between_gaussians_by_hand():
    """S_c^w S_u^(1-w) of the flow, the harmonic mean of the tilted law: the README's table."""
    stds = gaussian_classes.stds([0.0, 1.0, 2.0, 4.0])
    np.testing.assert_allclose(np.square(stds["flow"]), [1, 0.2, 0.04, 0.0016], rtol=2e-3)
    np.testing.assert_allclose(np.square(stds["tilted"]), [1, 0.2, 1 / 9, 1 / 17], rtol=1e-9)
    stated = gaussian_classes._stated([1e-9, -2e-9], [1.0, -3.0])
    largest, deviation, gap = stated
    assert held(largest) == (2e-9, "<=", 1e-8, 0) and held(deviation) == (3, "<=", 4.5, 0)
    # Of both directions the smaller: 0.04 9 and (0.5^2 / 0.8) (2 / 0.5 - 1 / 0.8).
    known = np.abs([0.04 * 9 - 1, 0.25 / 0.8 * (4 - 1.25) - 1]).min()
    assert held(gap) == (pytest.approx(known, rel=5e-3), ">", 0.05, 0)


def test_laws_on_the_line_are_compared_by_variation_and_rank():
    """Uniform on [0, 1] and on [0, 2], by cells of 1/100; three samples at known quantiles."""
    x = (np.arange(400) + 0.5) / 100 - 1
    flow = ((x > 0) & (x < 1)).astype(float)
    tilted = ((x > 0) & (x < 2)) / 2.0
    result = mixture.compared({"x": x, "flow": flow, "tilted": tilted}, np.array([0.2, 0.5, 0.7]))
    found = result.metrics
    assert found["mixture_mass_of_flow"] == pytest.approx(1, rel=1e-9)
    assert found["mixture_total_variation_flow_to_tilted"] == pytest.approx(0.5, rel=1e-9)
    # Ranks 1/6, 1/2, 5/6 beside 0.2, 0.5, 0.7.
    kolmogorov = found["mixture_kolmogorov_samples_to_flow"]
    assert kolmogorov == pytest.approx(5 / 6 - 0.7, rel=1e-9)
    bound = result.claims[1]
    assert held(bound) == (kolmogorov, "<=", pytest.approx(1.95 / 3**0.5), 0)


def test_biases_of_inpainting_are_judged_by_orders_and_ratios():
    """Errors that halve, that stay and that fall by 2^0.05; [S, 2] of mean and std."""
    curves = {"exact": np.array([[4.0, 2.0], [2.0, 1.0]]), "guidance": np.full((2, 2), 60.0),
              "replacement": np.array([[30.0, 1], [30 / 2**0.05, 1]]),
              "replacement_pc": np.array([[1.0, 40], [1, 20]]),
              "guidance_true_covariance": np.ones((2, 2))}  # fmt: skip
    laws = dict.fromkeys(curves, np.zeros((2, 2)))
    laws["guidance_true_covariance"] = np.array([[0.0, -1e-9], [0, 0]])
    result = pair._orders(curves, laws, [1.0, -2.0])
    claims, found = by_name(result), result.metrics
    assert found["pair_last_order_guidance"] == 0
    assert found["pair_last_order_replacement"] == pytest.approx(0.05)
    assert found["pair_last_order_replacement_pc"] == pytest.approx(1)
    order = claims["pair: order at which the exact score's error of the std falls"]
    assert held(order) == (1, "within", 1, 0.15)
    assert held(claims["pair: samples, standard errors off the recursion"]) == (2, "<=", 4.5, 0)
    same = claims["pair: true-covariance guidance less the exact score"]
    assert held(same) == (1e-9, "<=", 1e-8, 0)
    falls = "pair: order at which the bias of"
    assert held(claims[f"{falls} guidance falls"]) == (0, "<", 0.1, 0)
    assert f"{falls} replacement_pc falls" not in claims
    over = claims["pair: bias of replacement_pc over that of the exact score"]
    assert held(over) == (10, ">", 10, 0) and not over.holds
    assert claims["pair: bias of guidance over that of the exact score"].measured == 30


def test_the_field_is_held_to_four_standard_errors_of_a_chi_square():
    metrics = {"field_mean_error_exact": 1.2, "field_mean_error_guidance": 1.4}
    exact_one, biased = field._claims(metrics, ["guidance"], 200)
    assert held(exact_one) == (1.2, "within", 1, pytest.approx(0.4))
    assert held(biased) == (1.4, ">", pytest.approx(1.4), 0)


def test_inpainted_fields_stand_beside_errors_of_the_mean():
    images = {name: np.full((2, 2), 1.0) for name in ("truth", "seen", "mean", "exact")}
    images["truth"] = np.array([[0.0, 1.0], [2.0, 3.0]])
    curves = {"exact": np.array([[0.4, 9.0], [0.2, 9.0]])}
    figure = inpainting_picture.draw([5, 10], curves, images)
    curve = figure.axes[0]
    np.testing.assert_allclose(curve.lines[0].get_data(), [[5, 10], [0.4, 0.2]])
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 7 and all(a.images[0].get_clim() == (0, 3) for a in shown)


def test_methods_that_need_the_covariance_are_left_out_without_it():
    from research.diffusion import inverse_problems

    seen = inverse_problems.inpainting(np.array([True, False]), np.array([1.5, 0.0]))
    made = {
        name: set(methods.on_problem(methods.NAMES, None, None, seen, covariance))
        for name, covariance in (("with", np.eye(2)), ("without", None))
    }
    assert made["with"] == set(methods.NAMES)
    assert made["with"] - made["without"] == {"guidance_true_covariance"}
    both = methods.on_problem(("exact", "replacement"), None, None, seen, None)
    assert [method.replaces for method in both.values()] == [False, True]


def test_errors_of_densities_are_a_dimension_and_beyond_the_gap():
    oracle = types.SimpleNamespace(
        process=types.SimpleNamespace(t_max=1.0, t_min=0.0),
        log_prob=lambda x, t: np.array([-1.0, -2.0]) - 3.0 * t,
    )
    result = types.SimpleNamespace(
        prior_log_prob=np.array([-4.0, -5.5]), end=None, log_prob=np.array([-1.0, -2.9])
    )
    # Gaps 0, -0.5; errors 0 - 0, -0.9 + 0.5; of two dimensions each.
    error, gap = densities._error(oracle, np.zeros((2, 2)), result)
    assert (error, gap) == (pytest.approx(0.2), pytest.approx(0.25))
    stated = densities._result({"error_a": -2e-4, "gap_a": 7.0, "error_b": 1e-5}).claims
    assert [held(claim) for claim in stated] == [(2e-4, "<=", 1e-4, 0), (1e-5, "<=", 1e-4, 0)]


def test_the_field_of_densities_has_no_error(x64):
    result = densities.on_field("vp", 4)
    assert result.claims[0].holds and result.metrics["nfe_field_vp"] > 10
    assert 0 < result.metrics["largest_prior_gap_field_vp"] < 1e-4  # the README's 1e-5 of 32 x 32


def test_the_checkerboard_has_eight_dark_cells():
    points = checkerboard._cells(np.random.default_rng(0), 4000)
    cells, counts = np.unique(np.floor(points).astype(int), axis=0, return_counts=True)
    assert len(cells) == 8 and np.all(cells.sum(1) % 2 == cells[0].sum() % 2)
    assert points.min() >= -2 and points.max() <= 2 and counts.min() > 400
    assert checkerboard.ENTROPY == pytest.approx(math.log(8 * 4))


def test_the_checkerboard_is_judged_against_the_mixture_and_the_entropy():
    values = {"energy": 0.1, "sliced": 0.2, "nll": 3.5, "baseline_energy": 0.3,
              "baseline_sliced": 0.1, "baseline_nll": 3.6}  # fmt: skip
    energy, sliced, nll, possible = checkerboard._claims(values, error=0.02)
    assert [claim.holds for claim in (energy, sliced, nll)] == [True, False, True]
    assert held(possible) == (3.5, ">=", pytest.approx(math.log(32)), pytest.approx(0.08))


@pytest.mark.parametrize("part", ["ring", "memorised"])
def test_scores_that_are_known_keep_their_claims(part, tmp_path):
    sizes = comparison.Sizes(num_samples=60, sampler_steps=12, num_draws=40)
    result, panel = exact.ring(sizes) if part == "ring" else exact.memorised(sizes, 12)
    claims = by_name(result)
    assert panel.samples.shape == (60, 2) and panel.path.shape == (13, 60, 2)
    if part == "ring":
        entropy = claims["ring: entropy through the flow, nats"]
        expected = math.log(8) + math.log(2 * math.pi * math.e * 0.01)
        assert held(entropy)[1:] == ("within", pytest.approx(expected), 1e-3) and entropy.holds
        radius = np.hypot(*panel.samples.T)
        assert abs(radius.mean() - 1.5) < 0.1 and radius.std() < 0.2
        angle = np.angle(panel.samples @ [1, 1j]) / (2 * math.pi / 8)
        assert np.abs(angle - angle.round()).mean() < 0.1  # at the eight corners
        assert claims["ring, exact score: sliced"].relation == "<="
        assert len(claims) == 3
    else:
        recited = claims["memorised: median distance to the data set, over that of fresh draws"]
        assert held(recited)[1:] == ("<", 0.01, 0) and recited.holds
        found = result.metrics
        ratio = found["memorised_median_distance_to_data"] / found[
            "memorised_median_distance_of_fresh"
        ]  # fmt: skip
        assert recited.measured == pytest.approx(ratio)
        assert 0.7 < found["memorised_share_of_data_recited"] <= 1


def test_the_spiral_turns_one_and_a_half_times():
    points = exact._spiral(np.random.default_rng(0), 4000)
    turn, angle = np.hypot(*points.T) / 0.22, np.angle(points @ [1, 1j])
    assert np.exp(1j * (turn - angle)).real.mean() > 0.95
    # Squares of the turns are uniform; the noise of 0.03 adds its own two squares.
    square = (turn**2 - 2 * (0.03 / 0.22) ** 2) / (3 * math.pi) ** 2
    assert square.mean() == pytest.approx(0.525, abs=6 * 0.274 / 4000**0.5)
    assert square.std() == pytest.approx(0.95 / 12**0.5, rel=0.05)


@pytest.mark.parametrize("size", [4])
def test_probes_of_the_field_spread_as_their_closed_form(x64, size):
    """2 sum (l - mean l)^2 over the modes' log gains; here from the spectra by NumPy."""
    result = checks.hutchinson(size, 4, 8)
    k = np.fft.fftfreq(size) * size
    radius = np.maximum(np.hypot(k[:, None], k), 1)
    spectrum = radius**-2 / np.mean(radius**-2)

    def at(t):  # variance of each mode on the way, VP of Song et al. 2021
        shrink = np.exp(-0.5 * t**2 * 19.9 - t * 0.1)
        return shrink * spectrum + 1 - shrink

    gains = 0.5 * np.log(at(1.0) / at(checks.VP.t_min))
    expected = math.sqrt(2 * np.sum((gains - gains.mean()) ** 2))
    spread, mean = result.claims
    assert held(spread)[1:] == (
        "within", pytest.approx(expected, rel=1e-6), pytest.approx(4 * expected / 56**0.5)
    )  # fmt: skip
    assert spread.holds and mean.holds and mean.expected == 4
    found = result.metrics
    assert found["hutchinson_spread_expected"] == pytest.approx(expected, rel=1e-6)
    per_dim = found["hutchinson_spread_of_a_probe"] / 8**0.5 / size**2
    assert found["hutchinson_standard_error_per_dim"] == pytest.approx(per_dim, rel=1e-9)
    assert abs(found["hutchinson_mean_error_in_standard_errors"]) == mean.measured


def test_a_mistaken_prior_is_seen(x64):
    """The README's row: -3.882105 and a gap of 1.87e-3."""
    result = checks.mistaken_prior()
    error, own = result.claims
    assert result.metrics["gap_of_own_prior_there"] == pytest.approx(-1.87e-3, abs=5e-6)
    assert held(error)[1:] == ("within", pytest.approx(-3.882105, abs=1e-6), 1e-6) and error.holds
    assert own.expected == 1e-4 and own.measured < 1e-9
