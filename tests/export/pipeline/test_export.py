"""Export of a model into an artifact: what it writes, what it proves, and that it leaves nothing where it refuses."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnxferry.export import ExportError, ParityError, export_model, export_module
from onnxferry.export.graphs.writer import write_artifact
from onnxferry.export.pipeline.provenance import shortened
from onnxferry.runtime.artifact.contract import Contract, Tolerance
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import InputError

AXES = {"image": {0: "batch", 1: "height", 2: "width"}}


class Recogniser(torch.nn.Module):
    """uint8 images of any size, NHWC, to probabilities, class and features."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.normalise = torch.nn.BatchNorm2d(4)
        self.classify = torch.nn.Linear(4, 5)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = image.permute(0, 3, 1, 2).float() / 255
        features = torch.relu(self.normalise(self.convolution(x))).mean((2, 3))
        probabilities = self.classify(features).softmax(-1)
        return probabilities, probabilities.argmax(-1), features


@pytest.fixture
def recogniser() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser()


def example() -> dict[str, torch.Tensor]:
    return {"image": torch.randint(0, 256, (2, 8, 9, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))}


def export(module: torch.nn.Module, path: Path, **options: object):
    image = np.random.default_rng(3).integers(0, 256, (3, 5, 6, 1), dtype=np.uint8)
    return export_module(
        module,
        example(),
        path,
        dynamic_shapes=AXES,
        output_names=["probabilities", "class_index", "features"],
        contract=Contract("recogniser", "tiny", labels=tuple("abcde"), options={"channels": 1}),
        samples=[{"image": np.zeros((1, 28, 28, 1), np.uint8)}],
        golden=[{"image": image}],
        tolerances={"probabilities": Tolerance(0.0, 1e-5)},
        decisions={"class_index"},
        command=["onnxferry", "export", str(path.parent / "run"), f"--out={path}"],
        **options,
    )


def test_a_recogniser_of_any_size_goes_across_with_its_contract(recogniser: Recogniser, tmp_path: Path) -> None:
    report = export(recogniser, tmp_path / "tiny.onnx")
    assert report.passed
    assert sum(not case.traced for case in report.compared) >= 8
    assert report.outputs["probabilities"].max_abs <= 1e-5
    assert report.outputs["class_index"].decisions > 0
    assert report.outputs["class_index"].decisions_changed == 0
    with Engine(tmp_path / "tiny.onnx", device="cpu") as engine:
        assert [(s.name, s.dtype, s.shape) for s in engine.inputs] == [("image", "uint8", ("batch", "height", "width", 1))]
        assert [(s.name, s.dtype, s.shape) for s in engine.outputs] == [
            ("probabilities", "float32", ("batch", 5)),
            ("class_index", "int64", ("batch",)),
            ("features", "float32", ("batch", 4)),
        ]
        contract = engine.contract
        assert contract is not None
        image = np.random.default_rng(9).integers(0, 256, (4, 31, 17, 1), dtype=np.uint8)
        actual = engine.run({"image": image})
    recogniser.eval()
    with torch.inference_mode():
        expected = recogniser(torch.from_numpy(image))
    np.testing.assert_allclose(actual["probabilities"], expected[0].numpy(), atol=1e-6)
    np.testing.assert_array_equal(actual["class_index"], expected[1].numpy())
    assert contract.kind == "recogniser"
    assert contract.labels == tuple("abcde")
    assert contract.parity["passed"] is True
    assert contract.parity["outputs"]["probabilities"]["decisions_changed"] == 0
    assert contract.tolerances["probabilities"] == Tolerance(0.0, 1e-5)
    assert contract.tolerances["class_index"] == Tolerance(0.0, 0.0)
    assert contract.provenance["framework"] == "pytorch"
    assert contract.provenance["versions"]["torch"] == torch.__version__
    assert contract.provenance["command"] == "onnxferry export run --out=tiny.onnx"
    assert len(contract.provenance["weights_sha256"]) == 64
    (golden,) = contract.goldens
    assert golden.inputs["image"].shape == (3, 5, 6, 1)
    with torch.inference_mode():
        np.testing.assert_array_equal(golden.outputs["features"], recogniser(torch.from_numpy(golden.inputs["image"]))[2].numpy())


def test_equal_inputs_give_equal_bytes_and_no_local_path(recogniser: Recogniser, tmp_path: Path) -> None:
    export(recogniser, tmp_path / "tiny.onnx")
    first = (tmp_path / "tiny.onnx").read_bytes()
    export(recogniser, tmp_path / "tiny.onnx")
    assert (tmp_path / "tiny.onnx").read_bytes() == first
    for place in (str(tmp_path), str(Path(__file__).parent), str(Path(torch.__file__).parent), tempfile.gettempdir() + "/"):
        assert place.encode() not in first
    model = onnx.load(tmp_path / "tiny.onnx")
    assert model.ir_version == 9
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert all(not node.metadata_props and not node.doc_string for node in model.graph.node)
    assert not model.graph.value_info
    assert {"convolution.weight", "classify.bias"} <= {tensor.name for tensor in model.graph.initializer}


