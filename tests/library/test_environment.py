"""What a run remembers of where it ran."""

import os
import subprocess

import jax
import pytest

from library import environment


def test_versions_name_what_a_repetition_needs():
    described = environment.describe(7)
    assert described["seed"] == 7 and described["num_devices"] == 2
    assert {"jax", "numpy", "optax"} <= set(described["packages"])
    assert {"python", "host", "device", "backend", "commit"} <= set(described)


def test_the_commit_says_when_files_differ_from_it(monkeypatch):
    answers = {"ls-files": "environment.py", "rev-parse": "0123456789ab", "status": " M README.md"}
    monkeypatch.setattr(environment, "_git", lambda folder, command, *rest: answers[command])
    assert environment.commit() == "0123456789ab+changes"
    answers["status"] = ""
    assert environment.commit() == "0123456789ab"
    answers["ls-files"] = None  # an installed copy inside somebody else's repository
    assert environment.commit() is None


def test_no_git_is_no_commit(monkeypatch):
    def absent(*args, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert environment.commit() is None


def test_device_and_cores_are_those_of_this_process():
    assert environment.device_kind() == jax.devices()[0].device_kind
    assert environment.num_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "chosen, updates",
    [
        ({}, [("jax_num_cpu_devices", environment.num_cores())]),
        ({"JAX_NUM_CPU_DEVICES": "3"}, []),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, []),
    ],
)
def test_cores_are_devices_unless_a_number_was_chosen(monkeypatch, chosen, updates):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    seen = []
    monkeypatch.setattr(jax.config, "update", lambda *update: seen.append(update))
    environment.cores_as_devices()
    assert seen == updates


def test_devices_stay_as_they_are_where_a_backend_has_started(monkeypatch):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    before = jax.device_count()  # starts one
    environment.cores_as_devices()
    assert jax.device_count() == before
