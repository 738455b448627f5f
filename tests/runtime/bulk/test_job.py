"""A folder to a file of predictions: exactly one row an input, whatever happens in between."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.bulk import job, parts
from onnxferry.runtime.bulk.job import BulkOptions, expand_inputs, predict_to_file
from onnxferry.runtime.bulk.parts import COLUMNS
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.tasks.classifier import Classifier


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "inner").mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        place = folder / "inner" if number % 2 else folder
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(place / f"{number:02d} 图.png")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def read(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    return list(parquet.read_table(path).to_pylist())


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_one_row_an_input_in_order(photos: Path, tmp_path: Path, suffix: str) -> None:
    inputs = expand_inputs([str(photos)])
    assert len(inputs) == 41
    out = tmp_path / f"results{suffix}"
    seen: list[int] = []
    result = predict_to_file(inputs, out, BulkOptions("digits", processes=1, part=16), seen.append)
    assert (result.rows, result.errors, result.reused) == (41, 1, 0)
    assert sum(seen) == 41
    rows = read(out)
    assert [row["input"] for row in rows] == inputs
    assert list(rows[0]) == [*COLUMNS[:-1], "unknown", "known", COLUMNS[-1]]
    broken = next(row for row in rows if str(row["input"]).endswith("broken.png"))
    assert "broken.png" in str(broken["error"])
    assert not broken["label"]
    assert list(tmp_path.iterdir()) == [out]


def test_several_processes_give_the_same(photos: Path, tmp_path: Path) -> None:
    inputs = expand_inputs([str(photos)])
    predict_to_file(inputs, tmp_path / "one.jsonl", BulkOptions("digits", processes=1, part=8))
    predict_to_file(inputs, tmp_path / "two.jsonl", BulkOptions("digits", processes=2, part=8))
    one, two = read(tmp_path / "one.jsonl"), read(tmp_path / "two.jsonl")
    for a, b in zip(one, two, strict=True):
        assert {**a, "probability": 0} == {**b, "probability": 0}
        assert a["probability"] == pytest.approx(b["probability"], abs=1e-5) or a["probability"] is b["probability"] is None


PROGRAM = """
import sys
from onnxferry.runtime.bulk import job
inner = job._predict_part
def slow(names, path):
    import time; time.sleep(0.2); inner(names, path)
job._predict_part = slow
job.predict_to_file(job.expand_inputs([sys.argv[1]]), sys.argv[2], job.BulkOptions("digits", processes=1, part=4))
"""


def test_a_killed_run_goes_on(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(photos), str(out)])
    parts = tmp_path / "results.jsonl.parts"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(parts.glob("0*.jsonl"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    result = predict_to_file(expand_inputs([str(photos)]), out, BulkOptions("digits", processes=1, part=4))
    assert result.reused >= 12
    assert [row["input"] for row in read(out)] == expand_inputs([str(photos)])


def test_parts_of_another_run_are_not_mixed_in(photos: Path, tmp_path: Path) -> None:
    parts = tmp_path / "r.jsonl.parts"
    parts.mkdir()
    (parts / "run.json").write_text("{}")
    with pytest.raises(InputError, match="other inputs"):
        predict_to_file(expand_inputs([str(photos)]), tmp_path / "r.jsonl", BulkOptions("digits"))


def test_patterns(photos: Path) -> None:
    assert len(expand_inputs([f"{photos}/**/*图.png"])) == 40
    assert expand_inputs([str(photos / "broken.png"), str(photos / "broken.png")]) == [str(photos / "broken.png")]
    with pytest.raises(InputError, match="matches no image"):
        expand_inputs([f"{photos}/*.gif"])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_names_that_are_no_utf8(tmp_path: Path, suffix: str) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.png"
    try:
        Image.new("L", (28, 28)).save(tmp_path / "x.png")
        os.rename(tmp_path / "x.png", name)  # noqa: PTH104
    except OSError:
        pytest.skip("this file system has no such names")
    out = tmp_path / f"r{suffix}"
    assert predict_to_file(expand_inputs([str(tmp_path)]), out, BulkOptions("digits", processes=1)).rows == 1
    if suffix == ".csv":
        assert name in out.read_bytes()
    else:
        (row,) = read(out)
        shown = {".jsonl": "\udcff.png", ".parquet": "\ufffd.png"}[suffix]
        assert str(row["input"]).endswith(shown)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_model_that_cannot_be_used_leaves_nothing(photos: Path, tmp_path: Path, processes: int, scale_model: bytes) -> None:
    inputs, options = expand_inputs([str(photos)]), BulkOptions("digits-gan", processes=processes, part=8)
    with pytest.raises(ArtifactError, match="is not a recogniser, its contract says image-generator"):
        predict_to_file(inputs, tmp_path / "r.csv", options)
    whole = find_model("digits").read_bytes()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(whole.replace(b"probabilities", b"probabilitiez"))
    with pytest.raises(ArtifactError, match="says that it is a recogniser"):
        predict_to_file(inputs, tmp_path / "r.csv", dataclasses.replace(options, model=str(broken)))
    assert list(tmp_path.iterdir()) == [broken]


def test_the_model_is_opened_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    load_as = parts.load_as
    monkeypatch.setattr(parts, "load_as", lambda *given: opened.append(given) or load_as(*given))
    predict_to_file(expand_inputs([str(photos)]), tmp_path / "r.csv", BulkOptions("digits", processes=1, threads=1))
    assert opened == [(Classifier, "digits", "auto", 1)]


def test_another_question_is_another_run(photos: Path, tmp_path: Path) -> None:
    parts = tmp_path / "r.jsonl.parts"
    inputs, options = expand_inputs([str(photos)]), BulkOptions("digits", processes=1)
    parts.mkdir()
    (parts / "run.json").write_text(json.dumps(job._identity(inputs, options)))
    with pytest.raises(InputError, match="other options"):
        predict_to_file(inputs, tmp_path / "r.jsonl", dataclasses.replace(options, top=3))


@pytest.mark.parametrize(("out", "words"), [("r.txt", "written as .jsonl"), ("gone/r.csv", "does not exist")])
def test_places_that_cannot_be(photos: Path, tmp_path: Path, out: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        predict_to_file([str(photos / "broken.png")], tmp_path / out, BulkOptions("digits"))
