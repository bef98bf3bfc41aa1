"""Figures in one house style: curves, grids of images, log-log scatter with its fit, heatmaps.

Each function returns a `matplotlib.figure.Figure` made without pyplot: no display, no global
state, nothing to close. `library.report.RunDir.figure` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from library import checks, figure_style
from library.figure_style import FAINT, FONT_SIZE, HEIGHT, INK, PALETTE, WIDTH
from library.statistics import power_law as power_laws


def curves(
    records: Sequence[Mapping[str, Any]],
    keys: Sequence[str] | Mapping[str, str],
    *,
    x: str = "step",
    smooth: int = 1,
    log_x: bool = False,
    log_y: bool = False,
    title: str = "",
    x_label: str | None = None,
    y_label: str = "",
) -> Figure:
    """Values against the step, each line labelled at its end.

    Args:
        records: as `library.metrics.read` gives them; those without a key are skipped for it.
        keys: names of the values, or label by name.
        x: name of the horizontal value.
        smooth: records that a line averages over; the raw values stay faintly visible.
        log_x, log_y: logarithmic axes; values that are not positive are left out.
        title: above the figure.
        x_label: None is the name `x`.
        y_label: with the unit.
    Raises:
        ValueError: if a key has no finite value in the records, or `smooth` is below 1.
    """
    checks.count("smooth", smooth, of="records")
    labels = dict(keys) if isinstance(keys, Mapping) else {key: key for key in keys}
    figure, axes = figure_style.single(title, x if x_label is None else x_label, y_label)
    ends = []
    for index, (key, label) in enumerate(labels.items()):
        xs, ys = _series(records, x, key, log_x, log_y)
        colour = PALETTE[index % len(PALETTE)]
        if smooth > 1 and len(ys) > smooth:
            axes.plot(xs, ys, color=colour, alpha=0.25, linewidth=0.8)
            ys = _moving_mean(ys, smooth)
        marker = "o" if len(ys) == 1 else None
        axes.plot(xs, ys, color=colour, linewidth=1.8, marker=marker, solid_capstyle="round")
        ends.append((ys[-1], label, colour))
    axes.margins(x=0.01)
    _log_axes(axes, log_x, log_y)
    _label_ends(axes, ends)
    return figure


def image_grid(
    images: Any,
    rows: int,
    cols: int,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    title: str = "",
    row_labels: Sequence[str] = (),
    col_labels: Sequence[str] = (),
) -> Figure:
    """Images side by side on a thin white lattice, row by row.

    Args:
        images: [N, H, W, C] real, N <= rows * cols, C = 1 (grey) or 3; missing ones stay white.
        rows, cols: shape of the grid.
        value_range: the values shown as black and white; what lies outside is clipped.
        title: above the grid.
        row_labels, col_labels: beside and below it; empty, or one each.
    Raises:
        ValueError: if shapes, counts, labels or the range do not fit.
    """
    checks.count("rows", rows)
    checks.count("cols", cols)
    if not value_range[0] < value_range[1]:
        raise ValueError(f"value_range={value_range}: expected (low, high) with low < high")
    images = np.asarray(images, np.float64)  # [N, H, W, C]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(f"images have shape {images.shape}: expected [N, H, W, 1 or 3]")
    if len(images) > rows * cols:
        raise ValueError(f"{len(images)} images do not fit into {rows} rows of {cols}")
    if len(row_labels) not in (0, rows) or len(col_labels) not in (0, cols):
        raise ValueError(f"expected {rows} row labels and {cols} column labels, or none")
    canvas = _lattice(images, rows, cols, value_range)  # [X, Y, C]
    # The picture fills the figure but for room, in inches, for the texts that are there.
    top, bottom = 0.34 * bool(title), 0.26 * bool(len(col_labels))
    left = 0.1 + 0.09 * max(map(len, row_labels)) if len(row_labels) else 0.0
    width = min(WIDTH - left, max(2.0, 0.64 * cols))
    height = width * canvas.shape[0] / canvas.shape[1]
    total_width = max(left + width, 0.2 + 0.11 * len(title))
    total_height = top + height + bottom
    figure = Figure(figsize=(total_width, total_height))
    box = (left / total_width, bottom / total_height, width / total_width, height / total_height)
    axes = figure.add_axes(box)
    axes.imshow(canvas, vmin=0, vmax=1, cmap="gray", aspect="auto", extent=(0, cols, rows, 0))
    _bare(axes)
    axes.set_xticks(np.arange(len(col_labels)) + 0.5, col_labels)
    axes.set_yticks(np.arange(len(row_labels)) + 0.5, row_labels)
    axes.tick_params(length=0, pad=3, labelsize=FONT_SIZE - 1, labelcolor=INK)
    if title:
        place = (0.05 / total_width, 1 - 0.05 / total_height)
        figure.text(*place, title, fontsize=FONT_SIZE + 1, color=INK, va="top", weight="bold")
    return figure


def image_strip(
    images: Any,
    *,
    labels: Sequence[str] = (),
    value_range: tuple[float, float] = (0.0, 1.0),
    title: str = "",
) -> Figure:
    """Images in one row, or [R, N, H, W, C] in R rows, with labels below the columns.

    Args:
        images: [N, H, W, C] or [R, N, H, W, C] real, C = 1 or 3.
        labels: empty, or N texts, e.g. times.
        value_range: the values shown as black and white.
        title: above the strip.
    Raises:
        ValueError: if shapes or labels do not fit.
    """
    images = np.asarray(images)
    if images.ndim not in (4, 5):
        raise ValueError(
            f"images have shape {images.shape}: expected [N, H, W, C] with or without R"
        )
    rows, cols = (1, len(images)) if images.ndim == 4 else images.shape[:2]
    flat = images.reshape((rows * cols,) + images.shape[-3:])  # [R N, H, W, C]
    return image_grid(flat, rows, cols, value_range=value_range, title=title, col_labels=labels)


def scatter_with_fit(
    x: Any,
    y: Any,
    *,
    y_error: Any = None,
    expected_slope: float | None = None,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
) -> Figure:
    """Points on log-log axes with the power law that fits them, its slope in the legend.

    Args:
        x, y: [N] positive, N >= 2.
        y_error: [N] standard errors of y, drawn as bars; None draws none. The fit (`power_law`)
            does not weigh by them.
        expected_slope: slope of a dashed line through the points' centre, for comparison.
        title: above the figure.
        x_label, y_label: with units.
    Raises:
        ValueError: if the points are not positive, too few or all at the same x.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)  # [N]
    slope, intercept, error = power_law(x, y)
    figure, axes = figure_style.single(title, x_label, y_label)
    ends = np.array([x.min(), x.max()])
    text = f"slope {_minus(slope, '.3f')}" + (f" ± {error:.3f}" if len(x) > 2 else "")
    axes.plot(ends, np.exp(intercept) * ends**slope, color=PALETTE[1], linewidth=1.8, label=text)
    if expected_slope is not None:
        shift = np.mean(np.log(y)) - expected_slope * np.mean(np.log(x))
        line, text = (
            np.exp(shift) * ends**expected_slope,
            f"expected {_minus(expected_slope, '.3g')}",
        )
        axes.plot(ends, line, color=FAINT, linewidth=1.2, linestyle=(0, (5, 3)), label=text)
    axes.errorbar(
        x, y, yerr=y_error, fmt="o", markersize=5.5, color=PALETTE[0], elinewidth=1.2,
        markeredgecolor="white", markeredgewidth=0.8, zorder=3,
    )  # fmt: skip
    _log_axes(axes, True, True)
    legend = axes.legend(frameon=False, fontsize=FONT_SIZE, labelcolor=INK)
    legend.set_zorder(4)
    return figure


