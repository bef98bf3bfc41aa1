"""Windows over positions against loops over their definition."""

import itertools

import jax
import numpy as np
import pytest

from research.ntk.layers import positions
from research.ntk.layers.layer import Signal
from research.ntk.layers.positions import Window

WINDOWS = {  # positions, windows
    "plain": ((5,), (Window(3),)),
    "stride, dilation, padding": ((7,), (Window(2, 2, 3, 1, 2),)),
    "circular": ((4,), (Window(3, low=1, high=1, circular=True),)),
    "spread": ((3,), (Window(2, low=1, high=1, spread=2),)),
    "two axes": ((4, 3), (Window(2), Window(2, low=0, high=1))),
    "more than nine terms": ((5, 4), (Window(5, low=2, high=2), Window(2))),
}


def padded(array, axis, window):
    """One axis as the definition has it: spread, then zeros or the other end around it."""
    spread = np.zeros((*array.shape[:axis], (array.shape[axis] - 1) * window.spread + 1,
                       *array.shape[axis + 1 :]))  # fmt: skip
    spread[(slice(None),) * axis + (slice(None, None, window.spread),)] = array
    widths = [(window.low, window.high) if a == axis else (0, 0) for a in range(array.ndim)]
    return np.pad(spread, widths, mode="wrap" if window.circular else "constant")


def by_definition(array, windows):
    """[N, *S] summed over windows."""
    for axis, window in enumerate(windows, 1):
        array, num = padded(array, axis, window), window.num_outputs(array.shape[axis])
        starts = np.arange(num) * window.stride
        offsets = np.arange(window.size) * window.dilation
        array = array.take(starts[:, None] + offsets, axis).sum(axis + 1)
    return array


@pytest.fixture(scope="module")
def summed():
    """Sums over windows of all cases, in one compilation: of single positions and of pairs."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(2, *space)) for name, (space, _) in WINDOWS.items()}

    @jax.jit
    def evaluate(arrays):
        single, pairs = {}, {}
        for name, (space, windows) in WINDOWS.items():
            x, dims = arrays[name], len(space)
            single[name] = positions.sum_windows(x, [(1 + i,) for i in range(dims)], windows)
            spec = "".join(a + b for a, b in zip("hi"[:dims], "HI"[:dims]))
            outer = jax.numpy.einsum(f"n{'hi'[:dims]},n{'HI'[:dims]}->n{spec}", x, x)
            pairs[name] = positions.sum_windows(outer, positions.pair_axes(1, dims, True), windows)
        return single, pairs

    with jax.enable_x64(True):
        return arrays, *jax.device_get(evaluate(arrays))


@pytest.mark.parametrize("name", WINDOWS)
def test_sums_over_windows(summed, name):
    arrays, single, _ = summed
    windows = WINDOWS[name][1]
    expected = by_definition(arrays[name], windows)
    np.testing.assert_allclose(single[name], expected, rtol=1e-12, atol=1e-14)
    assert positions.output_space(WINDOWS[name][0], windows, "x") == expected.shape[1:]


@pytest.mark.parametrize("name", WINDOWS)
def test_pairs_move_along_diagonals(summed, name):
    """Sums of x_(s + o) x_(t + o): the windows of s and t slide together."""
    arrays, _, pairs = summed
    space, windows = WINDOWS[name]
    x = arrays[name]
    for axis, window in enumerate(windows, 1):
        x = padded(x, axis, window)
    out = [window.num_outputs(size) for size, window in zip(space, windows)]
    expected = 0.0
    for offsets in itertools.product(*(range(window.size) for window in windows)):
        term = x
        for axis, (offset, window, num) in enumerate(zip(offsets, windows, out), 1):
            term = term.take(np.arange(num) * window.stride + offset * window.dilation, axis)
        left, right = "hi"[: len(out)], "HI"[: len(out)]
        spec = "".join(a + b for a, b in zip(left, right))
        expected = expected + np.einsum(f"n{left},n{right}->n{spec}", term, term)
    np.testing.assert_allclose(pairs[name], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("padding", positions.PADDINGS)
@pytest.mark.parametrize("num, size, stride, dilation", [(5, 3, 1, 1), (5, 2, 1, 1), (7, 3, 2, 2)])
def test_windows_of_a_convolution_are_those_of_jax(num, size, stride, dilation, padding):
    (window,) = positions.make_windows((num,), (size,), (stride,), (dilation,), padding)
    plain = "VALID" if padding == "VALID" else "SAME"
    out = jax.eval_shape(
        lambda x, w: jax.lax.conv_general_dilated(x, w, (stride,), plain, rhs_dilation=(dilation,)),
        *(jax.ShapeDtypeStruct((1, 1, n), np.float32) for n in (num, size)),
    )
    assert window.num_outputs(num) == out.shape[2] and window.circular == (padding == "CIRCULAR")
    reach = (size - 1) * dilation + 1
    ((low, high),) = jax.lax.padtype_to_pads((num,), (reach,), (stride,), plain)
    assert (window.low, window.high) == (low, high)
    assert positions.num_inputs((window, window)) == size**2


def test_masks():
    mask = np.array([[1, 0, 0, 0, 1]], bool)
    seen = positions.any_in_windows(mask, (Window(2),))
    np.testing.assert_array_equal(seen, [[True, False, False, True]])
    x = np.ones((1, 5, 2), np.float32)
    hidden = positions.hidden(Signal(x, mask))
    np.testing.assert_array_equal(hidden.x[..., 0], mask)
    assert positions.hidden(Signal(x)).x is x
    assert positions.pair_axes(2, 2, True) == [(2, 3), (4, 5)]
    assert positions.pair_axes(2, 2, False) == [(2,), (3,)]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: positions.require_space((3,), 2, "conv"), r"conv takes inputs \(H, W, C\)"),
        (lambda: positions.require_space(((3,), (4,)), 0, "dense"), "not the 2 branches"),
        (lambda: positions.per_axis("strides", (1, 2), 3), "has 2 entries for 3 axes"),
        (lambda: positions.per_axis("strides", (1, 0), 2), "strides=0"),
        (lambda: positions.require_padding("FULL"), "padding='FULL'"),
        (lambda: positions.output_space((2,), (Window(3),), "conv"), "exceed positions"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_number_serves_all_axes():
    assert positions.per_axis("strides", None, 2) == (1, 1)
    assert positions.per_axis("strides", 3, 2) == (3, 3)
