"""Laws: values against their formulas, limits, and recovery of each from its own runs."""

import numpy as np
import pytest

from research.scaling_laws import fitting, laws, runs
from tests.research.scaling_laws import surfaces

SIZE, TOKENS = surfaces.grid(num_sizes=6, num_ratios=4)
CASES = {
    "kaplan_parameters": {"N_c": 8.8e13, "alpha_N": 0.076},
    "kaplan_tokens": {"D_c": 5.4e13, "alpha_D": 0.095},
    "kaplan_compute": {"C_c": 3.1e8 * 8.64e19, "alpha_C": 0.05},
    "kaplan": {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
    "kaplan_steps": {"N_c": 6.5e13, "S_c": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76},
    "overtraining": {"E": 1.7, "a": 150.0, "b": 250.0, "eta": 0.125},
    "learning_rate": {"c": 1.79, "p": -0.713, "q": 0.307},
    "batch_size": {"c": 0.58, "q": 0.571},
    "critical_batch": {"B_star": 2.1e8, "alpha_B": 0.21},
    "downstream": {"eps": 0.86, "k": 2.0, "gamma": 0.6},
}
FORMULAS = {
    "kaplan_parameters": lambda p, x: (p["N_c"] / x["parameters"]) ** p["alpha_N"],
    "kaplan_tokens": lambda p, x: (p["D_c"] / x["tokens"]) ** p["alpha_D"],
    "kaplan_compute": lambda p, x: (p["C_c"] / x["flops"]) ** p["alpha_C"],
    "kaplan": lambda p, x: (
        ((p["N_c"] / x["parameters"]) ** (p["alpha_N"] / p["alpha_D"]) + p["D_c"] / x["tokens"])
        ** p["alpha_D"]
    ),
    "kaplan_steps": lambda p, x: (
        (p["N_c"] / x["parameters"]) ** p["alpha_N"] + (p["S_c"] / x["steps"]) ** p["alpha_S"]
    ),
    "overtraining": lambda p, x: (
        p["E"]
        + (
            p["a"] * (x["tokens"] / x["parameters"]) ** p["eta"]
            + p["b"] * (x["tokens"] / x["parameters"]) ** -p["eta"]
        )
        * (6 * x["parameters"] * x["tokens"]) ** -p["eta"]
    ),
    "learning_rate": lambda p, x: p["c"] * x["parameters"] ** p["p"] * x["tokens"] ** p["q"],
    "batch_size": lambda p, x: p["c"] * x["tokens"] ** p["q"],
    "critical_batch": lambda p, x: p["B_star"] / x["loss"] ** (1 / p["alpha_B"]),
    "downstream": lambda p, x: p["eps"] - p["k"] * np.exp(-p["gamma"] * x["loss"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_law_is_its_formula_and_is_recovered_from_its_runs(name):
    law = getattr(laws, name)
    columns = {
        "parameters": SIZE,
        "tokens": TOKENS,
        "flops": 6 * SIZE * TOKENS,
        "steps": np.tile(np.geomspace(1e3, 1e5, 8), 3),
        "loss": np.linspace(2.2, 4.5, len(SIZE)),
    }
    columns = {column: columns[column] for column in law.columns}
    target = law.predict(CASES[name], **columns)
    np.testing.assert_allclose(target, FORMULAS[name](CASES[name], columns), rtol=1e-12)
    named = {c: columns.pop(c) for c in ("parameters", "tokens", "flops", "loss") if c in columns}
    extra = columns if law.target == "loss" else {**columns, law.target: target}
    named |= {"loss": target} if law.target == "loss" else {}
    named.setdefault("loss", np.ones(len(SIZE)))
    data = runs.Runs(**named, extra=extra, allow_duplicates=True)
    found = fitting.fit(law, data, loss="squared").parameters
    assert found == pytest.approx(CASES[name], rel=1e-6)


def test_repeated_data_has_its_limits():
    law = laws.repeated
    p = surfaces.TRUE | {"R_D": 15.4, "R_N": 5.3}
    plain = {"parameters": 1e8, "tokens": 2e10}
    fresh = law.predict(p, **plain, unique_tokens=2e10)
    # One epoch of a model no larger than optimal is Chinchilla's law.
    assert fresh == pytest.approx(laws.chinchilla.predict(surfaces.TRUE, **plain), rel=1e-12)
    losses = [law.predict(p, parameters=1e8, tokens=2e9 * e, unique_tokens=2e9) for e in (1, 4, 40)]
    unlimited = laws.chinchilla.predict(surfaces.TRUE, parameters=1e8, tokens=8e10)
    assert losses[0] > losses[1] > losses[2] > unlimited
    # D' = U + U R (1 - exp(-(e - 1) / R)), the size not beyond its optimum for U.
    data = 2e9 * (1 + 15.4 * (1 - np.exp(-3 / 15.4)))
    expected = laws.chinchilla.predict(surfaces.TRUE, parameters=1e7, tokens=data)
    found = law.predict(p, parameters=1e7, tokens=8e9, unique_tokens=2e9)
    assert found == pytest.approx(expected, rel=1e-12)
    never = law.predict(p | {"R_D": 1e12}, parameters=1e7, tokens=8e9, unique_tokens=2e9)
    assert never == pytest.approx(
        laws.chinchilla.predict(surfaces.TRUE, parameters=1e7, tokens=8e9), rel=1e-6
    )


def test_a_broken_law_is_its_formula_and_bends_where_it_says():
    p = {"a": 0.5, "b": 20.0, "d1": 1e9, "c0": 0.1, "c1": 0.3, "f1": 0.8}
    x = np.geomspace(1e5, 1e13, 33)
    value = laws.broken_tokens.predict(p, tokens=x)
    expected = 0.5 + 20 * x**-0.1 * (1 + (x / 1e9) ** 1.25) ** (-0.3 * 0.8)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    slopes = np.diff(np.log(value - 0.5)) / np.diff(np.log(x))
    assert slopes[0] == pytest.approx(-0.1, abs=1e-3)
    assert slopes[-1] == pytest.approx(-0.4, abs=1e-3)
    starts = [p | {"a": 0.45, "b": 15.0, "d1": 5e8, "c0": 0.09, "c1": 0.25, "f1": 1.0}]
    found = fitting.fit(
        laws.broken_tokens, runs.Runs(tokens=x, loss=value), loss="squared", method="newton",
        starts=starts,
    )  # fmt: skip
    assert found.parameters == pytest.approx(p, rel=1e-5)


def test_a_law_of_two_breaks_without_a_limit_is_its_formula():
    law = laws.broken("tokens", num_breaks=2, with_limit=False)
    assert law.names == ("b", "d1", "d2", "c0", "c1", "c2", "f1", "f2")
    p = dict(zip(law.names, (20.0, 1e7, 1e10, 0.1, 0.3, -0.2, 0.8, 0.5)))
    x = np.geomspace(1e5, 1e13, 33)
    first = (1 + (x / 1e7) ** 1.25) ** (-0.3 * 0.8)
    second = (1 + (x / 1e10) ** 2) ** (0.2 * 0.5)
    np.testing.assert_allclose(law.predict(p, tokens=x), 20 * x**-0.1 * first * second, rtol=1e-12)


def test_a_missing_column_or_parameter_is_named():
    with pytest.raises(ValueError, match="chinchilla needs the column 'tokens'"):
        laws.chinchilla.predict(surfaces.TRUE, parameters=1e9)
    with pytest.raises(ValueError, match="chinchilla needs the parameter 'E'"):
        laws.chinchilla.predict({}, parameters=1e9, tokens=1e10)
