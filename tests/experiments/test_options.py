"""Numbers of a config keep to what its presets say: signs, zeros, limits, no empty list."""

import dataclasses
import importlib
import math
import typing

import pytest

from experiments import catalogue, options
from library import report


@dataclasses.dataclass(frozen=True)
class Part:
    num_steps: int = 10
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
    num_steps: int = 5
    num_draws: int = 3
    rate: float = 0.1
    delta: float = -0.1
    width: int | None = None
    bound: float = math.inf
    sizes: tuple[int, ...] = (8, 16)
    names: tuple[str, ...] = ("a",)
    extra: tuple[int, ...] = ()
    share: float = dataclasses.field(default=0.5, metadata={"least": -1, "most": 1})
    warmup: int = dataclasses.field(default=4, metadata={"least": 0})
    fast: bool = True
    part: Part = Part()


PRESETS = (Config(), Config(num_steps=2, num_draws=0))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_steps": 1},
        {"num_draws": 0},
        {"rate": 0.0},
        {"delta": -9.0},
        {"delta": 9.0},
        {"width": 0},
        {"bound": math.inf},
        {"sizes": (1,)},
        {"extra": ()},
        {"share": -1.0},
        {"warmup": 0},
        {"fast": False},
        {"part": Part(seed=0)},
    ],
)
def test_what_the_presets_allow_passes(changes):
    options.check(dataclasses.replace(Config(), **changes), PRESETS)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_steps": 0}, "--num-steps 0: expected a whole number >= 1"),
        ({"num_steps": -5}, "--num-steps -5: expected a whole number >= 1"),
        ({"num_draws": -1}, "--num-draws -1: expected a whole number >= 0"),
        ({"rate": -0.1}, "--rate -0.1: expected a number >= 0"),
        ({"rate": math.nan}, "--rate nan: expected a number that is finite"),
        ({"rate": math.inf}, "--rate inf: expected a number that is finite"),
        ({"width": -1}, "--width -1: expected a whole number >= 0"),
        ({"bound": -1.0}, "--bound -1.0: expected a number >= 0"),
        ({"sizes": (8, 0)}, "--sizes 8 0: expected a whole number >= 1"),
        ({"sizes": ()}, "--sizes: expected one value or more"),
        ({"names": ()}, "--names: expected one value or more"),
        ({"extra": (-1,)}, "--extra -1: expected a whole number >= 0"),
        ({"share": 1.5}, "--share 1.5: expected a number from -1 to 1"),
        ({"warmup": -1}, "--warmup -1: expected a whole number >= 0"),
        ({"part": Part(num_steps=0)}, "--part.num-steps 0: expected a whole number >= 1"),
        ({"part": Part(seed=-1)}, "--part.seed -1: expected a whole number >= 0"),
    ],
)
def test_what_no_preset_shows_is_refused_by_name(changes, message):
    with pytest.raises(ValueError) as error:
        options.check(dataclasses.replace(Config(), **changes), PRESETS)
    assert str(error.value) == message


def test_the_presets_of_all_questions_keep_the_limits_that_their_fields_declare():
    for question in catalogue.questions():
        presets = importlib.import_module(question.module).PRESETS.values()
        for preset in presets:
            options.check(preset, presets)


def named_options():
    """(question, option) of all options that are lists of names."""
    for question in catalogue.questions():
        module = importlib.import_module(question.module)
        for name, hint in typing.get_type_hints(module.Config).items():
            if hint == tuple[str, ...] and name != "columns":  # of a user's own file
                yield pytest.param(module, name, id=f"{question.name}-{name}")


@pytest.mark.parametrize("module, name", [*named_options()])
def test_a_name_that_a_question_does_not_know_is_refused_before_any_work(module, name, tmp_path):
    config = dataclasses.replace(module.PRESETS["smoke"], **{name: ("nobody",)})
    with pytest.raises(ValueError, match=rf"{name}.*: expected some of "):
        module.run(config, report.RunDir(tmp_path))
    assert not list(tmp_path.iterdir())
