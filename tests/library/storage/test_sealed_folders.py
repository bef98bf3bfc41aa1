"""Numbered folders are whole or not there, and show which byte was changed later."""

import os

import pytest

from library.storage import sealed_folders


def sealed(directory, number, note=None, text="content"):
    staged = sealed_folders.unfinished(directory, number, 1)
    (staged / "inner").mkdir(parents=True)
    (staged / "a.txt").write_text(text)
    (staged / "inner" / "b.bin").write_bytes(bytes(range(100)))
    sealed_folders.seal(staged, note)
    return directory / str(number)


def test_a_sealed_folder_is_undamaged_and_keeps_its_note(tmp_path):
    folder = sealed(tmp_path, 12, {"shape": [3, 4]})
    assert sealed_folders.numbers(tmp_path) == [12] and sealed_folders.damage(folder) is None
    assert sealed_folders.read_note(folder) == {"shape": [3, 4]}
    assert (folder / "a.txt").read_text() == "content"


def test_an_unfinished_folder_has_no_number_and_is_deleted(tmp_path):
    sealed(tmp_path, 1)
    for attempt in (1, 2):
        sealed_folders.unfinished(tmp_path, 2, attempt).mkdir()
    assert sealed_folders.numbers(tmp_path) == [1]
    sealed_folders.delete_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize(
    "change, what",
    [
        (lambda f: (f / "a.txt").write_text("Content"), "a.txt has other bytes than were written"),
        (lambda f: (f / "a.txt").write_text("short"), "a.txt has 5 bytes, 7 were written"),
        (lambda f: (f / "inner/b.bin").unlink(), "inner/b.bin is missing"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json cannot be read (JSON"),
        (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json cannot be read (Key"),
    ],
)
def test_damage_is_named(tmp_path, change, what):
    folder = sealed(tmp_path, 3)
    change(folder)
    assert what in sealed_folders.damage(folder)


def test_the_newest_whole_one_and_what_is_wrong_with_those_after(tmp_path):
    for number in (2, 9, 10):
        sealed(tmp_path, number)
    for number in (9, 10):
        (tmp_path / str(number) / "a.txt").unlink()
    assert sealed_folders.newest_whole(tmp_path) == (
        2,
        {10: "a.txt is missing", 9: "a.txt is missing"},
    )
    assert sealed_folders.newest_whole(tmp_path, only=9) == (None, {9: "a.txt is missing"})
    assert sealed_folders.newest_whole(tmp_path, known={10: "seen"})[1][10] == "seen"


def test_damaged_folders_are_set_aside_under_free_names(tmp_path):
    for _ in range(3):
        sealed_folders.set_aside(sealed(tmp_path, 4))
    sealed_folders.set_aside(tmp_path / "5")  # is not there
    assert sorted(os.listdir(tmp_path)) == ["4.damaged", "4.damaged-2", "4.damaged-3"]


def test_the_newest_are_kept_by_number_and_not_by_name(tmp_path):
    for number in (8, 9, 10, 11):
        sealed(tmp_path, number)
    sealed_folders.keep_newest(tmp_path, 2)
    assert sealed_folders.numbers(tmp_path) == [10, 11]


def test_a_place_of_the_disk_that_cannot_be_read_is_damage_and_a_refusal_is_not(
    tmp_path, monkeypatch
):
    folder = sealed(tmp_path, 1)

    def failing(code):
        def read(path):
            raise OSError(code, os.strerror(code))

        return read

    monkeypatch.setattr(sealed_folders, "_file_digest", failing(5))
    assert "cannot be read (Input/output error)" in sealed_folders.damage(folder)
    monkeypatch.setattr(sealed_folders, "_file_digest", failing(13))
    with pytest.raises(PermissionError):
        sealed_folders.damage(folder)
