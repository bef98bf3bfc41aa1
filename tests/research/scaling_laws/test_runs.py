"""Runs: what is read is what was written, and every bad value is named by row and column."""

import numpy as np
import pytest

from research.scaling_laws import runs
from tests.research.scaling_laws import surfaces


def test_csv_round_trip_is_exact(tmp_path):
    data = surfaces.chinchilla(noise=0.01)
    data = runs.Runs(
        **{n: getattr(data, n) for n in runs.COLUMNS}, extra={"steps": data.tokens / 7}
    )
    runs.write_csv(tmp_path / "runs.csv", data)
    again = runs.read_csv(tmp_path / "runs.csv")
    assert list(again.columns()) == ["parameters", "tokens", "flops", "loss", "steps"]
    for name, values in data.columns().items():
        np.testing.assert_array_equal(again.column(name), values)


def test_flops_are_6_n_d_unless_given():
    data = runs.Runs(parameters=[1e6, 2e6], tokens=[1e8, 1e8], loss=[3.0, 2.9])
    np.testing.assert_allclose(data.flops, [6e14, 1.2e15], rtol=1e-15)
    given = runs.Runs(parameters=[1e6], tokens=[1e8], loss=[3.0], flops=[7e14])
    assert given.flops[0] == 7e14


@pytest.mark.parametrize(
    "text, words",
    [
        ("parameters,tokens\n1,2\n", "expected loss"),
        ("loss,lr\n1,2\n", "at least one of parameters, tokens, flops"),
        ("parameters,loss\n1,x\n", "row 2, column loss: 'x' is not a number"),
        ("parameters,loss\n1,2\n3\n", "row 3 has 1 cells: expected 2"),
        ("parameters,loss\n1,2\n-3,2\n", "run 2, column parameters: -3 is not positive"),
        ("parameters,loss\n1,2\n3,nan\n", "run 2, column loss: nan is not positive"),
        ("parameters,loss\n1,2\n3,1e6\n", "run 2, column loss: 1e+06 nats per token is a diverged"),
        ("parameters,loss\n1,2\n3,4\n1,2\n", "run 3 repeats run 1"),
        ("loss,loss,flops\n1,2,3\n", "the column 'loss' twice"),
        ("", "(none)"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        runs.read_csv(path)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_missing_files_and_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        runs.read_csv(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match="no column 'steps': they have parameters, tokens, flops"):
        surfaces.chinchilla().column("steps")
    with pytest.raises(ValueError, match="column tokens has 1 rows, loss has 2"):
        runs.Runs(loss=[1.0, 2.0], tokens=[3.0])


def test_repeated_seeds_need_permission():
    same = {"parameters": [1e6, 1e6], "loss": [3.0, 3.0]}
    with pytest.raises(ValueError, match="run 2 repeats run 1"):
        runs.Runs(**same)
    assert len(runs.Runs(**same, allow_duplicates=True)) == 2
