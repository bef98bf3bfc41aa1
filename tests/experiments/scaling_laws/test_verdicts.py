"""What the scaling studies make of fits and losses: exponents, coverage, moves, worth of epochs."""

import dataclasses
import types

import numpy as np
import pytest

from experiments.scaling_laws import (
    _sweeps,
    counting,
    coverage,
    isoflop,
    learning_rate,
    overtraining,
    plan,
    repetition,
    routed,
)
from experiments.scaling_laws.mup import family, picture
from experiments.scaling_laws.mup import question as mup
from experiments.scaling_laws.solvable import exponents
from experiments.scaling_laws.solvable import question as solvable
from experiments.scaling_laws.sweep import outcomes
from library import claims, report
from research.scaling_laws import frontiers
from research.scaling_laws.runs import Runs


def lines_of(axes):
    return [np.stack(line.get_data()).tolist() for line in axes.lines]


@pytest.mark.parametrize("epochs, half_life", [(4, 15.387756), (40, 5.0)])
def test_repeated_epochs_are_worth_the_sum_of_a_geometric_decay(epochs, half_life):
    """U' of Muennighoff et al. 2023, eq. (5): the integral of exp(-r / R) over the repeats."""
    r = np.linspace(0, epochs - 1, 200_001)
    decay = np.exp(-r / half_life)
    integral = np.sum((decay[1:] + decay[:-1]) / 2) * (r[1] - r[0])
    assert repetition._effective(epochs - 1, half_life) == pytest.approx(1 + integral, rel=1e-8)


def test_the_objective_of_repetition_is_hubers():
    """Residuals of 5e-4, in the parabola, and -0.02, on the line, of the logarithm."""
    once = Runs(parameters=np.array([1e8, 2e8]), tokens=np.full(2, 1e9), loss=np.ones(2),
                extra={"unique_tokens": np.full(2, 1e9)})  # fmt: skip
    law = repetition.laws.repeated
    columns = {name: once.column(name) for name in law.columns}
    clean = law.predict(repetition.FIXED | repetition.PUBLISHED, **columns)
    runs = dataclasses.replace(once, loss=clean * np.exp([5e-4, -0.02]))
    expected = 0.5 * 5e-4**2 + 1e-3 * (0.02 - 0.5e-3)
    found = repetition._objective(runs, repetition.PUBLISHED)
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_plans_print_values_intervals_and_what_the_runs_can_tell(level):
    fit = types.SimpleNamespace(
        parameters={"E": 1.5},
        report=types.SimpleNamespace(num_runs=30, ratio_spread=25.0, rank=5, condition=24.1,
                                     message="beware"),
    )  # fmt: skip
    boot = types.SimpleNamespace(
        fit=fit, standard_errors={"E": 0.25}, interval=lambda at: {"E": (1.5 - at, 1.5 + at)}
    )
    planned = types.SimpleNamespace(
        level=level, intervals={"loss": (2.0, 3.0)}, loss=2.5, extrapolation=0.185
    )
    rolled = types.SimpleNamespace(held_out=np.zeros(8), mean_absolute=0.00487)
    head, e, loss, *rest = plan._table(boot, planned, rolled).splitlines()
    assert f"({level:.0%} intervals)" in head
    assert e.split() == ["E", "1.5", f"{1.5 - level:.5g}", f"{1.5 + level:.5g}", "se", "0.25"]
    assert loss.split() == ["loss", "2.5", "2", "3"]
    assert rest[0].startswith("30 runs, D / N over a factor of 25, Jacobian of rank 5")
    assert "the plan is 0.185 times" in rest[0] and "the 8 larger" in rest[1]
    assert "0.487% on average" in rest[1] and rest[2] == "beware" and len(rest) == 3
    fit.report.message = ""
    assert len(plan._table(boot, planned, rolled).splitlines()) == 5


