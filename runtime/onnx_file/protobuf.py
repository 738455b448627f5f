"""Protocol Buffers' wire format, read in place: where each field of a message lies, nothing copied, nothing trusted.

Only what ONNX needs. Deprecated groups are refused (ONNX has none, and they nest without bound), so is everything that says
it is longer than the message it stands in. The work is bounded by a budget of fields, shared by a whole file.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

Buffer = bytes | mmap.mmap


# Wire types, as a mask of those that a known field may have: repeated numbers stand alone or packed into one field.
VARINT, FIXED64, LENGTH, FIXED32 = 1 << 0, 1 << 1, 1 << 2, 1 << 5


REPEATED = 1 << 8
"""In a mask: the field may appear more than once. Every other field is singular, and a second one is refused: protobuf merges a
second message into the first and lets a second scalar win, so two readers could see two different models. No exporter writes one."""


Fields = Mapping[int, int]
"""The fields of a message that a reader wants: number → mask of wire types, and REPEATED."""


_NO_RUNS: Mapping[int, re.Pattern[bytes]] = MappingProxyType({})


_VARINT_BYTES = 10  # 64 bits, 7 a byte


class ProtobufError(Exception):
    """The bytes are no message. The text says why and where, and fits after "is not a readable ONNX file: "."""


class BudgetError(Exception):
    """The bytes hold more fields than the reader may look at."""


class ProtobufReader:
    """Fields of the messages in ``data``; ``budget`` is how many may be looked at in all."""

    __slots__ = ("budget", "data")

    def __init__(self, data: Buffer, budget: int) -> None:
        self.data = data
        self.budget = budget

    def fields(
        self, start: int, end: int, wanted: Fields, runs: Mapping[int, re.Pattern[bytes]] = _NO_RUNS
    ) -> Iterator[tuple[int, int, int, int]]:
        """``(number, wire type, value, stop)`` of each wanted field of the message between two offsets; others are passed over.

        A varint's value is its unsigned 64-bit number. Of every other field, value and stop are the offsets between which its
        bytes lie. ``runs`` passes over long lists of numbers at C's speed: by key byte, a pattern that matches such fields whole.
        """
        data, at, seen = self.data, start, 0
        while at < end:
            self.budget -= 1
            if self.budget < 0:
                raise BudgetError
            key = data[at]
            if key in runs:
                run = runs[key].match(data, at, end)
                if run is not None:
                    at = run.end()
                    continue
            at += 1
            if key >= 0x80:
                key, at = self.varint(at - 1, end)
            number, kind = key >> 3, 1 << (key & 7)
            if kind == LENGTH:
                size, at = self.varint(at, end)
                value, stop = at, at + size
            elif kind == VARINT:
                value, stop = self.varint(at, end)
            elif kind == FIXED32:
                value, stop = at, at + 4
            elif kind == FIXED64:
                value, stop = at, at + 8
            else:
                raise ProtobufError(f"byte {at - 1} starts no field")
            if not 0 < number < 1 << 29:
                raise ProtobufError(f"byte {at - 1} starts no field")
            if stop > end:
                raise ProtobufError(f"{stop - at} bytes are announced at byte {at}, but only {end - at} are there; it may be cut short")
            mask = wanted.get(number)
            if mask is not None:
                if not mask & kind:
                    raise ProtobufError(f"field {number} at byte {at} is of the wrong type")
                if not mask & REPEATED:
                    if seen >> number & 1:
                        raise ProtobufError(f"field {number} of the message at byte {start} appears twice, but may appear once")
                    seen |= 1 << number
                yield number, kind, value, stop
            at = stop

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The unsigned number at an offset, and the offset after it."""
        data, value = self.data, 0
        if at < end and data[at] < 0x80:  # nearly all
            return data[at], at + 1
        for shift in range(0, 7 * _VARINT_BYTES, 7):
            if at >= end:
                raise ProtobufError(f"it ends within a number, at byte {at}")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
        raise ProtobufError(f"the number before byte {at} has more than {_VARINT_BYTES} bytes")

    def varints(self, start: int, end: int) -> Iterator[int]:
        """The numbers of a packed field."""
        while start < end:
            self.budget -= 1
            if self.budget < 0:
                raise BudgetError
            value, start = self.varint(start, end)
            yield value

    def text(self, start: int, end: int, limit: int) -> str:
        """A UTF-8 string of at most ``limit`` bytes."""
        if end - start > limit:
            raise ProtobufError(f"a name at byte {start} has {end - start} bytes, more than {limit}")
        try:
            return self.data[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ProtobufError(f"the text at byte {start} is not UTF-8") from error


def signed(value: int) -> int:
    """A varint's unsigned value as the int64 it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def int32(value: int) -> int:
    """A varint's unsigned value as an int32 field holds it: its low 32 bits."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >= 1 << 31 else value


_T = TypeVar("_T")


def only_one(earlier: _T | None, now: _T, what: str) -> _T:
    """For the fields of a oneof: refuses a second one, which would replace the first."""
    if earlier is not None:
        raise ProtobufError(f"{what} appears twice, but may appear once")
    return now
