"""Files are whole or as they were; JSON stays JSON with non-finite numbers."""

import json
import math
import pathlib

import numpy as np
import pytest

from library.storage import files


def test_an_unfinished_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = files.write_atomic(tmp_path / "a.json", "old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_numbers_and_names_those_that_are_not_finite(tmp_path):
    value = {"a": np.float32(0.5), "b": (math.nan, -math.inf, math.inf), "n": np.int64(3), 1: None}
    path = files.write_json(tmp_path / "deep" / "a.json", value)
    strict = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert strict == {"a": 0.5, "b": ["NaN", "-Infinity", "Infinity"], "n": 3, "1": None}
    assert type(strict["n"]) is int and math.isnan(float(strict["b"][0]))
    assert files.read_json(path) == strict


def test_files_that_hold_no_json_are_named(tmp_path):
    with pytest.raises(ValueError, match="a.json does not exist"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="a.json is not valid JSON"):
        files.read_json(tmp_path / "a.json")


def test_an_object_where_one_is_expected(tmp_path):
    path = files.write_json(tmp_path / "a.json", {"a": 1})
    assert files.read_object(path) == {"a": 1}
    files.write_json(path, [1])
    with pytest.raises(ValueError, match="a.json holds a JSON list: expected an object"):
        files.read_object(path)
    with pytest.raises(ValueError, match="b.json does not exist"):
        files.read_object(tmp_path / "b.json")


def test_local_paths_stay_and_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.local("~/run") == files.local(pathlib.Path("~/run")) == tmp_path / "run"
    assert files.local("~") == tmp_path
    for path in ("a/b", "/a/b", "a:b/c", "C:/run", "a b:/c", "run~1", "./gs:/b"):
        assert files.local(path) == pathlib.Path(path)
    files.write_json("~/deep/a.json", [1])
    assert files.read_json(tmp_path / "deep/a.json") == files.read_json("~/deep/a.json") == [1]


@pytest.mark.parametrize(
    "path, message",
    [
        ("gs://bucket/run", "^folder=gs://bucket/run is an address: expected a path on this"),
        (pathlib.Path("gs://bucket/run"), "^folder=gs://bucket/run is an address"),
        ("file:///tmp/run", "^folder=file:///tmp/run is an address"),
        ("s3+https://b", "is an address"),
        ("", "^folder is empty: expected a file or a folder"),
        ("~nobody0/run", "^folder=~nobody0/run: there is no home folder of that name"),
    ],
)
def test_what_is_no_local_path_is_named(path, message):
    with pytest.raises(ValueError, match=message):
        files.local(path, "folder")
    unnamed = message.replace("folder=", "").replace("^folder is", "^the path is")
    with pytest.raises(ValueError, match=unnamed):
        files.local(path)
