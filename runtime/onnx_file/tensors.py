"""Tensors in an .onnx file: name, type and shape, and whether the data that is there is as much as they say. The data stays put.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, TensorProto and SparseTensorProto.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxferry.runtime.onnx_file.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH,
    REPEATED,
    VARINT,
    Fields,
    ProtobufError,
    ProtobufReader,
    int32,
    signed,
)

MAX_RANK = 64  # numpy's


class ElementType(NamedTuple):
    onnx: str  # as ONNX Runtime spells it
    numpy: str  # as numpy, or ml_dtypes where numpy has none, names it
    bits: int  # 0: of no fixed size
    field: int = 5  # of TensorProto, that holds the data where raw_data does not


_STRING = 8


# TensorProto.DataType
ELEMENT_TYPES: Mapping[int, ElementType] = {
    1: ElementType("float", "float32", 32, 4),
    2: ElementType("uint8", "uint8", 8),
    3: ElementType("int8", "int8", 8),
    4: ElementType("uint16", "uint16", 16),
    5: ElementType("int16", "int16", 16),
    6: ElementType("int32", "int32", 32),
    7: ElementType("int64", "int64", 64, 7),
    _STRING: ElementType("string", "str", 0, 6),
    9: ElementType("bool", "bool", 8),
    10: ElementType("float16", "float16", 16),
    11: ElementType("double", "float64", 64, 10),
    12: ElementType("uint32", "uint32", 32, 11),
    13: ElementType("uint64", "uint64", 64, 11),
    14: ElementType("complex64", "complex64", 64, 4),
    15: ElementType("complex128", "complex128", 128, 10),
    16: ElementType("bfloat16", "bfloat16", 16),
    17: ElementType("float8e4m3fn", "float8_e4m3fn", 8),
    18: ElementType("float8e4m3fnuz", "float8_e4m3fnuz", 8),
    19: ElementType("float8e5m2", "float8_e5m2", 8),
    20: ElementType("float8e5m2fnuz", "float8_e5m2fnuz", 8),
    21: ElementType("uint4", "uint4", 4),
    22: ElementType("int4", "int4", 4),
    23: ElementType("float4e2m1", "float4_e2m1fn", 4),
    24: ElementType("float8e8m0", "float8_e8m0fnu", 8),
    25: ElementType("uint2", "uint2", 2),
    26: ElementType("int2", "int2", 2),
    27: ElementType("float6e2m3", "float6_e2m3fn", 6),
    28: ElementType("float6e3m2", "float6_e3m2fn", 6),
}


_NUMBERS = VARINT | LENGTH | REPEATED


_TENSOR: Fields = {
    1: _NUMBERS,  # dims
    2: VARINT,  # data_type
    4: FIXED32 | LENGTH | REPEATED,  # float_data
    5: _NUMBERS,  # int32_data
    6: LENGTH | REPEATED,  # string_data
    7: _NUMBERS,  # int64_data
    8: LENGTH,  # name
    9: LENGTH,  # raw_data
    10: FIXED64 | LENGTH | REPEATED,  # double_data
    11: _NUMBERS,  # uint64_data
    13: LENGTH | REPEATED,  # external_data
    14: VARINT,  # data_location
}


_TYPED_DATA = frozenset({4, 5, 6, 7, 10, 11})


_SPARSE: Fields = {1: LENGTH, 2: LENGTH, 3: _NUMBERS}  # values, indices, dims


PAIR: Fields = {1: LENGTH, 2: LENGTH}  # StringStringEntryProto: key, value


@dataclass(frozen=True)
class TensorHeader:
    name: str
    element: ElementType
    shape: tuple[int, ...]
    nbytes: int  # of the elements that the shape takes; of strings, 0
    external: Mapping[str, str] | None  # where the data lies outside the file: location, offset, length


def read_tensor(reader: ProtobufReader, start: int, end: int, name_bytes: int) -> TensorHeader:
    """The header of the TensorProto between two offsets. Raises ProtobufError where data and shape disagree."""
    name, code, location, raw = "", 0, 0, None
    dims: list[int] = []
    entries = dict.fromkeys(_TYPED_DATA, 0)
    external: dict[str, str] = {}
    for number, kind, value, stop in reader.fields(start, end, _TENSOR):
        if number == 1:
            _add_sizes(reader, dims, kind, value, stop)
        elif number == 2:
            code = int32(value)
        elif number == 8:
            name = reader.text(value, stop, name_bytes)
        elif number == 9:
            raw = stop - value
        elif number == 13:
            key, text = read_pair(reader, value, stop, name_bytes)
            if key in external:
                raise ProtobufError(f"the external data of the tensor at byte {start} has {key[:40]!r} twice")
            external[key] = text
        elif number == 14:
            location = value
        else:
            entries[number] += _entries(reader, number, kind, value, stop)
    element = ELEMENT_TYPES.get(code)
    if element is None:
        raise ProtobufError(f"tensor {name[:80]!r} has the unknown element type {code}")
    elements = math.prod(dims)
    header = TensorHeader(name, element, tuple(dims), (elements * element.bits + 7) // 8, None)
    if location not in (0, 1):
        raise ProtobufError(f"tensor {name[:80]!r} has the unknown data location {location}")
    if location == 1:
        if code == _STRING:
            raise ProtobufError(f"tensor {name[:80]!r} keeps strings outside the file, which ONNX does not allow")
        if raw or any(entries.values()):
            raise ProtobufError(f"tensor {name[:80]!r} has data both in the file and outside it")
        return TensorHeader(name, element, header.shape, header.nbytes, external)
    _check_amount(header, elements, raw, entries)
    return header


def _check_amount(header: TensorHeader, elements: int, raw: int | None, entries: Mapping[int, int]) -> None:
    """The data in the file is what the shape takes, in the one field that the type prescribes."""
    element = header.element
    typed = sum(entries.values())
    if raw is not None:
        fits = raw == header.nbytes and typed == 0 and element.bits > 0
    else:
        per_entry = {"complex64": 0.5, "complex128": 0.5}.get(element.onnx, 8 // element.bits if 0 < element.bits < 8 else 1)
        fits = typed == entries[element.field] == math.ceil(elements / per_entry)
    if not fits:
        found = f"{raw} bytes" if raw is not None else f"{typed} values"
        raise ProtobufError(f"tensor {header.name[:80]!r} holds {found}, which do not fill {element.numpy} {list(header.shape)[:8]}")


def read_sparse(reader: ProtobufReader, start: int, end: int, name_bytes: int) -> tuple[TensorHeader, TensorHeader, TensorHeader]:
    """Of a SparseTensorProto: the dense tensor it stands for (which ONNX Runtime makes of it), its values, its indices."""
    parts: dict[int, TensorHeader] = {}
    dims: list[int] = []
    for number, kind, value, stop in reader.fields(start, end, _SPARSE):
        if number == 3:
            _add_sizes(reader, dims, kind, value, stop)
        else:
            parts[number] = read_tensor(reader, value, stop, name_bytes)
    if len(parts) < 2:
        raise ProtobufError(f"the sparse tensor at byte {start} lacks its values or its indices")
    values = parts[1]
    dense = TensorHeader(values.name, values.element, tuple(dims), (math.prod(dims) * values.element.bits + 7) // 8, None)
    return dense, values, parts[2]


def read_pair(reader: ProtobufReader, start: int, end: int, value_bytes: int) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto."""
    texts = {1: "", 2: ""}
    for number, _, value, stop in reader.fields(start, end, PAIR):
        texts[number] = reader.text(value, stop, value_bytes)
    return texts[1], texts[2]


