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


CHINESE = "老人与海，这是一个故事。\n" * 40


@pytest.mark.parametrize(
    ("content", "encoding", "words"),
    [
        (CHINESE.encode("gbk"), "utf-8", "my.txt is not utf-8 (byte 0): give its encoding, --encoding gbk perhaps; --encoding bytes"),
        (CHINESE.encode("utf-16"), "utf-8", "my.txt is not utf-8 (byte 0): give its encoding, --encoding utf-16 perhaps; --encoding bytes"),
        ("déjà vu, mon ami\n".encode("cp1252") * 40, "utf-8", "give its encoding, --encoding cp1252 perhaps; --encoding bytes"),
        (CHINESE.encode(), "gbk", "my.txt is not gbk"),
        (b"\x7fELF" + b"text" * 80 + b"\0", "utf-8", "my.txt holds NUL characters and is hardly text: give its encoding"),
        (
            bytes(range(256)) * 9,
            "utf-8",
            "give its encoding with --encoding, gbk or cp1252 for example; --encoding bytes trains",
        ),
    ],
)
def test_text_in_another_encoding_is_refused_with_what_to_do(tmp_path: Path, content: bytes, encoding: str, words: str) -> None:
    (tmp_path / "my.txt").write_bytes(content)
    with pytest.raises(DataError) as caught:
        texts.load_text(data=tmp_path / "my.txt", encoding=encoding)
    assert words in str(caught.value)
    assert len(texts.load_text(data=tmp_path / "my.txt", encoding="bytes").train)


def test_an_encoding_that_is_named_is_read(tmp_path: Path) -> None:
    for name in ("gbk", "utf-16", "utf-8-sig", "utf-8"):
        (tmp_path / "my.txt").write_bytes(CHINESE.encode(name))
        assert joined(texts.load_text(data=tmp_path / "my.txt", encoding=name)) == CHINESE.encode()
    with pytest.raises(InputError, match="unknown encoding 'gibberish'; expected utf-8, gbk"):
        texts.load_text(data=tmp_path / "my.txt", encoding="gibberish")


def test_training_stops_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zh.txt").write_bytes(CHINESE.encode("gbk"))
    assert main(["train", "rnn", "--data", str(tmp_path / "zh.txt"), "--out", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err.startswith("error: zh.txt is not utf-8 (byte 0): give its encoding, --encoding gbk perhaps")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("\n  \n1.\nDear reader, it was a dark night\n", "Dear reader,"),
        (CHINESE, "老人与海，这是一个故事。"),
        ("\0\1\2\n" * 50, ""),
    ],
)
def test_a_prompt_out_of_the_text(text: str, prompt: str) -> None:
    assert texts.prompt_of(np.frombuffer(text.encode(), np.uint8)) == prompt


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
