"""The pictures that every image study draws: samples, strips in time, nearest neighbours."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from library import metrics, plots, report
from research.diffusion.processes import Process, expand
from research.sample_quality import distances

RANGE = (-1.0, 1.0)  # of the pixels
_grid = functools.partial(plots.image_grid, value_range=RANGE)
_strip = functools.partial(plots.image_strip, value_range=RANGE)


def draw(
    out: report.RunDir,
    process: Process,
    samples: np.ndarray,
    reverse: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
) -> None:
    """Loss curve, 10 x 10 samples, forward and reverse strip, nearest training neighbours.

    Args:
        out: the run's folder.
        process: that noises the forward strip.
        samples: [N >= 100, H, W, C] in [-1, 1].
        reverse: [R, T, H, W, C], states of R samples on the way from noise.
        train, held_out: [M, H, W, C], the data.
    """
    out.figure("loss", plots.curves(metrics.read(out.path), ["loss"], smooth=5, log_y=True))
    out.figure("samples", _grid(samples[:100], 10, 10, title="Samples"))
    times = np.linspace(process.t_min, process.t_max, 11)
    labels = [f"t={t:.1f}" for t in times]
    forward = noised(process, held_out[:3], times)
    out.figure("forward", _strip(forward, labels=labels, title="Held-out data on the way to noise"))
    out.figure("reverse", _strip(reverse, title="Samples on the way from noise"))
    shown = samples[:100:10]
    _, nearest = distances.nearest_neighbours(shown, train)
    pairs = np.concatenate([shown, train[np.asarray(nearest)]])
    out.figure("neighbours", _grid(pairs, 2, 10, row_labels=("samples", "nearest in training")))


def draw_classes(out: report.RunDir, samples: np.ndarray, scale: float) -> None:
    """A row for each of ten classes, of samples [N >= 100, H, W, C], ten of a class in turn."""
    title = f"Guided samples, scale {scale:g}"
    rows = [f"{label}" for label in range(10)]
    out.figure("guided", _grid(samples[:100], 10, 10, title=title, row_labels=rows))


def draw_beside(out: report.RunDir, samples: np.ndarray, held_out: np.ndarray) -> None:
    """Loss curve, and 5 x 10 samples [N >= 50, H, W, C] above as many held-out images."""
    out.figure("loss", plots.curves(metrics.read(out.path), ["loss"], smooth=5))
    rows = ["samples"] + [""] * 4 + ["held out"] + [""] * 4
    both = np.concatenate([samples[:100:2], held_out[:50]])
    out.figure("samples", _grid(both, 10, 10, row_labels=rows))


def noised(process: Process, x: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[R, T, ...]: each of R examples at T times, along one draw of the noise."""
    noise = jax.random.normal(jax.random.key(0), x.shape)[:, None]  # [R, 1, ...]
    times = jnp.asarray(times, x.dtype)
    alpha, sigma = (expand(curve(times), x)[None] for curve in (process.alpha, process.sigma))
    return np.asarray(alpha * x[:, None] + sigma * noise)