def power_law(x: Any, y: Any) -> tuple[float, float, float]:
    """Slope, intercept (natural log) and the slope's standard error; see `power_law.fit`."""
    law = power_laws.fit(x, y)
    return law.exponent, law.intercept, law.standard_error


def heatmap(
    matrix: Any,
    *,
    x_labels: Sequence[str] = (),
    y_labels: Sequence[str] = (),
    centre: float | None = None,
    annotate: str = "",
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    colour_label: str = "",
) -> Figure:
    """A matrix as colours with their scale.

    Args:
        matrix: [M, N] real; row 0 is on top.
        x_labels, y_labels: empty, or N and M texts.
        centre: the neutral value of a diverging scale; None takes a sequential one.
        annotate: a format such as ".2f" writes the number into each cell.
        title, x_label, y_label, colour_label: texts with units.
    Raises:
        ValueError: if the shapes do not fit.
    """
    matrix = np.asarray(matrix, np.float64)  # [M, N]
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"matrix has shape {matrix.shape}: expected [M, N]")
    if len(x_labels) not in (0, matrix.shape[1]) or len(y_labels) not in (0, matrix.shape[0]):
        raise ValueError(f"labels do not fit a matrix of shape {matrix.shape}")
    figure, axes = figure_style.single(title, x_label, y_label, width=5.4, height=4.4)
    _bare(axes)
    reach = None if centre is None else float(np.nanmax(np.abs(matrix - centre))) or 1.0
    limits = {} if reach is None else {"vmin": centre - reach, "vmax": centre + reach}
    picture = axes.imshow(
        matrix, cmap="viridis" if centre is None else "RdBu_r", aspect="auto", **limits
    )
    for axis, texts in ((axes.xaxis, x_labels), (axes.yaxis, y_labels)):
        if len(texts):
            axis.set_ticks(range(len(texts)), texts)
    bar = figure.colorbar(picture, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=FONT_SIZE - 1, labelcolor=INK)
    bar.set_label(colour_label, fontsize=FONT_SIZE, color=INK)
    if annotate:
        _write_cells(axes, matrix, annotate, picture)
    return figure


