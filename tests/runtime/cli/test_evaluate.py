from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime.artifact.metadata import contract_from_metadata
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.images.folders import folder_sha256
from onnxferry.runtime.images.idx import idx_header, idx_sha256
from onnxferry.runtime.onnx_file.reader import read_model
from onnxferry.runtime.tasks.loading import load

LEVELS = {"black": 20, "dark": 100, "light": 150, "white": 240}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three images a label, and one that is black and lies under light."""
    folder = tmp_path / "labelled"
    for label, value in LEVELS.items():
        (folder / label).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (4 + i, 4), value).save(folder / label / f"{i}.png")
    Image.new("L", (4, 4), 0).save(folder / "light" / "wrong.png")
    return folder


def test_figures_as_json(recogniser: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(recogniser), "--data", str(labelled), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["images"], document["correct"], document["accuracy"]) == (13, 12, pytest.approx(12 / 13))
    assert document["interval95"] == [pytest.approx(0.6669, abs=1e-4), pytest.approx(0.9863, abs=1e-4)]
    assert document["labels"] == list(LEVELS)
    assert document["confusion"] == [[3, 0, 0, 0], [0, 3, 0, 0], [1, 0, 3, 0], [0, 0, 0, 3]]
    assert document["classes"][2] == {
        "label": "light",
        "images": 4,
        "correct": 3,
        "recall": 0.75,
        "precision": 1.0,
        "f1": pytest.approx(6 / 7),
    }
    assert len(document["bins"]) == 15
    assert sum(each["images"] for each in document["bins"]) == 13
    gaps = [
        each["images"] / 13 * abs(each["correct"] / each["images"] - each["mean_probability"])
        for each in document["bins"]
        if each["images"]
    ]
    assert document["calibration_error"] == pytest.approx(sum(gaps))
    assert document["errors"] == []
    assert document["plot"] is None


def test_tables_and_the_image(recogniser: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(recogniser), "--data", str(labelled), "--plot", str(tmp_path / "confusion.png")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "92.31%  (12 of 13)" in out
    assert "66.69% to 98.63%" in out
    assert "light taken for black (1)" in out
    assert max(map(len, out.splitlines()[:20])) <= 80
    with Image.open(tmp_path / "confusion.png") as image:
        image.load()
        assert image.format == "PNG"


def test_a_text_generator_on_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "held-out.txt"
    text.write_text("To be, or not to be: that is the question.\n")
    with load("shakespeare", device="cpu") as generator:
        nats = generator.score(text.read_bytes())
    assert main(["evaluate", "shakespeare", "--data", str(text), "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nats_per_byte"] == pytest.approx(nats)
    assert (found["data"], found["bytes"]) == ("held-out.txt", 43)
    assert found["bits_per_byte"] == pytest.approx(nats / np.log(2))
    assert found["perplexity"] == pytest.approx(np.exp(nats))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes())))
    assert main(["evaluate", "shakespeare", "--data", "-", "--device", "cpu"]) == 0
    assert f"{nats:.4f} nats a byte" in capsys.readouterr().out
    text.write_bytes(b"")
    for arguments, words in (([str(text)], "is empty"), ([str(tmp_path)], "is a folder"), (["gone.txt"], "there is no file gone.txt")):
        assert main(["evaluate", "shakespeare", "--data", *arguments]) == 1
        assert words in capsys.readouterr().err
    assert main(["evaluate", "shakespeare", "--data", str(text), "--target", "x"]) == 1
    assert "--target does not apply to a text generator" in capsys.readouterr().err


def test_idx_files_and_their_split(recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, values, labels in [("t10k", (20, 240), (0, 3)), ("train", (20, 240, 240), (0, 3, 0))]:
        images = np.stack([np.full((3, 5), value, np.uint8) for value in values])
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", *images.shape) + images.tobytes())
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", len(labels)) + bytes(labels))
    figures = {}
    for split in ("test", "train"):
        assert main(["evaluate", str(recogniser), "--data", str(tmp_path), "--split", split, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        figures[split] = (document["images"], document["correct"])
    assert figures == {"test": (2, 2), "train": (3, 2)}


@pytest.mark.parametrize("of", ["idx", "folder", "another"])
def test_images_that_the_model_was_trained_on(
    make_recogniser: Callable[..., Path], labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], of: str
) -> None:
    """By the hash that training writes into the file: see tests/train/data/test_images.py."""
    idx = [np.full((3, 4, 4), 20, np.uint8), np.zeros(3, np.uint8), np.full((2, 4, 4), 240, np.uint8), np.full(2, 3, np.uint8)]
    for stem, array in zip(("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"), idx, strict=True):
        (tmp_path / f"{stem}-ubyte").write_bytes(idx_header(array) + array.tobytes())
    pile = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in labelled.glob("*/*")}
    sha256 = {"idx": idx_sha256(idx), "folder": folder_sha256(labelled, pile), "another": "0" * 64}[of]
    contract = contract_from_metadata(read_model(make_recogniser()).metadata)
    assert contract is not None
    model = str(make_recogniser(replace(contract, provenance={"data": {"name": "any", "sha256": sha256}})))
    seen = {}
    for name, arguments in (("folder", [str(labelled)]), ("idx", [str(tmp_path), "--split", "train"]), ("test", [str(tmp_path)])):
        assert main(["evaluate", model, "--json", "--data", *arguments]) == 0
        seen[name] = json.loads(capsys.readouterr().out)["trained_on"]
        assert main(["evaluate", model, "--data", *arguments]) == 0
        assert ("was trained on these images" in capsys.readouterr().out) is seen[name]
    assert seen == {"folder": of == "folder", "idx": of == "idx", "test": False}


def test_a_name_of_a_data_set_is_no_folder(recogniser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(recogniser), "--data", "mnist"]) == 1
    err = capsys.readouterr().err
    assert "no such folder: mnist; give a folder, not a data set's name" in err
    assert main(["evaluate", str(recogniser), "--data", "some/where"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: no such folder: some/where"


def test_unreadable_images_are_named_and_not_counted(recogniser: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (labelled / "dark" / "broken.png").write_bytes(b"nothing")
    assert main(["evaluate", str(recogniser), "--data", str(labelled)]) == 1
    out, err = capsys.readouterr()
    assert "(12 of 13)" in out
    assert f"error: {labelled / 'dark' / 'broken.png'}: not an image" in err
    assert "1 of 14 images cannot be read" in err


def test_nothing_readable(recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d" / "black").mkdir(parents=True)
    (tmp_path / "d" / "black" / "x.png").touch()
    assert main(["evaluate", str(recogniser), "--data", str(tmp_path / "d"), "--plot", str(tmp_path / "c.png")]) == 1
    assert "none of the 1 images" in capsys.readouterr().err
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (["cat/1.png"], "sub-folders must be named by the model's labels, 'black', 'dark', 'light', 'white'; it does not know 'cat'"),
        (["1.png"], "expected one sub-folder of images for each label"),
        (["black/notes.txt"], "no image lies in this folder"),
    ],
)
def test_data_that_does_not_fit(
    recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folders: list[str], says: str
) -> None:
    for name in folders:
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        (tmp_path / "d" / name).touch()
    assert main(["evaluate", str(recogniser), "--data", str(tmp_path / "d")]) == 1
    err = capsys.readouterr().err
    assert says in err
    assert [line.partition(" ")[0] for line in err.splitlines()] == ["error:", "help:"]


def test_a_foreign_model(doubler: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(doubler), "--data", str(tmp_path)]) == 1
    assert "is not a recogniser" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_image(
    recogniser: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self, stream, *args: object, **options: object) -> None:
        raise OSError(28, "No space left on device", str(stream))

    monkeypatch.setattr(Image.Image, "save", full)
    assert main(["evaluate", str(recogniser), "--data", str(labelled), "--plot", str(tmp_path / "c.png")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if "c.png" in path.name] == []


def test_memory_does_not_grow_with_the_number_of_images(recogniser: Path, tmp_path: Path) -> None:
    (tmp_path / "d" / "dark").mkdir(parents=True)
    for i in range(25):
        Image.new("L", (1000, 1000), 100).save(tmp_path / "d" / "dark" / f"{i}.png")
    # A process of its own: in this one, threads that other tests left behind count too.
    program = """
import sys, tracemalloc
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.images import batches
batches._HELD_BYTES = 2_000_000
command = ["evaluate", sys.argv[1], "--data", sys.argv[2], "--json"]
assert main(command) == 0  # imports
tracemalloc.start()
assert main(command) == 0
sys.exit(f"peak {tracemalloc.get_traced_memory()[1]}")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(recogniser), str(tmp_path / "d")], capture_output=True, text=True, timeout=120, check=False
    )
    word, peak = done.stderr.rsplit("\n", 2)[-2].split()
    assert word == "peak"
    assert int(peak) < 12_000_000  # half of what the images take together


def test_the_older_name_of_plot_works_and_is_not_shown(
    recogniser: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chart = tmp_path / "confusion.png"
    assert main(["evaluate", str(recogniser), "--data", str(labelled), "--picture", str(chart), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plot"] == str(chart)
    assert chart.is_file()
    main(["evaluate", "--help"])
    assert "--picture" not in capsys.readouterr().out


def test_the_plot_s_place_is_looked_at_first(recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "no" / "c.png"
    assert main(["evaluate", str(recogniser), "--data", str(tmp_path / "absent"), "--plot", str(place)]) == 1
    assert f"{place} cannot be written: the folder" in capsys.readouterr().err
