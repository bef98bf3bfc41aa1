"""Configs go through JSON and back without loss, and no two different ones look alike."""

import dataclasses
import enum
import json
import math
import pathlib
from typing import Annotated, Any, Literal

import pytest

from library.report import config_json


class Mode(enum.Enum):
    FAST = 1
    EXACT = "exact"


@dataclasses.dataclass(frozen=True)
class Adam:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Sgd:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Config:
    flag: bool = True
    count: int = 3
    rate: float = 0.1
    limit: float = math.inf
    name: str | None = None
    mode: Mode = Mode.FAST
    choice: Literal["a", 1, True] = 1
    widths: tuple[int, ...] = ()
    pair: tuple[str, float] = ("x", 1e-300)
    nested: tuple[tuple[int, int], ...] = ((1, 2), (3, 4))
    optimizer: Adam | Sgd = Adam()
    table: dict[str, list[float]] = dataclasses.field(default_factory=lambda: {"a": [1.0, -0.0]})
    folder: pathlib.Path | None = None
    noted: Annotated[int, "steps"] = 2
    anything: Any = "text"
    total: float = dataclasses.field(init=False, default=4.0)


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(flag=False, name="None", mode=Mode.EXACT, choice="a", widths=(1, 2), noted=-1),
        Config(optimizer=Sgd(1e22), folder=pathlib.Path("a/b"), choice=True, limit=-math.inf),
        Config(rate=0.1 + 0.2, count=10**30, name="üñ\n", anything=[1, None]),
    ],
)
def test_round_trip_is_exact(config):
    text = json.dumps(config_json.to_json(config), allow_nan=False)
    back = config_json.from_json(Config, json.loads(text))
    assert back == config and repr(back) == repr(config)
    assert config_json.differences(config_json.to_json(back), json.loads(text)) == []


def test_not_a_number_comes_back():
    back = config_json.from_json(Config, config_json.to_json(Config(rate=math.nan)))
    assert math.isnan(back.rate)


@pytest.mark.parametrize(
    "change, lines",
    [
        ({"count": 4}, ["count: 3 -> 4"]),
        ({"optimizer": Sgd()}, ["optimizer.class: 'Adam' -> 'Sgd'"]),
        ({"optimizer": Adam(0.2)}, ["optimizer.rate: 0.1 -> 0.2"]),
        ({"widths": (1,)}, ["widths: [] -> [1]"]),
        ({"choice": True}, ["choice: 1 -> True"]),
        ({"name": "x", "mode": Mode.EXACT}, ["mode: 'FAST' -> 'EXACT'", "name: None -> 'x'"]),
        ({"count": 3.0}, []),
    ],
)
def test_differences_are_named_by_dotted_field(change, lines):
    one, two = Config(), dataclasses.replace(Config(), **change)
    assert config_json.differences(*map(config_json.to_json, (one, two))) == lines


def test_fields_that_only_one_has_are_named():
    assert config_json.differences({"a": 1, "b": None}, {"b": None, "c": {"d": 2}}) == [
        "a: 1 -> absent",
        "c: absent -> {'d': 2}",
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"count": "3"}, r"config.count is '3': expected int"),
        ({"count": True}, r"config.count is True: expected int"),
        ({"rate": True}, r"config.rate is True: expected float"),
        ({"rate": "fast"}, r"config.rate is 'fast': expected float"),
        ({"mode": "SLOW"}, r"config.mode is 'SLOW': expected Mode"),
        ({"choice": "b"}, r"config.choice is 'b': expected Literal\['a', 1, True\]"),
        ({"pair": ["x"]}, r"config.pair is \['x'\]: expected tuple"),
        ({"widths": [1, "2"]}, r"config.widths\[1\] is '2': expected int"),
        ({"optimizer": {"class": "Adam", "rat": 1}}, r"config.optimizer is .*: expected"),
        ({"class": "Other"}, r"config is .*: expected Config"),
        ({"extra": 1}, r"does not have the fields of Config: extra"),
    ],
)
def test_json_that_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        config_json.from_json(Config, {**config_json.to_json(Config()), **change})


@pytest.mark.parametrize("value", [len, b"bytes", {1: 2}, Config, {3}])
def test_what_has_no_exact_form_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"config.anything is a \w+: expected numbers"):
        config_json.to_json(Config(anything=value))


def test_types_without_a_json_form_are_named():
    with pytest.raises(ValueError, match="config.key is annotated <class 'bytes'>, which has no"):
        config_json.from_json(bytes, "x", "config.key")
