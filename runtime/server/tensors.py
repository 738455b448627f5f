"""Tensors of the Open Inference Protocol: JSON lists and raw bytes to numpy arrays, and back.

Raw bytes are the elements in row-major order, little-endian; an element of BYTES is its length as uint32 and then its bytes.
Source: https://github.com/kserve/open-inference-protocol, inference_rest.md, and the binary tensor extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import functools
import json
import math
import struct
from array import array as array_of
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.onnx_file.values import TensorSpec

DTYPES = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("uint8"),
    "UINT16": np.dtype("uint16"),
    "UINT32": np.dtype("uint32"),
    "UINT64": np.dtype("uint64"),
    "INT8": np.dtype("int8"),
    "INT16": np.dtype("int16"),
    "INT32": np.dtype("int32"),
    "INT64": np.dtype("int64"),
    "FP16": np.dtype("float16"),
    "FP32": np.dtype("float32"),
    "FP64": np.dtype("float64"),
}
"""The protocol's datatypes that numpy has; BYTES is text."""

_NAMES = {str(dtype): name for name, dtype in DTYPES.items()} | {"str": "BYTES", "bfloat16": "BF16"}

MAX_AXIS = 2**31 - 1

MAX_RANK = 32

_LENGTH = struct.Struct("<I")


def datatype_of(spec: TensorSpec) -> str | None:
    """The protocol's name for a tensor's element type; None for what the protocol has no name for (sequences, maps, 4-bit numbers)."""
    return _NAMES.get(spec.dtype)


def metadata(spec: TensorSpec) -> dict[str, Any]:
    """Name, datatype and shape as the protocol's metadata has them: -1 for an open axis, and ``[-1]`` where the rank is open."""
    shape = [size if isinstance(size, int) else -1 for size in spec.shape] if spec.ranked else [-1]
    return {"name": spec.name, "datatype": datatype_of(spec), "shape": shape}


def from_list(spec: TensorSpec, datatype: Any, shape: Any, data: Any) -> np.ndarray:
    """The array of a JSON tensor: ``data`` flat or nested, in row-major order. Raises InputError for what does not fit."""
    sizes = _checked_shape(spec, datatype, shape)
    if not isinstance(data, list):
        raise InputError(f"input {spec.name!r} has no data: expected a list, got {_kind(data)}")
    array = _texts(spec, data) if datatype == "BYTES" else _numbers(spec, datatype, data)
    if array.size != math.prod(sizes):
        raise InputError(f"input {spec.name!r} has {array.size} elements in data, and its shape {list(sizes)} has {math.prod(sizes)}")
    return array.reshape(sizes)


def from_bytes(spec: TensorSpec, datatype: Any, shape: Any, raw: bytes | memoryview) -> np.ndarray:
    """The array of a tensor in raw bytes; it shares their memory. Raises InputError for what does not fit."""
    sizes = _checked_shape(spec, datatype, shape)
    if datatype == "BYTES":
        return _split_texts(spec, raw, math.prod(sizes)).reshape(sizes)
    if datatype == "BF16":
        raise InputError(f"input {spec.name!r} is bfloat16, which numpy has not; the server cannot pass it on")
    dtype = DTYPES[datatype]
    if len(raw) != math.prod(sizes) * dtype.itemsize:
        raise InputError(
            f"input {spec.name!r} has {len(raw)} bytes, and {datatype} with the shape {list(sizes)} has {math.prod(sizes) * dtype.itemsize}"
        )
    array = np.frombuffer(raw, dtype)
    if datatype == "BOOL":
        if array.size and array.view(np.uint8).max() > 1:
            raise InputError(f"input {spec.name!r} is BOOL: each byte must be 0 or 1")
    elif not array.flags.aligned:
        array = array.copy()
    return array.reshape(sizes)


def to_list(array: np.ndarray) -> list[Any]:
    """Flat, in row-major order, for JSON. Numbers that JSON does not have (not-a-number, infinities) are None."""
    flat = np.asarray(array).reshape(-1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return [value if math.isfinite(value) else None for value in flat.tolist()]
    return [_text(value) for value in flat.tolist()] if flat.dtype.kind in "OUS" else list(flat.tolist())


def to_json(array: np.ndarray) -> str:
    """As :func:`to_list`, in JSON."""
    values = to_list(array)
    # Python writes numbers as JSON does, and several times as fast as json writes lists.
    return str(values) if array.dtype.kind in "iu" or (array.dtype.kind == "f" and None not in values) else json.dumps(values)


def to_bytes(array: np.ndarray) -> bytes:
    """In raw bytes."""
    array = np.asarray(array)
    if array.dtype.kind not in "OUS":
        return array.tobytes()
    parts = [value if isinstance(value, bytes) else _text(value).encode("utf-8", "surrogatepass") for value in array.reshape(-1).tolist()]
    return b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))


def described(name: str, array: np.ndarray) -> dict[str, Any]:
    """Name, datatype and shape of an output."""
    return {"name": name, "datatype": _datatype(np.asarray(array).dtype), "shape": list(np.shape(array))}


