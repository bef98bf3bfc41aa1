"""Tables of positions: sines by the formula, PyTorch's bicubic kernel by loops."""

import math

import numpy as np
import pytest

from research.self_supervised import positions

RNG = np.random.default_rng(0)


def test_sines_of_columns_then_rows():
    table = positions.sincos(2, 3, 8)
    assert table.shape == (1, 7, 8) and (table[0, 0] == 0).all()
    for row, column in np.ndindex(2, 3):
        one, hundredth = 1.0, 0.01  # 10,000^0 and 10,000^(-1/2)
        expected = [
            f(place * rate)
            for place in (column, row)
            for f in (math.sin, math.cos)
            for rate in (one, hundredth)
        ]
        np.testing.assert_allclose(table[0, 1 + 3 * row + column], expected, rtol=1e-12)


def cubic(x, a=-0.75):
    """Keys 1981, eq. (4), as PyTorch has it."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def bicubic(image, rows, columns):
    """`interpolate(mode="bicubic", align_corners=False)`, pixel by pixel."""
    out = np.zeros((rows, columns, image.shape[-1]))
    for i, j in np.ndindex(rows, columns):
        y = (i + 0.5) * image.shape[0] / rows - 0.5
        x = (j + 0.5) * image.shape[1] / columns - 0.5
        for p in range(math.floor(y) - 1, math.floor(y) + 3):
            for q in range(math.floor(x) - 1, math.floor(x) + 3):
                inside = min(max(p, 0), image.shape[0] - 1), min(max(q, 0), image.shape[1] - 1)
                out[i, j] += cubic(y - p) * cubic(x - q) * image[inside]
    return out


@pytest.mark.parametrize(
    "grid, new_grid", [((3, 3), (5, 2)), ((4, 2), (2, 8)), ((1, 9), (1, 14)), ((6, 6), (4, 4))]
)
def test_resized_as_by_pytorch(grid, new_grid, x64):
    table = RNG.normal(size=(1, 1 + math.prod(grid), 3))
    got = positions.interpolate(table, grid, new_grid)
    expected = bicubic(table[0, 1:].reshape(*grid, 3), *new_grid).reshape(-1, 3)
    np.testing.assert_allclose(got[0, 1:], expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(got[:, 0], table[:, 0])


def test_the_same_grid_is_the_same_table():
    table = RNG.normal(size=(1, 7, 3)).astype(np.float32)
    assert positions.interpolate(table, (2, 3), (2, 3)) is table
    turned = positions.interpolate(table, (2, 3), (3, 2))
    assert turned.shape == table.shape and np.abs(turned[0, 1:] - table[0, 1:]).max() > 0.1


def test_bad_input():
    table = np.zeros((1, 10, 3), np.float32)
    for broken, message in [
        (lambda: positions.sincos(2, 2, 6), "width=6: expected a multiple of 4"),
        (lambda: positions.sincos(2, 2, 0), "width=0"),
        (lambda: positions.interpolate(table, (2, 4), (3, 3)), r"grid=\(2, 4\)"),
        (lambda: positions.interpolate(table, (3, 3), (0, 3)), r"new_grid=\(0, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()


def test_a_table_of_doubles_is_interpolated_in_single_precision():
    table = np.random.default_rng(1).normal(size=(1, 5, 2))
    found = positions.interpolate(table, (2, 2), (1, 2))
    assert found.shape == (1, 3, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found[0, 1:], (table[0, 1:3] + table[0, 3:]) / 2, rtol=1e-5)
