"""Everything that takes a path takes one of this machine: `~` is expanded, an address refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from library import checkpoint, job_queue, metrics, report
from library.data import sources, text
from library.data.sets import digits
from library.report import claims_table, sealed
from library.storage import files, tiled_matrix

GRID = tiled_matrix.Grid(2, 2, 2)
CALLS = {
    "checkpoint.Checkpoints": lambda path: checkpoint.Checkpoints(path, every=1),
    "checkpoint.restore_params": checkpoint.restore_params,
    "metrics.MetricsWriter": metrics.MetricsWriter,
    "metrics.read": metrics.read,
    "report.open_or_create": lambda path: report.open_or_create(path, GRID),
    "claims_table.collect": claims_table.collect,
    "sealed.write": lambda path: sealed.write(path, {"a": 1}),
    "sealed.check": lambda path: sealed.check(path, "", sealed.now()),
    "files.write_atomic": lambda path: files.write_atomic(path, "text"),
    "files.write_json": lambda path: files.write_json(path, {}),
    "files.read_json": files.read_json,
    "tiled_matrix.open_or_create": lambda path: tiled_matrix.open_or_create(path, GRID),
    "job_queue.run_queue": lambda path: job_queue.run_queue(dict, {"a": {}}, path),
    "job_queue.run_job": lambda path: job_queue.run_job(dict, "a", {}, path),
    "sources.prepare": lambda path: sources.prepare(None, path),
    "digits.source": lambda path: digits.source("train", path),
    "text.read": text.read,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("path", ["gs://bucket/x", "~nobody0/x"])
def test_no_local_path_is_refused_before_anything_is_made(tmp_path, monkeypatch, name, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{path}( is an address|: there is no home folder)"):
        CALLS[name](path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["ANSATZ_DATA", "ANSATZ_CACHE"])
def test_variables_are_named(monkeypatch, variable):
    monkeypatch.setenv(variable, "s3://bucket/data")
    with pytest.raises(ValueError, match=f"{variable}=s3://bucket/data is an address"):
        {"ANSATZ_DATA": sources.data_folder, "ANSATZ_CACHE": sources.cache_folder}[variable]()


def test_files_go_to_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with metrics.MetricsWriter("~/run") as writer:
        writer.write(1, {"loss": jnp.bfloat16(0.5)})
    assert metrics.read("~/run")[0]["loss"] == metrics.read(tmp_path / "run")[0]["loss"] == 0.5
    matrix = tiled_matrix.open_or_create("~/matrix", GRID)
    matrix.write((0, 0), np.eye(2))
    assert np.load(tmp_path / "matrix/matrix.npy")[0, 0] == 1
    assert job_queue.run_queue(dict, {"a": {"b": 1}}, "~/jobs") == {"a": {"b": 1}}
    assert files.read_json(tmp_path / "jobs/a.json")["result"] == {"b": 1}
    assert report.open_or_create("~/question", GRID).path == tmp_path / "question"
