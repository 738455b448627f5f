"""The contract through metadata and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from onnxferry.runtime.artifact import (
    MAX_VALUE_BYTES,
    SCHEMA,
    Contract,
    Golden,
    Tolerance,
    contract_from_metadata,
    metadata_from_contract,
)
from onnxferry.runtime.errors import ArtifactError


def there_and_back(contract: Contract) -> Contract:
    back = contract_from_metadata(metadata_from_contract(contract))
    assert back is not None
    return back


@pytest.mark.parametrize(
    "array",
    [
        np.array(1.5, np.float32),
        np.array(True),
        np.zeros((0, 3), np.int64),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.array([np.inf, -0.0, np.nan], np.float64),
        np.array([0, 255], np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_golden_arrays_come_back_as_they_were(array: np.ndarray) -> None:
    """Scalars keep their rank, transposed arrays their order, foreign byte orders their values."""
    (golden,) = there_and_back(Contract("model", "m", goldens=(Golden({"x": array}, {"y": array}),))).goldens
    for back in (golden.inputs["x"], golden.outputs["y"]):
        assert back.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back, array, strict=False)
        assert back.shape == array.shape


def test_contract_comes_back_whole() -> None:
    contract = Contract(
        kind="recogniser",
        name="digits",
        family="cnn",
        description="Ziffern, 数字",
        labels=("0", "eins"),
        options={"channels": 1, "image_size": [28, 28]},
        tolerances={"probabilities": Tolerance(0.0, 1e-5)},
        provenance={"framework": "torch"},
        metrics={"accuracy": 0.5},
        parity={"passed": True},
        author="somebody",
        license="Apache-2.0",
        version="3",
    )
    assert vars(there_and_back(contract)) == vars(contract)


def test_plain_keys_are_there_for_other_tools() -> None:
    metadata = metadata_from_contract(Contract("recogniser", "digits", labels=("a", "b"), options={"image_size": [28, 32]}))
    assert metadata["task"] == "recogniser"
    assert json.loads(metadata["names"]) == {"0": "a", "1": "b"}
    assert json.loads(metadata["imgsz"]) == [28, 32]


def test_a_stranger_has_no_contract() -> None:
    assert contract_from_metadata({"task": "detect"}) is None


def test_newer_schema_is_refused_in_words() -> None:
    metadata = metadata_from_contract(Contract("model", "m")) | {"onnxferry.schema": str(SCHEMA + 1)}
    with pytest.raises(ArtifactError, match=f"schema {SCHEMA + 1}, this runtime reads up to {SCHEMA}: pip install -U onnxferry"):
        contract_from_metadata(metadata)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("onnxferry.schema", "0", "whole number"),
        ("onnxferry.schema", "__import__('os')", "whole number"),
        ("onnxferry.contract", "{", "not JSON"),
        ("onnxferry.contract", "[]", "expected an object"),
        ("onnxferry.contract", "[" * 100_000, "not JSON"),
        ("onnxferry.contract", '"' + "x" * MAX_VALUE_BYTES + '"', "more than the"),
        ("onnxferry.contract", '{"kind": "model", "name": "m", "labels": [1]}', "labels must be a list of strings"),
        ("onnxferry.contract", '{"kind": "model", "name": "m", "tolerances": {"y": [true, 1]}}', "must be"),
        ("onnxferry.contract", '{"kind": "spell", "name": "m"}', "unknown artifact kind"),
        ("onnxferry.goldens", "{}", "list of objects"),
        ("onnxferry.goldens", '[{"inputs": {}}]', "no outputs"),
        ("onnxferry.goldens", '[{"inputs": {"x": {"dtype": "object", "shape": [], "data": ""}}, "outputs": {}}]', "unknown dtype"),
        ("onnxferry.goldens", '[{"inputs": {"x": {"dtype": "int8", "shape": [-1], "data": ""}}, "outputs": {}}]', "small whole numbers"),
        ("onnxferry.goldens", '[{"inputs": {"x": {"dtype": "int8", "shape": [2], "data": "AA=="}}, "outputs": {}}]', "do not fill"),
        ("onnxferry.goldens", '[{"inputs": {"x": {"dtype": "int8", "shape": [1], "data": "%"}}, "outputs": {}}]', "bad base64"),
    ],
)
def test_broken_metadata_is_one_clear_error(key: str, value: str, why: str) -> None:
    metadata = metadata_from_contract(Contract("model", "m")) | {key: value}
    with pytest.raises(ArtifactError, match=why):
        contract_from_metadata(metadata)


def test_too_many_or_too_large_goldens_are_refused() -> None:
    one = Golden({"x": np.zeros(1, np.float32)}, {"y": np.zeros(1, np.float32)})
    with pytest.raises(ArtifactError, match="at most 4"):
        Contract("model", "m", goldens=(one,) * 5)
    with pytest.raises(ArtifactError, match="more than the"):
        Contract("model", "m", goldens=(Golden({"x": np.zeros(100_000, np.float32)}, {}),))
