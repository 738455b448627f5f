"""The numbers of small tensors in an .onnx file, and the attributes of a node, for what has to be known before a file is opened.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, TensorProto and AttributeProto.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from onnxferry.runtime.onnx_file.protobuf import FIXED32, FIXED64, LENGTH, REPEATED, VARINT, Buffer, Fields, ProtobufReader, int32, signed
from onnxferry.runtime.onnx_file.tensors import ELEMENT_TYPES

NUMBERS = 2**24
"""Bytes of numbers that are decoded of one tensor; more are not looked into."""


_TENSOR: Fields = {
    1: VARINT | LENGTH | REPEATED,  # dims
    2: VARINT,  # data_type
    4: LENGTH | FIXED32 | REPEATED,  # float_data
    5: VARINT | LENGTH | REPEATED,  # int32_data
    6: LENGTH | REPEATED,  # string_data
    7: VARINT | LENGTH | REPEATED,  # int64_data
    9: LENGTH,  # raw_data
    10: LENGTH | FIXED64 | REPEATED,  # double_data
    14: VARINT,  # data_location
}


class Constant(NamedTuple):
    """A tensor in a file."""

    size: int  # elements
    dtype: str  # numpy's name
    numbers: np.ndarray | None  # its elements in order, of whole numbers and flags; None where they are not known
    text_bytes: int = 0  # of all elements together
    shape: tuple[int, ...] = ()
    reals: tuple[float, ...] = ()  # its elements, where they are a few floats; () where they are not known


def read_constant(reader: ProtobufReader, start: int, end: int) -> Constant:
    """The TensorProto between two offsets, which was checked before."""
    dims: list[int] = []
    code, location, text = 0, 0, 0
    raw: tuple[int, int] | None = None
    typed: list[int] = []
    floats: list[tuple[int, int]] = []  # offsets
    for number, kind, value, stop in reader.fields(start, end, _TENSOR):
        if number == 1:
            dims += [signed(each) for each in (reader.varints(value, stop) if kind == LENGTH else (value,))]
        elif number == 2:
            code = int32(value)
        elif number == 6:
            text += stop - value
        elif number in (4, 10):
            floats.append((value, stop))
        elif number == 9:
            raw = value, stop
        elif number == 14:
            location = value
        elif kind == LENGTH and stop - value > NUMBERS:
            location = -1
        else:
            typed += reader.varints(value, stop) if kind == LENGTH else (value,)
    dtype = ELEMENT_TYPES[code].numpy
    whole = dtype in ("int32", "int64", "bool")
    numbers = None
    if whole and location == 0:
        if raw is not None:
            small = raw[1] - raw[0] <= NUMBERS
            numbers = np.frombuffer(bytes(reader.data[raw[0] : raw[1]]), np.dtype(dtype).newbyteorder("<")) if small else None
        else:
            numbers = np.array([each & 2**64 - 1 for each in typed], np.uint64).astype(dtype)
    few = dtype in ("float32", "float64") and location == 0 and math.prod(dims) <= _FEW
    reals = _reals(reader, dtype, [raw] if raw else floats) if few else ()
    return Constant(math.prod(dims), dtype, numbers, text, tuple(dims), reals)


_FEW = 8  # floats that are decoded: scales of as many axes, and ends of a range


def _reals(reader: ProtobufReader, dtype: str, places: list[tuple[int, int]]) -> tuple[float, ...]:
    data = b"".join(bytes(reader.data[at:stop]) for at, stop in places[: 2 * _FEW])
    return tuple(map(float, np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))))


_NUMBERS = VARINT | LENGTH | REPEATED


_ATTRIBUTE: Fields = {
    1: LENGTH,  # name
    3: VARINT,  # i
    4: LENGTH,  # s
    5: LENGTH,  # t
    6: LENGTH,  # g
    21: LENGTH,  # ref_attr_name
}


INTS_KEY = 0x40
"""The byte before each number of ``ints`` that is not packed."""


# A tree ensemble keeps its millions of thresholds in attributes, one field each.
LISTS: Mapping[int, re.Pattern[bytes]] = {
    0x3D: re.compile(rb"(?:\x3d.{4})++", re.DOTALL),  # AttributeProto.floats
    INTS_KEY: re.compile(rb"(?:\x40[\x80-\xff]{0,9}+[\x00-\x7f])++"),  # AttributeProto.ints
}


class Attribute(NamedTuple):
    name: str
    number: int | None = None  # i
    tensor: tuple[int, int] | None = None  # offsets of t
    graph: tuple[int, int] | None = None  # offsets of g
    text: tuple[int, int] | None = None  # offsets of s
    refers: str = ""  # to an attribute of the function's call
    place: tuple[int, int] = (0, 0)


def read_attribute(reader: ProtobufReader, start: int, end: int, name_bytes: int) -> Attribute:
    """The AttributeProto between two offsets, without its lists: see :func:`attribute_ints`."""
    found = Attribute("", place=(start, end))
    for number, _, value, stop in reader.fields(start, end, _ATTRIBUTE, LISTS):
        if number == 1:
            found = found._replace(name=reader.text(value, stop, name_bytes))
        elif number == 3:
            found = found._replace(number=signed(value))
        elif number == 4:
            found = found._replace(text=(value, stop))
        elif number == 5:
            found = found._replace(tensor=(value, stop))
        elif number == 6:
            found = found._replace(graph=(value, stop))
        else:
            found = found._replace(refers=reader.text(value, stop, name_bytes))
    return found


class _Runs:
    """A pattern for ``fields`` that notes what it passes over."""

    def __init__(self, pattern: re.Pattern[bytes], spans: list[tuple[int, int, bool]]) -> None:
        self._pattern, self._spans = pattern, spans

    def match(self, data: Buffer, at: int, end: int) -> re.Match[bytes] | None:
        found = self._pattern.match(data, at, end)
        if found is not None:
            self._spans.append((at, found.end(), True))
        return found


def attribute_ints(reader: ProtobufReader, place: tuple[int, int]) -> np.ndarray:
    """``ints`` of the AttributeProto between two offsets as int64, at C's speed for millions of them."""
    spans: list[tuple[int, int, bool]] = []  # from, to, whether each number has its key before it
    runs: dict[int, Any] = {**LISTS, INTS_KEY: _Runs(LISTS[INTS_KEY], spans)}
    for _, kind, value, stop in reader.fields(*place, {8: _NUMBERS}, runs):
        spans.append((value, stop, False) if kind == LENGTH else (0, -1, False))
    parts = [_varints(np.frombuffer(bytes(reader.data[at:stop]), np.uint8))[keyed :: 1 + keyed] for at, stop, keyed in spans if stop > at]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _varints(data: np.ndarray) -> np.ndarray:
    """All numbers of a run of varints."""
    ends = np.flatnonzero(data < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    lengths = ends - starts + 1
    values = np.zeros(len(ends), np.uint64)
    for byte in range(min(int(lengths.max(initial=0)), 10)):
        has = lengths > byte
        values[has] |= (data[starts[has] + byte] & np.uint64(0x7F)).astype(np.uint64) << np.uint64(7 * byte)
    return values.view(np.int64)
