"""Resized windows: PyTorch's antialiased weights by loops, and the law of places and shapes."""

import math

import jax
import numpy as np
import pytest

from research.vision import augmentation


def resized_rows(x, size):
    """`_upsample_bilinear2d_aa` along the first axis, as PyTorch's kernel loops."""
    scale = len(x) / size
    support, inverse = (scale, 1 / scale) if scale >= 1 else (1.0, 1.0)
    out = np.zeros((size, *x.shape[1:]))
    for i in range(size):
        centre = scale * (i + 0.5)
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), len(x))
        weights = [max(0.0, 1 - abs((j - centre + 0.5) * inverse)) for j in range(first, last)]
        for weight, j in zip(weights, range(first, last)):
            out[i] += weight / sum(weights) * x[j]
    return out


def resized(x, size):
    return resized_rows(resized_rows(x, size[0]).swapaxes(0, 1), size[1]).swapaxes(0, 1)


@pytest.mark.parametrize("size", [(4, 7), 9])
def test_a_window_is_resized_as_by_pytorch(size, x64):
    """Windows shrunk, grown and kept, at every border."""
    image = np.random.default_rng(0).uniform(size=(11, 8, 2))
    boxes = np.array(
        [(0, 0, 11, 8), (3, 1, 4, 7), (0, 0, 1, 1), (10, 7, 1, 1), (2, 0, 9, 3), (1, 5, 9, 3)]
    )
    run = jax.jit(
        lambda boxes: jax.vmap(lambda b: augmentation.resized_crop(image, b, size))(boxes)
    )
    got = run(tuple(boxes.T))
    sides = size if isinstance(size, tuple) else (size, size)
    for (top, left, height, width), out in zip(boxes, got):
        expected = resized(image[top : top + height, left : left + width], sides)
        np.testing.assert_allclose(out, expected, rtol=1e-10)


def torchvision_box(rng, rows, columns, scale, ratio):
    """`RandomResizedCrop.get_params` with NumPy's draws."""
    for _ in range(10):
        area = rows * columns * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= columns and 0 < height <= rows:
            top = rng.integers(0, rows - height + 1)
            return top, rng.integers(0, columns - width + 1), height, width
    raise AssertionError("no window fits: the test is of those that do")


@pytest.mark.parametrize("options", [{}, {"scale": (0.3, 0.6), "ratio": (0.6, 1.6)}])
def test_places_and_shapes_have_the_law_of_torchvision(options):
    count, shape = 4000, (24, 20)
    rngs = jax.random.split(jax.random.key(0), count)
    draw = jax.jit(jax.vmap(lambda rng: augmentation.random_box(rng, shape, **options)))
    ours = np.stack(draw(rngs), 1)
    rng = np.random.default_rng(1)
    law = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), **options}
    theirs = np.array([torchvision_box(rng, *shape, **law) for _ in range(count)])
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= shape).all()
    # Two-sample Kolmogorov-Smirnov, critical value at a level of 1e-5 for each of ten numbers.
    bound = math.sqrt(-math.log(0.5e-5) / count)
    numbers = lambda boxes: np.stack([*boxes.T, boxes[:, 2] * boxes[:, 3]], 1)
    for a, b in zip(numbers(ours).T, numbers(theirs).T):
        values = np.union1d(a, b)
        cumulated = [np.searchsorted(np.sort(x), values, "right") / count for x in (a, b)]
        assert np.abs(cumulated[0] - cumulated[1]).max() < bound


@pytest.mark.parametrize(
    "shape, box", [((4, 40), (0, 17, 4, 5)), ((40, 4), (17, 0, 5, 4)), ((6, 6), (0, 0, 6, 6))]
)
def test_what_never_fits_is_the_largest_window_in_the_middle(shape, box):
    ratio = (0.75, 4 / 3) if shape != (6, 6) else (0.9, 1.1)
    scale = (1.0, 1.0) if shape != (6, 6) else (1e-4, 1e-4)  # a window without a pixel
    got = augmentation.random_box(jax.random.key(0), shape, scale, ratio)
    assert tuple(map(int, got)) == box


def test_a_random_window_is_one_of_the_draw():
    image = np.random.default_rng(2).uniform(size=(9, 12, 3)).astype(np.float32)
    rng, options = jax.random.key(5), {"scale": (0.2, 0.6), "ratio": (0.5, 1.5)}
    out = jax.jit(augmentation.random_resized_crop(4, **options))(rng, image)
    top, left, height, width = map(int, augmentation.random_box(rng, (9, 12), **options))
    window = image[top : top + height, left : left + width]
    np.testing.assert_allclose(out, resized(window, (4, 4)), rtol=1e-5)
    plain = jax.jit(augmentation.random_resized_crop((4, 4)))(rng, image)
    top, left, height, width = map(int, augmentation.random_box(rng, (9, 12)))
    window = image[top : top + height, left : left + width]
    np.testing.assert_allclose(plain, resized(window, (4, 4)), rtol=1e-5)


def test_bad_input():
    image, box = np.zeros((4, 4, 3), np.float32), (0, 0, 2, 2)
    make = augmentation.random_resized_crop
    for broken, message in [
        (lambda: make(0), "size=0: expected a positive whole number"),
        (lambda: make((4, 2.5)), "size=2.5: expected a positive"),
        (lambda: make((4, 4, 3)), r"size=\(4, 4, 3\): expected a side, or height and width"),
        (lambda: make(4, (0.0, 1.0)), r"scale=\(0.0, 1.0\): expected two shares"),
        (lambda: make(4, (0.5, 0.2)), r"scale=\(0.5, 0.2\)"),
        (lambda: make(4, (0.5, 1.2)), r"scale=\(0.5, 1.2\)"),
        (lambda: make(4, ratio=(2.0, 1.0)), r"ratio=\(2.0, 1.0\): expected two numbers"),
        (lambda: make(4)(jax.random.key(0), image.astype(int)), "image of type int"),
        (lambda: augmentation.resized_crop(image.astype(int), box, 2), "image of type int"),
        (lambda: augmentation.random_box(jax.random.key(0), (4, 4), (0.0, 1.0)), "scale="),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
