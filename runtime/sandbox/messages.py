"""Messages to and from a child process that holds an untrusted model: a JSON head, and the bytes of its arrays behind it.

    send(fd, {"inputs": [np.zeros(3)]})
    receive(fd, max_bytes=2**20)            # {"inputs": [array([0., 0., 0.])]}

A message is a value of JSON in which arrays of numbers may stand. Nothing is unpickled, and the receiver bounds a message before it makes
room for it: the sender may be under the model's control. NaN and infinities travel too, since both ends are Python. A name out of the
model must not be a key of a message, where it could be mistaken for one of the protocol's.

Layout: the length of the head in 8 bytes, little-endian; the head, ``{"value": ..., "arrays": [[dtype, shape], ...]}`` with
``{"array": i}`` in the place of an array; the arrays' bytes, little-endian, in their order.
"""

from __future__ import annotations

import functools
import json
import math
import os
import select
import struct
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxferry.runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np

MAX_HEAD_BYTES = 2**20
"""Python's objects for a JSON text take up to 26 times its length."""

_DTYPES = frozenset(("bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))))
_TYPE_CODES = frozenset(
    ("|b1", "<f2", "<f4", "<f8", *(f"{'|' if size == 1 else '<'}{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8)))
)
"""The same as numpy writes them, little-endian."""

_MAX_RANK = 64


class MessageError(Exception):
    """What was received is no message."""


class TooLargeError(Exception):
    """A message beyond the limits; ``size`` in bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def __str__(self) -> str:
        return f"{self.size} bytes"


class ClosedError(Exception):
    """The other end is closed; its process has ended."""


def send(
    fd: int,
    value: Any,
    *,
    arrays: Sequence[np.ndarray] | None = None,
    key: Hashable = None,
    max_bytes: int | None = None,
    max_head: int = MAX_HEAD_BYTES,
    deadline: float | None = None,
) -> None:
    """Write a message. With a ``deadline`` (of ``time.monotonic``) the descriptor must not block.

    ``key`` makes messages that are sent again and again cheap: those of one key differ in nothing but ``arrays``, which are then all of
    the value's, in their order.
    Raises InputError for an array of something else than numbers, TooLargeError before anything is written, ClosedError, TimeoutError.
    """
    if arrays is None or key is None:
        head, placed = _encoded(value)
    else:
        placed = [_sendable(array) for array in arrays]
        known = key, tuple((array.dtype.str, array.shape) for array in placed)
        head = _heads.get(known) or _encoded(value)[0]
        if known not in _heads and len(head) <= _KEPT_BYTES:
            if len(_heads) >= _KEPT:
                _heads.clear()
            _heads[known] = head
    total = len(head) + sum(array.nbytes for array in placed)
    if len(head) > max_head or (max_bytes is not None and total > max_bytes):
        raise TooLargeError(total)
    whole = [memoryview(struct.pack("<Q", len(head)) + head), *(array.data.cast("B") for array in placed if array.nbytes)]
    _write(fd, whole, deadline)


_KEPT, _KEPT_BYTES = 64, 4096  # heads that are kept, and how long each may be
_heads: dict[Hashable, bytes] = {}


def _encoded(value: Any) -> tuple[bytes, list[np.ndarray]]:
    """The head, and the arrays that stand in the value."""
    arrays: list[np.ndarray] = []

    def place(item: Any) -> dict[str, int]:
        arrays.append(_sendable(item))
        return {"array": len(arrays) - 1}

    body = json.dumps(value, default=place)
    described = json.dumps([[array.dtype.name, array.shape] for array in arrays])
    return f'{{"value": {body}, "arrays": {described}}}'.encode(), arrays


def _sendable(item: Any) -> np.ndarray:
    """As it travels: contiguous, and little-endian."""
    import numpy as np

    if type(item) is np.ndarray and item.dtype.str in _TYPE_CODES and item.flags.c_contiguous:
        return item
    array = np.asarray(item)
    if array.dtype.name not in _DTYPES:
        raise InputError(f"only arrays of numbers can be sent to and from a confined process, got {array.dtype}")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)


def named_arrays(outputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """A model's outputs as a message; a name out of the model is no key of it. Raises InputError for lists and dicts."""
    import numpy as np

    for name, value in outputs.items():
        if not isinstance(value, np.ndarray):
            raise InputError(
                f"output {name!r} is a {type(value).__name__}, and only arrays of numbers leave a confined process; "
                "ask for other outputs, or open the file without isolation if you trust it"
            )
    return {"names": list(outputs), "arrays": list(outputs.values())}


def receive(fd: int, *, max_bytes: int, max_head: int = MAX_HEAD_BYTES, deadline: float | None = None) -> Any:
    """Read a message; its arrays are writable. Raises MessageError, TooLargeError, ClosedError, and TimeoutError at the ``deadline``."""
    import numpy as np

    first = _first(fd, deadline)
    (length,) = struct.unpack_from("<Q", first)
    if length > min(max_head, max_bytes):
        raise TooLargeError(length)
    head, rest = first[8 : 8 + length], first[8 + length :]
    if len(head) < length:
        head += _read(fd, bytearray(length - len(head)), deadline)
    arrays: list[np.ndarray] = []
    try:
        value, specs = _known_head(head) if length <= _KEPT_BYTES else _parsed(head)
        size = sum(size for _, _, size in specs)
        if length + size > max_bytes:
            raise TooLargeError(length + size)
        if len(rest) > size:
            raise MessageError("more than one message")
        data, at = bytearray(size), 0
        data[: len(rest)] = rest
        _read(fd, data, deadline, len(rest))
        for dtype, shape, size in specs:
            flat = np.frombuffer(data, dtype, count=size // dtype.itemsize, offset=at)
            arrays.append(_aligned(flat).astype(dtype.newbyteorder("="), copy=False).reshape(shape))
            at += size
        return _filled(value, arrays)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise MessageError from error


_Spec = tuple["np.dtype[Any]", tuple[int, ...], int]


def _parsed(head: bytes) -> tuple[Any, list[_Spec]]:
    whole = json.loads(head)
    return whole["value"], [_spec(*each) for each in whole["arrays"]]


_known_head = functools.lru_cache(_KEPT)(_parsed)


def _spec(name: str, shape: Sequence[int]) -> _Spec:
    """Dtype, shape and bytes of an array. Raises ValueError for what describes none."""
    import numpy as np

    sizes = isinstance(shape, list) and len(shape) <= _MAX_RANK and all(type(size) is int and 0 <= size < 2**40 for size in shape)
    if name not in _DTYPES or not sizes:
        raise ValueError("neither dtype nor shape")
    dtype = np.dtype(name).newbyteorder("<")
    return dtype, tuple(shape), math.prod(shape) * dtype.itemsize


def _aligned(array: np.ndarray) -> np.ndarray:
    """Arrays lie end to end in a message; a copy where the next one would begin off its own alignment."""
    return array if array.flags.aligned else array.copy()


def _filled(value: Any, arrays: Sequence[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_filled(item, arrays) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"array"} and type(value["array"]) is int and value["array"] >= 0:
            return arrays[value["array"]]
        return {key: _filled(item, arrays) for key, item in value.items()}
    return value


_AT_ONCE = 2**16  # bytes of a pipe, and of most messages
_LENGTH = 8


def _first(fd: int, deadline: float | None) -> bytes:
    """What is there already of a message, at least the length of its head. One follows another only after it was answered."""
    data = b""
    while len(data) < _LENGTH:
        _wait(fd, "POLLIN", deadline)
        try:
            part = os.read(fd, _AT_ONCE)
        except BlockingIOError:
            continue
        except OSError as error:
            raise ClosedError from error
        if not part:
            raise ClosedError
        data += part
    return data


def _read(fd: int, data: bytearray, deadline: float | None, at: int = 0) -> bytearray:
    """Fills the bytes from ``at`` on."""
    while at < len(data):
        _wait(fd, "POLLIN", deadline)
        try:
            if hasattr(os, "readv"):
                count = os.readv(fd, [memoryview(data)[at:]])
            else:
                part = os.read(fd, min(len(data) - at, 2**20))
                data[at : at + len(part)] = part
                count = len(part)
        except BlockingIOError:
            continue
        except OSError as error:
            raise ClosedError from error
        if not count:
            raise ClosedError
        at += count
    return data


def _write(fd: int, parts: Sequence[memoryview], deadline: float | None) -> None:
    """All parts, in one system call where the other end takes them at once."""
    left = [part for part in parts if len(part)]
    while left:
        try:
            count = os.writev(fd, left[:_MAX_PARTS]) if hasattr(os, "writev") else os.write(fd, left[0])
        except BlockingIOError:
            _wait(fd, "POLLOUT", deadline)
            continue
        except OSError as error:
            raise ClosedError from error
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]


_MAX_PARTS = 64  # of one system call; POSIX promises 16, Linux and macOS take 1,024


def _wait(fd: int, event: str, deadline: float | None) -> None:
    """Until the descriptor is ready. Windows cannot wait for a pipe: there, the caller's own timer ends the process."""
    if deadline is None or not hasattr(select, "poll"):
        return
    waiting = select.poll()
    waiting.register(fd, getattr(select, event))
    left = deadline - time.monotonic()
    if left <= 0 or not waiting.poll(left * 1000):
        raise TimeoutError