def described_json(name: str, array: np.ndarray) -> str:
    """As :func:`described`, in JSON without its braces."""
    return f'"name":{_quoted(name)},"datatype":"{_datatype(array.dtype)}","shape":{list(array.shape)}'


@functools.cache
def _datatype(dtype: np.dtype) -> str | None:
    return "BYTES" if dtype.kind in "OUS" else _NAMES.get(str(dtype))  # its name takes numpy longer than all else of a description


@functools.lru_cache(1024)
def _quoted(name: str) -> str:
    return json.dumps(name)


def _checked_shape(spec: TensorSpec, datatype: Any, shape: Any) -> tuple[int, ...]:
    expected = datatype_of(spec)
    if expected is None:
        raise InputError(f"input {spec.name!r} is {spec.dtype}, which the protocol cannot carry")
    if datatype != expected:
        raise InputError(f"input {spec.name!r} must have the datatype {expected}, got {_kind(datatype)}")
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) > MAX_RANK:
        raise InputError(f"input {spec.name!r} must have a shape, a list of at most {MAX_RANK} sizes, got {_kind(shape)}")
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_AXIS:
            raise InputError(f"input {spec.name!r}: each size of a shape must be a whole number from 0 to {MAX_AXIS}, got {_kind(size)}")
    return tuple(shape)


def _numbers(spec: TensorSpec, datatype: str, data: list[Any]) -> np.ndarray:
    if datatype == "BF16":
        raise InputError(f"input {spec.name!r} is bfloat16, which numpy has not; the server cannot pass it on")
    dtype = DTYPES[datatype]
    if dtype.kind in "iu" and data and type(data[0]) is int:
        try:  # a flat list of numbers in range; three times as fast as the way below, which finds out what is wrong with others
            return np.frombuffer(bytes(data) if datatype == "UINT8" else array_of(dtype.char, data), dtype)
        except (TypeError, ValueError, OverflowError):
            pass
    try:
        array = np.array(data)
    except (ValueError, OverflowError) as error:
        raise InputError(f"input {spec.name!r}: data must be a flat list, or lists of equal lengths") from error
    array = array.reshape(-1)
    if not array.size:
        return np.zeros(0, dtype)
    if dtype.kind in "iu" and array.dtype.kind in "fO":  # numpy makes float64 of numbers on both sides of 2^63
        array = np.array(data, object).reshape(-1)
        if not all(type(value) is int for value in array):
            _refuse_numbers(spec, datatype)
        return _whole(spec, datatype, array)
    allowed = {"b": "b", "f": "fiu"}.get(dtype.kind, "iu")
    if array.dtype.kind not in allowed:
        _refuse_numbers(spec, datatype)
    if dtype.kind in "iu":
        return _whole(spec, datatype, array)
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if dtype.kind == "f" and (np.isinf(converted) & np.isfinite(array)).any():
        raise InputError(f"input {spec.name!r} is {datatype}: a number in data is out of its range")
    return converted


def _whole(spec: TensorSpec, datatype: str, array: np.ndarray) -> np.ndarray:
    bounds: Any = np.iinfo(DTYPES[datatype])
    if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
        raise InputError(f"input {spec.name!r} is {datatype}: data must be from {bounds.min} to {bounds.max}")
    return array.astype(DTYPES[datatype])


def _refuse_numbers(spec: TensorSpec, datatype: str) -> NoReturn:
    what = {"b": "true and false", "f": "numbers"}.get(DTYPES[datatype].kind, "whole numbers")
    raise InputError(f"input {spec.name!r} is {datatype}: data must hold {what} only")


def _texts(spec: TensorSpec, data: list[Any]) -> np.ndarray:
    flat: list[str] = []
    stack = [iter(data)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                if len(stack) >= MAX_RANK:
                    raise InputError(f"input {spec.name!r}: lists in data are more than {MAX_RANK} deep")
                stack.append(iter(item))
                break
            if not isinstance(item, str):
                raise InputError(f"input {spec.name!r} is BYTES: data must hold texts only, got {_kind(item)}")
            flat.append(item)
        else:
            stack.pop()
    array = np.empty(len(flat), object)
    array[:] = flat
    return array


def _split_texts(spec: TensorSpec, raw: bytes | memoryview, count: int) -> np.ndarray:
    data, place = memoryview(raw), 0
    if count * _LENGTH.size > len(data):
        raise InputError(f"input {spec.name!r} has {len(data)} bytes, too few for {count} texts with their lengths")
    array = np.empty(count, object)
    for number in range(count):
        if place + _LENGTH.size > len(data):
            raise InputError(f"input {spec.name!r} ends within text {number} of {count}")
        length = _LENGTH.unpack_from(data, place)[0]
        place += _LENGTH.size
        if place + length > len(data):
            raise InputError(f"input {spec.name!r} ends within text {number} of {count}")
        try:
            array[number] = bytes(data[place : place + length]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"input {spec.name!r}: text {number} is not UTF-8 ({error.reason} at byte {error.start})") from error
        place += length
    if place != len(data):
        raise InputError(f"input {spec.name!r} has {len(data) - place} bytes more than its {count} texts")
    return array


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _kind(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