def test_demo_runs_lie_on_the_made_up_law_but_for_their_noise():
    """0.3 % and 0.1 % of noise, thirty runs and six budgets of nine, and 6 N D = C."""
    for runs, noise, size in ((plan._demo(), 3e-3, 30), (isoflop._demo(), 1e-3, 54)):
        n, d = runs.parameters, runs.tokens
        clean = 1.7 + 400 * n**-0.34 + 1000 * d**-0.32
        off = np.log(runs.loss / clean) / noise
        assert len(runs) == size
        np.testing.assert_allclose(off, np.random.default_rng(0).normal(size=size), rtol=1e-6)
    budgets = np.unique(np.round(np.log10(6 * n * d), 6))
    np.testing.assert_allclose(budgets, np.linspace(18, 21, 6), atol=1e-6)
    # The optimum of the law lies in the middle: N ~ C^(beta / (alpha + beta)).
    slope = np.polyfit(np.log(6 * n * d)[4::9], np.log(n)[4::9], 1)[0]
    assert slope == pytest.approx(0.32 / 0.66, rel=1e-6)
    ratio = plan._demo().tokens / plan._demo().parameters
    assert (ratio.min(), ratio.max()) == (pytest.approx(4), pytest.approx(100))
    sizes = plan._demo().parameters
    assert (sizes.min(), sizes.max()) == (pytest.approx(1e7), pytest.approx(3e9))


def profile(skipped=()):
    flops = np.array([1e18, 1e19, 1e20])
    return frontiers.Minima(
        flops=flops, parameters=np.array([1e7, 3e7, 9e7]), tokens=np.array([2e10, 6e10, 2e11]),
        loss=np.array([3.0, 2.5, 2.25]), skipped=skipped,
    )  # fmt: skip


def test_isoflop_prints_minima_and_both_laws():
    keys = ("parameters_exponent", "parameters", "tokens_exponent", "tokens")
    metrics = {"extrapolation": 0.5}
    for value, key in enumerate(keys, 1):
        metrics |= {key: value, f"{key}_low": value - 0.5, f"{key}_high": value + 0.5}
    lines = isoflop._table(profile(), metrics, isoflop.Config()).splitlines()
    assert lines[1].split() == ["1e+18", "1e+07", "2e+10", "3.0000", "2000.0"]
    assert "(95% intervals)" in lines[4]
    rows = [line.split()[-3:] for line in lines[5:9]]
    assert rows == [[f"{v:g}", f"{v - 0.5:g}", f"{v + 0.5:g}"] for v in (1, 2, 3, 4)]
    assert lines[9] == "3 budgets; the plan for 1e+21 FLOP is 0.5 times the largest run"
    assert lines[10] == "intervals over fewer than five budgets are rough" and len(lines) == 11
    lines = isoflop._table(profile((2e18, 3e18)), metrics, isoflop.Config()).splitlines()
    assert lines[4] == "no optimum inside the profile of 2 budgets: 2e+18, 3e+18"


@pytest.mark.parametrize("compute", [0.0, -1.0, np.inf, np.nan])
def test_isoflop_wants_a_budget(compute):
    with pytest.raises(ValueError, match="compute="):
        isoflop.run(isoflop.Config(compute=compute), None)


def test_isoflop_of_two_budgets_has_no_interval_and_warns_of_far_plans(tmp_path, capsys):
    n, c = np.tile([1e7, 2e7, 4e7], 2), np.repeat([1e17, 1e18], 3)
    d = c / (6 * n)
    loss = 1.7 + (np.log(n) - np.log(2e7 * (c / 1e17) ** 0.1)) ** 2
    rows = "\n".join(f"{a},{b},{x}" for a, b, x in zip(n, d, loss))
    (tmp_path / "runs.csv").write_text(f"parameters,tokens,loss\n{rows}\n")
    config = isoflop.Config(runs=str(tmp_path / "runs.csv"), num_resamples=3)
    result = isoflop.run(config, report.RunDir(tmp_path))
    assert result.metrics["num_budgets"] == 2 and not result.claims
    assert result.metrics["extrapolation"] == pytest.approx(1e3)
    assert np.isnan(result.metrics["parameters_exponent_low"])
    assert "1,000 times the largest run's compute" in capsys.readouterr().out


