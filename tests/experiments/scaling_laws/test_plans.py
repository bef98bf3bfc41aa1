"""Plans from files: what is asked of a file that is not named, and pairs that are none."""

import warnings

import numpy as np
import pytest

from experiments.scaling_laws import _sweeps

TEXT = "params,c4/ce,D\n1e6,3.5,1e8\n2e6,nan,1e8\n"


@pytest.mark.parametrize(
    "path, columns, skip, words",
    [
        ("", ("loss=ce",), False, "expected --runs FILE.csv"),
        ("", (), True, "expected --runs FILE.csv"),
        ("a.csv", ("loss:ce",), False, "columns: 'loss:ce': expected NAME=COLUMN"),
    ],
)
def test_bad_options_are_named(path, columns, skip, words):
    with pytest.raises(ValueError, match=words):
        _sweeps.read(path, columns, skip)


def test_what_was_taken_is_printed_and_no_file_is_none(tmp_path, capsys):
    (tmp_path / "a.csv").write_text(TEXT)
    runs = _sweeps.read(str(tmp_path / "a.csv"), ("loss=c4/ce",), True)
    np.testing.assert_array_equal(runs.loss, [3.5])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 runs of ") and "c4/ce is read as loss" in lines
    assert _sweeps.read("", (), False) is None


def test_warnings_come_once_and_first(capsys):
    with _sweeps.warnings_first():
        for _ in range(2):
            warnings.warn("the units differ", UserWarning, stacklevel=1)
    assert capsys.readouterr().out == "warning: the units differ\n"
