"""Files written whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import check_place, write_json, written_whole


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), written_whole(path) as part:
        part.write_text("ne\udcff", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with written_whole(path) as one, written_whole(path) as two:
        assert one != two
        assert one.suffix == ".png"
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_json_holds_null_for_what_json_lacks(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [float("nan"), 1.5, (float("inf"),)], 1: True})
    assert (tmp_path / "a.json").read_text(
        encoding="utf-8"
    ) == '{\n  "é": [\n    null,\n    1.5,\n    [\n      null\n    ]\n  ],\n  "1": true\n}\n'


def test_an_error_names_the_file_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, written_whole(tmp_path / "a.png"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError) as missing, written_whole(tmp_path / "no" / "a.png") as part:
        part.write_bytes(b"x")
    assert missing.value.filename == str(tmp_path / "no" / "a.png")


def test_a_place_that_cannot_be_written_is_named_first(tmp_path: Path) -> None:
    check_place(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"no/a.png cannot be written: the folder .*no does not exist"):
        check_place(tmp_path / "no" / "a.png")
    with pytest.raises(InputError, match="it is a folder"):
        check_place(tmp_path)
