"""Sentences of classes, and tables of captions: what they say, what is refused."""

import numpy as np
import pytest

from library.data import captions


def test_sentences_of_classes():
    got = captions.of_classes(captions.DIGITS, np.array([3, 0, 9, 8, 3]))
    expected = ["a handwritten three", "the digit 0", "a nine", "the number eight by hand"]
    assert got.tolist() == [*expected, "a handwritten three"]
    assert captions.of_classes(captions.DIGITS, np.array([8]), 2).tolist() == ["an eight"]
    later = captions.of_classes(captions.DIGITS, np.array([7]), first_index=5)
    assert later.tolist() == ["the digit 7"]
    photos = captions.of_classes(captions.CIFAR10, np.array([0, 3, 1]))
    assert photos.tolist() == [
        "a photo of an airplane",
        "a cat",
        "a small picture of an automobile",
    ]
    assert captions.of_classes(captions.DIGITS, np.zeros(0, int)).shape == (0,)


def test_names_of_the_sets():
    assert len(captions.DIGITS.names) == len(captions.CIFAR10.names) == 10
    with pytest.raises(ValueError, match="label 10: expected 0 to 9"):
        captions.of_classes(captions.DIGITS, np.array([1, 10]))
    with pytest.raises(ValueError, match="label -1: expected 0 to 9"):
        captions.of_classes(captions.DIGITS, np.array([-1]))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("one.png", "inner/two.jpg"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_reads_a_table(folder):
    table = folder / "captions.csv"
    table.write_text(
        '\ufefffile,caption,more\r\none.png,"a cat, asleep ",x\r\ninner/two.jpg,ein Übel,, ,\r\n',
        encoding="utf-8",
    )
    found = captions.read(str(table), str(folder))
    assert list(found.items()) == [
        (str(folder / "one.png"), "a cat, asleep"),
        (str(folder / "inner/two.jpg"), "ein Übel"),
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            b"file,caption\none.png,a\nlost.png,b\n",
            FileNotFoundError,
            "line 3: .*lost.png not found",
        ),
        (b"name,caption\none.png,a\n", ValueError, "has name, caption: expected columns file"),
        (b"file,caption\n", ValueError, "has no row: expected columns file, caption, and rows"),
        (b"file,caption\none.png, \n", ValueError, "line 2: one.png has no caption"),
        (b"file,caption\none.png\n", ValueError, "line 2: one.png has no caption"),
        (b"file,caption\none.png,a\none.png,b\n", ValueError, "line 3: one.png is named twice"),
        (b"file,caption\none.png,a cat, asleep\n", ValueError, "line 2: more cells than the 2 col"),
        (b'file,caption\n\none.png,"a\ncat"\n,b\n', ValueError, "line 5: '' is no file in"),
        (b"file,caption\n../x.png,a\n", ValueError, "line 2: '../x.png' is no file in"),
        (b"file,caption\n,a\n", ValueError, "line 2: '' is no file in"),
        (b"file,caption\none.png,\xff\n", ValueError, "cannot be read as .csv"),
    ],
)
def test_refused_tables(folder, text, error, message):
    (folder / "captions.csv").write_bytes(text)
    with pytest.raises(error, match=message):
        captions.read(str(folder / "captions.csv"), str(folder))


def test_a_missing_table(folder):
    with pytest.raises(FileNotFoundError, match="captions.csv not found"):
        captions.read(str(folder / "captions.csv"), str(folder))
