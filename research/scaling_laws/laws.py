"""The laws, each a frozen value: its formula, its parameters and how they change with the units.

A law is a function of the logarithms of its columns. Its positive coefficients ("scales") are
fitted as logarithms, its exponents ("shapes") as they are; a change of units moves scales only,
which is what lets `fitting` centre the regressors and give back parameters in the caller's units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from library.types import Array

Theta = dict[str, Array]  # scales as logarithms, shapes as they are
Powers = Callable[[Theta], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Scale:
    """A positive coefficient.

    Attributes:
        name: as the paper writes it.
        powers: in units u of the columns the coefficient is that of u = 1 times prod u^-power.
        start: its logarithm where the logarithm of the target is about `level` and units are
            centred, (theta of the shapes, level) -> Array.
    """

    name: str
    powers: Powers = lambda theta: {}
    start: Callable[[Theta, float], Array] = lambda theta, level: level


@dataclasses.dataclass(frozen=True)
class Shape:
    """An exponent, or another number without a unit; a default fit starts from its `grid`."""

    name: str
    grid: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Law:
    """target = exp(log_value(theta, logs)).

    Attributes:
        name: of the law.
        formula: in the symbols of its source.
        source: paper and equation.
        columns: what it is a function of, columns of `runs.Runs`.
        scales, shapes: its parameters, in the order of the paper: scales first.
        log_value: (theta, {column: log value}) -> log of the target, elementwise and pure.
        target: the column that it predicts.
    """

    name: str
    formula: str
    source: str
    columns: tuple[str, ...]
    scales: tuple[Scale, ...]
    shapes: tuple[Shape, ...]
    log_value: Callable[[Theta, dict[str, Array]], Array]
    target: str = "loss"

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters in their order."""
        return tuple(part.name for part in self.scales + self.shapes)

    def predict(self, parameters: dict[str, float], /, **columns: Array) -> Array:
        """The target at columns given by name, e.g. `predict(p, parameters=7e10, tokens=1.4e12)`.

        Raises:
            ValueError: if a column or a parameter is missing.
        """
        for kind, wanted, given in (
            ("parameter", self.names, parameters),
            ("column", self.columns, columns),
        ):
            missing = [name for name in wanted if name not in given]
            if missing:
                raise ValueError(f"{self.name} needs the {kind} {missing[0]!r}")
        with jax.enable_x64(True):
            scales = {scale.name for scale in self.scales}
            theta = {
                name: jnp.log(jnp.float64(parameters[name]))
                if name in scales
                else jnp.float64(parameters[name])
                for name in self.names
            }
            logs = {name: jnp.log(jnp.asarray(columns[name], jnp.float64)) for name in self.columns}
            return jax.device_get(jnp.exp(self.log_value(theta, logs)))


def log_sum(*terms: Array) -> Array:
    """log(sum_k exp(term_k)), elementwise; the terms broadcast. Two exps cheaper than logaddexp."""
    terms = jnp.broadcast_arrays(*terms)
    top = terms[0]
    for term in terms[1:]:
        top = jnp.maximum(top, term)
    top = jax.lax.stop_gradient(top)
    return top + jnp.log(sum(jnp.exp(term - top) for term in terms))


def _power(name: str, source: str, column: str, scale: str, exponent: str) -> Law:
    """L = (scale / x)^exponent."""
    return Law(
        name=name,
        formula=f"L = ({scale} / {column})^{exponent}",
        source=source,
        columns=(column,),
        scales=(Scale(scale, lambda t: {column: 1.0}, lambda t, level: level / t[exponent]),),
        shapes=(Shape(exponent, (0.05, 0.1, 0.3)),),
        log_value=lambda t, x: t[exponent] * (t[scale] - x[column]),
    )


KAPLAN = "Kaplan et al. 2020, arXiv:2001.08361"
kaplan_parameters = _power(
    "kaplan_parameters", KAPLAN + ", eq. (1.1)", "parameters", "N_c", "alpha_N"
)
kaplan_tokens = _power("kaplan_tokens", KAPLAN + ", eq. (1.2)", "tokens", "D_c", "alpha_D")
kaplan_compute = _power("kaplan_compute", KAPLAN + ", eq. (1.3)", "flops", "C_c", "alpha_C")

