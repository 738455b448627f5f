"""Texts: where they come from, how they are cut, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import DataError, InputError
from onnxferry.train.data import text as texts
from onnxferry.train.data.text import load_text


def joined(splits: texts.TextSplits) -> bytes:
    return np.concatenate([splits.train, splits.validation, splits.test]).tobytes()


def test_a_text_is_cut_in_its_order_and_the_last_tenth_is_the_test(tmp_path: Path) -> None:
    content = bytes(range(256)) * 41 + b"end"
    path = tmp_path / "letters.txt"
    path.write_bytes(content)
    splits = load_text("", path, validation=0.1)
    nine = len(content) * 9 // 10
    assert joined(splits) == content
    assert splits.test.tobytes() == content[nine:]
    assert len(splits.validation) == int(nine * 0.1)
    assert splits.name == "letters"
    assert str(tmp_path) not in splits.source


def test_without_validation_all_nine_tenths_train(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abcdefghij" * 100)
    splits = load_text(str(path), validation=0.0)
    assert len(splits.validation) == 0
    assert len(splits.train) == 900


def test_bytes_that_are_no_utf8_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "raw.bin"
    path.write_bytes(b"\xff\xfe\x00\x80" * 100)
    assert joined(load_text("", path)) == b"\xff\xfe\x00\x80" * 100


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("Größe, naïve, здравствуй, 你好\n".encode() * 50_000, ""),
        ("Größe und Höhe\n".encode("latin-1") * 50, ""),
        (b"plain\ttext\r\n" * 50, ""),
        (b"\x7fELF" + b"text" * 80 + b"\0", "it holds NUL bytes"),
        ("utf-16".encode("utf-16") * 30, "it holds NUL bytes"),
        (bytes(range(1, 32)) * 9 + bytes(range(128, 256)) * 9, "it is no UTF-8, and most of its bytes are not ASCII"),
    ],
)
def test_doubts_about_what_is_hardly_text(content: bytes, why: str) -> None:
    assert texts.doubts(np.frombuffer(content, np.uint8)) == why


def test_a_binary_file_is_warned_about_and_learnt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("photo.raw", bytes(range(256)) * 20), ("letters.txt", b"Dear reader,\n" * 400)):
        path = tmp_path / name
        path.write_bytes(content)
        tiny = ["--depth", "1", "--width", "8", "--epochs", "1", "--batch", "4", "--steps", "16", "--device", "cpu"]
        assert main(["train", "rnn", "--data", str(path), *tiny, "--out", str(tmp_path / path.stem)]) == 0
        warnings = [row for row in capsys.readouterr().err.splitlines() if row.startswith("warning:")]
        told = "warning: is photo.raw text? it holds NUL bytes; training goes on with its bytes as they are"
        assert warnings == ([told] if name == "photo.raw" else [])


def test_a_folder_is_read_in_the_order_of_its_names_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_bytes(b"B" * 150)
    (tmp_path / "a.txt").write_bytes(b"A" * 150)
    (tmp_path / "deep" / "c.txt").write_bytes(b"C" * 150)
    (tmp_path / ".git").write_bytes(b"hidden")
    assert joined(load_text("", tmp_path)) == b"A" * 150 + b"\n" + b"B" * 150 + b"\n" + b"C" * 150


def test_the_embedded_text_is_english_on_every_machine() -> None:
    splits = load_text()
    assert splits.name == "pydoc-topics"
    text = joined(splits).decode()
    assert len(text) > 300_000
    assert text.count(" the ") > 2000


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 199])
def test_a_text_too_short_to_learn_from_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "short.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"'short' has {len(content)} bytes; at least 200 are needed"):
        load_text("", path)


def test_an_empty_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no text"):
        load_text("", tmp_path)
    with pytest.raises(DataError, match="expected a file, a folder of files, or one of pydoc-topics, tinyshakespeare"):
        load_text("hamlet")


@pytest.mark.parametrize("share", [-0.1, 0.6, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=r"must be 0 … 0\.5"):
        load_text(validation=share)


def test_another_text_is_not_taken_for_tiny_shakespeare(tmp_path: Path) -> None:
    path = tmp_path / "tinyshakespeare.txt"
    path.write_bytes(b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 10)
    for data in (path, tmp_path):
        with pytest.raises(DataError, match="is not Tiny Shakespeare: 610 bytes"):
            load_text("tinyshakespeare", data)


def test_tiny_shakespeare_comes_from_the_cache_and_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    content = b"To be, or not to be: that is the question.\n" * 20
    monkeypatch.setattr(texts, "SHAKESPEARE_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(texts, "SHAKESPEARE_BYTES", len(content))
    monkeypatch.setenv("ONNXFERRY_HOME", str(tmp_path))
    monkeypatch.setenv("ONNXFERRY_OFFLINE", "1")
    with pytest.raises(DataError, match="ONNXFERRY_OFFLINE forbids downloads"):
        load_text("tinyshakespeare")
    (tmp_path / "tinyshakespeare.txt").write_bytes(content)
    assert joined(load_text("tinyshakespeare")) == content
