"""Queues resume where they were stopped, refuse strangers, and run by submitit."""

import contextlib
import json
import sys
import types

import pytest

from library import job_queue


def test_a_queue_goes_on_where_it_was_stopped(tmp_path):
    calls = []

    def job(width, fail=False):
        calls.append(width)
        if fail and len(calls) == 2:
            raise RuntimeError("power cut")
        return {"loss": 1.0 / width}

    jobs = {f"width={w}": {"width": w, "fail": True} for w in (1, 2, 4)}
    with pytest.raises(RuntimeError):
        job_queue.run_queue(job, jobs, tmp_path)
    assert [path.name for path in tmp_path.glob("*.json")] == ["width=1.json"]
    results = job_queue.run_queue(job, jobs, tmp_path)
    assert calls == [1, 2, 2, 4]  # the first is not run again
    assert results["width=4"] == {"loss": 0.25}
    assert json.loads((tmp_path / "width=2.json").read_text())["seconds"] >= 0


def test_a_queue_refuses_results_of_other_arguments_and_odd_names(tmp_path):
    job_queue.run_queue(dict, {"a": {"x": 1}}, tmp_path)
    with pytest.raises(ValueError, match="a.json is the result of other arguments"):
        job_queue.run_queue(dict, {"a": {"x": 2}}, tmp_path)
    with pytest.raises(ValueError, match="job name '../b'"):
        job_queue.run_queue(dict, {"../b": {}}, tmp_path)


def test_the_same_queue_by_submitit_on_this_machine(tmp_path):
    pytest.importorskip("submitit")
    jobs = {"a": {"x": 1}, "b": {"x": 2}}
    submitted = job_queue.submit_queue(dict, jobs, tmp_path, cluster="local", timeout_min=2)
    assert len(submitted) == 2
    for job in submitted:
        job.wait()
    assert job_queue.run_queue(_never, jobs, tmp_path) == {"a": {"x": 1}, "b": {"x": 2}}
    assert job_queue.submit_queue(dict, jobs, tmp_path, cluster="local") == []


@pytest.mark.parametrize("cluster", ["slurm", None])
def test_a_queue_is_one_array_of_the_jobs_without_a_result(tmp_path, monkeypatch, cluster):
    """What submitit is told, by a stand-in that runs the jobs at the end of the batch."""
    told = []

    class Executor:
        def __init__(self, folder, cluster):
            told.append((folder, cluster))

        def update_parameters(self, **parameters):
            told.append(parameters)

        @contextlib.contextmanager
        def batch(self):
            self.jobs = []
            yield
            told.append(len(self.jobs))
            for function, *arguments in self.jobs:
                function(*arguments)

        def submit(self, *job):
            self.jobs.append(job)
            return job[2]

    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(AutoExecutor=Executor))
    jobs = {name: {"x": index} for index, name in enumerate("abc")}
    job_queue.run_queue(dict, {"b": jobs["b"]}, tmp_path)
    submitted = job_queue.submit_queue(dict, jobs, tmp_path, cluster=cluster, timeout_min=2)
    assert submitted == ["a", "c"]
    assert told == [(str(tmp_path / "slurm"), cluster), {"timeout_min": 2}, 2]
    assert job_queue.run_queue(_never, jobs, tmp_path) == jobs


def _never(**arguments):
    raise AssertionError("all jobs have results")


def test_without_submitit_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match="a queue on Slurm needs submitit: pip install"):
        job_queue.submit_queue(dict, {"a": {"x": 1}}, tmp_path)
