"""CIFAR-10 as JPEG: against the extract decoded elsewhere, and the errors of its files."""

import sys

import numpy as np
import pytest

from library.data import pipeline
from library.data.sets import cifar10


def test_a_missing_set_without_an_address_names_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("ANSATZ_DATA", raising=False)
    for open_split in (cifar10.arrays, lambda split: cifar10.source(split, tmp_path)):
        with pytest.raises(FileNotFoundError, match="'cifar10' not found: ANSATZ_DATA is not set"):
            open_split("train")
    monkeypatch.setenv("ANSATZ_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="ANSATZ_DATA=.*nowhere is not a folder"):
        cifar10.arrays("train")


def test_real_cifar10(ansatz_data, monkeypatch, tmp_path):
    monkeypatch.setenv("ANSATZ_DATA", str(ansatz_data))
    extract = cifar10.arrays("test", 2000)
    assert extract["image"].shape == (2000, 32, 32, 3) and extract["image"].dtype == np.uint8
    files, labels = cifar10.read_jpegs("test")
    assert np.bincount(labels).tolist() == [1000] * 10
    # Pillow's decoder against the extract that was decoded elsewhere.
    decoded = np.stack(list(cifar10.decode(files[:200])))
    np.testing.assert_array_equal(decoded, extract["image"][:200])
    np.testing.assert_array_equal(labels[:2000], extract["label"])
    monkeypatch.setattr(cifar10, "read_jpegs", lambda split: (files[:50], labels[:50]))
    prepared = pipeline.in_memory(cifar10.source("test", tmp_path))
    np.testing.assert_array_equal(prepared["image"], extract["image"][:50])
    np.testing.assert_array_equal(prepared["label"], extract["label"][:50])
    for num_examples in (0, 10_001):
        with pytest.raises(ValueError, match=f"num_examples={num_examples}: .*has 10000"):
            cifar10.arrays("test", num_examples)


def test_bad_splits_and_an_absent_decoder_are_named(monkeypatch):
    for read in (cifar10.arrays, cifar10.read_jpegs):
        with pytest.raises(ValueError, match=r"the splits \['test', 'train'\], not 'valid'"):
            read("valid")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match="JPEG needs Pillow .*pip install pillow"):
        next(cifar10.decode([b""]))


def test_a_damaged_npz_is_named(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / cifar10.JPEG_FILE).write_bytes(b"PK not really")
    monkeypatch.setenv("ANSATZ_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="cifar10_jpeg_60k.npz has SHA-256 .*, expected 0864b5c7"):
        cifar10.arrays("train")
