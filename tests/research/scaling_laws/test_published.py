"""The published fits from their own data; skipped where the data are absent."""

import numpy as np
import pytest
import scipy.integrate

from research.scaling_laws import fitting, frontiers, laws, planning, published
from research.scaling_laws.fits import newton_steps

HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
REPLICATION = {"E": 1.816864, "A": 482.0057, "B": 2085.4342, "alpha": 0.347813, "beta": 0.365854}


@pytest.fixture(scope="module")
def data(ansatz_data):
    return published


@pytest.fixture(scope="module")
def best(data):
    return fitting.fit(laws.chinchilla, data.chinchilla())


def test_the_replication_from_its_start_and_the_lower_optimum(data, best):
    from experiments.scaling_laws.chinchilla import replication

    runs = data.chinchilla()
    assert len(runs) == 240 and len(data.chinchilla(0)) == 245
    point = replication.point(runs)
    assert point == pytest.approx(REPLICATION, rel=1e-4)
    assert replication.objective(runs, point) == pytest.approx(1.01864475e-3, rel=1e-6)
    assert best.objective <= 1.0182741e-3
    lowest = {"E": 1.81722, "A": 477.82, "B": 2143.42, "alpha": 0.34731, "beta": 0.36717}
    assert best.parameters == pytest.approx(lowest, rel=1e-3)
    assert planning.exponents(best.parameters)["a"] == pytest.approx(0.5139, abs=1e-4)


def test_the_bootstrap_has_the_published_errors(data, best):
    from experiments.scaling_laws.chinchilla import replication

    counts = replication.counts(240, 4000)
    start = best.problem.theta_of(replication.START)[:, None]
    boot = fitting.bootstrap_from(best, counts, start)
    errors = {"E": 0.02566, "A": 124.522, "B": 1293.284, "alpha": 0.01540, "beta": 0.02060}
    assert boot.standard_errors == pytest.approx(errors, rel=0.02)


def test_the_log_likelihood_of_the_published_laws(data):
    """Huber's density with its scale fitted, normalised by quadrature."""
    runs = data.chinchilla()
    delta = 1e-3
    norm = (
        2
        * scipy.integrate.quad(lambda r: np.exp(-float(newton_steps.huber(r, delta))), 0, delta)[0]
    )
    norm += 2 * np.exp(-0.5 * delta**2) / delta  # the two exponential tails

    def likelihood(parameters):
        predicted = laws.chinchilla.predict(
            parameters, parameters=runs.parameters, tokens=runs.tokens
        )
        residual = np.log(runs.loss) - np.log(predicted)
        scales = np.geomspace(1e-7, 1e-3, 4001)
        size = np.abs(residual[:, None] / scales)
        rho = np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
        return float(np.max(-rho.sum(0) - len(residual) * np.log(scales * norm)))

    unrounded = {"E": 1.69337368, "A": 406.401018, "B": 410.722827,
                 "alpha": 0.33917084, "beta": 0.2849083}  # fmt: skip
    assert likelihood(REPLICATION) == pytest.approx(879.77, abs=0.01)
    assert likelihood(unrounded) == pytest.approx(837.78, abs=0.01)
    assert likelihood(HOFFMANN) == pytest.approx(562.25, abs=0.01)


def test_refined_web_exponents(data):
    expected = {
        "rw-base-long-kaplan-kaplan-train": 0.8348,
        "rw-base-long-kaplan-standard-val": 0.7003,
        "rw-base-short-kaplan-standard-val": 0.6055,
        "rw-base-short-chinchilla-standard-val": 0.5715,
        "rw-tuned-short-const-standard-val": 0.4970,
        "rw-base-long-kaplan-attention-train": 0.7159,
        "rw-base-short-kaplan-attention-train": 0.6240,
        "rw-base-short-chinchilla-attention-train": 0.5782,
        "rw-tuned-short-const-attention-train": 0.5043,
        "rw-tuned-long-const-kaplan-train": 0.7076,
    }
    for name, value in expected.items():
        minima = frontiers.isoflop_minima(data.isoflop(name))
        found = frontiers.power_law(minima.flops, minima.parameters).exponent
        assert found == pytest.approx(value, abs=0.002), name


def test_repetition_is_a_local_minimum_and_not_the_lowest(data):
    from experiments.scaling_laws import repetition

    runs = data.repeated()
    assert len(runs) == 182
    near = repetition._fit(runs, [{"R_D": 15.0, "R_N": 5.0}])
    assert repetition._objective(runs, repetition.PUBLISHED) == pytest.approx(
        0.0158259353, rel=1e-6
    )
    assert near.parameters["R_D"] == pytest.approx(15.388, rel=0.01)
    assert near.parameters["R_N"] == pytest.approx(5.310, rel=0.01)
    low = repetition._fit(runs, [{"R_D": 95.0, "R_N": 1.7}])
    assert low.objective < 0.0158048


def test_five_small_runs_predict_the_large_ones(data):
    runs, multiplier, fitted = data.overtraining("rpj")
    assert fitted.sum() == 5
    fit = fitting.fit(laws.overtraining, runs.take(fitted), loss="squared", space="linear")
    errors = 100 * np.abs(
        fit.predict(parameters=runs.parameters, tokens=runs.tokens) / runs.loss - 1
    )
    large = (runs.parameters > 6e9) & (multiplier == 1)
    over = (runs.parameters > 1.2e9) & (runs.parameters < 2e9) & (multiplier == 32)
    assert errors[large] == pytest.approx(0.7320, abs=5e-4)
    assert errors[over] == pytest.approx(0.7103, abs=5e-4)
