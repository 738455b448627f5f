"""CSV files as people have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxferry.runtime.errors import DataError, DataNotFoundError
from onnxferry.runtime.tables.csv_file import read_table


def table_of(folder: Path, content: str | bytes):
    path = folder / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path)


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("a,b\n1,x\n2,y\n", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("\ufeffa;b\r\n1,5;x\r\n-2;y, z\r\n", {"a": ["1.5", "-2"], "b": ["x", "y, z"]}),  # Excel, in German
        ("a\tb\n1\t2\n\n", {"a": ["1"], "b": ["2"]}),
        ("a | b\n1 | 2\n", {"a": ["1"], "b": ["2"]}),
        ('"a, first",b\n"x ""y""",\n', {"a, first": ['x "y"'], "b": [""]}),
        ("only\n3\n", {"only": ["3"]}),
        ('"one;two",b\n1,2\n', {"one;two": ["1"], "b": ["2"]}),
        ("a;b\n1,5;x,y\n2;1,2\n", {"a": ["1.5", "2"], "b": ["x,y", "1,2"]}),  # a column of text keeps its commas
    ],
)
def test_separators_marks_and_quotes(tmp_path: Path, content: str, columns: dict[str, list[str]]) -> None:
    assert dict(table_of(tmp_path, content).columns) == columns


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n3\n", r"line 3: has 1 cells, and the first line names 2 columns"),
        ("a,a\n1,2\n", r"two columns are called 'a'"),
        ("a,b\n", r"a line of names and no rows"),
        ("", r"is empty"),
        ("a,b\nü,1\n".encode("cp1252"), r"not UTF-8.*iconv"),
        (b"a,b\0\n1,2\n", r"no text"),
    ],
)
def test_what_is_no_table_is_said(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        table_of(tmp_path, content)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"there is no file"):
        read_table(tmp_path / "none.csv")
