"""Dataclass fields that are also command-line options: name, default, range and help stand in the dataclass and nowhere else.

    @dataclass(frozen=True)
    class CnnOptions:
        epochs: int = option(30, "passes over the data", min=1)  # becomes --epochs of onnxferry train cnn

``onnxferry.train.cli.options`` makes the options. A field that is declared without ``option`` is not offered.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from onnxferry.runtime.errors import InputError

T = TypeVar("T")


_KEY = "option"


@dataclass(frozen=True)
class Option:
    """One field as an option."""

    name: str
    type: Any
    default: Any
    help: str  # with the unit
    min: float | None  # the command line refuses what is outside; the dataclass checks in __post_init__ what it depends on
    max: float | None


def option(default: T, help: str, *, min: float | None = None, max: float | None = None) -> T:
    """A dataclass field with a default that ``onnxferry train`` offers as an option of its name."""
    made: T = dataclasses.field(default=default, metadata={_KEY: (help, min, max)})
    return made


def options_of(kind: type) -> list[Option]:
    """The options of a dataclass, in the order of its fields."""
    hints = get_type_hints(kind)
    return [
        Option(field.name, hints[field.name], field.default, *field.metadata[_KEY])
        for field in dataclasses.fields(kind)
        if _KEY in field.metadata
    ]


def check_positive(config: object, *names: str) -> None:
    """Raises InputError for a field of ``config`` that is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{name} must be above 0, got {getattr(config, name)}")
