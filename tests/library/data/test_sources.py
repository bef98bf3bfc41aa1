"""Prepared sets: whole or not there, named when damaged, kept where the environment says."""

import contextlib
import errno
import os
import pathlib
import sys
import time

import pytest

from library.data import sources
from library.data.sets import digits


def test_preparing_is_quiet(tmp_path, capfd):
    digits.source("train", tmp_path)
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    read = digits.read_sklearn

    def interrupted(split):
        yield from read(split)["image"][:100]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(digits, "read_sklearn", lambda s: {**read(s), "image": interrupted(s)})
        with pytest.raises(KeyboardInterrupt):
            digits.source("train", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert len(digits.source("train", tmp_path)) == 1497


def test_the_second_of_two_processes_uses_what_the_first_prepared(tmp_path, monkeypatch):
    """The other process finishes while this one is still writing its examples."""
    read = digits.read_sklearn

    def overtaken(split):
        monkeypatch.setattr(digits, "read_sklearn", read)
        digits.source("train", tmp_path)
        return read(split)

    monkeypatch.setattr(digits, "read_sklearn", overtaken)
    assert len(digits.source("train", tmp_path)) == 1497
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "one byte"])
def test_a_damaged_prepared_set_is_named(tmp_path, damage):
    digits.source("train", tmp_path)
    (path,) = tmp_path.rglob("digits-train.array_record*")
    raw = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "one byte":  # opens well, and is found when that example is read
        raw[100_000] ^= 1
        path.write_bytes(raw)
    else:
        raw[10_000:] = b"" if damage == "truncated" else bytes(255 - byte for byte in raw[10_000:])
        path.write_bytes(raw)

    def by_one():
        source = digits.source("train", tmp_path)
        return [source[index] for index in range(len(source))]

    for read in (by_one, lambda: digits.arrays("train", tmp_path)):
        with pytest.raises(ValueError, match="'digits' is damaged") as caught:
            read()
        assert str(path.parent) in str(caught.value) and "\n" not in str(caught.value)


def test_old_leftovers_of_killed_processes_are_removed(tmp_path):
    for name, age_days in (("old", 2), ("new", 0)):
        folder = tmp_path / "digits" / f"incomplete.{name}_1.0.0"
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age_days * 86_400,) * 2)
    digits.source("train", tmp_path)
    names = {path.name for path in (tmp_path / "digits").iterdir()}
    assert names == {"1.0.0", "incomplete.new_1.0.0"}


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANSATZ_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(OSError, match="set ANSATZ_CACHE") as caught:
        digits.source("train")
    assert str(tmp_path / "file" / "below") in str(caught.value)


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path):
    class Builder:
        def __init__(self, data_dir, file_format):
            assert (data_dir, file_format) == (str(tmp_path), "array_record")
            self.data_path = tmp_path / "a" / "1.0.0"

        def download_and_prepare(self):
            raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(OSError, match="set ANSATZ_CACHE") as caught:
        sources.prepare(Builder, tmp_path)
    assert str(tmp_path) in str(caught.value) and type(caught.value.__cause__) is PermissionError


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ANSATZ_CACHE", str(tmp_path / "a"))
    assert sources.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("ANSATZ_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert sources.cache_folder() == tmp_path / "b" / "ansatz"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert sources.cache_folder() == pathlib.Path.home() / ".cache" / "ansatz"


def test_quiet_is_undone_after_an_error():
    before = sys.stdout, sys.stderr
    with contextlib.suppress(RuntimeError), sources._quiet():
        print("not shown")
        raise RuntimeError
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize(
    "error, kind, text",
    [
        (OSError(errno.EMFILE, "Too many open files"), OSError, "Too many open files"),
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left"),
        (RuntimeError("open() failed: Too many open files; opening a"), OSError, "Too many open"),
        (RuntimeError("open() failed: Permission denied; opening a"), OSError, "Permission denied"),
        (MemoryError(), MemoryError, None),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (RuntimeError("corrupted chunk"), ValueError, "delete .* to have it prepared again"),
        (OSError(errno.ENOENT, "No such file"), ValueError, "delete .* to have it prepared again"),
    ],
)
def test_what_the_machine_cannot_do_is_not_called_damage(tmp_path, monkeypatch, error, kind, text):
    """While opening, reading one and reading many; the reader's own words are kept."""

    def failing(*_, **__):
        raise error

    source = digits.source("test", tmp_path)
    reader = type("Reader", (), {"__getitem__": failing, "__getitems__": failing})()
    monkeypatch.setattr(source, "_source", reader)
    for read in (lambda: source[0], lambda: source.__getitems__([0, 1])):
        with pytest.raises(kind, match=text) as caught:
            read()
        assert type(caught.value) is kind or kind is OSError
    builder = sources.prepare(digits._builder(), tmp_path)
    monkeypatch.setattr(builder, "as_data_source", failing)
    with pytest.raises(kind, match=text):
        sources.PreparedSource(builder, "test")


def test_with_no_file_handle_left_nothing_is_called_damaged(tmp_path):
    """The real reader, with as many files open as the system allows."""
    import resource

    source = digits.source("test", tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with contextlib.suppress(OSError):
            while True:
                stack.enter_context(open(os.devnull))
        with pytest.raises(OSError, match="Too many open files") as caught:
            source[0]
        assert caught.value.errno == errno.EMFILE
    assert digits.source("test", tmp_path)[0]["image"].shape == (8, 8, 1)


@pytest.mark.parametrize(
    "error, kind, text",
    [
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left"),
        (MemoryError(), MemoryError, None),
        (ConnectionError("reset by peer"), ValueError, "download of data set 'a' failed: reset"),
    ],
)
def test_a_download_that_has_no_room_says_so(monkeypatch, error, kind, text):
    class Manager:
        def download(self, urls):
            raise error

    monkeypatch.setattr(sources, "_check_reachable", lambda *_: None)
    with pytest.raises(kind, match=text) as caught:
        sources.download(Manager(), "a", {"file": "http://a/file"}, ["file"])
    assert type(caught.value) is kind
