"""Conjugate gradients on kernels from the disk and computed anew, against direct solutions."""

import numpy as np
import pytest

from library.storage import tiled_matrix
from library.storage.tiled_matrix import Grid
from research import ntk
from tests.research.ntk.kernels import cosine, points


@pytest.fixture
def disk(tmp_path):
    def make(x, tile=7):
        grid = Grid(len(x), len(x), tile, True)
        file = tiled_matrix.open_or_create(tmp_path / "kernel", grid, np.float64)
        return tiled_matrix.fill(file, ntk.tiles.compute(cosine, grid, x))

    return make


def test_conjugate_gradients_on_tiles_solve_like_cholesky(x64, disk):
    x, y = points(30), np.random.default_rng(3).normal(size=(30, 2))
    expected = np.linalg.solve(cosine(x, x) + 1e-2 * np.eye(30), y)
    operators = {
        "disk": ntk.solvers.on_disk(disk(x), memory_bytes=5 * 30 * 8),
        "recomputed": ntk.solvers.recomputed(cosine, x, tile=8),
    }
    for operator in operators.values():
        found = ntk.solvers.solve(operator, y, ridge=1e-2, rtol=1e-11)
        assert found.converged
        np.testing.assert_allclose(found.x, expected, rtol=1e-8, atol=1e-8 * abs(expected).max())


def test_few_steps_are_those_of_the_recursion(x64):
    """Hestenes and Stiefel's recursion by hand, stopped after three products."""
    x, y = points(12), np.random.default_rng(3).normal(size=12)
    gram = cosine(x, x) + 0.1 * np.eye(12)
    solution, residual = np.zeros(12), y
    direction = residual
    for _ in range(3):
        size = residual @ residual
        step = size / (direction @ gram @ direction)
        solution, residual = solution + step * direction, residual - step * gram @ direction
        direction = residual + residual @ residual / size * direction
    operator = ntk.solvers.recomputed(cosine, x, tile=5)
    found = ntk.solvers.solve(operator, y, ridge=0.1, max_steps=3)
    assert found.num_steps == 3 and not found.converged
    np.testing.assert_allclose(found.x, solution, rtol=1e-10)


def test_a_matrix_that_is_not_square_is_refused(tmp_path):
    file = tiled_matrix.open_or_create(tmp_path / "kernel", Grid(3, 4, 2), np.float64)
    with pytest.raises(ValueError, match="num_columns=4.*: expected a square matrix"):
        ntk.solvers.on_disk(file)


def test_float32_tiles_are_summed_in_float64():
    """Without float64 switched on: the residual falls to 1e-10, far below float32."""
    x, y = points(30, np.float32), points(30, np.float32)
    found = ntk.solvers.solve(ntk.solvers.recomputed(cosine, x, 8), y, ridge=1e-2, rtol=1e-10)
    assert found.converged and found.x.dtype == np.float64
    gram = np.asarray(ntk.tiles.whole(cosine, x, tile=30), np.float64) + 1e-2 * np.eye(30)
    np.testing.assert_allclose(gram @ found.x, y, atol=3e-6)  # tiles round differently


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ntk.solvers.recomputed(cosine, points(3), 1.5), "tile=1.5"),
        (lambda: ntk.solvers.solve(None, np.ones(3), ridge=-1.0), "ridge=-1.0"),
        (lambda: ntk.solvers.solve(None, np.ones(3, int)), r"y has shape \(3,\) and dtype int32"),
        (lambda: ntk.solvers.solve(None, np.ones((1, 1, 1))), r"shape \(1, 1, 1\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
