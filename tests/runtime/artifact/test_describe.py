"""What a file says of itself is read once, and refused once it is not the file that was read any more."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxferry.runtime import Engine
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.errors import ArtifactError, InputError, UntrustedModelError
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
