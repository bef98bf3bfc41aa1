"""Figures show the arrays they are given, in colours that everyone can tell apart."""

import itertools

import numpy as np
import pytest

from library import figure_style, plots

RECORDS = [
    {"step": s, "loss": 1.0 / s, **({"eval": 2.0 / s} if s % 2 else {})} for s in (1, 2, 3, 4)
]


def lines(figure):
    return [line.get_xydata().tolist() for line in figure.axes[0].lines]


def test_curves_draw_the_points_of_each_key():
    figure = plots.curves(RECORDS, {"loss": "train", "eval": "held out"})
    loss, held_out = lines(figure)
    assert loss == [[s, 1.0 / s] for s in (1, 2, 3, 4)]
    assert held_out == [[1, 2.0], [3, 2.0 / 3]]
    assert {text.get_text() for text in figure.axes[0].texts} == {"train", "held out"}


def test_smoothing_is_the_mean_of_the_last_records_over_the_raw_ones():
    figure = plots.curves(RECORDS, ["loss"], smooth=2)
    raw, smoothed = lines(figure)
    assert raw == [[s, 1.0 / s] for s in (1, 2, 3, 4)]
    np.testing.assert_allclose([y for _, y in smoothed], [1, 3 / 4, 5 / 12, 7 / 24], rtol=1e-14)


def test_what_a_logarithm_cannot_show_is_left_out():
    records = [{"step": s, "loss": v} for s, v in enumerate((1.0, 0.0, -1.0, np.nan, np.inf, 0.1))]
    figure = plots.curves(records, ["loss"], log_x=True, log_y=True)
    assert lines(figure) == [[[5, 0.1]]]
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    with pytest.raises(ValueError, match="no value of 'accuracy'"):
        plots.curves(records, ["accuracy"])


def test_labels_of_lines_that_end_together_do_not_overlap():
    records = [{"step": s, **{f"m{i}": 1.0 + 1e-3 * i for i in range(5)}} for s in (1, 2)]
    records[0]["m0"] = 0.0
    figure = plots.curves(records, [f"m{i}" for i in range(5)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_stands_in_its_cell_in_the_range_given(channels):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (5, 4, 6, channels))
    images[0, 0, 0] = 7.0  # above the range: clipped
    figure = plots.image_grid(images, 2, 3, value_range=(-1, 1))
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    canvas = canvas.reshape(canvas.shape[0], canvas.shape[1], channels)
    cells = [np.split(row, 3, axis=1) for row in np.split(canvas, 2, axis=0)]
    zoom = 16  # 96 / 6
    for index, (row, col) in enumerate(itertools.product(range(2), range(3))):
        cell = cells[row][col]
        gap = (cell.shape[1] - 6 * zoom) // 2
        if index == 5:
            assert np.all(cell == 1)
            continue
        expected = np.clip((images[index] + 1) / 2, 0, 1).repeat(zoom, 0).repeat(zoom, 1)
        np.testing.assert_array_equal(cell[gap:-gap, gap:-gap], expected)
        assert np.all(cell[:gap] == 1) and np.all(cell[:, -gap:] == 1)


def test_a_title_longer_than_the_grid_is_wide_is_not_cut():
    figure = plots.image_grid(np.zeros((1, 2, 2, 1)), 1, 1, title="Samples on the way from noise")
    figure.draw_without_rendering()
    (title,) = figure.texts
    assert title.get_window_extent().x1 <= figure.bbox.x1
    width, height = figure.bbox.size * figure.axes[0].get_position().size
    assert width == pytest.approx(height)  # pixels stay square


def test_a_strip_is_a_grid_with_a_label_below_each_column():
    images = np.linspace(0, 1, 24).reshape(2, 3, 2, 2, 1)
    figure = plots.image_strip(images, labels=("0", "½", "1"))
    grid = plots.image_grid(images.reshape(6, 2, 2, 1), 2, 3)
    arrays = [f.axes[0].images[0].get_array() for f in (figure, grid)]
    np.testing.assert_array_equal(*arrays)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "½", "1"]
    assert plots.image_strip(images[0]).axes[0].images[0].get_array().shape[0] < arrays[0].shape[0]


