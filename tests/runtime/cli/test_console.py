from __future__ import annotations

import io
import json
import sys

import pytest

from onnxferry.runtime.cli.console import command, plain, print_json
from onnxferry.runtime.formats import human_bytes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本", "plain é 日本"),
        ("\x1b[2J\n\r\t", "\\x1b[2J\\n\\r\\t"),
        ("right\u202eleft", "right\\u202eleft"),
        ("\udcff", "\\udcff"),
    ],
)
def test_plain_text_is_safe_to_print(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1536, "1.5 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1_500_000, "1.5 MB"),
        (999_949_999, "999.9 MB"),
        (2_000_000_000, "2.0 GB"),
        (3_000_000_000_000, "3000.0 GB"),
    ],
)
def test_human_bytes(size: int, words: str) -> None:
    assert human_bytes(size) == words


def test_json_is_strict_and_readable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"球鞋": "\x1b \x7f \x9b \u202e", "of a name that is no UTF-8": "\udcff"}
    print_json({"球鞋": document["球鞋"]})
    out = capsys.readouterr().out
    assert "球鞋" in out
    assert "\\u001b \\u007f \\u009b \\u202e" in out  # a terminal would act on these
    print_json(document)
    assert json.loads(capsys.readouterr().out) == document
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    print_json(document)
    sys.stdout.flush()
    assert json.loads(sys.stdout.buffer.getvalue()) == document  # type: ignore[attr-defined]


def test_json_lacks_numbers_that_are_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"é": float("nan"), "list": [1.5, float("inf"), (True, None)], "deep": {"x": "\x1b"}})
    out = capsys.readouterr().out
    assert json.loads(out) == {"é": None, "list": [1.5, None, [True, None]], "deep": {"x": "\x1b"}}


def test_commands_to_paste_are_quoted() -> None:
    assert command("predict", "my model.onnx", 3) == "onnxferry predict 'my model.onnx' 3"
