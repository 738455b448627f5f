"""Loading a model parses and hashes each of its files once, however many parts of the runtime ask for what is in it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxferry.runtime import load
from onnxferry.runtime.machine import cpu
from onnxferry.runtime.onnx_file import reader
from onnxferry.runtime.tuning import search
from onnxferry.runtime.tuning.tune import tune

Make = Callable[..., Path]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter[str]]:
    """How often each file was parsed, and read once more to be hashed, by its name."""
    counts: dict[str, Counter[str]] = {"parsed": Counter(), "hashed": Counter()}
    contents, digest = reader._contents, hashlib.file_digest

    def parsed(path: Path, *arguments: Any) -> Any:
        counts["parsed"][path.name] += 1
        return contents(path, *arguments)

    def hashed(file: Any, *arguments: Any) -> Any:
        counts["hashed"][Path(file.name).name] += 1
        return digest(file, *arguments)

    monkeypatch.setattr(reader, "_contents", parsed)
    monkeypatch.setattr(hashlib, "file_digest", hashed)
    return counts


def test_a_plain_load_parses_once_and_hashes_nothing(recogniser: Path, certify: Make, reads: dict[str, Counter[str]]) -> None:
    certify(recogniser, "int8")
    reads["hashed"].clear()
    load(recogniser, device="cpu").close()
    assert reads == {"parsed": {"brightness.onnx": 1}, "hashed": {}}


def test_a_variant_is_parsed_once(recogniser: Path, certify: Make, reads: dict[str, Counter[str]]) -> None:
    certify(recogniser, "int8")
    reads["hashed"].clear()
    load(recogniser, variant="int8").close()
    assert reads == {"parsed": {"brightness.onnx": 1, "brightness.int8.onnx": 1}, "hashed": {}}


@pytest.mark.parametrize("fastest", ["", "int8"])
def test_a_tuned_load_reads_each_file_once(
    recogniser: Path, certify: Make, reads: dict[str, Counter[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fastest: str
) -> None:
    monkeypatch.setenv("ONNXFERRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu, "default_threads", lambda: 1)
    monkeypatch.setattr(search, "time_runs", lambda candidate, feeds, warm: 1e-3 if candidate.setting.variant == fastest else 3e-3)
    certify(recogniser, "int8")
    assert tune(recogniser, [1, 8]).plans[8].setting.variant == fastest
    for counter in reads.values():
        counter.clear()
    with load(recogniser, tune=True) as model:
        for rows in (1, 8):
            model.run({"image": np.zeros((rows, 3, 3, 1), np.uint8)})
    once = {"brightness.onnx": 1, "brightness.int8.onnx": 1}
    assert reads == {"parsed": once, "hashed": {}}


def test_both_halves_of_an_autoencoder_are_parsed_once(zoo_copy: Make, reads: dict[str, Counter[str]]) -> None:
    load(zoo_copy("digits-ae"), device="cpu").close()
    assert reads == {"parsed": {"digits-ae.onnx": 1, "digits-ae.decoder.onnx": 1}, "hashed": {}}
