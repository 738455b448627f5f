"""Files of other tools become artifacts: contract, golden samples, names, preprocessing; their metadata is read, never evaluated."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import ULTRALYTICS, detector, node, photo_classifier, save, sentence_model, value

from onnxferry.export import ParityError, export_model, wrap_file
from onnxferry.export.sources.foreign.literals import parsed_literal
from onnxferry.export.sources.foreign.metadata import read_metadata
from onnxferry.export.sources.foreign.other_runtime import OtherRuntime
from onnxferry.runtime import Engine, load
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import ArtifactError, ExportError, InputError


def shapes(path: Path) -> dict[str, tuple[int | str | None, ...]]:
    with Engine(path, device="cpu") as engine:
        return {spec.name: tuple(spec.shape) for spec in (*engine.inputs, *engine.outputs)}


def test_nameless_axes_get_names_and_the_file_a_contract(tmp_path: Path) -> None:
    file = photo_classifier(tmp_path / "theirs.onnx", [None, 3, None, None])
    report = wrap_file(file, tmp_path / "ours.onnx", license="MIT")
    assert report.passed
    assert shapes(tmp_path / "ours.onnx") == {"images": ("batch", 3, "height", "width"), "output0": ("batch", 3)}
    with Engine(tmp_path / "ours.onnx", device="cpu") as engine:
        assert engine.contract is not None
        assert (engine.contract.license, len(engine.contract.goldens)) == ("MIT", 2)
        replay_goldens(engine.run, engine.contract).raise_if_failed("ours")
    assert any("'images' had no names: 0: 'batch', 2: 'height', 3: 'width'" in note for note in report.notes)


def test_axes_that_must_be_equal_get_one_name(tmp_path: Path) -> None:
    wrap_file(sentence_model(tmp_path / "theirs.onnx"), tmp_path / "ours.onnx")
    assert shapes(tmp_path / "ours.onnx") == {"ids": ("batch", "time"), "mask": ("batch", "time"), "z": ("batch", 8)}


def test_axes_that_need_not_be_equal_keep_two_names(tmp_path: Path) -> None:
    """The sum of the one plus the sum of the other: only a batch is shared, if any."""
    nodes = [node("ReduceSum", ["a"], ["s"], keepdims=0), node("ReduceSum", ["b"], ["t"], keepdims=0), node("Add", ["s", "t"], ["y"])]
    file = save(tmp_path / "theirs.onnx", nodes, [value("a", [None, None]), value("b", [None, None])], [value("y", [])])
    wrap_file(file, tmp_path / "ours.onnx")
    found = shapes(tmp_path / "ours.onnx")
    assert found["a"][1] != found["b"][1]


def test_the_user_names_axes(tmp_path: Path) -> None:
    file = photo_classifier(tmp_path / "theirs.onnx", [None, 3, None, None])
    wrap_file(file, tmp_path / "ours.onnx", dynamic_shapes={"images": {0: "photos", 2: "rows", 3: "columns"}})
    assert shapes(tmp_path / "ours.onnx")["images"] == ("photos", 3, "rows", "columns")


def test_labels_and_preprocessing_make_a_recogniser(tmp_path: Path) -> None:
    file = photo_classifier(tmp_path / "theirs.onnx", [None, 3, 32, 32])
    wrap_file(file, tmp_path / "ours.onnx", labels=["a", "b", "c"], image={"scale": 1 / 255})
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with load(tmp_path / "ours.onnx", device="cpu") as model, Engine(file, device="cpu") as theirs:
        found = model.predict_one(photo)  # type: ignore[attr-defined]
        wanted = theirs.run({"images": (photo / np.float32(255)).transpose(2, 0, 1)[None]})["output0"][0]
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-6)
    assert found.label == "abc"[int(wanted.argmax())]


def test_ultralytics_classifier(tmp_path: Path) -> None:
    file = photo_classifier(tmp_path / "yolo-cls.onnx", [1, 3, 32, 32], metadata=ULTRALYTICS)
    wrap_file(file, tmp_path / "ours.onnx", preprocess=True)
    with load(tmp_path / "ours.onnx", device="cpu") as model:
        contract = model.contract
        assert contract is not None
        assert contract.labels == ("tench", "gold'fish", "shark")
        assert contract.license == "AGPL-3.0 License (https://ultralytics.com/license)"
        assert contract.author == "Ultralytics"
        assert model.predict_one(np.zeros((50, 70, 3), np.uint8)).label in contract.labels  # type: ignore[attr-defined]


def test_ultralytics_detector_in_a_frame(tmp_path: Path) -> None:
    """Its LetterBox: the whole image in a frame of grey 114, divided by 255."""
    file = detector(tmp_path / "yolo.onnx")
    wrap_file(file, tmp_path / "ours.onnx", preprocess=True)
    image = np.full((1, 64, 64, 3), 200, np.uint8)  # as high as the frame of 64 x 96: 16 columns of frame on either side
    framed = np.full((1, 3, 64, 96), 114 / 255, np.float32)
    framed[..., 16:80] = 200 / 255
    with Engine(tmp_path / "ours.onnx", device="cpu") as ours, Engine(file, device="cpu") as theirs:
        np.testing.assert_allclose(ours.run({"image": image})["output0"], theirs.run({"images": framed})["output0"], atol=1e-5)
        assert ours.contract is not None
        assert ours.contract.labels == ("person", "dog")
        assert ours.contract.options["ultralytics"] == {"task": "detect", "stride": 32}


def test_metadata_is_never_evaluated(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    said = ULTRALYTICS | {"names": f"{{0: open({str(trap)!r}, 'w').write('x')}}", "imgsz": "[" * 5000, "stride": "2**99999999"}
    file = save(tmp_path / "t.onnx", [node("Relu", ["x"], ["y"])], [value("x", [None, 4])], [value("y", [None, 4])], metadata=said)
    report = wrap_file(file, tmp_path / "ours.onnx")
    assert not trap.exists()
    left_out = [note for note in report.notes if "is left out" in note]
    assert len(left_out) == 3
    assert all(repr(key) in note for key, note in zip(("names", "imgsz", "stride"), left_out, strict=True))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{0: 'cat', 1: \"dog's\"}", {0: "cat", 1: "dog's"}),
        ('{"0": "caf\\u00e9"}', {"0": "café"}),
        ("[640, 640]", [640, 640]),
        ("(1, 2.5, -3e2, True, None,)", [1, 2.5, -300.0, True, None]),
        ("{}", {}),
    ],
)
def test_literals(text: str, wanted: object) -> None:
    assert parsed_literal(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "abc", "1 + 1", "[1", "{1 2}", "[1 2]", "__import__('os')", "'a' 'b'", "{[1]: 2}", "[" * 9 + "]" * 9, "'\\ud800'", "[,]"]
)
def test_what_is_no_literal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parsed_literal(text)


@pytest.mark.parametrize("names", ["{0: 'a', 2: 'b'}", "{0: 'a', 1: 'a'}", "{'x': 'a'}", "[]", "{0: 1}", "5"])
def test_names_that_are_no_classes_are_left_out(names: str) -> None:
    found = read_metadata({"names": names})
    assert found.labels == ()
    assert len(found.problems) == 1


def test_another_runtime_is_the_reference(tmp_path: Path) -> None:
    """This environment's own, as a child process: the way there and back."""
    file = sentence_model(tmp_path / "theirs.onnx")
    with OtherRuntime(sys.executable, file) as other:
        feeds = {"ids": np.array([[3, 4]]), "mask": np.array([[1, 0]])}
        with Engine(file, device="cpu") as engine:
            np.testing.assert_array_equal(other.run(feeds)["z"], engine.run(feeds)["z"])
        with pytest.raises(ExportError, match="fails in a run"):
            other.run({"ids": np.array([[99]]), "mask": np.array([[1]])})
    wrap_file(file, tmp_path / "ours.onnx", python=sys.executable)
    with Engine(tmp_path / "ours.onnx", device="cpu") as engine:
        assert engine.contract is not None
        assert engine.contract.provenance["reference"] == f"ONNX Runtime {other.version}"


