"""Tiled kernels: planning under a bound, balance, devices, and the same numbers as in one piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import sharding
from library.storage import tiled_matrix
from library.storage.tiled_matrix import Grid
from research import ntk
from tests.research.ntk import networks
from tests.research.ntk.kernels import cosine, points


def square(size):
    return 8 * size**2 + 1000


@pytest.mark.parametrize("memory", [1032, 5000, 10**5, 10**7])
def test_plan_takes_the_largest_tile_that_fits(memory):
    grid = ntk.tiles.plan(500, memory_bytes=memory, bytes_of=square)
    largest = min(int(((memory - 1000) / 8) ** 0.5), 500)
    assert square(grid.tile) <= memory
    # Evened out over the matrix: no more blocks than the largest tile needs, give or take 3 %.
    assert -(-500 // grid.tile) <= np.ceil(500 / (0.97 * largest))
    assert grid.symmetric and grid.num_columns == 500
    capped = ntk.tiles.plan(500, memory_bytes=memory, bytes_of=square, largest=60)
    assert capped.tile <= 60 and capped.tile >= min(grid.tile, 55)


def test_bound_below_one_tile_names_both_sizes():
    with pytest.raises(ValueError, match="memory_bytes=1000 is too small.*1 x 1.*1008 bytes"):
        ntk.tiles.plan(500, memory_bytes=1000, bytes_of=square)
    with pytest.raises(ValueError, match="tile of 32 x 32, which needs 9192 bytes"):
        ntk.tiles.plan(500, memory_bytes=9191, bytes_of=square, smallest=32)


def test_bytes_of_a_tile_are_those_of_its_arrays():
    x = jax.ShapeDtypeStruct((100, 3), np.float32)
    bytes_of = ntk.tiles.tile_bytes(lambda a, b: a @ b.T, x)
    inputs, block = 2 * 20 * 3 * 4, 20 * 20 * 4
    assert inputs + 3 * block <= bytes_of(20) <= inputs + 4 * block  # temporaries are its own
    wide = ntk.tiles.tile_bytes(lambda a, b: a @ b.T, x, dtype=np.float64)
    assert wide(20) - bytes_of(20) == 2 * block  # twice on the host
    other = {"a": jax.ShapeDtypeStruct((50, 3), np.float32), "n": jax.ShapeDtypeStruct((50,), bool)}
    pair = ntk.tiles.tile_bytes(lambda a, b: a @ jnp.where(b["n"][:, None], b["a"], 0).T, x, other)
    assert 20 <= pair(20) - bytes_of(20) <= 20 + 4 * 20 * 3  # its flags, and perhaps the chosen


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_a_balanced_partition(symmetric, count):
    grid = Grid(23, 23, 4, symmetric)
    shares = [grid.share(index, count) for index in range(count)]
    assert sorted(sum(shares, [])) == sorted(grid.tiles)
    assert len(grid.tiles) == (21 if symmetric else 36)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("other", [None, 9])
def test_tiles_make_the_whole(x64, other):
    x1, x2 = points(23), None if other is None else points(other)
    expected = cosine(x1, x1 if x2 is None else x2)
    found = ntk.tiles.whole(cosine, x1, x2, tile=5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_symmetric_grids_hold_symmetric_kernels_to_the_bit():
    """Though the function rounds a pair and the transposed one differently."""
    uneven = lambda a, b: cosine(a, b) + 1e-6 * (a[:, None, 0] - b[None, :, 0])
    x = points(23, np.float32)
    computed = ntk.tiles.compute(uneven, Grid(23, 23, 5), x)([(1, 1)])[0]
    assert (computed != computed.T).any()
    found = np.asarray(ntk.tiles.whole(uneven, x, tile=5))
    np.testing.assert_array_equal(found, found.T)
    above = np.triu_indices(5)  # the upper half is what was computed
    np.testing.assert_array_equal(found[5:10, 5:10][above], computed[above])


@pytest.mark.parametrize("num_devices", [1, 2])
def test_devices_share_the_tiles(tmp_path, num_devices):
    """An empirical kernel, on disk, by one and by two devices: equal to 1e-6; the same to the bit
    on the next device count is not promised, and is not asked."""
    apply, params = networks.plain_mlp()
    x = np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)
    matrix = lambda a, b: ntk.empirical(apply, params, a, b, outputs="trace")
    grid = ntk.tiles.plan(11, memory_bytes=square(3), bytes_of=square)
    mesh = sharding.make_mesh({"data": num_devices})
    file = tiled_matrix.open_or_create(tmp_path / "kernel", grid)
    compute = ntk.tiles.compute(matrix, grid, x, mesh=mesh)
    tiled_matrix.fill(file, compute, at_once=num_devices)
    expected = ntk.empirical(apply, params, x, outputs="trace", method="jacobian")
    # Entries are sums that cancel: each carries the float32 rounding of the largest.
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(np.load(file.path), expected, rtol=1e-6, atol=1e-6 * scale)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="x1 and x2 hold 23 and 23 examples"):
        ntk.tiles.compute(cosine, Grid(20, 20, 4), points(23))
    with pytest.raises(ValueError, match="got 2 tiles at once: expected 1"):
        ntk.tiles.compute(cosine, Grid(23, 23, 4), points(23))([(0, 0), (0, 1)])
    with pytest.raises(ValueError, match="a symmetric matrix is square"):
        Grid(3, 4, 2, True)
    with pytest.raises(ValueError, match="share 2 of 2"):
        Grid(3, 4, 2).share(2, 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_rows": 0}, "num_rows=0"),
        ({"num_columns": 2.5}, "num_columns=2.5"),
        ({"smallest": 0}, "smallest=0"),
        ({"largest": 8.0}, "largest=8.0"),
    ],
)
def test_bad_plans_are_named(change, message):
    arguments = dict(num_rows=5, memory_bytes=1000, bytes_of=lambda size: size) | change
    with pytest.raises(ValueError, match=message):
        ntk.tiles.plan(arguments.pop("num_rows"), **arguments)


def test_a_tile_of_no_example_is_refused():
    with pytest.raises(ValueError, match="tile=0"):
        ntk.tiles.whole(None, np.ones((3, 2)), tile=0)
