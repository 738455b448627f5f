"""CSV files as columns of text: any of the usual separators, with or without a byte order mark."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxferry.runtime.arguments import listed
from onnxferry.runtime.errors import DataError, DataNotFoundError

SEPARATORS = (",", ";", "\t", "|")


CSV_SUFFIXES = (".csv", ".tsv")


MAX_BYTES = 2**30


_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d*,\d+\s*")


@dataclass(frozen=True)
class Table:
    """Cells as text, by column name in the file's order. An empty cell is ``""``."""

    name: str
    columns: Mapping[str, Sequence[str]]
    separator: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def without(self, name: str) -> Table:
        """Raises DataError where there is no such column."""
        if name not in self.columns:
            raise DataError(f"{self.name} has no column {name!r}; it has {listed(self.columns)}")
        return Table(self.name, {key: value for key, value in self.columns.items() if key != name}, self.separator)


def read_table(path: str | os.PathLike[str]) -> Table:
    """A file whose first line names the columns. The separator is the one of ``, ; tab |`` that is in the first line most often.

    In a file that is separated by ``;`` a comma in a number is a decimal comma. Raises DataError, with the number of the line, for what
    is no such table.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DataError(f"{file.name} has more than {MAX_BYTES // 2**20} MiB; cut it into several files")
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {file}", path) from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name} is not UTF-8 (byte {error.start}): save it as UTF-8, or convert it: iconv -f ENCODING -t utf-8 {file.name}"
        ) from error
    if "\0" in text:
        raise DataError(f"{file.name} holds bytes that are no text; expected a .csv file")
    separator = _separator(text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        return _table(file.name, lines, separator)
    except csv.Error as error:
        raise DataError(f"{file.name}, line {lines.line_num}: {error}") from error


def _table(name: str, lines: csv._reader, separator: str) -> Table:  # type: ignore[name-defined]
    names = [each.strip() for each in next(lines, [])]
    if not names or not any(names):
        raise DataError(f"{name} is empty; expected a first line with the names of the columns")
    for each in names:
        if names.count(each) > 1:
            raise DataError(f"{name}: {'two columns have no name' if not each else f'two columns are called {each!r}'}")
    columns: dict[str, list[str]] = {each: [] for each in names}
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise DataError(f"{name}, line {lines.line_num}: has {len(cells)} cells, and the first line names {len(names)} columns")
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell.strip())
    if separator == ";":
        columns = {key: _with_points(cells) for key, cells in columns.items()}
    if not len(next(iter(columns.values()))):
        raise DataError(f"{name} has a line of names and no rows")
    return Table(name, columns, separator)


def _separator(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", first)
    return max(SEPARATORS, key=bare.count)


def _with_points(cells: list[str]) -> list[str]:
    """A column of numbers with decimal commas, with points."""
    numbers = [cell for cell in cells if "," in cell]
    others = all(_is_number(cell) for cell in cells if cell and "," not in cell)
    if numbers and others and all(_DECIMAL_COMMA.fullmatch(cell) for cell in numbers):
        return [cell.replace(",", ".") for cell in cells]
    return cells


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