def _add_sizes(reader: ProtobufReader, dims: list[int], kind: int, value: int, stop: int) -> None:
    for number in reader.varints(value, stop) if kind == LENGTH else (value,):
        size = signed(number)
        if size < 0 or len(dims) == MAX_RANK:
            raise ProtobufError(f"a tensor has {'a negative size' if size < 0 else f'more than {MAX_RANK} axes'}")
        dims.append(size)


def _entries(reader: ProtobufReader, number: int, kind: int, value: int, stop: int) -> int:
    """How many values one field of typed data holds."""
    if number == 6 or kind != LENGTH:
        return 1
    size = stop - value
    width = {4: 4, 10: 8}.get(number)
    if width is None:
        return _count_varints(reader, value, stop)
    if size % width:
        raise ProtobufError(f"the {size} bytes of packed numbers at byte {value} are not a multiple of {width}")
    return size // width


def _count_varints(reader: ProtobufReader, start: int, stop: int, chunk: int = 2**20) -> int:
    """Each number ends in the one of its bytes that is below 0x80."""
    count = 0
    for at in range(start, stop, chunk):
        part = np.frombuffer(reader.data, np.uint8, min(chunk, stop - at), at)
        count += int(np.count_nonzero(part < 0x80))
        del part  # a map cannot be closed while a view of it lives
    return count
