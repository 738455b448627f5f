"""Texts with labels: a folder with a sub-folder for each label, or a .csv, .tsv or .jsonl file, each of them gzipped or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxferry.runtime.arguments import listed
from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError

TEXT_COLUMN, LABEL_COLUMN = "text", "label"
"""The names of the columns where the caller gives none."""


TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")


MAX_BYTES = 2**30  # of all texts together, unpacked


_LONGEST_CELL = 2**24  # characters; csv's own limit is 131,072, which a long article has


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and their labels, both of one length."""

    texts: Sequence[str]
    labels: Sequence[str]
    source: str  # for people

    def __len__(self) -> int:
        return len(self.texts)


def read_labelled_texts(
    path: Path, text: str = TEXT_COLUMN, label: str = LABEL_COLUMN, *, encoding: str = "utf-8", part: str = ""
) -> LabelledTexts:
    """The texts at ``path``, in the order of the file, or of the labels' and the files' names.

        read_labelled_texts(Path("reviews.csv.gz"), text="review", label="stars")
        read_labelled_texts(Path("reviews"))        # reviews/good/1.txt, reviews/bad/2.txt, …

    ``text`` and ``label``: the columns of a table, or the keys of a .jsonl file's objects. ``encoding``: of all files. ``part``: of a
    folder with sub-folders train and test, the one to read; "" for neither.
    Raises DataError where there is nothing to read, a column is missing or a line is broken, InputError for an unknown encoding.
    """
    try:
        "".encode(encoding)
    except LookupError:
        raise InputError(f"unknown encoding {encoding!r}; expected utf-8, gbk, big5, cp1252 …") from None
    if path.is_dir():
        inner = path / part if part and (path / part).is_dir() else path
        return _from_folder(inner, encoding)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")
    if not path.exists():
        raise DataNotFoundError(f"there are no texts at {path}: expected a folder, or a {', '.join(TABLE_SUFFIXES)} file", path)
    if kind not in TABLE_SUFFIXES:
        raise DataError(
            f"{path.name} is no table: expected a folder with a sub-folder for each label, or {', '.join(TABLE_SUFFIXES)} (.gz)"
        )
    content = _decoded(path, encoding)
    rows = _from_jsonl(path.name, content, text, label) if kind == ".jsonl" else _from_table(path.name, content, text, label, kind)
    pairs = list(rows)
    if not pairs:
        raise DataError(f"{path.name} holds no texts")
    return LabelledTexts([each[0] for each in pairs], [each[1] for each in pairs], f"{path.name}, {len(pairs)} texts")


def _from_folder(folder: Path, encoding: str) -> LabelledTexts:
    labels = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    texts, found, size = list[str](), list[str](), 0
    for each in labels:
        for file in sorted(each.rglob("*")):
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
                texts.append(_decoded(file, encoding))
                found.append(each.name)
                size += len(texts[-1])
                if size > MAX_BYTES:
                    raise DataError(f"{folder.name} holds more than {MAX_BYTES // 2**20} MiB of text: give a part of it")
    if not texts:
        raise DataError(f"the folder {folder.name!r} holds no texts: expected a sub-folder for each label, with a file for each text")
    return LabelledTexts(texts, found, f"{folder.name}, {len(texts)} texts in {len(set(found))} sub-folders")


def _decoded(path: Path, encoding: str) -> str:
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as file:
                content = file.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as plain:
                content = plain.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{path.name} holds more than {MAX_BYTES // 2**20} MiB of text: give a part of it")
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} is not {encoding} (byte {error.start}): give its encoding with --encoding, gbk for example"
        ) from error
    if "\0" in text:
        raise DataError(f"{path.name} holds NUL characters and is no text in {encoding}: give its encoding with --encoding")
    return text


def _from_table(name: str, content: str, text: str, label: str, kind: str) -> Iterator[tuple[str, str]]:
    separator = "\t" if kind == ".tsv" else max(",;\t|", key=content[: content.find("\n") + 1 or None].count)
    before = csv.field_size_limit(_LONGEST_CELL)
    lines = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
    try:
        names = [each.strip() for each in next(lines, [])]
        places = [_place(name, names, column, option) for column, option in ((text, "--text"), (label, "--target"))]
        for cells in lines:
            if not any(cells):
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{name}, line {lines.line_num}: has {len(cells)} cells, and the first line names {len(names)} columns"
                    " (a text with a separator in it is put in quotation marks)"
                )
            yield cells[places[0]], cells[places[1]].strip()
    except csv.Error as error:
        raise DataError(f"{name}, line {lines.line_num}: {error}") from error
    finally:
        csv.field_size_limit(before)


def _place(name: str, names: Sequence[str], column: str, option: str) -> int:
    if column not in names:
        raise DataError(f"{name} has no column {column!r}: name one with {option}; it has {listed(names)}")
    return names.index(column)


def _from_jsonl(name: str, content: str, text: str, label: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{name}, line {number}: is no JSON ({error}); expected an object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{name}, line {number}: is no JSON object; expected one a line")
        for key, option in ((text, "--text"), (label, "--target")):
            if key not in row:
                raise DataError(f"{name}, line {number}: has no key {key!r}: name one with {option}; it has {listed(row)}")
        if not isinstance(row[text], str) or not isinstance(row[label], str | int | bool):
            raise DataError(f"{name}, line {number}: {text!r} must be a text, and {label!r} a text or a whole number")
        yield row[text], str(row[label])