def python_that(tmp_path: Path, change: str) -> Path:
    """An interpreter whose ONNX Runtime is another one: ``change`` edits the program that it is given."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport sys\nprogram, sys.argv = sys.argv[3], ['-c', *sys.argv[4:]]\n{change}\nexec(program)\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no program there")
def test_a_reference_that_differs_is_refused(tmp_path: Path) -> None:
    file = sentence_model(tmp_path / "theirs.onnx")
    other = python_that(tmp_path, "program = program.replace('session.run(None, feeds)', '[x + 0.01 for x in session.run(None, feeds)]')")
    with pytest.raises(ParityError):
        wrap_file(file, tmp_path / "ours.onnx", python=other)
    assert not (tmp_path / "ours.onnx").exists()


def test_a_python_without_onnxruntime(tmp_path: Path) -> None:
    file = sentence_model(tmp_path / "theirs.onnx")
    with pytest.raises(InputError, match="there is no program"):
        wrap_file(file, tmp_path / "ours.onnx", python=tmp_path / "nowhere")
    if sys.platform != "win32":
        with pytest.raises(InputError, match="-m pip install onnxruntime"):
            wrap_file(
                file, tmp_path / "ours.onnx", python=python_that(tmp_path, "program = program.replace('onnxruntime', 'onnxruntime_x')")
            )


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_the_model_itself_is_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("Add", ["x", "x"], ["result"])]
    file = save(tmp_path / "theirs.onnx", nodes, [value("x", [None, 4])], [value("result", [None, 4])])
    wrap_file(file, tmp_path / "ours.onnx", against=Doubled())
    with Engine(tmp_path / "ours.onnx", device="cpu") as engine:
        assert engine.contract is not None
        assert engine.contract.provenance["framework"] == "pytorch"
    wrong = save(tmp_path / "wrong.onnx", [node("Mul", ["x", "x"], ["result"])], [value("x", [None, 4])], [value("result", [None, 4])])
    with pytest.raises(ParityError):
        wrap_file(wrong, tmp_path / "not.onnx", against=Doubled())
    assert not (tmp_path / "not.onnx").exists()


def test_an_artifact_keeps_its_contract(tmp_path: Path) -> None:
    export_model(Doubled(), torch.ones(2, 4), tmp_path / "a.onnx", dynamic_shapes={"x": {0: "rows"}}, description="twice", license="MIT")
    wrap_file(tmp_path / "a.onnx", tmp_path / "b.onnx")
    with Engine(tmp_path / "b.onnx", device="cpu") as engine:
        assert engine.contract is not None
        assert (engine.contract.description, engine.contract.license, engine.inputs[0].shape[0]) == ("twice", "MIT", "rows")


def test_bad_input(tmp_path: Path) -> None:
    file = photo_classifier(tmp_path / "theirs.onnx", [None, 3, 32, 32])
    out = tmp_path / "ours.onnx"
    with pytest.raises(InputError, match="no imgsz in its metadata"):
        wrap_file(file, out, preprocess=True)
    with pytest.raises(InputError, match="no output of the model has 2 numbers a row"):
        wrap_file(file, out, labels=["a", "b"])
    with pytest.raises(InputError, match="over its own source"):
        wrap_file(file, file)
    with pytest.raises(InputError, match="one reference"):
        wrap_file(file, out, python=sys.executable, against=Doubled())
    with pytest.raises(InputError, match="weights belong to the model"):
        wrap_file(file, out, weights="w.safetensors")
    with pytest.raises(InputError, match=r"is no \.onnx file"):
        wrap_file(tmp_path / "model.pt", out)
    (tmp_path / "torn.onnx").write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtifactError):
        wrap_file(tmp_path / "torn.onnx", out)
    assert not out.exists()