@pytest.mark.parametrize("compute, shaded", [(99.0, False), (101.0, True)])
def test_a_plan_is_marked_and_one_far_beyond_the_runs_is_shaded(compute, shaded):
    from library import figure_style

    _, axes = figure_style.single("", "", "")
    _sweeps.mark_plan(axes, compute, largest=1.0)
    assert axes.lines[0].get_xdata() == [compute, compute]
    assert [(p.get_x(), p.get_width()) for p in axes.patches] == ([(100, 1)] if shaded else [])
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["plan"] + ["beyond 100 times the runs"] * shaded


def test_figures_show_what_was_measured_beside_what_was_published():
    axes = counting._figure(["a", "b"], [0.5, 0.6], [(0.5, 0.4, 0.55), (0.7, 0.6, 0.8)]).axes[0]
    assert lines_of(axes) == [[[0.5, 0.6], [1, 0]]]
    bars = [segment.tolist() for segment in axes.collections[0].get_segments()]
    assert bars == [[[0.4, 1], [0.55, 1]], [[0.6, 0], [0.8, 0]]]
    ends = np.array([[0.4, 0.6], [0.52, 0.6], [0.4, 0.48]])
    held, missed = coverage._figure(ends, 0.5).axes[0].collections
    assert [s.tolist() for s in held.get_segments()] == [[[0, 0.4], [0, 0.6]]]
    assert [s[0].tolist() for s in missed.get_segments()] == [[1, 0.52], [2, 0.4]]
    runs = Runs(parameters=np.ones(3), tokens=np.ones(3), loss=np.array([2.0, 4.0, 5.0]))
    fitted = np.array([True, False, False])
    shown = {"C4": (runs, fitted, np.array([2.0, 4.4, 4.0]))}
    _, rest, five = lines_of(overtraining._figure(shown).axes[0])
    np.testing.assert_allclose(rest, [[4, 5], [1.1, 0.8]])
    np.testing.assert_allclose(five, [[2], [1]])
    found = [exponents.Exponent("Zipf 1: D", 0.49, 0.5), exponents.Exponent("flow: a", 1.02, 1.0)]
    axes = solvable._figure(found).axes[0]
    np.testing.assert_allclose(lines_of(axes), [[[0.5], [0.98]], [[1.0], [1.02]]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["Zipf", "flow"]
    band = axes.patches[0]
    assert (band.get_y(), band.get_height()) == (pytest.approx(0.98), pytest.approx(0.04))


def test_the_best_runs_of_a_grid_are_averaged_in_logarithms(monkeypatch):
    table = {"N": np.array([1, 1, 1, 2]), "D": np.array([10, 10, 10, 20]),
             "smooth loss": np.array([3.0, 1.0, 2.0, 5.0]), "lr": np.array([9.0, 1.0, 4.0, 3.0]),
             "bs": np.array([7, 2, 8, 5])}  # fmt: skip
    monkeypatch.setattr(learning_rate.published, "table", lambda *names: table)
    for num_best, rate, batch in ((1, 1.0, 2), (2, 2.0, 4)):
        optima = learning_rate._optima(num_best)
        np.testing.assert_allclose(optima.parameters, [1, 2])
        np.testing.assert_allclose(optima.loss, [1, 5])
        np.testing.assert_allclose(optima.extra["learning_rate"], [rate, 3])
        np.testing.assert_allclose(optima.extra["batch_size"], [2048 * batch, 2048 * 5])


def test_only_the_last_evaluation_of_finished_runs_of_one_expert_counts(monkeypatch):
    columns = {
        "hyper_id": [1, 1, 2, 3, 4, 5], "step": [300, 200, 100, 250, 250, 250],
        "k": [1, 1, 1, 2, 1, 1], "flop_increase": [1, 1, 1, 1, 2, 1],
        "router_type": ["Dense", "Dense", "Dense", "Hash", "Hash", "Hash"],
        "dense_parameter_count": [10, 11, 20, 30, 40, 50], "num_experts": [1, 1, 1, 2, 4, 8],
        "loss_validation": [3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    }  # fmt: skip
    table = {name: np.array(values) for name, values in columns.items()}
    monkeypatch.setattr(routed.published, "table", lambda *names: table)
    found = routed._finished(250)
    assert [column.tolist() for column in found["Dense"]] == [[10], [1], [3.0]]
    assert [column.tolist() for column in found["Hash"]] == [[50], [8], [8.0]]
    assert len(found["S-Base"][0]) == 0 and len(routed._finished(301)["Dense"][0]) == 0


@pytest.mark.parametrize("centre", [0, 3, -2])
def test_the_search_ends_where_both_neighbours_are_worse(centre):
    seen = []

    def measure(rate):
        seen.append(rate)
        return [(np.log2(rate / 0.5) - centre) ** 2 + off for off in (0.0, 0.25)]

    best, table = family.lowest(measure, 0.5, 0)
    assert best == centre and {centre - 1, centre, centre + 1} <= set(table)
    assert len(seen) == len(set(seen)) == len(table) == 3 + abs(centre)


def test_mup_finds_every_seeds_vertex_and_how_far_the_mean_moves():
    """Parabolas in log rate about 2^0 and 2^1 at width 8, 2^2 at width 16, for seeds 0 and 1."""
    centres = {8: (0.0, 1.0), 16: (2.0,)}

    def measure(kind, width, num_seeds, rate):
        assert kind == "muP"
        return [2.0 + (np.log2(rate / 1e-3) - c) ** 2 for c in centres[width][:num_seeds]]

    config = mup.Config(widths=(8, 16), num_seeds=(2, 1), first_rate=1e-3)
    curves, result = mup._search(config, "muP", measure)
    found = result.metrics
    assert found["muP_8_best_rate"] == pytest.approx(1e-3 * 2**0.5)
    assert found["muP_8_spread"] == pytest.approx(np.log(2) / 2**0.5)
    assert found["muP_8_loss"] == pytest.approx(2.5)
    assert found["muP_16_best_rate"] == pytest.approx(4e-3) and np.isnan(found["muP_16_spread"])
    assert found["muP_moves"] == pytest.approx(2**1.5)
    rates, losses = curves[8]
    assert list(rates) == sorted(rates) and losses.shape == (len(rates), 2)


def test_mup_is_judged_by_moves_and_powers():
    slopes = {"attention": 0.1, "logits": 0.6}
    moved, features, logits = mup._judge("muP", 1.4, slopes).claims
    assert (moved.relation, moved.expected, moved.holds) == ("<", 1.5, True)
    assert (features.expected, features.tolerance, features.holds) == (0, 0.2, True)
    assert not logits.holds
    result = mup._judge("standard", 1.5, slopes)
    assert [(c.relation, c.expected, c.holds) for c in result.claims] == [
        (">=", 1.5, True), (">=", 0.5, True),
    ]  # fmt: skip
    assert result.metrics["standard_slope_logits"] == 0.6


def test_a_diverged_run_is_infinitely_bad(tmp_path):
    job = lambda kind, width, rate, num_seeds: {"losses": [1.0, float("nan")][:num_seeds]}  # noqa: E731
    assert mup._measure(job, tmp_path, "muP", 8, 2, 0.1) == [1.0, np.inf]
    assert mup._measure(job, tmp_path, "muP", 8, 1, 0.2) == [1.0]


def test_curves_of_widths_are_means_with_their_seeds():
    curves = {("muP", 8): ([1.0, 2.0], np.array([[1.0, 3.0], [2.0, 6.0]])),
              ("standard", 16): ([1.0, 2.0], np.array([[5.0], [7.0]]))}  # fmt: skip
    left, right = picture.transfer(curves).axes
    assert lines_of(left)[0] == [[1, 2], [2, 4]] and len(left.lines) == 3
    assert lines_of(right)[0] == [[1, 2], [5, 7]] and right.get_xscale() == "log"


def test_an_exponent_is_held_to_a_share_of_what_is_expected():
    claim = exponents.Exponent("kernel", 0.51, 0.5).claim()
    assert (claim.expected, claim.tolerance) == (0.5, pytest.approx(0.01))
    wide = exponents.Exponent("random", 1.0, 2.0, 0.05, claims.theorem("x")).claim()
    assert wide.tolerance == pytest.approx(0.1) and wide.source.kind == "theorem"


def outcome(**change):
    fit = types.SimpleNamespace(parameters={"E": 1.5, "A": 9.0})
    forecast = types.SimpleNamespace(
        parameters={"E": (1.2, 2.0)}, boot=types.SimpleNamespace(fit=fit),
        predicted=np.array([2.0, 7.0]), low=np.array([1.75, 7.0]), high=np.array([2.5, 7.0]),
        inflation=1.25, residual=0.01,
    )  # fmt: skip
    fields = {
        "data": [0] * 5, "forecast": forecast, "measured": 2.5, "noise": 0.002, "lead": 3.0,
        "target": {"width": 16, "tokens": 1e5}, "rule": {"c": 0.5, "q": -0.25},
        "noise_scale": (40.0, 4.0),
    } | change  # fmt: skip
    return types.SimpleNamespace(**fields)


def test_the_numbers_of_a_sweep_are_those_of_its_forecast_and_its_large_run():
    result = outcomes.predicted("novels", outcome())
    assert result.metrics == {
        "novels_E": 1.5, "novels_A": 9.0, "novels_E_low": 1.2, "novels_E_high": 2.0,
        "novels_predicted": 2.0, "novels_predicted_low": 1.75, "novels_predicted_high": 2.5,
        "novels_measured": 2.5, "novels_relative_error": 0.25, "novels_inflation": 1.25,
        "novels_residual": 0.01, "novels_seed_noise": 0.002, "novels_num_runs": 5,
        "novels_large_width": 16, "novels_large_tokens": 1e5, "novels_sealed_seconds_before": 3.0,
        "novels_rate_constant": 0.5, "novels_rate_tokens_exponent": -0.25,
        "novels_noise_scale_tokens": 40.0, "novels_noise_scale_error": 4.0,
    }  # fmt: skip
    above, below = result.claims
    assert (above.measured, above.relation, above.expected) == (2.5, ">=", 1.75)
    assert (below.measured, below.relation, below.expected) == (2.5, "<=", 2.5)


def test_the_entropy_lies_in_the_widened_interval_of_e(monkeypatch):
    monkeypatch.setattr(outcomes, "_with_noise", lambda *_: (1.0, 2.0))
    language = types.SimpleNamespace(entropy=lambda: 1.4)
    result = outcomes.known(outcome(), language, 4)
    low, high = result.claims[2:]
    assert (low.measured, low.relation, low.expected) == (1.0, "<=", 1.4)
    assert (high.measured, high.relation, high.expected) == (2.0, ">=", 1.4)
    found = result.metrics
    assert (found["known_entropy"], found["known_E_low"], found["known_E_high"]) == (1.4, 1.0, 2.0)


def test_the_interval_of_e_is_widened_by_the_noise_of_the_held_out_set():
    """1.96 standard errors of the mean surprise, added in squares to either side."""
    surprise = np.array([[1.0, 2.0], [3.0, 2.0], [1.5, 0.5], [2.0, 4.0]])
    source = types.SimpleNamespace(log_prob=lambda windows: -surprise, entropy_rate=lambda: 2.0)
    language = types.SimpleNamespace(held_out=lambda num: np.zeros((num, 3)), source=source)
    low, high = outcomes._with_noise(outcome(), language, 4)
    reach = 1.96 * surprise.mean(1).std() / 2
    assert low == pytest.approx(1.5 - np.hypot(0.3, reach), rel=1e-12)
    assert high == pytest.approx(1.5 + np.hypot(0.5, reach), rel=1e-12)