def test_a_tolerance_stands_in_the_contract_for_floats_alone(recogniser: Recogniser, tmp_path: Path) -> None:
    export_model(
        recogniser,
        example(),
        tmp_path / "tiny.onnx",
        dynamic_shapes=AXES,
        output_names=("probabilities", "class_index", "features"),
        rtol=0.25,
    )
    with Engine(tmp_path / "tiny.onnx", device="cpu") as engine:
        assert engine.contract is not None
        held = engine.contract.tolerances
    assert held["class_index"] == Tolerance(0.0, 0.0)
    assert held["features"].rtol == 0.25
    assert 0 < held["features"].atol < 0.01  # the dtype's own


def test_a_golden_sample_whose_answer_is_not_a_number_is_refused(tmp_path: Path) -> None:
    class Root(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, torch.sqrt(x)])

    golden = [{"x": np.array([4.0, -1.0], np.float32)}]
    with pytest.raises(InputError, match="golden sample 0 cannot be stored: the model's output 'output' has not-a-number"):
        export_model(Root(), {"x": torch.tensor([4.0, 9.0])}, tmp_path / "root.onnx", golden=golden)
    assert list(tmp_path.iterdir()) == []


def test_an_example_that_is_too_large_to_carry_is_told(tmp_path: Path) -> None:
    report = export_model(torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 224, 224), tmp_path / "large.onnx")
    assert any(note.startswith("no golden sample is stored") and "602.1 kB" in note and "196.6 kB fit" in note for note in report.notes)
    quiet = export_model(torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8), tmp_path / "small.onnx")
    assert not any("golden" in note for note in quiet.notes)
    private = export_model(torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 224, 224), tmp_path / "private.onnx", golden=False)
    assert not any("golden" in note for note in private.notes)  # as asked for


def test_the_model_gets_its_mode_back(recogniser: Recogniser, tmp_path: Path) -> None:
    recogniser.train()
    recogniser.normalise.eval()
    report = export(recogniser, tmp_path / "tiny.onnx")
    assert recogniser.training
    assert not recogniser.normalise.training
    assert recogniser.classify.training
    assert any("training mode" in note for note in report.notes)


def test_what_is_not_proved_leaves_nothing_and_the_older_file_untouched(recogniser: Recogniser, tmp_path: Path) -> None:
    target = tmp_path / "tiny.onnx"
    target.write_bytes(b"older")
    with pytest.raises(ParityError) as caught:
        export_model(recogniser, example(), target, dynamic_shapes=AXES, rtol=0.0, atol=0.0)
    assert caught.value.report is not None
    assert not caught.value.report.passed
    first = str(caught.value).splitlines()[0]
    assert "differs at" in first
    assert "ulp" in first
    assert target.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.onnx"]


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_full_disk_leaves_nothing_and_the_older_file_untouched(
    recogniser: Recogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    target = tmp_path / "tiny.onnx"
    target.write_bytes(b"older")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "fsync":
        monkeypatch.setattr("onnxferry.export.graphs.writer.os.fsync", full)
    else:
        opened = Path.open

        def open_full(self: Path, mode: str = "r", *args: object, **options: object):
            file = opened(self, mode, *args, **options)
            if "w" in mode and self.name.startswith(".tiny"):
                file.close()
                full()
            return file

        monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(ExportError, match=r"cannot write tiny\.onnx: No space left on device"):
        export(recogniser, target)
    monkeypatch.undo()
    assert target.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.onnx"]


def test_a_bad_target_is_refused_before_the_work(recogniser: Recogniser, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in \.onnx"):
        export(recogniser, tmp_path / "tiny.pt")
    with pytest.raises(InputError, match="does not exist"):
        export(recogniser, tmp_path / "missing" / "tiny.onnx")


def with_weights(weights: np.ndarray) -> onnx.ModelProto:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 30])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 20])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def files_of(folder: Path) -> list[str]:
    """The names in a folder, with ``*`` for the digits by which weights are named."""
    return sorted(re.sub(r"\.[0-9a-f]{12}\.data$", ".*.data", path.name) for path in folder.iterdir())


