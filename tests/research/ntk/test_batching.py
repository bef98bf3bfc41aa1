"""Tiles and meshes do not change a kernel; sums and maps over blocks are those of the whole."""

import jax
import numpy as np
import pytest

from research import ntk
from research.ntk import batching
from tests.research.ntk import networks


def test_tiles_and_meshes_do_not_change_the_kernel(x64):
    apply, params = networks.plain_mlp(sizes=(4, 3, 2))
    x1, x2 = networks.vectors(1, 5), networks.vectors(2, 3)
    whole = ntk.empirical(apply, params, x1, x2)
    axis_type = jax.sharding.AxisType.Auto
    rows = jax.make_mesh((2,), ("rows",), axis_types=(axis_type,))
    columns = jax.make_mesh((1, 2), ("rows", "columns"), axis_types=(axis_type,) * 2)
    for options in (
        dict(batch_size=2),
        dict(batch_size=100),
        dict(mesh=rows),
        dict(mesh=columns),
        dict(mesh=rows, batch_size=2, method="structured"),
    ):
        found = ntk.empirical(apply, params, x1, x2, **options)
        np.testing.assert_allclose(found, whole, rtol=1e-12, atol=1e-14, err_msg=str(options))
    same = ntk.empirical(apply, params, x1, mesh=rows, batch_size=2)
    np.testing.assert_allclose(same, ntk.empirical(apply, params, x1), rtol=1e-12, atol=1e-14)


def test_mesh_splits_rows_evenly(x64):
    apply, params, x1, x2 = networks.build("mlp", num1=6, num2=3)
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    kernel = ntk.empirical(apply, params, x1, x2, mesh=mesh)
    assert sorted(shard.data.shape[0] for shard in kernel.addressable_shards) == [3, 3]


def shapes(num):
    return {"a": np.arange(2.0 * num).reshape(num, 2), "b": np.arange(num) ** 2.0}


@pytest.mark.parametrize("num, size", [(7, 3), (6, 3), (2, 5)])
def test_sums_and_maps_over_blocks(x64, num, size):
    """A last block of 1 to `size` examples; no block is larger."""
    x, sizes = shapes(num), set()

    def function(block):
        sizes.add(len(block["b"]))
        return {"product": block["a"] * block["b"][:, None]}

    total = batching.sum_over(
        lambda block: jax.tree.map(lambda v: v.sum(0), function(block)), x, size
    )
    joined = batching.map_over(function, x, size)
    expected = x["a"] * x["b"][:, None]
    np.testing.assert_allclose(total["product"], expected.sum(0), rtol=1e-14)
    np.testing.assert_array_equal(joined["product"], expected)
    assert 1 <= min(sizes) and max(sizes) <= size


def test_tiles_of_a_plain_function(x64):
    """Blocks filled up with copies of the last example, which are cut off again."""
    seen = []

    def tile(params, x1, x2):
        seen.append((len(x1), len(x2)))
        return {
            "sum": params * (x1[:, None] + 10 * x2[None]),
            "one": x1[:, None, None] * x2[None, :, None],
        }

    x1, x2 = np.arange(5.0), np.arange(3.0)
    found = batching.batched(tile, 2)(2.0, x1, x2)
    assert set(seen) == {(2, 2)}
    np.testing.assert_array_equal(found["sum"], 2 * (x1[:, None] + 10 * x2))
    np.testing.assert_array_equal(found["one"], np.outer(x1, x2)[..., None])
    assert batching.batched(tile, None) is tile and batching.sharded(tile, None) is tile