kaplan = Law(
    name="kaplan",
    formula="L = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D",
    source=KAPLAN + ", eq. (1.5)",
    columns=("parameters", "tokens"),
    scales=(
        Scale("N_c", lambda t: {"parameters": 1.0}, lambda t, level: level / t["alpha_N"]),
        Scale("D_c", lambda t: {"tokens": 1.0}, lambda t, level: level / t["alpha_D"]),
    ),
    shapes=(Shape("alpha_N", (0.05, 0.1, 0.3)), Shape("alpha_D", (0.05, 0.1, 0.3))),
    log_value=lambda t, x: (
        t["alpha_D"]
        * log_sum(
            t["alpha_N"] / t["alpha_D"] * (t["N_c"] - x["parameters"]), t["D_c"] - x["tokens"]
        )
    ),
)

kaplan_steps = Law(
    name="kaplan_steps",
    formula="L = (N_c / N)^alpha_N + (S_c / S)^alpha_S",
    source=KAPLAN + ", eq. (1.6)",
    columns=("parameters", "steps"),
    scales=(
        Scale("N_c", lambda t: {"parameters": 1.0}, lambda t, y: (y - 0.69) / t["alpha_N"]),
        Scale("S_c", lambda t: {"steps": 1.0}, lambda t, y: (y - 0.69) / t["alpha_S"]),
    ),
    shapes=(Shape("alpha_N", (0.05, 0.1, 0.3)), Shape("alpha_S", (0.3, 0.6, 0.9))),
    log_value=lambda t, x: log_sum(
        t["alpha_N"] * (t["N_c"] - x["parameters"]), t["alpha_S"] * (t["S_c"] - x["steps"])
    ),
)

critical_batch = Law(
    name="critical_batch",
    formula="B_crit = B_star / L^(1 / alpha_B), tokens",
    source=KAPLAN + ", eq. (1.4)",
    columns=("loss",),
    scales=(Scale("B_star", lambda t: {"loss": 1 / t["alpha_B"]}),),
    shapes=(Shape("alpha_B", (0.1, 0.2, 0.4)),),
    log_value=lambda t, x: t["B_star"] - x["loss"] / t["alpha_B"],
    target="batch_size",
)

chinchilla = Law(
    name="chinchilla",
    formula="L = E + A / N^alpha + B / D^beta",
    source="Hoffmann et al. 2022, arXiv:2203.15556, eq. (2), approach 3",
    columns=("parameters", "tokens"),
    scales=(
        Scale("E", start=lambda t, level: level - 0.7),
        Scale("A", lambda t: {"parameters": t["alpha"]}, lambda t, level: level - 1.4),
        Scale("B", lambda t: {"tokens": t["beta"]}, lambda t, level: level - 1.4),
    ),
    shapes=(
        Shape("alpha", (0.05, 0.2, 0.35, 0.5, 0.8, 1.2)),
        Shape("beta", (0.05, 0.2, 0.35, 0.5, 0.8, 1.2)),
    ),
    log_value=lambda t, x: log_sum(
        t["E"], t["A"] - t["alpha"] * x["parameters"], t["B"] - t["beta"] * x["tokens"]
    ),
)


def _effective(log_seen: Array, log_unique: Array, half_life: Array) -> Array:
    """log of U + U R* (1 - exp(-R / R*)) with R = seen / U - 1 >= 0; R* -> inf gives seen."""
    repeats = jnp.maximum(jnp.expm1(log_seen - log_unique), 0.0)
    return jnp.minimum(log_seen, log_unique) + jnp.log1p(
        -half_life * jnp.expm1(-repeats / half_life)
    )


def _repeated(t: Theta, x: dict[str, Array]) -> Array:
    # The size for which D = U is compute-optimal: alpha A / N^alpha = beta B / U^beta.
    ratio = jnp.log(t["alpha"] / t["beta"]) + t["A"] - t["B"]
    log_optimal = (ratio + t["beta"] * x["unique_tokens"]) / t["alpha"]
    size = _effective(x["parameters"], log_optimal, jnp.exp(t["R_N"]))
    data = _effective(x["tokens"], x["unique_tokens"], jnp.exp(t["R_D"]))
    return log_sum(t["E"], t["A"] - t["alpha"] * size, t["B"] - t["beta"] * data)


repeated = Law(
    name="repeated",
    formula="L = E + A / N'^alpha + B / D'^beta, D' = U + U R_D (1 - exp(-(D / U - 1) / R_D))",
    source="Muennighoff et al. 2023, arXiv:2305.16264, eqs. (5) and (6), N' likewise from N_opt(U)",
    columns=("parameters", "tokens", "unique_tokens"),
    scales=chinchilla.scales
    + (
        Scale("R_D", start=lambda t, level: jnp.log(15.0)),
        Scale("R_N", start=lambda t, level: jnp.log(5.0)),
    ),
    shapes=chinchilla.shapes,
    log_value=_repeated,
)

