"""Tensors in JSON and in raw bytes, and each way in which they can be wrong."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.server.tensors import DTYPES, described, from_bytes, from_list, metadata, to_bytes, to_list


def spec(datatype: str) -> TensorSpec:
    return TensorSpec("x", "str" if datatype == "BYTES" else str(DTYPES.get(datatype, datatype)), ("n", 2))


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_every_datatype_goes_both_ways(datatype: str) -> None:
    dtype = DTYPES[datatype]
    info = None if dtype.kind in "bf" else np.iinfo(dtype)
    values = [0, 1, info.min, info.max] if info else [False, True, True, False] if dtype.kind == "b" else [0.5, -2, 1e4, 6e-5]
    array = np.array(values, dtype).reshape(2, 2)
    np.testing.assert_array_equal(from_list(spec(datatype), datatype, [2, 2], to_list(array)), array)
    np.testing.assert_array_equal(from_list(spec(datatype), datatype, [2, 2], array.tolist()), array)
    np.testing.assert_array_equal(from_bytes(spec(datatype), datatype, [2, 2], to_bytes(array)), array)
    assert described("x", array) == {"name": "x", "datatype": datatype, "shape": [2, 2]}


def test_text_goes_both_ways() -> None:
    array = np.array([["", "ab"], ["深度", "a\0b"]], object)
    assert from_list(spec("BYTES"), "BYTES", [2, 2], array.tolist()).tolist() == array.tolist()
    raw = to_bytes(array)
    assert raw[:4] == b"\0\0\0\0"
    assert raw[4:8] == b"\2\0\0\0"
    assert from_bytes(spec("BYTES"), "BYTES", [2, 2], raw).tolist() == array.tolist()
    assert to_list(array) == ["", "ab", "深度", "a\0b"]


def test_what_json_cannot_say_is_null() -> None:
    assert to_list(np.array([1, np.nan, np.inf], np.float32)) == [1, None, None]


def test_empty_tensors() -> None:
    assert from_list(spec("FP32"), "FP32", [0, 2], []).shape == (0, 2)
    assert from_bytes(spec("INT8"), "INT8", [0, 2], b"").shape == (0, 2)
    assert from_list(spec("BYTES"), "BYTES", [0, 2], []).shape == (0, 2)


@pytest.mark.parametrize(
    ("datatype", "given", "shape", "data", "words"),
    [
        ("FP32", "FP64", [1, 2], [1, 2], "must have the datatype FP32"),
        ("FP32", None, [1, 2], [1, 2], "must have the datatype FP32"),
        ("FP32", "FP32", [1, 2], [1, 2, 3], "3 elements in data, and its shape .* has 2"),
        ("FP32", "FP32", [1, -2], [1, 2], "whole number from 0"),
        ("FP32", "FP32", [1, True], [1], "whole number from 0"),
        ("FP32", "FP32", [1, 2.0], [1, 2], "whole number from 0"),
        ("FP32", "FP32", [2**40, 2**40], [], "whole number from 0"),
        ("FP32", "FP32", "12", [1, 2], "must have a shape"),
        ("FP32", "FP32", [1] * 40, [1], "must have a shape"),
        ("FP32", "FP32", [1, 2], "abcd", "has no data"),
        ("FP32", "FP32", [1, 2], None, "has no data"),
        ("FP32", "FP32", [1, 2], ["a", "b"], "numbers only"),
        ("FP32", "FP32", [1, 2], [1, None], "numbers only"),
        ("FP32", "FP32", [1, 2], [True, False], "numbers only"),
        ("FP32", "FP32", [1, 2], [[1], [1, 2]], "lists of equal lengths"),
        ("FP32", "FP32", [1, 2], [1e300, 0], "out of its range"),
        ("FP16", "FP16", [1, 2], [70000, 0], "out of its range"),
        ("INT64", "INT64", [1, 2], [1.5, 2], "whole numbers only"),
        ("INT64", "INT64", [1, 2], [2**63, 0], "data must be from"),
        ("INT64", "INT64", [1, 2], [2**70, 0], "data must be from"),
        ("INT8", "INT8", [1, 2], [128, 0], "data must be from -128 to 127"),
        ("UINT8", "UINT8", [1, 2], [-1, 0], "data must be from 0 to 255"),
        ("UINT64", "UINT64", [1, 2], [2**63, -1], "data must be from 0"),
        ("BOOL", "BOOL", [1, 2], [1, 0], "true and false only"),
        ("BYTES", "BYTES", [1, 2], ["a", 1], "texts only"),
    ],
)
def test_a_wrong_list_is_one_clear_error(datatype: str, given: object, shape: object, data: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_list(spec(datatype), given, shape, data)


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "words"),
    [
        ("FP32", [1, 2], b"1234567", "has 7 bytes, and FP32"),
        ("BOOL", [1, 2], b"\1\2", "each byte must be 0 or 1"),
        ("BYTES", [1, 2], b"\1\0\0\0a", "too few"),
        ("BYTES", [1, 2], b"\1\0\0\0a\x09\0\0\0b", "ends within text 1"),
        ("BYTES", [1, 1], b"\xff\xff\xff\xffa", "ends within text 0"),
        ("BYTES", [1, 1], b"\1\0\0\0ab", "1 bytes more"),
        ("BYTES", [1, 1], b"\1\0\0\0\xff", "not UTF-8"),
        ("BYTES", [2**31 - 1, 2**31 - 1], b"", "too few"),
    ],
)
def test_wrong_bytes_are_one_clear_error(datatype: str, shape: object, raw: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_bytes(spec(datatype), datatype, shape, raw)


def test_metadata_has_open_axes() -> None:
    assert metadata(TensorSpec("x", "float32", ("n", 3, None))) == {"name": "x", "datatype": "FP32", "shape": [-1, 3, -1]}
