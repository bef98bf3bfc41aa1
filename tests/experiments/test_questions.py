"""Every question of every study: its form, and its smoke preset run to the end."""

import dataclasses
import importlib
import json
import pathlib

import pytest

from experiments import __main__ as command_line
from experiments import catalogue
from library import config_json

QUESTIONS = catalogue.questions()


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
    source = pathlib.Path(module.__file__).read_text(encoding="utf-8")
    for config in module.PRESETS.values():
        assert type(config) is module.Config
        assert config_json.from_json(module.Config, config_json.to_json(config)) == config
    body = source.split("class Config")[1].split("PRESETS")[0]
    for field in dataclasses.fields(module.Config):
        line = next(line for line in body.splitlines() if line.strip().startswith(f"{field.name}:"))
        assert "#" in line or field.name == "run", f"{field.name} has no comment for --help"


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_smoke_runs_to_the_end_and_judges_nothing(question, tmp_path, capsys):
    folder = tmp_path / "run"
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
