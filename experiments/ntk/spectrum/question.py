"""What is the spectrum of a network's kernel, and how does the kernel turn to its task in training?

Claims: Lanczos on kernel-vector products gives the ten largest eigenvalues of the dense kernel to
1e-4 (float32) for an MLP, a CNN and a transformer; Nystrom's differ from the dense ones by less
than the trace it leaves out; training raises the kernel's alignment with its targets for all three.
Cost: 7 minutes on 2 CPU cores.
    python -m experiments ntk.spectrum

8 x 8 digits. The full kernel has a row for every output of every example; Nystrom's is the trace
over outputs. Alignment and distance from the start are estimated from random probes alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ntk import _networks
from experiments.ntk.spectrum import in_training, picture
from library import claims, report, training
from library.types import Params
from research import ntk

ROUTES = claims.baseline("dense eigenvalues of the same kernel")
BOUND = claims.theorem(
    "0 <= lambda_i(K) - lambda_i(K') <= tr(K - K') for positive semi-definite K - K'"
)
GROWTH = claims.baseline(
    "the same estimate before training; growth as in Baratin et al. 2021, arXiv:2008.00938"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Which kernels, and how long their networks train."""

    networks: tuple[str, ...] = ("MLP", "CNN", "transformer")  # whose kernels
    num_examples: int = 64  # rows of every kernel, examples of training
    width: int = 48  # hidden units, channels, and model width
    num_values: int = 10  # eigenvalues compared between the routes
    num_landmarks: int = 32  # of Nystrom
    num_probes: int = 48  # random vectors behind every alignment and distance
    steps: tuple[int, ...] = (0, 1, 3, 10, 30, 100, 300, 1000)  # of training that are looked at
    learning_rate: float = 1e-3  # of Adam
    run: training.RunOptions = training.RunOptions()  # of these it takes the seed


PRESETS = {
    # Ten eigenvalues of 40: the first Krylov space is the whole one, and is compiled once.
    "smoke": Config(
        networks=("MLP",), num_examples=4, width=4, num_landmarks=2, num_probes=4, steps=(0, 2)
    ),
    "default": Config(),
    "accelerator": Config(num_examples=512, width=256, num_landmarks=128, num_probes=128),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Computes every spectrum by every route, trains, and states the claims."""
    training.takes_only(config.run, "seed")
    if not set(config.networks) <= set(_networks.NETWORKS):
        raise ValueError(
            f"networks={config.networks}: expected some of {', '.join(_networks.NETWORKS)}"
        )
    data = _networks.read_digits("train", config.num_examples, config.run.seed)
    result, spectra, curves = claims.Result(), {}, {}
    for name in config.networks:
        model = _networks.NETWORKS[name](config.width)
        params = jax.jit(model.init)(jax.random.key(config.run.seed), data.x)
        spectra[name], routes = _routes(config, name, model.apply, params, data.x)
        curves[name] = in_training.alignments(
            model.apply,
            params,
            data,
            config.steps,
            learning_rate=config.learning_rate,
            num_probes=config.num_probes,
            rng=jax.random.key(config.run.seed + 1),
        )
        result += routes + _growth(name, curves[name][0], curves[name][-1])
    out.figure("spectrum", picture.spectra(spectra, curves))
    return result


def _growth(name: str, first: dict[str, float], last: dict[str, float]) -> claims.Result:
    """The kernel before training and after it."""
    metrics = {
        f"{name}_alignment_start": first["alignment"],
        f"{name}_alignment_end": last["alignment"],
        f"{name}_distance_end": last["distance"],
        f"{name}_effective_rank_start": first["effective_rank"],
        f"{name}_effective_rank_end": last["effective_rank"],
    }
    # Two independent estimates: their difference must exceed two of its standard errors.
    slack = 2 * np.hypot(first["alignment_error"], last["alignment_error"])
    what = f"{name}: alignment after training less two standard errors"
    aligned = last["alignment"] - slack
    return claims.Result(metrics, [claims.above(what, aligned, first["alignment"], source=GROWTH)])


def _routes(
    config: Config, name: str, apply: Callable, params: Params, x: np.ndarray
) -> tuple[dict[str, np.ndarray], claims.Result]:
    """Eigenvalues by every route, and how far they are from each other."""
    num = config.num_values
    full = ntk.empirical(apply, params, x, method="structured")  # [N, N, C, C]
    size = full.shape[0] * full.shape[2]
    matrix = np.asarray(full.swapaxes(1, 2).reshape(size, size), np.float64)
    dense = np.linalg.eigvalsh(matrix)[::-1]
    rng = jax.random.key(config.run.seed)
    lanczos, _ = ntk.spectrum.top_eigenpairs(apply, params, x, num=num, rng=rng)
    options = dict(outputs="trace", method="structured")
    traced = lambda a, b: ntk.empirical(apply, params, a, b, **options)
    fitted = ntk.nystrom.fit(traced, jnp.asarray(x), config.num_landmarks)
    phi = fitted.features(x)
    nystrom = np.linalg.svd(phi, compute_uv=False)[:num] ** 2
    gram = np.einsum("nmcc->nm", np.asarray(full, np.float64))
    exact = np.linalg.eigvalsh(gram)[::-1]
    left = np.trace(gram) - np.sum(phi**2)
    error = float(np.max(np.abs(lanczos / dense[:num] - 1)))
    missing = float(np.max(np.abs(exact[: len(nystrom)] - nystrom)))
    metrics = {
        f"{name}_lanczos_error": error,
        f"{name}_nystrom_missing": missing,
        f"{name}_condition_number": float(dense[0] / max(dense[-1], 1e-30)),
    }
    stated = [
        claims.at_most(f"{name}: relative error of Lanczos", error, 1e-4, source=ROUTES),
        claims.at_most(
            f"{name}: eigenvalue missing in Nystrom",
            missing,
            left,
            source=BOUND,
            tolerance=1e-5 * float(exact[0]),
        ),
    ]
    spectra = {"dense": dense, "Lanczos": np.asarray(lanczos), "trace": exact, "Nystrom": nystrom}
    return spectra, claims.Result(metrics, stated)