def test_large_weights_go_beside_the_file(tmp_path: Path) -> None:
    weights = np.arange(600, dtype=np.float32).reshape(30, 20)
    model = with_weights(weights)
    size = write_artifact(model, Contract("model", "big"), tmp_path / "big.onnx", external_data_bytes=1000)
    assert files_of(tmp_path) == ["big.onnx", "big.onnx.*.data"]
    assert size == sum(p.stat().st_size for p in tmp_path.iterdir())
    x = np.ones((2, 30), np.float32)
    with Engine(tmp_path / "big.onnx", device="cpu") as engine:
        np.testing.assert_allclose(engine.run({"x": x})["y"], x @ weights)
    # Written again small, the old weights go.
    write_artifact(model, Contract("model", "big"), tmp_path / "big.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["big.onnx"]


def test_what_lies_beside_a_file_and_is_not_its_own_stays(tmp_path: Path) -> None:
    weights = np.arange(600, dtype=np.float32).reshape(30, 20)
    write_artifact(with_weights(weights), Contract("model", "big"), tmp_path / "big.onnx", external_data_bytes=1000)
    (tmp_path / "big.onnx").rename(tmp_path / "renamed.onnx")
    write_artifact(with_weights(weights), Contract("model", "big"), tmp_path / "big.onnx")
    with Engine(tmp_path / "renamed.onnx", device="cpu") as engine:  # its weights are in big.onnx.<hash>.data
        np.testing.assert_allclose(engine.run({"x": np.ones((1, 30), np.float32)})["y"], weights.sum(axis=0)[None])


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "in use"), KeyboardInterrupt()])
def test_where_a_file_cannot_be_replaced_the_older_one_keeps_its_weights(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = np.arange(600, dtype=np.float32).reshape(30, 20)
    target = tmp_path / "big.onnx"
    write_artifact(with_weights(weights), Contract("model", "big"), target, external_data_bytes=1000)
    replace = Path.replace

    def fails(self: Path, to: Path) -> Path:
        if Path(to) == target:
            raise error
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(ExportError if isinstance(error, OSError) else KeyboardInterrupt):
        write_artifact(with_weights(weights + 1), Contract("model", "big"), target, external_data_bytes=1000)
    monkeypatch.undo()
    assert files_of(tmp_path) == ["big.onnx", "big.onnx.*.data"]
    with Engine(target, device="cpu") as engine:
        np.testing.assert_allclose(engine.run({"x": np.ones((1, 30), np.float32)})["y"], weights.sum(axis=0)[None])


def test_one_rename_decides_which_weights_belong_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any moment, what lies there opens and is either the older model or the new one, never half of each."""
    weights = np.arange(600, dtype=np.float32).reshape(30, 20)
    target = tmp_path / "big.onnx"
    write_artifact(with_weights(weights), Contract("model", "big"), target, external_data_bytes=1000)
    replace, unlink = Path.replace, Path.unlink
    seen: list[str] = []

    def look() -> None:
        with Engine(target, device="cpu") as engine:
            given = engine.run({"x": np.ones((1, 30), np.float32)})["y"][0]
        older, newer = (np.allclose(given, (weights + more).sum(axis=0)) for more in (0, 1))
        seen.append("older" if older else "newer" if newer else "mixed")

    def replaced(self: Path, to: Path) -> Path:
        result = replace(self, to)
        look()
        return result

    def unlinked(self: Path, missing_ok: bool = False) -> None:
        look()
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "unlink", unlinked)
    write_artifact(with_weights(weights + 1), Contract("model", "big"), target, external_data_bytes=1000)
    monkeypatch.undo()
    look()
    assert set(seen) == {"older", "newer"}
    assert seen == sorted(seen, reverse=True)
    assert files_of(tmp_path) == ["big.onnx", "big.onnx.*.data"]


def test_leftovers_of_a_writer_that_was_killed_are_removed(tmp_path: Path) -> None:
    leftovers = [tmp_path / name for name in (".big.onnx.0123456789ab.tmp", ".big.onnx.data.0123456789ab.tmp", ".other.onnx.01.tmp")]
    young = tmp_path / ".big.onnx.ba9876543210.tmp"
    for path in (*leftovers, young):
        path.write_bytes(b"half")
    for path in leftovers:
        os.utime(path, (0, 0))
    write_artifact(with_weights(np.ones((30, 20), np.float32)), Contract("model", "big"), tmp_path / "big.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, ".other.onnx.01.tmp", "big.onnx"]


def test_paths_in_a_command_are_cut_to_their_last_part() -> None:
    words = ["/usr/bin/onnxferry", "export", "runs/a/b/", "--out=/home/me/x.onnx", "-o", r"C:\me\y.onnx", "x:float32[batch,3]"]
    assert shortened(words) == ["onnxferry", "export", "b", "--out=x.onnx", "-o", "y.onnx", "x:float32[batch,3]"]


def test_an_axis_that_is_not_named_keeps_its_size(tmp_path: Path) -> None:
    export_model(torch.nn.Softmax(-1), torch.randn(2, 3), tmp_path / "m.onnx", dynamic_shapes={"input": {0: "batch"}})
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        assert [spec.shape for spec in (*engine.inputs, *engine.outputs)] == [("batch", 3), ("batch", 3)]
        with pytest.raises(InputError, match="must have size 3 on axis 1"):
            engine.run({"input": np.zeros((2, 4), np.float32)})
