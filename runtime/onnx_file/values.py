"""Inputs and outputs of an .onnx file: name, element type and shape as the graph declares them.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, ValueInfoProto and TypeProto.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from onnxferry.runtime.onnx_file.protobuf import LENGTH, REPEATED, VARINT, Fields, ProtobufError, ProtobufReader, int32, only_one, signed
from onnxferry.runtime.onnx_file.tensors import ELEMENT_TYPES, MAX_RANK

Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class TensorSpec:
    """What the graph says of one input or output."""

    name: str
    dtype: str  # numpy's name, "uint8"; "str" for strings; what is no tensor keeps ONNX's spelling, "seq(tensor(float))"
    shape: Shape  # a size, the name of a dynamic axis, or None for a dynamic axis without a name
    ranked: bool = True  # False: the graph leaves even the number of axes open, and shape is ()

    @property
    def of_numbers(self) -> bool:
        """Whether it is a tensor of numbers or flags: not of text, and no sequence, map or optional."""
        return "(" not in self.dtype and self.dtype != "str"

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {shape_words(self.shape) if self.ranked else '(...)'}"


def shape_words(shape: Shape) -> str:
    """``(batch, 3, ?)``"""
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"


def is_size(size: int | str | None) -> TypeGuard[int]:
    """Whether an axis is of one size, and has room for something."""
    return isinstance(size, int) and size > 0


_MAX_DEPTH = 8  # optional(seq(map(…)))


_TENSOR, _SEQUENCE, _MAP, _OPAQUE, _SPARSE, _OPTIONAL = 1, 4, 5, 7, 8, 9


_VALUE: Fields = {1: LENGTH, 2: LENGTH}  # name, type


_TYPE: Fields = dict.fromkeys((_TENSOR, _SEQUENCE, _MAP, _OPAQUE, _SPARSE, _OPTIONAL), LENGTH)


_TENSOR_TYPE: Fields = {1: VARINT, 2: LENGTH}  # elem_type, shape; of dense and sparse tensors


_MAP_TYPE: Fields = {1: VARINT, 2: LENGTH}  # key_type, value_type


_ELEMENT_TYPE: Fields = {1: LENGTH}  # elem_type, of sequences and optionals


_SHAPE: Fields = {1: LENGTH | REPEATED}


_DIMENSION: Fields = {1: VARINT, 2: LENGTH}  # size, name


def read_value(reader: ProtobufReader, start: int, end: int, name_bytes: int) -> TensorSpec:
    """The ValueInfoProto between two offsets."""
    name, place = "", None
    for number, _, value, stop in reader.fields(start, end, _VALUE):
        if number == 1:
            name = reader.text(value, stop, name_bytes)
        else:
            place = value, stop
    if place is None:
        return TensorSpec(name, "undefined", (), ranked=False)
    number, start, end = _which(reader, *place)
    if number != _TENSOR:
        return TensorSpec(name, _spelling(reader, *place, name_bytes), (), ranked=False)
    code, shape = _tensor_type(reader, start, end, name_bytes)
    element = ELEMENT_TYPES.get(code)
    return TensorSpec(name, element.numpy if element else "undefined", shape or (), ranked=shape is not None)


def _which(reader: ProtobufReader, start: int, end: int) -> tuple[int, int, int]:
    """Which of TypeProto's kinds this is, and the offsets of its message; kind 0 where it says none."""
    found = None
    for number, _, value, stop in reader.fields(start, end, _TYPE):
        found = only_one(found, (number, value, stop), f"the type at byte {start}")
    return found or (0, start, start)


def _spelling(reader: ProtobufReader, start: int, end: int, name_bytes: int, depth: int = 0) -> str:
    """A type as ONNX Runtime spells it: ``seq(map(int64,tensor(float)))``."""
    if depth > _MAX_DEPTH:
        raise ProtobufError(f"a type at byte {start} is nested deeper than {_MAX_DEPTH}")
    number, start, end = _which(reader, start, end)
    if number in (_TENSOR, _SPARSE):
        code, _ = _tensor_type(reader, start, end, name_bytes)
        return f"{'tensor' if number == _TENSOR else 'sparse_tensor'}({_element(code)})"
    if number == _OPAQUE:
        return "opaque"
    key, inner = "", "undefined"
    for _, kind, value, stop in reader.fields(start, end, _MAP_TYPE if number == _MAP else _ELEMENT_TYPE):
        if kind == VARINT:
            key = _element(int32(value)) + ","
        else:
            inner = _spelling(reader, value, stop, name_bytes, depth + 1)
    return f"{ {_SEQUENCE: 'seq', _MAP: 'map', _OPTIONAL: 'optional'}.get(number, 'undefined') }({key}{inner})"


def _element(code: int) -> str:
    element = ELEMENT_TYPES.get(code)
    return element.onnx if element else "undefined"


def _tensor_type(reader: ProtobufReader, start: int, end: int, name_bytes: int) -> tuple[int, Shape | None]:
    """Element type and shape; None where any shape goes."""
    code, place = 0, None
    for number, _, value, stop in reader.fields(start, end, _TENSOR_TYPE):
        if number == 1:
            code = int32(value)
        else:
            place = value, stop
    return code, None if place is None else _shape(reader, *place, name_bytes)


def _shape(reader: ProtobufReader, start: int, end: int, name_bytes: int) -> Shape:
    sizes: list[int | str | None] = []
    for _, _, value, stop in reader.fields(start, end, _SHAPE):
        size: int | str | None = None
        for number, _, at, until in reader.fields(value, stop, _DIMENSION):
            given = reader.text(at, until, name_bytes) if number == 2 else signed(at)
            size = only_one(size, given, f"the size at byte {value}")
        if size == "" or (isinstance(size, int) and size < 0):
            size = None  # some exporters write -1 for any size
        if len(sizes) == MAX_RANK:
            raise ProtobufError(f"a shape at byte {start} has more than {MAX_RANK} axes")
        sizes.append(size)
    return tuple(sizes)
