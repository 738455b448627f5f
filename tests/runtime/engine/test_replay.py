"""Replaying golden samples passes only where something was verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxferry.runtime.artifact.contract import Contract, Golden
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.tolerances import Tolerance
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay, replay_goldens
from onnxferry.runtime.errors import CheckFailedError


def replayed(actual: np.ndarray, expected: np.ndarray, tolerance: Tolerance | None = None):
    golden = Golden({"x": np.zeros((1, 1), np.float32)}, {"y": expected})
    contract = Contract("model", "m", goldens=(golden,), tolerances={"y": tolerance} if tolerance else {})
    return replay_goldens(lambda _: {"y": actual}, contract)


def test_samples_without_elements_verify_nothing() -> None:
    empty = np.zeros((0, 3), np.float32)
    report = replayed(empty, empty)
    assert not report.passed
    assert report.comparisons == ()
    assert not replayed(np.zeros((0, 4), np.float32), empty).passed  # a wrong shape is still reported
    assert len(replayed(np.zeros((0, 4), np.float32), empty).comparisons) == 1


@pytest.mark.parametrize("tolerance", [Tolerance(0.0, 1e308), Tolerance(1.0, 1.0), Tolerance(0.0, 12_345.0)])
def test_a_tolerance_that_accepts_anything_fails(tolerance: Tolerance) -> None:
    one, expected = np.array([1.0], np.float32), np.array([12_345.0], np.float32)
    (comparison,) = replayed(one, expected, tolerance).comparisons
    assert not comparison.passed
    assert "accept any value" in comparison.problem


def test_a_wide_but_meaningful_tolerance_passes() -> None:
    expected = np.array([200.0, 0.0], np.float32)
    assert replayed(expected + 20, expected, Tolerance(0.0, 24.0)).passed
    assert replayed(expected, expected, Tolerance(1e-4, 1e-5)).passed
    assert replayed(np.zeros(2, np.float32), np.zeros(2, np.float32), Tolerance(1e-4, 1e-5)).passed


ZOO = zoo_model("digits").path.parents[1]
VARIANTS = [path for path in sorted(ZOO.glob("*/*.int8.onnx")) if "shakespeare" not in path.name]  # its samples hold a text's bytes


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_a_shipped_variant_is_judged_by_its_certificate(path: Path) -> None:
    with Engine(path, device="cpu") as engine:
        assert replay(engine).passed


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_a_variant_with_a_layer_of_zeros_is_caught(path: Path) -> None:
    model = onnx.load(path)
    layer = max((each for each in model.graph.initializer if len(each.dims) > 1), key=lambda each: np.prod(each.dims))
    layer.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(layer)), layer.name))
    with Engine(model.SerializeToString(), device="cpu") as engine:
        report = replay(engine)
        with pytest.raises(CheckFailedError):
            report.raise_if_failed(path.name)


@pytest.mark.parametrize("path", [path for path in VARIANTS if "gan" in path.stem or "decoder" in path.stem], ids=lambda path: path.stem)
def test_a_wrong_picture_is_caught(path: Path) -> None:
    """Another sample's picture, and one that is shifted by a pixel: within the difference that a single pixel may have, and wrong."""
    contract = describe(path).contract
    assert contract is not None
    pictures = [golden.outputs["image"] for golden in contract.goldens]
    assert "image" not in contract.tolerances, "each pixel's tolerance would pass any picture"
    answers = iter(contract.goldens)
    assert replay_goldens(lambda _: next(answers).outputs, contract).passed
    for wrong in (lambda a: np.roll(a, 1, axis=0), lambda a: np.roll(a, 1, axis=2), np.zeros_like, lambda a: 255 - a):
        shown = iter(pictures)
        report = replay_goldens(lambda _, wrong=wrong, shown=shown: {"image": wrong(next(shown))}, contract)  # type: ignore[misc]
        assert not report.passed
        assert "its certificate allows" in report.comparisons[0].problem
        assert report.comparisons[0].rms is not None
        assert report.comparisons[0].rms > (report.comparisons[0].rms_allowed or 1)


def test_what_an_image_is_off_by_is_named() -> None:
    expected = np.full((1, 8, 8, 1), 100, np.uint8)
    golden = Golden({"x": np.zeros((1, 1), np.float32)}, {"y": expected})
    contract = Contract("model", "m", goldens=(golden,), tolerances={"y": Tolerance(0.0, 274.0)}, certificate={"rms": {"y": 0.02}})
    assert replay_goldens(lambda _: {"y": expected + 5}, contract).passed
    (comparison,) = replay_goldens(lambda _: {"y": expected + 20}, contract).comparisons
    assert not comparison.passed
    assert comparison.problem == "it is 20.0% off (root mean square of all samples), and its certificate allows 9.0%"
    useless = contract.replace(certificate={"rms": {"y": 5.0}})
    assert "accept any value" in replay_goldens(lambda _: {"y": expected}, useless).comparisons[0].problem
