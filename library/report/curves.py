"""Curves of a run as inline SVG for `report.html`, coloured by CSS to follow dark mode."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDTH, HEIGHT = 400, 210  # of the view box; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
MAX_POINTS = 240  # a longer series is drawn as the mean and the range of its buckets
LOG_RATIO = 30  # positive values that span more than this factor get a logarithmic axis


def charts(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, float]]:
    """One figure per group of metrics, as HTML, and the metrics that never change, by name.

    Metrics whose names agree after the last slash share a chart: `loss` and `eval/loss`.

    Args:
        records: as `library.metrics.read` gives them.
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    constant = {}
    names = {name: None for record in records for name in record if name not in ("step", "wall")}
    for name in names:
        points = [(r["step"], r[name]) for r in records if name in r]
        series = np.array(points, np.float64)  # [N, 2]
        values = series[:, 1]
        if len(values) > 1 and np.all(values == values[0]):
            constant[name] = float(values[0])
        elif np.isfinite(values).any():
            groups.setdefault(name.rsplit("/", 1)[-1], {})[name] = series
    titles = sorted(groups, key=lambda title: title != "loss")  # the loss first, as they came else
    return [_chart(title, groups[title]) for title in titles], constant


def short(number: float) -> str:
    """A number for a tick or a label: 1500 as 1.5k, small ones with three digits."""
    size = abs(number)
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:.3g}"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers in [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high], about five at most; with their 2 and 5 where they are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [e for e in exponents if low <= 10.0**e <= high]
    if len(inside) > 2:
        return [10.0**e for e in inside[:: math.ceil(len(inside) / 5)]]
    values = [float(f"{factor}e{e}") for e in exponents for factor in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def _chart(title: str, group: Mapping[str, np.ndarray]) -> str:
    """A titled SVG of a few series [N, 2]."""
    buckets = {name: _buckets(series) for name, series in group.items()}
    steps = np.concatenate([b[:, 0] for b in buckets.values()])
    values = np.concatenate([b[:, 1:].ravel() for b in buckets.values()])
    log = bool(values.min() > 0 and values.max() > LOG_RATIO * values.min())
    to_x = _scale(steps.min(), steps.max(), LEFT, WIDTH - RIGHT)
    low, high = (math.log10(v) if log else v for v in (values.min(), values.max()))
    margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    to_linear = _scale(low - margin, high + margin, HEIGHT - BOTTOM, TOP)

    def to_y(value: np.ndarray | float) -> np.ndarray:
        return to_linear(np.log10(value) if log else np.asarray(value))

    if log:
        marks = log_ticks(10 ** (low - margin), 10 ** (high + margin))
    else:
        marks = ticks(low - margin, high + margin)
    parts = [_y_tick(float(to_y(mark)), mark) for mark in marks]
    if steps.max() > steps.min():
        parts += [_x_tick(float(to_x(mark)), mark) for mark in ticks(steps.min(), steps.max(), 5)]
    legend, hover = [], []
    for index, (name, bucket) in enumerate(buckets.items()):
        xs, ys = to_x(bucket[:, 0]), to_y(bucket[:, 1])
        parts.append(_line(index, xs, ys, to_y(bucket[:, 2]), to_y(bucket[:, 3])))
        last = short(float(group[name][-1, 1]))
        name = "" if [*buckets] == [title] else name  # the title says it already
        legend.append(f'<span class="s{index % 6}"><b>{html.escape(name)}</b> {last}</span>')
        rounded = np.round(np.stack([xs, ys], 1), 1).tolist()
        texts = [[short(step), short(value)] for step, value in bucket[:, :2]]
        hover.append([name, rounded, texts])
    note = " · log scale" if log else ""
    return (
        f'<figure class="chart" data-series="{html.escape(json.dumps(hover))}"><figcaption>'
        f"<h3>{html.escape(title)}<small>{note}</small></h3><p>{''.join(legend)}</p></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f'{"".join(parts)}<line class="cross" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg></figure>'
    )


def _buckets(series: np.ndarray) -> np.ndarray:
    """[N, 2] to [M, 4]: step, mean, least and greatest finite value of each bucket."""
    series = series[np.isfinite(series[:, 1])]
    series = series[np.argsort(series[:, 0], kind="stable")]
    pieces = np.array_split(series, min(len(series), MAX_POINTS))
    return np.array(
        [[p[-1, 0], p[:, 1].mean(), p[:, 1].min(), p[:, 1].max()] for p in pieces]
    )  # [M, 4]


def _scale(low: float, high: float, start: float, end: float) -> Any:
    """The linear map that takes [low, high] to [start, end]."""
    if high == low:
        return lambda value: np.full(np.shape(value), (start + end) / 2)
    return lambda value: start + (np.asarray(value) - low) / (high - low) * (end - start)


def _line(index: int, xs: np.ndarray, ys: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> str:
    """The mean as a line over the band of its range; a single point as a dot."""
    name = f"s{index % 6}"
    if len(xs) == 1:
        return f'<circle class="{name}" cx="{xs[0]:.1f}" cy="{ys[0]:.1f}" r="3"/>'
    band = ""
    if np.any(lows != highs):
        outline = _path(np.concatenate([xs, xs[::-1]]), np.concatenate([lows, highs[::-1]]))
        band = f'<path class="band {name}" d="{outline}Z"/>'
    return f'{band}<path class="line {name}" d="{_path(xs, ys)}"/>'


def _path(xs: np.ndarray, ys: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def _y_tick(y: float, value: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="y" x="{LEFT - 6}" y="{y + 3.5:.1f}">{short(value)}</text>'
    )


def _x_tick(x: float, value: float) -> str:
    return f'<text class="x" x="{x:.1f}" y="{HEIGHT - 7}">{short(value)}</text>'
