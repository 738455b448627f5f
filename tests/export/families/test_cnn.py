"""A checkpoint of ours becomes a whole-task graph: any size, any contrast, proved, self-testing, and leaking nothing."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnxferry.export import export_checkpoint, verify_file
from onnxferry.export.graphs import cleanup
from onnxferry.runtime import Classifier, load
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import CheckpointError, OnnxFerryError, ParityError
from onnxferry.train.data.images import load_images
from onnxferry.train.families.cnn import CnnLearner, CnnOptions, Recogniser
from onnxferry.train.loop.checkpoint import load_checkpoint
from onnxferry.train.loop.loop import LoopConfig, fit


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    splits = load_images("digits-5k", limit=500, validation=200)
    command = "onnxferry train cnn --data /home/somebody/secret/digits"
    fit(CnnLearner(splits, CnnOptions(epochs=2, batch=20), framing="ink", width=4), LoopConfig(out=out, command=command, device="cpu"))
    return out


@pytest.fixture(scope="module")
def artifact(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "digits.onnx"
    report = export_checkpoint(run, path, command=["onnxferry", "export", str(run), "-o", str(path)])
    assert report.passed
    assert report.summary()["untraced_shapes"] >= 5
    return path


def test_the_runtime_gives_what_pytorch_gives_on_held_out_digits(run: Path, artifact: Path) -> None:
    images = load_images("digits-5k").test.images[:200]
    source = Recogniser(load_checkpoint(run).model()).eval()  # type: ignore[arg-type]
    with torch.inference_mode():
        probabilities, index, features = (t.numpy() for t in source(torch.from_numpy(images.copy())))
    with load(artifact) as model:
        assert isinstance(model, Classifier)
        outputs = model.run({"image": images})
        predictions = model.predict(list(images))
    assert np.abs(outputs["probabilities"] - probabilities).max() <= 1e-5
    assert (outputs["class_index"] == index).all()
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-4, atol=1e-4)
    assert [p.index for p in predictions] == index.tolist()
    assert [p.label for p in predictions] == [str(i) for i in index]


def test_the_answer_survives_inversion_size_colour_and_place() -> None:
    images = load_images("digits-5k").test.images[:100]
    placed = np.zeros((100, 90, 120, 1), np.uint8)
    placed[:, 50:78, 80:108] = images
    with load("digits", device="cpu") as model:
        assert isinstance(model, Classifier)
        expected = [p.index for p in model.predict(images)]
        assert [p.index for p in model.predict(255 - images)] == expected
        assert [p.index for p in model.predict(placed)] == expected
        assert [p.index for p in model.predict(images.repeat(3, axis=3))] == expected
        large = [p.index for p in model.predict(images.repeat(7, axis=1).repeat(7, axis=2))]
        # Seven-fold pixels frame to the same box but for their edges, which can turn one doubtful digit.
        assert np.mean(np.array(large) == expected) >= 0.98


def test_the_file_tests_itself_and_tells_no_paths(artifact: Path) -> None:
    with load(artifact) as model:
        assert model.contract is not None
        assert replay_goldens(model.run, model.contract).passed
        assert len(model.contract.goldens) == 2
        assert model.contract.options["framing"] == "ink"
    raw = artifact.read_bytes()
    for leak in (b"/home", b"secret/", str(artifact.parent).encode(), b"site-packages", b".py"):
        assert leak not in raw
    proto = onnx.load(artifact)
    assert {(o.domain, o.version) for o in proto.opset_import} == {("", 18)}
    assert proto.ir_version <= 10  # the newest that onnxruntime 1.20 loads


def test_labels_can_come_out_as_strings(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "labelled.onnx"
    export_checkpoint(run, path, with_labels=True)
    assert verify_file(path, run).passed
    images = load_images("digits-5k").test.images[:9]
    with load(path) as model:
        outputs = model.run({"image": images})
    assert outputs["label"].tolist() == [str(i) for i in outputs["class_index"]]


def test_no_goldens_for_private_data(run: Path, tmp_path: Path) -> None:
    export_checkpoint(run, tmp_path / "private.onnx", golden=False)
    with load(tmp_path / "private.onnx") as model:
        assert model.contract is not None
        assert model.contract.goldens == ()


def test_a_file_that_differs_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = cleanup.clean

    def spoiled(model: onnx.ModelProto, *rest: object) -> onnx.ModelProto:
        model = clean(model, *rest)  # type: ignore[arg-type]
        for tensor in model.graph.initializer:
            if list(tensor.dims) == [10]:  # the head's bias
                array = onnx.numpy_helper.to_array(tensor).copy()
                array[3] += 0.01
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        return model

    monkeypatch.setattr(cleanup, "clean", spoiled)
    older = tmp_path / "digits.onnx"
    older.write_bytes(b"older")
    with pytest.raises(ParityError, match="probabilities") as caught:
        export_checkpoint(run, older)
    assert not caught.value.report.passed  # type: ignore[attr-defined]
    assert older.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["digits.onnx"]


def test_a_full_disk_leaves_nothing_and_loses_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = tmp_path / "digits.onnx"
    older.write_bytes(b"older")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OnnxFerryError, match="space"):
        export_checkpoint(run, older)
    assert older.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["digits.onnx"]


def test_checkpoints_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        export_checkpoint(tmp_path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
