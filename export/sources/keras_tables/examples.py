"""Example inputs of models that look their inputs up: what their tables know, what they do not, and what a text may hold besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.export.source import Feeds, as_array, dtype_name
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.onnx_file.made_inputs import SEED, open_axis, random_array

ROWS = 24
"""Of the example: texts differ more than rows of numbers."""

MOST_WORDS = 12

STRANGE = (
    "zebra", "\u0130stanbul", "stra\u00dfe", "STRASSE", "\u00c9cole", "\u4f60\u597d\uff0c\u4e16\u754c", "e\u0301te\u0301",
    "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "na\u00efve", "don't", "42", "a\u00a0b", "\u2014", "x\u3000y", "\U0001f600", "[UNK]",
    "...", "--", "#tag", "user@example.com", "\ufb01re", "\u0660\u0661",
)  # fmt: skip
"""Words of other alphabets, letters that have two lower cases or none, and white space and punctuation that are not ASCII."""

ENDS = ("", "", "", ".", ",", "!", "?", "...", '")', "'s", ";", "]~")
SPACES = (" ", " ", " ", " ", "  ", "\t", "\n", " \r\n ", "\x0b", "\x0c")


def examples_of(inputs: Sequence[Mapping[str, Any]], tables: Sequence[Mapping[str, Any]], given: Any) -> dict[str, np.ndarray]:
    """Arrays by the inputs' names: those that were given, in their order or by name, else drawn."""
    names = [each["name"] for each in inputs]
    if given is not None and not isinstance(given, Mapping):
        parts = list(given) if isinstance(given, tuple) else [given]
        if len(parts) != len(names):
            raise InputError(f"the model has {len(names)} inputs ({', '.join(names)}), the examples are {len(parts)}")
        given = dict(zip(names, parts, strict=True))
    known = dict(given or {})
    wrong = sorted(set(known) - set(names)) or (sorted(set(names) - set(known)) if known else [])
    if wrong:
        raise InputError(f"the examples and the model do not agree on the input {wrong[0]!r}; the inputs are {', '.join(names)}")
    rng = np.random.default_rng(SEED)
    made = {}
    for place, each in enumerate(inputs):
        if each["name"] in known:
            made[each["name"]] = _checked(each, as_array(known[each["name"]]))
        else:
            made[each["name"]] = _drawn(each, [table for table in tables if table["input"] == place], rng)
    return made


def samples_of(inputs: Sequence[Mapping[str, Any]], tables: Sequence[Mapping[str, Any]], example: Feeds) -> dict[str, Feeds]:
    """More to compare on where texts are taken apart: words alone, and every punctuation mark and white space of ASCII."""
    plain, marked = dict(example), dict(example)
    for table in tables:
        if table["kind"] == "TextVectorization":
            name = inputs[table["input"]]["name"]
            shape = example[name].shape
            words = ["".join(filter(str.isalnum, word)) or "a" for word in table["vocabulary"] if word] or ["a"]
            rng = np.random.default_rng(SEED)
            texts = [" ".join(_choices(words, 1 + number % MOST_WORDS, rng)) for number in range(int(np.prod(shape)))]
            plain[name] = np.array(texts, dtype=str).reshape(shape)
            marks = [chr(code) for code in (*range(9, 14), *range(32, 128)) if not chr(code).isalnum()]
            ends = [f"{text}{marks[number % len(marks)]}{text}" for number, text in enumerate(texts)]
            marked[name] = np.array(["".join(marks) + "a" + "b".join(marks), *ends[1:]], dtype=str).reshape(shape)
    if all(plain[name] is example[name] for name in plain):
        return {}
    return {"texts of plain words": plain, "texts with every punctuation mark": marked}


def _checked(each: Mapping[str, Any], array: np.ndarray) -> np.ndarray:
    name, shape = each["name"], tuple(each["shape"])
    if shape[1:] == (1,) and array.ndim == 1:
        array = array[:, None]
    if (each["dtype"] == "string") != (dtype_name(array) == "str"):
        raise InputError(f"the example of {name!r} is {dtype_name(array)}, and the model takes {each['dtype']}")
    if array.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
        raise InputError(f"the example of {name!r} must have shape {shape}, got {array.shape}")
    return array if each["dtype"] == "string" else np.ascontiguousarray(array.astype(each["dtype"]))


def _drawn(each: Mapping[str, Any], tables: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> np.ndarray:
    name = each["name"]
    shape = tuple(
        ROWS if place == 0 else open_axis(f"{name}{place}", place, {}) if size is None else size for place, size in enumerate(each["shape"])
    )
    if not tables:
        return random_array(each["dtype"], shape, rng)
    (table, *_) = tables
    known = [table["mask"]] if table["mask"] is not None else []
    keys = [*table["vocabulary"], *known]
    if each["dtype"] != "string":
        others = [] if table["unknowns"] == 0 else [0, -1, 7, max(keys, default=0) + 1, min(keys, default=0) - 1]
        return np.array(_choices([*keys, *others], int(np.prod(shape)), rng)).reshape(shape).astype(each["dtype"])
    others = [] if table["unknowns"] == 0 else list(STRANGE)
    if table["kind"] != "TextVectorization":
        return np.array(_choices([*keys, *others], int(np.prod(shape)), rng), dtype=str).reshape(shape)
    texts = [_text([word for word in keys if word] or ["word"], rng) for _ in range(int(np.prod(shape)))]
    return np.array(texts, dtype=str).reshape(shape)


def _choices(values: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any]:
    return [values[int(rng.integers(len(values)))] for _ in range(count)]


def _text(words: Sequence[str], rng: np.random.Generator) -> str:
    """Mostly words that are known, some of them in capitals, with punctuation and white space between them."""
    parts = []
    for _ in range(int(rng.integers(1, MOST_WORDS + 1))):
        word = str(words[int(rng.integers(len(words)))]) if rng.random() < 0.7 else STRANGE[int(rng.integers(len(STRANGE)))]
        if rng.random() < 0.3:
            word = word.upper() if rng.random() < 0.5 else word.capitalize()
        parts += [word, ENDS[int(rng.integers(len(ENDS)))], SPACES[int(rng.integers(len(SPACES)))]]
    return "".join(parts)
