"""Frozen dataclass configs as JSON and back, exactly, and the differences between two of them.

A dataclass becomes an object of its fields and of `"class"`, its name (a word that no field can
have), so that two variants with the same fields stay apart. Enums are their names, paths strings,
tuples lists, non-finite floats the strings of `library.storage.files`; reading takes the types from
the annotations.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import pathlib
import types
import typing
from typing import Any

from library.storage import files

Json = Any


def to_json(value: Any, name: str = "config") -> Json:
    """A config as JSON values.

    Raises:
        ValueError: naming the field whose value has no exact JSON form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        items = {f.name: to_json(getattr(value, f.name), f"{name}.{f.name}") for f in fields}
        return {"class": type(value).__name__, **items}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return files.finite_or_name(value)
    if isinstance(value, (list, tuple)):
        return [to_json(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: to_json(item, f"{name}[{key!r}]") for key, item in value.items()}
    raise ValueError(
        f"{name} is a {type(value).__name__}: expected numbers, strings, None, enums, paths, "
        "tuples, lists, dicts with string keys or dataclasses"
    )


def from_json(hint: Any, data: Json, name: str = "config") -> Any:
    """The value of type `hint` that `to_json` wrote as `data`.

    Args:
        hint: a dataclass or any annotation made of those, None, bool, int, float, str, paths,
            enums, Literal, tuple, list, dict and unions.
        data: what `json` read.
        name: how errors call the value.
    Returns:
        A value `v` of that type with `to_json(v) == data`.
    Raises:
        ValueError: naming the field that does not fit its annotation.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return from_json(args[0], data, name)
    if hint is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _one_of(args, data, name)
    if origin is typing.Literal:
        return _checked(data, any(_same(data, arg) for arg in args), hint, name)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, data, name)
    if (origin or hint) in (tuple, list, dict):
        return _container(origin or hint, args, data, name)
    return _leaf(hint, data, name)


def differences(theirs: Json, yours: Json, name: str = "") -> list[str]:
    """Lines `field: theirs -> yours`, by dotted name, for two configs as JSON; empty if equal."""
    if isinstance(theirs, dict) and isinstance(yours, dict):
        keys = sorted({*theirs, *yours}, key=lambda key: (key != "class", key))
        absent = object()
        pairs = [(key, theirs.get(key, absent), yours.get(key, absent)) for key in keys]
        lines = []
        for key, old, new in pairs:
            dotted = f"{name}.{key}" if name else key
            if old is absent or new is absent:
                lines.append(f"{dotted}: {_show(old, absent)} -> {_show(new, absent)}")
            else:
                lines += differences(old, new, dotted)
        return lines
    return [] if _same(theirs, yours) else [f"{name}: {_show(theirs)} -> {_show(yours)}"]


def _one_of(hints: tuple, data: Json, name: str) -> Any:
    """The first alternative that fits."""
    for hint in hints:
        try:
            return from_json(hint, data, name)
        except ValueError:
            continue
    return _checked(data, False, typing.Union[hints], name)  # noqa: UP007


def _dataclass(hint: type, data: Json, name: str) -> Any:
    _checked(data, isinstance(data, dict) and data.get("class") == hint.__name__, hint, name)
    hints = typing.get_type_hints(hint, include_extras=True)
    items = {key: item for key, item in data.items() if key != "class"}
    wrong = sorted(set(items) ^ {field.name for field in dataclasses.fields(hint)})
    if wrong:
        raise ValueError(f"{name} does not have the fields of {hint.__name__}: {', '.join(wrong)}")
    values = {key: from_json(hints[key], item, f"{name}.{key}") for key, item in items.items()}
    value = hint(**{f.name: values[f.name] for f in dataclasses.fields(hint) if f.init})
    return value


def _container(kind: type, args: tuple, data: Json, name: str) -> Any:
    if kind is dict:
        _checked(data, isinstance(data, dict), kind, name)
        hint = args[1] if args else Any
        return {key: from_json(hint, item, f"{name}[{key!r}]") for key, item in data.items()}
    _checked(data, isinstance(data, list), kind, name)
    if kind is list or not args or args[-1] is Ellipsis:
        hints = [args[0] if args else Any] * len(data)
    else:
        hints = [hint for hint in args if hint != ()]
        _checked(data, len(hints) == len(data), kind[args], name)
    pairs = enumerate(zip(hints, data, strict=True))
    return kind(from_json(hint, item, f"{name}[{i}]") for i, (hint, item) in pairs)


def _leaf(hint: Any, data: Json, name: str) -> Any:
    if hint is None or hint is type(None):
        return _checked(data, data is None, hint, name)
    if hint is float:
        number = not isinstance(data, bool) and isinstance(data, (int, float))
        _checked(data, number or data in ("NaN", "Infinity", "-Infinity"), hint, name)
        return data if number else float(data)
    if hint in (bool, int, str):
        return _checked(data, type(data) is hint, hint, name)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint[_checked(data, data in hint.__members__, hint, name)]
    if isinstance(hint, type) and issubclass(hint, pathlib.PurePath):
        return hint(_checked(data, isinstance(data, str), hint, name))
    raise ValueError(f"{name} is annotated {hint}, which has no JSON form")


def _checked(data: Json, fits: bool, hint: Any, name: str) -> Json:
    if not fits:
        expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise ValueError(f"{name} is {data!r}: expected {expected}")
    return data


def _same(a: Json, b: Json) -> bool:
    """Equality that keeps True apart from 1, but not 1.0, which one float field may hold."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _show(value: Json, absent: object = None) -> str:
    return "absent" if value is absent and absent is not None else repr(value)
