"""CSV files: what is read is what was written, by usual names, and bad cells are named by row."""

import numpy as np
import pytest

from research.scaling_laws import run_files, runs
from tests.research.scaling_laws import surfaces


def read(tmp_path, text, **options):
    (tmp_path / "runs.csv").write_text(text)
    return run_files.read(tmp_path / "runs.csv", **options)


def test_csv_round_trip_is_exact(tmp_path):
    data = surfaces.chinchilla(noise=0.01)
    extra = {"steps": data.tokens / 7, "lr, peak": 1 / data.tokens, 'said "so"': data.loss}
    data = runs.Runs(**{n: getattr(data, n) for n in runs.COLUMNS}, extra=extra)
    run_files.write(tmp_path / "runs.csv", data)
    again = run_files.read(tmp_path / "runs.csv")
    assert list(again.columns()) == [*runs.COLUMNS, *extra] and again.notes == ()
    for name, values in data.columns().items():
        np.testing.assert_array_equal(again.column(name), values)


@pytest.mark.parametrize(
    "header",
    ["params,D,FLOPs,loss", "N,tokens,C,L", "num_params,Train Tokens,compute,val_loss",
     "PARAMETERS,TOKENS,FLOPS,LOSS", "params;tokens;flops;loss"],
)  # fmt: skip
def test_usual_names_are_taken_and_said(tmp_path, header):
    separator = ";" if ";" in header else ","
    found = read(tmp_path, f"{header}\n" + separator.join(["1e6", "3e7", "1.7e14", "3"]) + "\n")
    values = [found.column(name)[0] for name in runs.COLUMNS]
    assert values == [1e6, 3e7, 1.7e14, 3.0]
    theirs = header.split(separator)
    assert found.notes == tuple(
        f"{theirs[i]} is read as {name}" for i, name in enumerate(runs.COLUMNS) if name != theirs[i]
    )


def test_the_name_of_the_schema_goes_before_a_usual_one_and_yours_before_both(tmp_path):
    text = "parameters,N,tokens,loss,c4/ce\n1e6,9,1e8,3,2\n"
    found = read(tmp_path, text)
    assert found.parameters[0] == 1e6 and found.column("N")[0] == 9 and found.notes == ()
    found = read(tmp_path, text, columns={"loss": "c4/ce", "parameters": "N"})
    assert found.column("loss")[0] == 2 and found.column("parameters")[0] == 9
    assert "loss is left out: another column is read as it" in found.notes


def test_tokens_that_are_missing_are_flops_by_6_n(tmp_path):
    found = read(tmp_path, "params,flops,loss\n125M,7.5e17,3\n1.3b,7.8e18,2\n")
    np.testing.assert_allclose(found.parameters, [125e6, 1.3e9])
    np.testing.assert_allclose(found.tokens, [1e9, 1e9], rtol=1e-15)
    np.testing.assert_array_equal(found.flops, [7.5e17, 7.8e18])
    assert "tokens are flops / (6 parameters): the file has none" in found.notes


def test_failed_runs_are_listed_and_left_out_on_request(tmp_path):
    rows = ["1,2,3", "2,2,", "3,2,nan", "", "4,2,inf", "5,2,1e6", "6,2,-1", ",,crashed", "7,2,4"]
    text = "\n".join(["parameters,tokens,loss", *rows, ""])
    with pytest.raises(ValueError, match=r"row 3, column loss: '' is not a number; 6 of 8 runs"):
        read(tmp_path, text)
    found = read(tmp_path, text, skip_failed=True)
    np.testing.assert_array_equal(found.parameters, [1, 7])
    listed = "rows 3, 4, 6, 7, 8, 9"  # as an editor counts them
    assert found.notes == (f"6 of 8 runs have no loss and are left out: {listed}",)
    with pytest.raises(ValueError, match="no run has a loss"):
        read(tmp_path, "parameters,loss\n1,nan\n", skip_failed=True)


def test_what_is_left_out_is_named_and_still_tells_runs_apart(tmp_path):
    """Runs equal but for a name, or for seeds 0 and 1, are two runs."""
    text = "name,seed,parameters,tokens,loss\na,0,1,2,3\nb,1,1,2,3\n"
    found = read(tmp_path, text)
    assert len(found) == 2 and list(found.columns()) == list(runs.COLUMNS)
    assert found.notes == (
        "name is left out: it is not numbers",
        "seed is left out: it is not positive everywhere",
    )
    again = text.replace("b,1", "a,0.0")
    with pytest.raises(ValueError, match=r"row 3 repeats row 2 in every column \(name, seed"):
        read(tmp_path, again)
    assert len(read(tmp_path, again, allow_duplicates=True)) == 2