@pytest.mark.parametrize(
    "shape, rows, cols, message",
    [
        ((5, 4, 4, 2), 2, 3, r"shape \(5, 4, 4, 2\): expected \[N, H, W, 1 or 3\]"),
        ((5, 4, 4), 2, 3, "expected"),
        ((7, 4, 4, 1), 2, 3, "7 images do not fit into 2 rows of 3"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, rows, cols, message):
    with pytest.raises(ValueError, match=message):
        plots.image_grid(np.zeros(shape), rows, cols)
    with pytest.raises(ValueError, match="column labels"):
        plots.image_grid(np.zeros((1, 2, 2, 1)), 1, 2, col_labels=["one"])


def test_an_exact_power_law_is_found_exactly():
    x = np.geomspace(3, 3e5, 7)
    slope, intercept, error = plots.power_law(x, 2.5 * x**-0.5)
    np.testing.assert_allclose([slope, intercept], [-0.5, np.log(2.5)], rtol=1e-12)
    assert error < 1e-12
    assert plots.power_law([1, 2], [1, 8]) == pytest.approx((3.0, 0.0, 0.0), abs=1e-12)


def test_slope_and_its_error_agree_with_numpys_own_fit():
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 100, 12)
    y = x**0.3 * np.exp(0.1 * rng.standard_normal(12))
    (slope, intercept), covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    expected = (slope, intercept, np.sqrt(covariance[0, 0]))
    np.testing.assert_allclose(plots.power_law(x, y), expected, rtol=1e-10)


def test_scatter_shows_points_fit_and_expectation():
    x = np.array([1.0, 10.0, 100.0])
    y = 2 * x**-0.5
    figure = plots.scatter_with_fit(x, y, y_error=0.1 * y, expected_slope=-1)
    fit, expected, points = lines(figure)
    np.testing.assert_allclose(fit, [[1, 2], [100, 0.2]], rtol=1e-12)
    np.testing.assert_allclose(expected, [[1, 2 * 10**0.5], [100, 2 * 10**-1.5]], rtol=1e-12)
    assert points == np.stack([x, y], 1).tolist()
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["slope −0.500 ± 0.000", "expected −1"]


@pytest.mark.parametrize(
    "x, y, message",
    [
        ([1, 2], [1, -1], "positive"),
        ([1, 2], [1, np.nan], "positive and finite"),
        ([1], [1], "N >= 2"),
        ([1, 2], [1, 2, 3], "shapes"),
        ([3, 3], [1, 2], "x=3.0: expected at least two places"),
    ],
)
def test_points_without_a_power_law_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        plots.scatter_with_fit(x, y)


def test_a_heatmap_holds_the_matrix_and_a_centred_scale_is_symmetric():
    matrix = np.array([[-1.0, 0.5, 4.0], [0.0, 1.0, 2.0]])
    figure = plots.heatmap(matrix, centre=1.0, annotate=".1f", x_labels="abc", y_labels="de")
    picture = figure.axes[0].images[0]
    np.testing.assert_array_equal(picture.get_array(), matrix)
    assert picture.get_clim() == (-2.0, 4.0)
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == ["-1.0", "0.5", "4.0", "0.0", "1.0", "2.0"]
    assert plots.heatmap(matrix).axes[0].images[0].get_clim() == (-1.0, 4.0)
    with pytest.raises(ValueError, match="labels do not fit"):
        plots.heatmap(matrix, x_labels="ab")


def test_figures_belong_to_no_window_and_no_global_list():
    figure = plots.heatmap([[1.0]])
    assert figure.canvas.manager is None


# What a dichromat sees of a linear RGB colour: Machado, Oliveira and Fernandes 2009, table 1,
# severity 1.0.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def linear_rgb():
    """The palette in linear RGB, [6, 3]."""
    levels = np.array(
        [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in figure_style.PALETTE]
    )
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("sight", SIGHT)
def test_the_palette_can_be_told_apart(sight):
    """CIELAB distances of at least 16; 2 is just noticeable side by side."""
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    seen = np.clip(linear_rgb() @ np.transpose(SIGHT[sight]), 0, 1) @ np.transpose(xyz)
    ratio = seen / np.sum(xyz, axis=1)
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    pairs = itertools.combinations(lab, 2)
    assert min(np.linalg.norm(a - b) for a, b in pairs) > 16


def test_the_palette_can_be_read_on_white():
    luminance = linear_rgb() @ [0.2126, 0.7152, 0.0722]
    assert np.min(1.05 / (luminance + 0.05)) > 2.8


def texts(axes):
    return axes.get_title(loc="left") or axes.get_title(), axes.get_xlabel(), axes.get_ylabel()


def test_texts_stand_where_they_are_asked_for():
    words = {"title": "T", "x_label": "X, m", "y_label": "Y, s"}
    records = [{"wall": 2.0 * s, "loss": s} for s in (1, 2)]
    curves = plots.curves(records, ["loss"], x="wall", **words)
    assert lines(curves) == [[[2, 1], [4, 2]]]
    assert plots.curves(records, ["loss"], x="wall").axes[0].get_xlabel() == "wall"
    figures = [curves, plots.scatter_with_fit([1, 2], [1, 2], **words)]
    figures.append(plots.heatmap([[1.0]], colour_label="C, kg", **words))
    for figure in figures:
        assert texts(figure.axes[0]) == ("T", "X, m", "Y, s")
    assert figures[2].axes[1].get_ylabel() == "C, kg"
    grid = plots.image_grid(np.zeros((2, 2, 2, 1)), 2, 1, row_labels=("up", "down"))
    assert [label.get_text() for label in grid.axes[0].get_yticklabels()] == ["up", "down"]
    low, high = 2 * np.arange(8.0).reshape(2, 2, 2, 1) - 5, (-5, 9)
    strip = plots.image_strip(low, value_range=high, title="T")
    assert [text.get_text() for text in strip.texts] == ["T"]
    same = plots.image_strip((low + 5) / 14)
    np.testing.assert_allclose(
        *(f.axes[0].images[0].get_array() for f in (strip, same)), rtol=1e-12
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plots.image_strip(np.zeros((2, 2, 1))), r"shape \(2, 2, 1\): expected \[N, H, W"),
        (lambda: plots.heatmap(np.zeros(3)), r"matrix has shape \(3,\): expected \[M, N\]"),
        (lambda: plots.heatmap(np.zeros((0, 3))), "matrix has shape"),
        (lambda: plots.curves(RECORDS, ["loss"], smooth=0), "smooth=0: expected a positive whole"),
        (lambda: plots.image_grid(np.zeros((1, 2, 2, 1)), 0, 1), "rows=0"),
        (lambda: plots.image_grid(np.zeros((1, 2, 2, 1)), 1, 1.5), "cols=1.5"),
        (
            lambda: plots.image_grid(np.zeros((1, 2, 2, 1)), 1, 1, value_range=(1, 1)),
            r"value_range=\(1, 1\): expected \(low, high\)",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
