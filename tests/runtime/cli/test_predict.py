from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime.bulk.job import expand_inputs
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.cli.tasks.image_arguments import image_names, shown_names
from onnxferry.runtime.machine import nvidia

ROOT = Path(__file__).parents[3]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with a black, a white and an in-between image, of different sizes, and some text."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, value, size in [("black", 20, (4, 3)), ("between", 128, (9, 9)), ("white", 240, (4, 3))]:
        Image.new("L", size, value).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_table(recogniser: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    assert main(["predict", str(recogniser), "white.png", "black.png"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split() for line in out.splitlines() if "%" in line] == [
        ["white.png", "white", "100.00%"],
        ["black.png", "black", "100.00%"],
    ]
    assert "Next:" in out


def test_to_a_file_with_what_was_asked_for(recogniser: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    command = ["predict", str(recogniser), str(images), "--out", str(out), "--top", "2", "--threshold", "0.9", "--processes", "1"]
    assert main([*command, "--threads", "1"]) == 0
    between, black, _ = map(json.loads, out.read_text().splitlines())
    assert list(black) == ["input", "label", "index", "probability", "sure", "top", "error"]
    assert (between["sure"], black["sure"]) == (False, True)
    assert black["top"][0]["label"] == "black"
    assert len(black["top"]) == 2
    capsys.readouterr()
    assert main(["predict", str(recogniser), str(images / "black.png"), "--processes", "2"]) == 1
    assert "--processes goes with --out" in capsys.readouterr().err
    assert main(["predict", str(recogniser), "", "--out", str(out)]) == 1
    assert "an image's name is empty" in capsys.readouterr().err


def test_a_pattern_goes_into_folders_as_it_does_for_a_file(recogniser: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "deep" / "er").mkdir(parents=True)
    (images / "black.png").rename(images / "deep" / "er" / "black.png")
    assert len(image_names([f"{images}/**/*.png"])) == 3
    assert image_names([f"{images}/**/*.png"]) == sorted(expand_inputs([f"{images}/**/*.png"]))
    assert image_names([f"{images}/*"]) == sorted(str(images / name) for name in ("between.png", "white.png", "notes.txt"))


def test_names_in_a_table_fit_a_terminal() -> None:
    names = [f"photos/{kind}/IMG_{number:04d}_of_a_summer.jpg" for kind in ("a", "b") for number in (1, 2)]
    assert shown_names(names, None) == ("photos", [name.removeprefix("photos/") for name in names])
    folder, shown = shown_names(names, 20)
    assert folder == "photos"
    assert shown[0] == "a/IMG_…_a_summer.jpg"
    assert [len(name) for name in shown] == [20] * 4
    assert shown_names(["球鞋" * 20], 20)[1] == ["球鞋球…鞋球鞋球鞋球"[:3] + "…" + "球鞋球鞋球鞋"]
    assert shown_names(["one.png"], 20) == ("", ["one.png"])
    assert shown_names(["/a/x.png", "y.png"], 20) == ("", ["/a/x.png", "y.png"])
    assert shown_names(["\x1b[2J.png"], 20) == ("", ["\\x1b[2J.png"])


def test_a_folder_as_json(recogniser: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(recogniser), str(images), "--json", "--top", "2", "--threshold", "0.9", "--device", "cpu"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {key: document[key] for key in ("model", "device", "threshold", "errors")} == {
        "model": str(recogniser),
        "device": "cpu",
        "threshold": 0.9,
        "errors": [],
    }
    between, black, white = document["predictions"]
    assert [Path(p["image"]).name for p in document["predictions"]] == ["between.png", "black.png", "white.png"]
    assert (black["label"], black["index"], black["sure"]) == ("black", 0, True)
    assert (white["label"], white["index"], white["sure"]) == ("white", 3, True)
    assert between["sure"] is False
    assert 0.4 < between["probability"] < 0.9
    for prediction in document["predictions"]:
        assert [set(each) for each in prediction["top"]] == [{"label", "index", "probability"}] * 2
        assert prediction["top"][0]["label"] == prediction["label"]
        assert prediction["top"][0]["probability"] == prediction["probability"] >= prediction["top"][1]["probability"]


def test_below_the_threshold_it_is_not_sure(recogniser: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(recogniser), str(images / "between.png"), "--threshold", "0.9", "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert "not sure" in out
    assert main(["predict", str(recogniser), str(images / "between.png"), "--threshold", "0.3"]) == 0
    assert "not sure" not in capsys.readouterr().out


def test_more_classes_than_there_are(recogniser: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(recogniser), str(images / "black.png"), "--top", "99", "--json"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert [each["label"] for each in prediction["top"]] == ["black", "dark", "light", "white"]


def test_a_image_on_stdin(recogniser: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (5, 5), "white").save(stream, "PNG")
    process = subprocess.run(
        [sys.executable, "-m", "onnxferry.runtime", "predict", str(recogniser), "-", "--json"],
        input=stream.getvalue(),
        capture_output=True,
        timeout=120,
        check=True,
    )
    (prediction,) = json.loads(process.stdout)["predictions"]
    assert (prediction["image"], prediction["label"]) == ("-", "white")
    assert main(["predict", str(recogniser), "-", "-"]) == 1
    assert "give - once" in capsys.readouterr().err


def test_one_unreadable_image_among_many(recogniser: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (images / "white.png").read_bytes()
    (images / "cut.png").write_bytes(whole[:50])
    absent = str(images / "absent.png")
    assert main(["predict", str(recogniser), str(images), absent]) == 1
    out, err = capsys.readouterr()
    assert [name in out for name in ("between.png", "black.png", "white.png", "cut.png")] == [True, True, True, False]
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"error: {images / 'cut.png'}: ")
    assert lines[1] == f"error: no such image: {absent}"

    assert main(["predict", str(recogniser), str(images), absent, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert len(document["predictions"]) == 3
    assert [error["image"] for error in document["errors"]] == [str(images / "cut.png"), absent]


def test_nothing_but_unreadable_images(recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(recogniser), str(tmp_path / "absent.png")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == f"error: no such image: {tmp_path / 'absent.png'}"


def test_an_empty_folder(recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(recogniser), str(tmp_path / "empty")]) == 1
    assert "no image lies in this folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"PK\x03\x04 a checkpoint"])
def test_a_model_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert main(["predict", str(tmp_path / "m.onnx"), "x.png"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert [line.partition(" ")[0] for line in err.splitlines()] == ["error:", "help:"]
    assert "m.onnx" in err


def test_a_truncated_model(recogniser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = recogniser.read_bytes()
    for length in (1, 20, len(content) // 2, len(content) - 1):
        recogniser.write_bytes(content[:length])
        assert main(["predict", str(recogniser), "x.png"]) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert [line.partition(" ")[0] for line in err.splitlines()] == ["error:", "help:"]


def test_a_foreign_model(doubler: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(doubler), "x.png"]) == 1
    err = capsys.readouterr().err
    assert "is not a recogniser, it carries no onnxferry contract" in err
    assert f"onnxferry inspect {doubler}" in err


def test_a_device_that_is_not_there(recogniser: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(nvidia, "cuda_devices", lambda: 0)
    assert main(["predict", str(recogniser), "x.png", "--device", "cuda"]) == 1
    assert capsys.readouterr().err.startswith("error: device='cuda' cannot be used here: ")


def test_names_that_would_drive_a_terminal(recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "[red]\x1b[2Jevil.png"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    assert main(["predict", str(recogniser), str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[red]" in out.replace("\n", "")


def test_patterns_that_the_shell_left(images: Path) -> None:
    assert [Path(name).name for name in image_names([str(images / "b*.png")])] == ["between.png", "black.png"]
    assert image_names([str(images / "z*.png")]) == [str(images / "z*.png")]
    odd = images / "[1].png"
    odd.touch()
    assert image_names([str(odd)]) == [str(odd)]


def test_an_empty_name_is_no_folder(
    recogniser: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    assert main(["predict", str(recogniser), ""]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "an image's name is empty; is a variable of the command line not set?" in err
    assert main(["predict", "", "white.png"]) == 1
    assert "the model's name is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("n" * 300 + ".png", "File name too long"),
        ("data:image/png;base64," + "A" * 120_000, "is a data URI, expected a path or bytes"),
        ("https://example.com/a.png", "https://example.com/a.png: is a URL, and nothing is fetched; download it first"),
        ("a\0b.png", "no such image"),
    ],
    ids=["long", "data", "url", "nul"],
)
def test_a_name_that_no_file_can_have_leaves_the_others(
    recogniser: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(images)
    assert main(["predict", str(recogniser), name, "white.png"]) == 1
    out, err = capsys.readouterr()
    assert "100.00%" in out
    assert words in err
    assert len(err) < 400


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line in a shell, where ``onnxferry`` is this one's."""
    line = line.replace("onnxferry", f"{shlex.quote(sys.executable)} -m onnxferry.runtime")
    return subprocess.run(["sh", "-c", line], cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are closed by sh")
def test_closed_streams_and_terminals_of_no_width(recogniser: Path, images: Path) -> None:
    model = shlex.quote(str(recogniser))
    silent = shell(f"onnxferry predict {model} white.png >&-", images)
    assert (silent.returncode, silent.stderr) == (0, "")
    closed = shell(f"onnxferry predict {model} - <&-", images)
    assert (closed.returncode, closed.stderr) == (
        1,
        "error: stdin is closed, so an image cannot be read from it (-); give it as an argument\n"
        "help: docs/en/reference/errors.md#of-input\n",
    )
    assert shell(f"onnxferry predict {model} missing.png 2>&-", images).returncode == 1
    narrow = shell(f"onnxferry predict {model} white.png missing.png", images, COLUMNS="0")
    assert "white.png" in narrow.stdout
    assert "no such image: missing.png" in narrow.stderr


def test_a_photograph_in_a_shadow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it is it is misread: a shadow is the strongest figure of the image."""
    with np.load(ROOT / "runtime" / "zoo" / "digits" / "examples.npz") as arrays:
        digit = arrays["images"][arrays["labels"] == 7][0][..., 0]
    ink = np.asarray(Image.fromarray(digit).resize((120, 120), Image.Resampling.BICUBIC)).astype(float) / 255
    paper = np.full((200, 260), 230.0)
    paper[40:160, 70:190] -= 170 * ink
    paper *= 1 - 0.4 * np.linspace(0, 1, 260)
    Image.fromarray(paper.round().astype(np.uint8)).save(tmp_path / "photo.png")
    labels = []
    for extra in ([], ["--photo"]):
        assert main(["predict", "digits", str(tmp_path / "photo.png"), "--json", *extra]) == 0
        labels.append(json.loads(capsys.readouterr().out)["predictions"][0]["label"])
    assert labels[0] != "7"
    assert labels[1] == "7"


def test_photo_does_not_go_with_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "digits", str(tmp_path), "--photo", "--out", str(tmp_path / "x.csv")]) == 1
    assert "--photo" in capsys.readouterr().err
