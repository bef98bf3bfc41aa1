"""A user's own images: folders and .npz files, squares, sizes, and what cannot be read."""

import numpy as np
import pytest
from PIL import Image

from library.data import images

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def folder(path, arrays, suffix=".png"):
    for index, array in enumerate(arrays):
        place = path / f"class{index % 2}"
        place.mkdir(exist_ok=True, parents=True)
        Image.fromarray(array.squeeze()).save(place / f"{index}{suffix}")
    return str(path)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    place = folder(tmp_path, PIXELS)
    (tmp_path / "notes.txt").write_text("no image")
    np.testing.assert_array_equal(images.read(place), PIXELS[[0, 2, 1]])
    grey = images.read(place, channels=1)
    assert grey.shape == (3, 8, 8, 1) and grey.dtype == np.uint8
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[0, ..., 0], PIXELS[0] @ weights, atol=1)


def test_the_central_square_is_averaged_over_areas(tmp_path):
    """To one level: rows are rounded before columns."""
    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, 2:10] = PIXELS[0]
    place = folder(tmp_path, [wide])
    blocks = PIXELS[0].reshape(4, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(images.read(place, size=4)[0], blocks, atol=1.0)
    tall = images.read(folder(tmp_path / "tall", [wide.swapaxes(0, 1)]), size=4)[0]
    np.testing.assert_allclose(tall, blocks.swapaxes(0, 1), atol=1.0)


def test_clear_pixels_are_white_and_grey_files_have_colours(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[0] = 255, 0, 0, 255
    Image.fromarray(clear).save(tmp_path / "a.png")
    read = images.read(str(tmp_path))[0]
    assert (read[0] == (255, 0, 0)).all() and (read[1:] == 255).all()
    grey = images.read(folder(tmp_path / "grey", [PIXELS[0][..., 0]]))
    np.testing.assert_array_equal(grey[0], PIXELS[0][..., :1].repeat(3, -1))


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    deep = PIXELS[0][..., 0].astype(np.uint16) * 256 + 77
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "b.tif")
    grey = PIXELS[0][..., :1].repeat(3, -1)
    np.testing.assert_array_equal(images.read(str(tmp_path)), [grey, grey])
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "c.tif")
    with pytest.raises(ValueError, match="c.tif cannot be read as an image: its pixels are floats"):
        images.read(str(tmp_path))


@pytest.mark.parametrize(
    "array, expected",
    [
        (PIXELS, PIXELS),
        (PIXELS / 255, PIXELS),
        (np.float32(PIXELS) / 255, PIXELS),
        (PIXELS[..., 0], PIXELS[..., :1].repeat(3, -1)),
        (PIXELS[..., :1], PIXELS[..., :1].repeat(3, -1)),
    ],
)
def test_arrays_of_bytes_or_shares(array, expected, tmp_path):
    path = str(tmp_path / "mine.npz")
    np.savez(path, images=array, labels=np.arange(3))
    np.testing.assert_array_equal(images.read(path), expected)
    assert images.read(path, size=4).shape == (3, 4, 4, 3)
    assert images.read(path, channels=1).shape == (3, 8, 8, 1)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere not found: expected a folder of images"):
        images.read(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="holds no image .*png"):
        images.read(str(tmp_path))
    (tmp_path / "mine.csv").write_text("1")
    with pytest.raises(ValueError, match="mine.csv: expected a folder of images or an .npz file"):
        images.read(str(tmp_path / "mine.csv"))
    (tmp_path / "bad.npz").write_text("nothing")
    with pytest.raises(ValueError, match="bad.npz cannot be read as .npz"):
        images.read(str(tmp_path / "bad.npz"))
    (tmp_path / "bad.png").write_text("nothing")
    with pytest.raises(ValueError, match="bad.png cannot be read as an image"):
        images.read(str(tmp_path))
    place = folder(tmp_path / "two", [PIXELS[0], PIXELS[1][:4]])
    with pytest.raises(ValueError, match="1.png has 4 x 8 pixels, the first 8 x 8: give a size"):
        images.read(place)
    assert images.read(place, size=4).shape == (2, 4, 4, 3)


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"a": PIXELS, "b": PIXELS}, "expected one array of images"),
        ({"a": np.arange(3)}, "expected one array of images"),
        ({"a": PIXELS[..., :2]}, r"a \(3, 8, 8, 2\): expected \[N, H, W, 1 or 3\]"),
        ({"a": PIXELS[:0]}, "expected .N, H, W, 1 or 3"),
        ({"a": PIXELS.astype(np.int64)}, "a of type int64: expected uint8 or floats"),
        ({"a": PIXELS / 254}, "a goes from 0 to 1.00394: expected floats in"),
        ({"a": np.full((1, 2, 2, 3), np.nan)}, "a goes from nan to nan: expected floats in"),
    ],
)
def test_arrays_that_are_no_images(arrays, words, tmp_path):
    path = str(tmp_path / "mine.npz")
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=words):
        images.read(path)


def test_bad_options(tmp_path):
    with pytest.raises(ValueError, match="size=0: expected a positive whole number of pixels"):
        images.read(str(tmp_path), size=0)
    with pytest.raises(ValueError, match="channels=2: expected 1 .grey. or 3"):
        images.read(str(tmp_path), channels=2)
    with pytest.raises(ValueError, match="images"):
        images.read("gs://bucket/images")


def test_named_files_in_their_order(tmp_path):
    for name, level in (("b.png", 10), ("a.png", 200)):
        Image.fromarray(np.full((6, 4, 3), level, np.uint8)).save(tmp_path / name)
    paths = [str(tmp_path / name) for name in ("b.png", "a.png", "b.png")]
    found = images.read_files(paths, 2)
    assert found.shape == (3, 2, 2, 3) and found[:, 0, 0, 0].tolist() == [10, 200, 10]
    assert images.read_files(paths[:1], 2, channels=1).shape == (1, 2, 2, 1)
    with pytest.raises(ValueError, match="paths: got none"):
        images.read_files([], 2)
    with pytest.raises(ValueError, match="channels=4: expected 1 .grey. or 3"):
        images.read_files(paths, 2, channels=4)
    with pytest.raises(ValueError, match="lost.png cannot be read as an image"):
        images.read_files([str(tmp_path / "lost.png")], 2)
