"""Python's token patterns in the syntax of RE2, and character classes that hold exactly what Python says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import Any

# Python's own parser of patterns: without it a pattern could only be guessed at.
codes: Any = import_module("re._constants")
parser: Any = import_module("re._parser")

LAST = 0xFFFF
"""Code points up to here stand in the classes: letters beyond them are historic scripts."""


class PatternError(ValueError):
    """A pattern that cannot be exported; the message says why."""


def is_word(character: str) -> bool:
    """Python's ``\\w``."""
    return character.isalnum() or character == "_"


def class_of(accepts: Callable[[str], bool]) -> str:
    """The characters that are accepted, as ranges within the brackets of a class."""
    ranges: list[list[int]] = []
    for code in range(1, LAST + 1):
        if 0xD800 <= code <= 0xDFFF or not accepts(chr(code)):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(_hex(low) if low == high else f"{_hex(low)}-{_hex(high)}" for low, high in ranges)


@cache
def word_class() -> str:
    return class_of(is_word)


@cache
def digit_class() -> str:
    return class_of(str.isdecimal)


def _hex(code: int) -> str:
    return f"\\x{{{code:x}}}"


def words_pattern(pattern: str) -> str | None:
    """For a pattern of whole words, ``\\b … \\b``: what a word must match, for RE2. None for one of whitespace, ``\\S+``.

    Raises PatternError for another: an ONNX graph cannot search.
    """
    try:
        parsed = list(parser.parse(pattern))
    except re.error as error:
        raise PatternError(str(error)) from error
    if pattern in (r"\S+", r"[^\s]+", r"(?u)\S+"):
        return None
    if _plain_words(parsed):
        return f"(?:{_translated(parsed)})"
    edge = (codes.AT, codes.AT_BOUNDARY)
    if len(parsed) < 3 or parsed[0] != edge or parsed[-1] != edge:
        raise PatternError(r"it is neither a pattern of whole words, \b...\b, nor \S+")
    return f"(?:{_translated(parsed[1:-1])})"


def _plain_words(parsed: list[Any]) -> bool:
    """``\\w+`` and ``\\w{2,}``: greedy runs are whole words without a boundary too."""
    if len(parsed) != 1 or parsed[0][0] is not codes.MAX_REPEAT:
        return False
    _, most, inner = parsed[0][1]
    return bool(most is codes.MAXREPEAT and list(inner) == [(codes.IN, [(codes.CATEGORY, codes.CATEGORY_WORD)])])


def _translated(parsed: Iterable[Any]) -> str:
    return "".join(_one(kind, value) for kind, value in parsed)


def _one(kind: Any, value: Any) -> str:
    if kind is codes.LITERAL:
        if not is_word(chr(value)):
            raise PatternError(f"its words would hold {chr(value)!r}, which ends a word")
        return _hex(value)
    if kind is codes.IN:
        return _class(value)
    if kind in (codes.MAX_REPEAT, codes.MIN_REPEAT):
        least, most, inner = value
        return (
            f"(?:{_translated(inner)}){{{least},{'' if most is codes.MAXREPEAT else most}}}"
            if (least, most) != (0, codes.MAXREPEAT)
            else (f"(?:{_translated(inner)})*")
        )
    if kind is codes.BRANCH:
        return "(?:" + "|".join(_translated(each) for each in value[1]) + ")"
    if kind is codes.SUBPATTERN and value[0] is None:
        return f"(?:{_translated(value[3])})"
    if kind is codes.SUBPATTERN:
        raise PatternError("it has a group; write (?:...) for one that captures nothing")
    raise PatternError(f"it has {str(kind).lower().replace('_', ' ')}")


CATEGORIES = {codes.CATEGORY_WORD: word_class, codes.CATEGORY_DIGIT: digit_class}


def _class(items: list[Any]) -> str:
    negated = items[0][0] is codes.NEGATE
    accepted = []
    for kind, value in items[1:] if negated else items:
        accepted.append(_accepts(kind, value))

    def inside(character: str) -> bool:
        return is_word(character) and any(each(character) for each in accepted) is not negated

    if not negated and any(each(mark) for each in accepted for mark in " .,-'@#"):
        raise PatternError("its words would hold a character that ends a word")
    if negated and not any(each(" ") for each in accepted):
        raise PatternError("its words would hold a character that ends a word")
    return f"[{class_of(inside)}]"


def _accepts(kind: Any, value: Any) -> Callable[[str], bool]:
    if kind is codes.LITERAL:
        return lambda character: ord(character) == value
    if kind is codes.RANGE:
        return lambda character: value[0] <= ord(character) <= value[1]
    tests: dict[Any, Callable[[str], bool]] = {
        codes.CATEGORY_WORD: is_word,
        codes.CATEGORY_NOT_WORD: lambda character: not is_word(character),
        codes.CATEGORY_DIGIT: str.isdecimal,
        codes.CATEGORY_NOT_DIGIT: lambda character: not character.isdecimal(),
        codes.CATEGORY_SPACE: str.isspace,
        codes.CATEGORY_NOT_SPACE: lambda character: not character.isspace(),
    }
    if kind is codes.CATEGORY and value in tests:
        return tests[value]
    raise PatternError(f"it has {str(kind).lower()}")