@pytest.mark.parametrize(
    "text, words",
    [
        ("parameters,tokens\n1,2\n", "expected loss"),
        ("loss,lr\n1,2\n", "at least one of parameters, tokens, flops"),
        ("paramters,eval_los\n1,2\n", "perhaps paramters is the parameters"),
        ("paramters,eval_los\n1,2\n", "eval_los is the loss (--columns loss=eval_los)"),
        ("params,N,loss\n1,2,3\n", "params and N may each be the parameters"),
        ("parameters,loss\n1,x\n", "row 2, column loss: 'x' is not a number"),
        ("parameters,tokens,loss\n1e7,2e8,3.9\n\n\n2e7,4e8,oops\n", "row 5, column loss: 'oops'"),
        ("parameters,loss\n1,2\n3\n", "row 3 has 1 cells: expected 2"),
        ("parameters,loss\n1,2\n\n-3,2\n", "row 4, column parameters: -3 is not positive"),
        ("parameters,loss\n1,2\n,2\n", "row 3, column parameters: '' is not a number"),
        ("parameters,loss\n1,2\n3Q,2\n", "row 3, column parameters: '3Q' is not a number"),
        ("parameters,loss\n1,2\n3,nan\n", "row 3, column loss: nan is not positive"),
        ("parameters,loss\n1,2\n3,1e6\n", "row 3, column loss: 1e+06 nats per token is a diverged"),
        ("parameters,loss\n1,2\n3,4\n1,2\n", "row 4 repeats row 2"),
        ("loss,loss,flops\n1,2,3\n", "the column 'loss' twice"),
        ("parameters,loss\n\n", "no run"),
        ("\n\n", "is empty"),
        ("", "is empty"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(ValueError) as error:
        read(tmp_path, text)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path / "runs.csv") in str(error.value)


def test_quoted_cells_may_span_lines_and_rows_below_are_still_right(tmp_path):
    with pytest.raises(ValueError, match="row 4, column tokens: 'x'"):
        read(tmp_path, 'note,tokens,loss\n"two\nlines",1,2\nb,x,2\n')


def test_missing_files_and_wrong_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file or directory$"):
        run_files.read(tmp_path / "nothing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read: .*utf-8"):
        run_files.read(tmp_path / "binary.csv")
    for columns in ({"loss": "ce"}, {"los": "loss"}):
        with pytest.raises(
            ValueError, match="expected one of parameters, tokens, flops, loss, and"
        ):
            read(tmp_path, "parameters,loss\n1,2\n", columns=columns)


@pytest.mark.parametrize(
    "header, row, options",
    [
        ("params (M),tokens (B),loss", "10,2,3.9", {}),
        ("params_m,tokens_b,loss", "10,2,3.9", {"columns": {"tokens": "tokens_b"}}),
        ("Params [millions],Tokens [billions],loss", "10,2,3.9", {}),
        ("n_params,training tokens,loss", "10M,2B,3.9", {}),
    ],
)
def test_units_in_the_name_of_a_column_are_followed_and_said(tmp_path, header, row, options):
    found = read(tmp_path, f"{header}\n{row}\n", **options)
    assert [found.parameters[0], found.tokens[0], found.loss[0]] == [1e7, 2e9, 3.9]
    assert found.flops[0] == 6 * 1e7 * 2e9
    if "M" not in row:
        assert found.notes[0].endswith("is read as parameters, times 1e+06")


def test_a_unit_is_given_once_and_digits_are_plain(tmp_path):
    for text, words in [
        ("params (M),tokens,loss\n10M,2e9,3.9\n", "column parameters: '10M' is not a number"),
        ("N,D,loss\n1_0e7,2e9,3.9\n", "'1_0e7' is not a number: expected a decimal point and"),
        ('N,D,loss\n"10,000",2e9,3.9\n', "'10,000' is not a number: expected a decimal point"),
        ("N;D;loss\n1e7;2e9;3,9\n", "'3,9' is not a number: expected a decimal point and no"),
    ]:
        with pytest.raises(ValueError, match=words):
            read(tmp_path, text)


def test_lines_may_end_as_old_spreadsheets_end_them(tmp_path):
    (tmp_path / "runs.csv").write_bytes(b"N,D,loss\r1e7,2e8,3.9\r2e7,3e8,3.5\r")
    assert run_files.read(tmp_path / "runs.csv").loss.tolist() == [3.9, 3.5]
