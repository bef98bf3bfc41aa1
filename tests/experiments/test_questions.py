"""Every question of every study: its form, and its smoke preset run to the end."""

import dataclasses
import importlib
import inspect
import json
import typing

import jax
import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments import catalogue
from library import training
from library.data import sources
from library.data.sets import cifar10, mnist
from library.report import config_json
from tests.experiments import published, smokes

QUESTIONS = catalogue.questions()
# Files under ANSATZ_DATA that a question cannot do without.
DATA = {
    "gan.mnist": mnist.wanted_files(),
    "gan.cifar10": [cifar10.JPEG_FILE, cifar10.PIXEL_FILE],
    "latent_diffusion.cifar10": [cifar10.JPEG_FILE, cifar10.PIXEL_FILE],
    "latent_diffusion.first_stage": mnist.wanted_files(),
    "latent_diffusion.mnist": mnist.wanted_files(),
    "score_sde.mnist": mnist.wanted_files(),
    "score_sde.cifar10": [cifar10.JPEG_FILE, cifar10.PIXEL_FILE],
    "self_supervised.batch_and_queue": [cifar10.JPEG_FILE, cifar10.PIXEL_FILE],
    "self_supervised.cifar10": [cifar10.JPEG_FILE, cifar10.PIXEL_FILE],
    "self_supervised.transfer": [cifar10.JPEG_FILE, cifar10.PIXEL_FILE],
    "self_supervised.mae": mnist.wanted_files(),
    "self_supervised.text": [f"text/sst2_{part}.tsv.gz" for part in ("train", "test")],
    "vae.mnist": mnist.wanted_files(),
}


def module_of(question):
    return importlib.import_module(question.module)


def test_there_are_questions():
    assert "score_sde.digits" in {question.name for question in QUESTIONS}


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_a_question_says_what_it_asks_claims_and_costs(question):
    assert question.asks.endswith("?")
    assert question.claim and question.cost
    assert f"python -m experiments {question.name}" in question.text


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_presets_are_configs_whose_fields_are_explained(question):
    module = module_of(question)
    assert {"smoke", "default", "accelerator"} <= set(module.PRESETS)
    for config in module.PRESETS.values():
        assert type(config) is module.Config
        assert config_json.from_json(module.Config, config_json.to_json(config)) == config
    assert unexplained(module.Config) == []


def unexplained(kind):
    """The fields of a config, and of the groups in it, that have no comment for --help."""
    lines = [line.strip() for line in inspect.getsource(kind).splitlines()]
    hints, missing = typing.get_type_hints(kind), []
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            missing += unexplained(hints[field.name])
        place = next(i for i, line in enumerate(lines) if line.startswith(f"{field.name}:"))
        told = "#" in lines[place] or lines[place - 1].startswith("#")
        if not told and field.name != "run":
            missing.append(f"{kind.__name__}.{field.name}")
    return missing


def test_a_field_without_a_comment_is_found_in_a_group_too():
    @dataclasses.dataclass(frozen=True)
    class Group:
        told: int = 1  # what it is
        untold: int = 2
        # what this one is
        told_above: int = 3

    @dataclasses.dataclass(frozen=True)
    class Config:
        group: Group = Group()  # what belongs together
        alone: int = 3

    assert unexplained(Config) == ["Group.untold", "Config.alone"]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_smoke_runs_to_the_end_and_judges_nothing(question, tmp_path, capsys, monkeypatch):
    if question.name in DATA and not sources.find(question.name, DATA[question.name]):
        pytest.skip("its data set is not under ANSATZ_DATA")
    folder = tmp_path / "run"
    module_of(question)  # all clocks that it reads are there
    with smokes.watched(monkeypatch) as drawn:
        status = command_line.main([question.name, "--preset", "smoke", "--workdir", str(folder)])
    error = capsys.readouterr().err
    if "ANSATZ_DATA is not set" in error:
        pytest.skip(error)
    assert status == 0, error
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"] and result["claims"]
    assert not any(claim["judged"] for claim in result["claims"])
    assert {"config.json", "versions.json", "report.html"} <= {
        path.name for path in folder.iterdir()
    }
    if not published.has_readme(question.name):
        return  # no table says yet what it claims
    complete = bool(sources.data_folder())
    assert published.differences(question.name, result["claims"], complete) == []
    smokes.compare(question.name, folder, result, drawn)


@pytest.mark.parametrize("name", ["score_sde.cifar10"])
def test_a_missing_data_set_is_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANSATZ_DATA", str(tmp_path))
    folder = tmp_path / "run"
    assert command_line.main([name, "--preset", "smoke", "--workdir", str(folder)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "cifar10" in lines[0] and "ANSATZ_DATA" in lines[0]
    assert not folder.exists()


def test_batches_of_a_study_are_split_over_processes(monkeypatch):
    """Two processes take other rows, and together the batch of one."""
    data = {"x": np.arange(12)}
    whole = [training.batches(data, 4, seed=3)(step)["x"] for step in range(3)]
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        at = training.batches(data, 4, seed=3)
        parts.append([at(step)["x"] for step in range(3)])
    for rows, first, second in zip(whole, *parts):
        assert sorted([*first, *second]) == sorted(rows)