def _log_axes(axes: Axes, log_x: bool, log_y: bool) -> None:
    """Logarithmic axes with powers of ten, or plain numbers where the range is short."""
    for axis, limits, log in ((axes.xaxis, axes.dataLim.intervalx, log_x),
                              (axes.yaxis, axes.dataLim.intervaly, log_y)):  # fmt: skip
        if not log:
            continue
        getattr(axes, f"set_{axis.axis_name}scale")("log")
        low, high = limits
        if high < 60 * low:
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high > 4 * low else "all"))
            axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(ticker.NullFormatter())


def _minus(number: float, spec: str) -> str:
    """The number with a typographic minus."""
    return format(number, spec).replace("-", "\N{MINUS SIGN}")


def _bare(axes: Axes) -> None:
    """No frame and no grid, for pictures."""
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)


def _series(
    records: Sequence[Mapping[str, Any]], x: str, key: str, log_x: bool, log_y: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The finite points [N] of one key."""
    points = [(record[x], record[key]) for record in records if x in record and key in record]
    xs, ys = np.asarray(points, np.float64).reshape(-1, 2).T  # [N]
    shown = np.isfinite(xs) & np.isfinite(ys)
    shown &= (xs > 0) | (not log_x)
    shown &= (ys > 0) | (not log_y)
    if not shown.any():
        raise ValueError(f"the records hold no value of {key!r} that can be drawn")
    return xs[shown], ys[shown]


def _moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """[N]: the mean of the last `window` values, of fewer at the start."""
    total = np.concatenate([[0.0], np.cumsum(values)])  # [N + 1]
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    return (total[last] - total[first]) / (last - first)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """The labels right of the lines' ends, pushed apart where they would meet."""
    to_axes = axes.transData + axes.transAxes.inverted()
    left = axes.get_xlim()[0]
    heights = [to_axes.transform((left, value))[1] for value, _, _ in ends]
    gap = 1.5 * FONT_SIZE / 72 / HEIGHT
    placed = -math.inf
    for index in sorted(range(len(ends)), key=heights.__getitem__):
        _, label, colour = ends[index]
        placed = max(heights[index], placed + gap)
        axes.text(
            1.015, placed, label, color=colour, fontsize=FONT_SIZE, va="center",
            transform=axes.transAxes,
        )  # fmt: skip


def _lattice(
    images: np.ndarray, rows: int, cols: int, value_range: tuple[float, float]
) -> np.ndarray:
    """The images in [0, 1] on one white canvas [X, Y, C]."""
    low, high = value_range
    _, height, width, channels = images.shape
    # Each pixel becomes a square of them, so that the gaps are thin beside small images too.
    zoom = max(1, math.ceil(96 / max(height, width)))
    images = np.clip((images - low) / (high - low), 0, 1).repeat(zoom, 1).repeat(zoom, 2)
    gap = max(2, round(0.02 * zoom * width))
    height, width = height * zoom + 2 * gap, width * zoom + 2 * gap
    canvas = np.ones((rows * height, cols * width, channels))
    for index, image in enumerate(images):
        row, col = divmod(index, cols)
        cell = canvas[row * height : (row + 1) * height, col * width : (col + 1) * width]
        cell[gap:-gap, gap:-gap] = image
    return canvas


def _write_cells(axes: Axes, matrix: np.ndarray, spec: str, picture: Any) -> None:
    """Numbers in the cells, dark on light colours and light on dark ones."""
    for (row, col), value in np.ndenumerate(matrix):
        red, green, blue, _ = picture.cmap(picture.norm(value))
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.55
        axes.text(
            col, row, format(value, spec), ha="center", va="center",
            fontsize=FONT_SIZE - 2, color=INK if light else "white",
        )  # fmt: skip
