"""With --json, an error is a JSON document on stdout too, whatever the verb; the exit code and stderr are as without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxferry.runtime import errors
from onnxferry.runtime.cli.main import VERBS, main

# A command line of each verb that fails with an error of ours before it does any work.
FAILS: dict[str, list[str]] = {
    "quickstart": ["--out", "gone", "--resume"],
    "train cnn": ["--data", "gone"],
    "train rnn": ["--data", "gone"],
    "train gan": ["--data", "gone"],
    "train ae": ["--data", "gone"],
    "train seq2seq": ["--data", "gone"],
    "train detector": ["--data", "gone"],
    "wrap": ["gone.onnx", "-o", "out.onnx"],
    "convert": ["gone.onnx", "--opset", "17", "-o", "out.onnx"],
    "embed": ["gone.onnx", "--lang", "web", "-o", "out"],
    "export": ["gone.pt", "-o", "out.onnx"],
    "check": ["gone.onnx"],
    "evaluate": ["gone.onnx", "--data", "gone"],
    "optimize": ["gone.onnx"],
    "generate": ["gone.onnx"],
    "translate": ["gone.onnx", "a text"],
    "predict": ["gone.onnx", "gone.png"],
    "detect": ["gone.onnx", "gone.png"],
    "sample": ["gone.onnx", "--out", "out.npy"],
    "reconstruct": ["gone.onnx", "gone.png"],
    "inspect": ["gone.onnx"],
    "tune": ["gone.onnx"],
    "bench": ["gone.onnx"],
    "diff": ["gone.onnx", "gone.onnx"],
    "sign": ["gone.onnx", "--key", "gone.pem"],
    "verify-signature": ["gone.onnx", "--key", "gone.pem"],
    "verify": ["gone.onnx", "gone.pt2"],
    "models": ["gone"],
    "run": ["gone.onnx", "--feeds", "x=1"],
    "deploy triton": ["folder", "gone.onnx"],
    "serve": ["gone.onnx", "--port", "0"],
}
NEVER_FAIL = {"doctor", "demo", "train"}  # of themselves; "train" is a group


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def outcome(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_no_verb_is_left_out() -> None:
    assert set(VERBS) - NEVER_FAIL <= {words.split()[0] for words in FAILS}


@pytest.mark.parametrize("words", [words for words in FAILS if words.split()[0] in VERBS])
def test_an_error_is_json_too(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    verb = words.split()
    code, out, err = outcome([*verb, *FAILS[words]], capsys)
    assert (code, out) == (1, "")
    again, document, same = outcome([*verb, *FAILS[words], "--json"], capsys)
    assert (again, same) == (code, err)
    error = json.loads(document)["error"]
    assert set(error) == {"type", "message", "code", "help"}
    assert error["code"] == getattr(errors, error["type"]).code
    assert err == f"error: {error['message']}\nhelp: {error['help']}\n"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"] + ["train cnn", "no-such-verb"])
def test_a_usage_error_is_json_too(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome([*verb.split(), "--no-such-option", "--json"], capsys)
    assert code == 2
    error = json.loads(out)["error"]
    assert error["type"] == "UsageError"
    assert err == f"error: {error['message']}\n"


def test_an_error_after_the_answer_adds_no_second_document(tmp_path: Path, make_recogniser, capsys: pytest.CaptureFixture[str]) -> None:
    """A check that fails has printed what it found, and is one document all the same."""
    path = make_recogniser(sharpness=3.0)
    code, out, err = outcome(["check", str(path), "--json"], capsys)
    assert code == 1
    assert json.loads(out)["passed"] is False
    assert err.startswith("error: ")
    code, out, _ = outcome(["check", "gone.onnx", "--json"], capsys)
    assert json.loads(out)["error"]["type"] == "ArtifactNotFoundError"


def test_what_is_no_option_asks_for_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(["predict", "gone.onnx", "--", "--json"], capsys)[1] == ""
