"""The rules of convolutions, products and lookups against full Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.research.ntk.agreement import agree, normal

CONVS = {  # spatial sizes, kernel, options
    "1d": ((7,), (3,), {}),
    "2d stride": ((6, 5), (3, 2), dict(window_strides=(2, 1), padding=((1, 0), (0, 1)))),
    "3d": ((3, 3, 2), (2, 2, 2), {}),
    "dilated": ((7, 7), (3, 2), dict(rhs_dilation=(2, 3), padding=((2, 2), (1, 2)))),
    "transposed": ((3, 3), (3, 3), dict(lhs_dilation=(2, 2), padding=((1, 2), (2, 1)))),
    "grouped": ((5, 5), (3, 3), dict(feature_group_count=2)),
    "depthwise": ((5, 5), (3, 3), dict(feature_group_count=4)),
    "cropped": ((6, 6), (3, 3), dict(padding=((-1, 0), (0, -1)))),
}


@pytest.mark.parametrize("case", CONVS)
def test_convolutions(case):
    space, kernel, options = CONVS[case]
    options = dict(window_strides=(1,) * len(space), padding="VALID") | options
    groups = options.get("feature_group_count", 1)
    letters = "HWD"[: len(space)]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")

    def apply(params, x):
        y = jax.lax.conv_general_dilated(x, params["w"], dimension_numbers=numbers, **options)
        return jnp.tanh(y.reshape(y.shape[0], -1)) @ params["v"]

    x = normal(3, *space, 4)
    params = {"w": normal(*kernel, 4 // groups, 4, seed=1)}
    shape = jax.eval_shape(
        lambda: jax.lax.conv_general_dilated(x, params["w"], dimension_numbers=numbers, **options)
    ).shape
    params["v"] = normal(int(np.prod(shape[1:])), 2, seed=2)
    agree(apply, params, x, {"w": "factors of conv", "v": "factors of dot"})


def test_dot_general_with_the_weight_on_the_left_and_batched():
    def apply(params, x):  # x: [N, H, S, D]
        y = jnp.einsum("hdk,nhsd->nhks", params["heads"], x)
        y = jnp.tanh(jnp.einsum("okh,nhks->nos", params["merge"], y))
        return jnp.einsum("nos,os->no", y, params["last"])

    params = {"heads": normal(2, 3, 4), "merge": normal(3, 4, 2), "last": normal(3, 5, seed=2)}
    agree(apply, params, normal(3, 2, 5, 3, seed=1), {k: "factors of dot_general" for k in params})


def test_lookups_out_of_range_and_repeated():
    def apply(params, x):
        filled = jnp.take(params["fill"], x - 2, axis=0, mode="fill", fill_value=0.5)
        clipped = jnp.take(params["clip"], x, axis=0, mode="clip")
        return jnp.tanh(filled * clipped).sum(1)

    params = {"fill": normal(5, 4), "clip": normal(4, 4, seed=1)}
    agree(apply, params, jnp.asarray([[0, 6, 6], [1, 2, 1], [9, 3, 2]]), {"clip": "factors of gat"})
