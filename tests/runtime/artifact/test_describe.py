"""What a file says of itself is read once, and refused once it is not the file that was read any more."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxferry.runtime import Engine
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.engine import engine as engine_module
from onnxferry.runtime.errors import ArtifactError, InputError, UntrustedModelError
from onnxferry.runtime.onnx_file import reader
from onnxferry.runtime.onnx_file.summary import Limits

Make = Callable[..., Path]


def test_a_file_and_its_bytes_are_described_alike(recogniser: Path) -> None:
    file, content = describe(recogniser), describe(recogniser.read_bytes())
    assert file.contract is not None
    assert content.contract is not None
    assert (file.summary, file.contract.labels) == (content.summary, content.contract.labels)
    assert file.digest == content.digest == hashlib.sha256(recogniser.read_bytes()).hexdigest()
    assert (file.path, file.name, content.path, content.name) == (recogniser, str(recogniser), None, "the model")
    image = np.zeros((1, 3, 3, 1), np.uint8)
    for model in (file, content):
        with Engine(model, device="cpu") as engine:
            assert engine.path == model.path
            assert engine.run({"image": image})["class_index"] == [0]


def test_what_cannot_be_described(tmp_path: Path, recogniser: Path, make_recogniser: Make) -> None:
    with pytest.raises(InputError, match="a model is opened by its path or from bytes, got int"):
        describe(3)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="there is no file"):
        describe(tmp_path / "none.onnx")
    with pytest.raises(UntrustedModelError, match="nodes"):
        describe(recogniser, Limits(nodes=1))
    broken = make_recogniser(name="broken.onnx")
    content = broken.read_bytes()
    assert content.count(b'"kind":"recogniser"') == 1
    broken.write_bytes(content.replace(b'"kind":"recogniser"', b'"kynd":"recogniser"'))
    with pytest.raises(ArtifactError, match=r"broken\.onnx: unknown artifact kind"):
        describe(broken)


@pytest.mark.parametrize("change", ["replaced", "touched", "removed"])
def test_a_file_that_changed_is_not_run(recogniser: Path, make_recogniser: Make, change: str) -> None:
    model = describe(recogniser)
    if change == "replaced":
        make_recogniser(name="other.onnx").replace(recogniser)
    elif change == "touched":
        os.utime(recogniser, (1, 1))
    else:
        recogniser.unlink()
    for use in (lambda: Engine(model, device="cpu"), lambda: model.digest):
        with pytest.raises(ArtifactError, match=r"brightness\.onnx has changed since it was read; load it again"):
            use()


@pytest.fixture
def just_before_opening(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object], Callable[[], object]], None]:
    """``just_before_opening(before, after)``: called right before and after ONNX Runtime opens a session."""
    open_on = engine_module.open_on

    def between(before: Callable[[], object], after: Callable[[], object]) -> None:
        def opening(*args: object, **options: object) -> object:
            before()
            try:
                return open_on(*args, **options)  # type: ignore[arg-type]
            finally:
                after()

        monkeypatch.setattr(engine_module, "open_on", opening)

    return between


@pytest.mark.parametrize("mapped", [pytest.param(False, id="read"), pytest.param(True, id="mapped")])
def test_the_file_that_was_checked_is_the_one_that_runs(
    recogniser: Path, doubler: Path, just_before_opening: Callable[..., None], monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    if mapped:
        if not Path("/proc/self/fd").is_dir():
            pytest.skip("no descriptors by name here")
        monkeypatch.setattr(reader, "_READ_WHOLE", 0)
    aside = recogniser.with_name("aside.onnx")

    def swap() -> None:
        recogniser.rename(aside)
        doubler.rename(recogniser)

    just_before_opening(swap, lambda: None)
    if mapped:  # what was opened is right, but its name is another file's by now
        with pytest.raises(ArtifactError, match="has changed since it was read"):
            Engine(recogniser, device="cpu")
        return
    with Engine(recogniser, device="cpu") as engine:
        assert [spec.name for spec in engine.inputs] == ["image"]


@pytest.mark.parametrize("which", ["model.onnx", "weights.bin"])
@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of change")
def test_weights_outside_that_are_exchanged_and_put_back_are_noticed(
    tmp_path: Path, just_before_opening: Callable[..., None], which: str
) -> None:
    weight = onnx.numpy_helper.from_array(np.ones(2000, np.float32), "w")
    shape = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2000])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2000])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Mul", ["x", "w"], ["y"])], "g", [shape], [result], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with Engine(path, device="cpu") as engine:
        assert np.array_equal(engine.run({"x": np.full(2000, 3, np.float32)})["y"], np.full(2000, 3, np.float32))
    target, aside, other = tmp_path / which, tmp_path / "aside", tmp_path / "other"
    other.write_bytes(target.read_bytes())

    def swap() -> None:
        target.rename(aside)
        other.rename(target)

    just_before_opening(swap, lambda: aside.rename(target))
    with pytest.raises(ArtifactError, match=f"{which} has changed since it was read; load it again"):
        Engine(path, device="cpu")


def test_a_large_file_is_opened_by_the_descriptor_of_what_was_read(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_READ_WHOLE", 0)
    with Engine(recogniser, device="cpu") as engine:
        assert engine.run({"image": np.zeros((1, 3, 3, 1), np.uint8)})["class_index"] == [0]
