"""Values in the metadata of other tools' files, written as Python or JSON literals: read by a small parser, never evaluated.

    parsed_literal("{0: 'cat', 1: 'dog'}")      # {0: "cat", 1: "dog"}
    parsed_literal("[640, 640]")                # [640, 640]

Whole and decimal numbers, text, True, False, None, lists, tuples and dicts of these, a few levels deep. Nothing else is read: no names,
no calls, no operators.
"""

from __future__ import annotations

import re
from typing import Any

MAX_CHARACTERS = 2**20
MAX_DEPTH = 8

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?\d{1,18}(?:\.\d{0,18})?(?:[eE][+-]?\d{1,3})?)"""
    r"""|(?P<single>'(?:[^'\\\n]|\\.)*')|(?P<double>"(?:[^"\\\n]|\\.)*")"""
    r"""|(?P<word>True|False|None|true|false|null)\b|(?P<mark>[\[\](){}:,]))"""
)
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"', "/": "/"}
_CLOSING = {"[": "]", "(": ")", "{": "}"}


def parsed_literal(text: str) -> Any:
    """The value. Raises ValueError, with the place, for anything but such a literal."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text)} characters, more than the {MAX_CHARACTERS} that are read")
    parser = _Parser(text)
    value = parser.value(0)
    parser.end()
    return value


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def value(self, depth: int) -> Any:
        kind, token = self._next()
        if kind == "number":
            return float(token) if re.search(r"[.eE]", token) else int(token)
        if kind in ("single", "double"):
            return _unquoted(token[1:-1])
        if kind == "word":
            return _WORDS[token]
        if token not in _CLOSING:
            raise self._wrong()
        if depth >= MAX_DEPTH:
            raise ValueError(f"brackets more than {MAX_DEPTH} deep")
        return self._items(token, depth)

    def _items(self, opening: str, depth: int) -> Any:
        items: list[Any] = []
        pairs: dict[Any, Any] = {}
        closing = _CLOSING[opening]
        while True:
            if self._peek() == closing:
                self._next()
                break
            item = self.value(depth + 1)
            if opening == "{":
                if not isinstance(item, int | str):
                    raise ValueError("a key is neither a whole number nor text")
                self._expect(":")
                pairs[item] = self.value(depth + 1)
            else:
                items.append(item)
            if self._peek() != closing:
                self._expect(",")
        return pairs if opening == "{" else items

    def end(self) -> None:
        if self.text[self.at :].strip():
            raise self._wrong()

    def _peek(self) -> str:
        before = self.at
        try:
            return self._next()[1]
        finally:
            self.at = before

    def _next(self) -> tuple[str, str]:
        match = _TOKEN.match(self.text, self.at)
        if match is None or match.lastgroup is None:
            raise self._wrong()
        self.at = match.end()
        return match.lastgroup, match[match.lastgroup]

    def _expect(self, mark: str) -> None:
        if self._next()[1] != mark:
            raise self._wrong()

    def _wrong(self) -> ValueError:
        return ValueError(f"no literal at character {self.at + 1}: {self.text[self.at : self.at + 20]!r}")


def _unquoted(inner: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "ux":
            point = int(code[1:], 16)
            if 0xD800 <= point <= 0xDFFF:
                raise ValueError("half a character")
            return chr(point)
        if code not in _ESCAPES:
            raise ValueError(f"the escape \\{code} is not read")
        return _ESCAPES[code]

    return re.sub(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", character, inner)
