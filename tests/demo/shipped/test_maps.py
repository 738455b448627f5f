"""The maps of a shipped recogniser, from the pass that answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxferry.demo.shipped import maps
from onnxferry.runtime import Classifier, load

ZOO = Path(__file__).parents[3] / "runtime" / "zoo"


@pytest.mark.parametrize(("name", "widths"), [("digits", (20, 40, 80)), ("fashion", (24, 48, 96))])
def test_the_pass_with_maps_gives_the_answer_of_the_file(name: str, widths: tuple[int, ...], show_zoo) -> None:
    show_zoo(ZOO)
    with np.load(ZOO / name / "examples.npz") as arrays:
        image = arrays["images"][0]
    found = maps.inside(name, image)
    assert found is not None
    with load(name) as model:
        assert isinstance(model, Classifier)
        (prediction,) = model.predict(image)
    assert (found.prediction.label, found.prediction.known) == (prediction.label, prediction.known)
    np.testing.assert_allclose(found.probabilities, prediction.probabilities, atol=1e-6)
    assert found.saw.shape == (28, 28)
    assert [stage.shape for stage in found.stages] == [(width, side, side) for width, side in zip(widths, (28, 14, 7), strict=True)]
    assert all(len(maps.chosen_maps(stage)) == maps.SHOWN for stage in found.stages)


def test_a_file_without_such_values_has_no_maps(tmp_path: Path, scale_model: bytes, show_zoo) -> None:
    import shutil

    shutil.copytree(ZOO / "digits", tmp_path / "digits")
    (tmp_path / "digits" / "digits.onnx").write_bytes(scale_model)
    show_zoo(tmp_path)
    assert maps.inside("digits", np.zeros((28, 28, 1), np.uint8)) is None


def test_only_outputs_are_added(scale_model: bytes) -> None:
    import onnx

    before, after = onnx.load_from_string(scale_model), onnx.load_from_string(maps.with_outputs(scale_model, ("a", "b")))
    assert [each.name for each in after.graph.output][-2:] == ["a", "b"]
    del after.graph.output[-2:]
    assert after == before
    with pytest.raises(ValueError, match="no graph"):
        maps.with_outputs(b"\x08\x09", ("a",))
