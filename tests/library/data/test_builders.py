"""A builder made of a name, a shape and a reader: what it keeps, and what is asked of it."""

import sys

import numpy as np
import pytest

from library.data import builders, pipeline, sources


def read(dl_manager):
    """Two splits: images as an array and one by one."""
    images = np.arange(5 * 6, dtype=np.uint8).reshape(5, 2, 3, 1)
    return {
        "train": (images[:3], np.array([0, 1, 1])),
        "test": (iter(images[3:]), [1, 0]),
    }


def made(**change):
    arguments = {"name": "toy_set", "text": "Toys.", "shape": (2, 3, 1), "classes": ("a", "b")}
    return builders.image_set(**{**arguments, "read": read, **change})


def test_the_set_is_kept_under_its_name_in_the_order_of_the_reader(tmp_path):
    builder = sources.prepare(made(), tmp_path)
    assert builder.data_path.parts[-2:] == ("toy_set", builders.VERSION)
    assert builder.info.description == "Toys." and builder.info.splits["test"].num_examples == 2
    assert builder.info.features["label"].names == ["a", "b"]
    found = pipeline.in_memory(sources.open_split(made(), "train", tmp_path))
    expected, labels = read(None)["train"]
    np.testing.assert_array_equal(found["image"], expected)
    np.testing.assert_array_equal(found["label"], labels)
    last = sources.open_split(made(), "test", tmp_path)[1]
    np.testing.assert_array_equal(last["image"], np.arange(24, 30).reshape(2, 3, 1))
    assert last["label"] == 0


def test_a_prepared_set_is_not_read_again(tmp_path):
    sources.prepare(made(), tmp_path)
    sources.prepare(made(read=lambda _: pytest.fail("read again")), tmp_path)


def test_an_image_of_another_shape_is_refused_and_nothing_is_kept(tmp_path):
    with pytest.raises(Exception, match=r"\(2, 3, 1\)|\(2, 3, 3\)"):
        sources.prepare(made(shape=(2, 3, 3)), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_downloads_are_registered_with_size_and_checksum():
    item = builders.Download("http://a/b.gz", "b.gz", 12, "00ff")
    (found,) = made(downloads=[item]).url_infos.items()
    assert found[0] == item.url
    assert (found[1].size, found[1].checksum, found[1].filename) == (12, "00ff", "b.gz")


def test_without_tfds_one_line_names_the_set_and_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ModuleNotFoundError, match="'toy_set' needs TFDS.*pip install") as caught:
        made()
    assert "\n" not in str(caught.value)