overtraining = Law(
    name="overtraining",
    formula="L = E + (a M^eta + b M^-eta) C^-eta, C = 6 N D, M = D / N",
    source="Gadre et al. 2024, arXiv:2403.08540, eq. (4)",
    columns=("parameters", "tokens"),
    scales=(
        Scale("E", start=lambda t, level: level - 0.7),
        Scale("a", lambda t: {"parameters": 2 * t["eta"]}, lambda t, level: level - 1.4),
        Scale("b", lambda t: {"tokens": 2 * t["eta"]}, lambda t, level: level - 1.4),
    ),
    shapes=(Shape("eta", (0.05, 0.1, 0.15, 0.2, 0.3)),),
    # (M / C)^eta = (6 N^2)^-eta and (M C)^-eta = (6 D^2)^-eta: the law is Chinchilla's with one
    # exponent 2 eta.
    log_value=lambda t, x: log_sum(
        t["E"],
        t["a"] - t["eta"] * (jnp.log(6.0) + 2 * x["parameters"]),
        t["b"] - t["eta"] * (jnp.log(6.0) + 2 * x["tokens"]),
    ),
)


def broken(column: str, num_breaks: int = 1, with_limit: bool = True) -> Law:
    """y = a + b x^-c0 prod_i (1 + (x / d_i)^(1 / f_i))^(-c_i f_i), Caballero et al. 2023.

    arXiv:2210.14891, eq. (1). `a` is left out where `with_limit` is False.
    """
    numbers = range(1, num_breaks + 1)
    scales = (Scale("a", start=lambda t, level: level - 1.0),) if with_limit else ()
    scales += (Scale("b", lambda t: {column: t["c0"]}, lambda t, level: level - 0.5),)
    scales += tuple(
        Scale(f"d{i}", lambda t: {column: 1.0}, lambda t, level, i=i: float(i - 1)) for i in numbers
    )
    shapes = (Shape("c0", (0.05, 0.2, 0.5)),)
    shapes += tuple(Shape(f"c{i}", (-0.2, 0.2)) for i in numbers)
    shapes += tuple(Shape(f"f{i}", (0.3, 1.0)) for i in numbers)

    def log_value(t: Theta, x: dict[str, Array]) -> Array:
        value = t["b"] - t["c0"] * x[column]
        for i in numbers:
            bend = jax.nn.softplus((x[column] - t[f"d{i}"]) / t[f"f{i}"])
            value = value - t[f"c{i}"] * t[f"f{i}"] * bend
        return log_sum(t["a"], value) if with_limit else value

    return Law(
        name=f"broken_{num_breaks}",
        formula="y = a + b x^-c0 prod_i (1 + (x / d_i)^(1 / f_i))^(-c_i f_i)",
        source="Caballero et al. 2023, arXiv:2210.14891, eq. (1)",
        columns=(column,),
        scales=scales,
        shapes=shapes,
        log_value=log_value,
    )


broken_parameters, broken_tokens, broken_compute = map(broken, ("parameters", "tokens", "flops"))

learning_rate = Law(
    name="learning_rate",
    formula="lr = c N^p D^q",
    source="Li et al. 2025, arXiv:2503.04715, eq. (1): c 1.79, p -0.713, q 0.307",
    columns=("parameters", "tokens"),
    scales=(Scale("c", lambda t: {"parameters": -t["p"], "tokens": -t["q"]}),),
    shapes=(Shape("p", (-0.7, 0.0)), Shape("q", (0.0, 0.3))),
    log_value=lambda t, x: t["c"] + t["p"] * x["parameters"] + t["q"] * x["tokens"],
    target="learning_rate",
)

batch_size = Law(
    name="batch_size",
    formula="batch = c D^q, tokens",
    source="Li et al. 2025, arXiv:2503.04715, eq. (1): c 0.58, q 0.571",
    columns=("tokens",),
    scales=(Scale("c", lambda t: {"tokens": -t["q"]}),),
    shapes=(Shape("q", (0.0, 0.5)),),
    log_value=lambda t, x: t["c"] + t["q"] * x["tokens"],
    target="batch_size",
)

downstream = Law(
    name="downstream",
    formula="error = eps - k exp(-gamma L)",
    source="Gadre et al. 2024, arXiv:2403.08540, eq. (5)",
    columns=("loss",),
    scales=(Scale("eps", start=lambda t, level: level + 0.1), Scale("k")),
    shapes=(Shape("gamma", (0.3, 0.7, 1.5)),),
    log_value=lambda t, x: (
        t["eps"]
        + jnp.log(
            jnp.maximum(-jnp.expm1(t["k"] - t["eps"] - t["gamma"] * jnp.exp(x["loss"])), 1e-6)
        )
    ),
    target="error",
)
