"""Digits: sizes, checksums, TFDS against scikit-learn, no TensorFlow, random access."""

import hashlib
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from library.data.sets import digits

ROOT = pathlib.Path(__file__).parents[4]
SHA256 = {  # of the uint8 pixels and of the int32 labels, in the order of the split
    "train": (
        "dd211d9e85c186d13efdac3589812cba1758713779f84e802dc4f14539e0564d",
        "9b2c135bdf9102a721678905de5869c0c16a7fa5656cbc0925f72701e6ee6e10",
    ),
    "test": (
        "297ac0d6193d3d4955b6f249da03fb65e416f70299bc8400ac26ebefef6afd89",
        "ed22a4c4fcc79d04888e86b563bfaa21307a7d61d49ae38507491062a34ed18e",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.mark.parametrize("split", ["train", "test"])
def test_sizes_and_contents(folder, split):
    arrays = digits.arrays(split, folder)
    num_examples = {"train": 1497, "test": 300}[split]
    assert arrays["image"].shape == (num_examples, 8, 8, 1)
    assert arrays["image"].dtype == np.uint8 and arrays["label"].dtype == np.int32
    assert (arrays["image"].min(), arrays["image"].max()) == (0, 16)
    found = tuple(hashlib.sha256(arrays[key].tobytes()).hexdigest() for key in ("image", "label"))
    assert found == SHA256[split]


def test_the_splits_are_stratified_and_share_no_row():
    from sklearn import datasets

    labels = datasets.load_digits().target
    rows = digits.split_indices(labels)
    assert sorted(np.concatenate([rows["train"], rows["test"]])) == list(range(1797))
    np.testing.assert_array_equal(np.bincount(labels[rows["test"]]), np.full(10, 30))
    # Spread over the whole file: rows are ordered by writer.
    thirds = np.histogram(rows["test"], bins=3, range=(0, 1797))[0]
    assert thirds.min() > 80


@pytest.mark.parametrize("split", ["train", "test"])
def test_without_tfds_the_arrays_are_the_same(folder, split, monkeypatch):
    through_tfds = digits.arrays(split, folder)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    direct = digits.arrays(split, folder)
    for key in ("image", "label"):
        np.testing.assert_array_equal(through_tfds[key], direct[key])
        assert through_tfds[key].dtype == direct[key].dtype
    with pytest.raises(ModuleNotFoundError, match="'digits' needs TFDS.*pip install") as caught:
        digits.source(split, folder)
    assert "\n" not in str(caught.value)


def test_random_access_and_slices(folder):
    arrays = digits.arrays("train", folder)
    source = digits.source("train", folder)
    assert len(source) == 1497
    for index in (1496, 0, 700):  # in any order
        np.testing.assert_array_equal(source[index]["image"], arrays["image"][index])
        assert source[index]["label"] == arrays["label"][index]
    for index in (-1, -1497):
        np.testing.assert_array_equal(source[index]["image"], arrays["image"][index])
        assert source[index]["label"] == arrays["label"][index]
    for index in (1497, -1498):
        with pytest.raises(IndexError, match=f"example {index} of 1497"):
            source[index]
    tail = digits.source("train[1000:]", folder)
    assert len(tail) == 497
    np.testing.assert_array_equal(tail[0]["image"], arrays["image"][1000])


def test_the_prepared_set_is_an_ordinary_tfds_folder(folder):
    import tensorflow_datasets as tfds

    digits.source("train", folder)
    source = tfds.data_source(
        "digits", data_dir=folder, split="test", builder_kwargs={"file_format": "array_record"}
    )
    labels = [source[index]["label"] for index in range(len(source))]
    np.testing.assert_array_equal(labels, digits.arrays("test", folder)["label"])


def test_nothing_loads_tensorflow_and_the_import_loads_no_tfds(tmp_path):
    script = """
import sys
from library.data import builders, padded_batches, pipeline, synthetic, text, transforms
from library.data.sets import cifar10, digits, mnist
for name in ("tensorflow_datasets", "grain", "jax"):
    assert name not in sys.modules, name
batch_at = pipeline.batch_at(digits.source("train", sys.argv[1]), 8, seed=0)
assert batch_at(3)["image"].shape == (8, 8, 8, 1)
assert "tensorflow_datasets" in sys.modules and "grain" in sys.modules
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("open_split", [digits.source, digits.arrays])
def test_unknown_split(folder, open_split):
    with pytest.raises(ValueError, match=r"'digits' has the splits \['test', 'train'\], not 'val'"):
        open_split("val", folder)
