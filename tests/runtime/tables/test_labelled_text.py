"""Texts with labels: folders and tables, gzipped or not, and one clear line for what is none."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError
from onnxferry.runtime.tables.labelled_text import read_labelled_texts

ROWS = [("so good,\nreally", "yes"), ("坏", "no"), ('a "quoted" one', "no")]


def as_csv(rows: list[tuple[str, str]], separator: str = ",") -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    return "\n".join(["text" + separator + "label", *(separator.join(map(cell, row)) for row in rows)])


def as_jsonl(rows: list[tuple[str, str]]) -> str:
    return "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows) + "\n\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", as_csv(ROWS)), ("a.tsv", as_csv(ROWS, "\t")), ("b.csv", as_csv(ROWS, ";")), ("a.jsonl", as_jsonl(ROWS))],
)
@pytest.mark.parametrize("packed", [False, True])
def test_tables_of_all_kinds_hold_the_same(tmp_path: Path, name: str, content: str, packed: bool) -> None:
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    found = read_labelled_texts(path)
    assert list(zip(found.texts, found.labels, strict=True)) == ROWS


def test_a_folder_has_a_label_a_sub_folder(tmp_path: Path) -> None:
    for label, names in (("no", ["1.txt", "2.txt.gz"]), ("yes", ["1.txt"]), (".hidden", ["1.txt"])):
        (tmp_path / label).mkdir()
        for name in names:
            content = f"{label} {name}".encode()
            (tmp_path / label / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = read_labelled_texts(tmp_path)
    assert list(found.labels) == ["no", "no", "yes"]
    assert found.texts[1] == "no 2.txt.gz"


def test_other_columns_and_encodings_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id,body,kind\n1,很好,甲\n2,不好,乙\n".encode("gbk"))
    found = read_labelled_texts(path, "body", "kind", encoding="gbk")
    assert list(found.texts) == ["很好", "不好"]
    assert list(found.labels) == ["甲", "乙"]


def broken(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (broken("a.csv", b"body,label\nx,y\n"), r"a.csv has no column 'text': name one with --text; it has 'body', 'label'"),
        (broken("a.csv", b"text,class\nx,y\n"), r"a.csv has no column 'label': name one with --target"),
        (broken("a.csv", b"text,label\nx,y,z\n"), r"a.csv, line 2: has 3 cells, and the first line names 2 columns"),
        (broken("a.csv", b"text,label\n"), r"a.csv holds no texts"),
        (broken("a.csv", b""), r"a.csv has no column 'text'"),
        (broken("a.csv", b"text,label\n\xff\xfe,y\n"), r"a.csv is not utf-8 \(byte 11\): give its encoding with --encoding"),
        (broken("a.csv", b"t\0e\0x\0t\0"), r"a.csv holds NUL characters"),
        (broken("a.jsonl", b'{"text": "x"}\n'), r"a.jsonl, line 1: has no key 'label': name one with --target; it has 'text'"),
        (broken("a.jsonl", b'{"text": "x", "label": "y"}\n{oops\n'), r"a.jsonl, line 2: is no JSON"),
        (broken("a.jsonl", b"[1]\n"), r"a.jsonl, line 1: is no JSON object"),
        (broken("a.jsonl", b'{"text": 3, "label": "y"}\n'), r"line 1: 'text' must be a text"),
        (broken("a.csv.gz", b"text,label\nx,y\n"), r"a.csv.gz cannot be read: Not a gzipped file"),
        (broken("a.parquet", b"x"), r"a.parquet is no table: expected a folder with a sub-folder for each label, or .csv, .tsv, .jsonl"),
        (lambda folder: folder, r"holds no texts: expected a sub-folder for each label"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_labelled_texts(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_is_not_there_and_encodings_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="there are no texts at"):
        read_labelled_texts(tmp_path / "a.csv")
    with pytest.raises(InputError, match="unknown encoding 'utf-9'"):
        read_labelled_texts(tmp_path, encoding="utf-9")
