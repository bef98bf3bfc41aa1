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

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ntk import _networks, _pictures
from library import claims, report
from research import ntk

ROUTES = claims.baseline("dense eigenvalues of the same kernel")
BOUND = claims.baseline(
    "0 <= lambda_i(K) - lambda_i(K') <= tr(K - K') for positive semi-definite K - K'"
)
GROWTH = claims.paper("the same estimate before training; Baratin et al. 2021, arXiv:2008.00938")


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
    seed: int = 0  # of data, networks and probes


PRESETS = {
    # Ten eigenvalues of 40: the first Krylov space is the whole one, and is compiled once.
    "smoke": Config(networks=("MLP",), num_examples=4, width=4, num_landmarks=2, num_probes=4,
                    steps=(0, 2)),
    "default": Config(),
    "accelerator": Config(num_examples=512, width=256, num_landmarks=128, num_probes=128),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Computes every spectrum by every route, trains, and states the claims."""
    data = _networks.read_digits("train", config.num_examples, config.seed)
    metrics, stated, spectra, curves = {}, [], {}, {}
    for name in config.networks:
        model = _networks.NETWORKS[name](config.width)
        params = jax.jit(model.init)(jax.random.key(config.seed), data.x)
        spectra[name], more, routes = _routes(config, name, model.apply, params, data.x)
        curves[name] = _training(config, model.apply, params, data)
        first, last = curves[name][0], curves[name][-1]
        more[f"{name}_alignment_start"] = first["alignment"]
        more[f"{name}_alignment_end"] = last["alignment"]
        more[f"{name}_distance_end"] = last["distance"]
        more[f"{name}_effective_rank_start"] = first["effective_rank"]
        more[f"{name}_effective_rank_end"] = last["effective_rank"]
        # Two independent estimates: their difference must exceed two of its standard errors.
        slack = 2 * np.hypot(first["alignment_error"], last["alignment_error"])
        stated += routes
        stated.append(
            claims.above(
                f"{name}: alignment after training less two standard errors",
                last["alignment"] - slack,
                first["alignment"],
                source=GROWTH,
            )  # fmt: skip
        )
        metrics |= more
    out.figure("spectrum", _pictures.spectra(spectra, curves))
    return claims.Result(metrics, stated)


def _routes(config: Config, name: str, apply, params, x) -> tuple[dict, dict, list]:
    """Eigenvalues by three routes, their errors, and the claims on them."""
    num = config.num_values
    full = ntk.empirical(apply, params, x, method="structured")  # [N, N, C, C]
    size = full.shape[0] * full.shape[2]
    matrix = np.asarray(full.swapaxes(1, 2).reshape(size, size), np.float64)
    dense = np.linalg.eigvalsh(matrix)[::-1]
    rng = jax.random.key(config.seed)
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
        claims.at_most(f"{name}: eigenvalue missing in Nystrom", missing, left, source=BOUND, tolerance=1e-5 * float(exact[0])),
    ]  # fmt: skip
    spectra = {"dense": dense, "Lanczos": np.asarray(lanczos), "trace": exact, "Nystrom": nystrom}
    return spectra, metrics, stated


def _training(config: Config, apply, params, data: _networks.Digits) -> list[dict]:
    """Alignment, distance from the start and effective rank at the chosen steps."""
    records = []
    found = _networks.snapshots(apply, params, data, list(config.steps), config.learning_rate)
    for index, (step, now) in enumerate(zip(config.steps, found)):
        options = dict(rng=jax.random.fold_in(jax.random.key(config.seed + 1), index),
                       num_probes=config.num_probes)  # fmt: skip
        aligned = ntk.spectrum.alignment(apply, now, data.x, data.y, **options)
        moved = ntk.spectrum.distance(apply, params, now, data.x, **options)
        rank = ntk.spectrum.effective_rank(apply, now, data.x, **options)
        records.append(
            {
                "step": step,
                "alignment": float(aligned.value),
                "alignment_error": float(aligned.standard_error),
                "distance": float(moved.value),
                "effective_rank": float(rank.value),
            }
        )
    return records
