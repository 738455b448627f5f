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

import json
import math
import os
import select
import struct
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxferry.runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np

MAX_HEAD_BYTES = 2**20
"""Python's objects for a JSON text take up to 26 times its length."""

_DTYPES = frozenset(("bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))))
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


def send(fd: int, value: Any, *, max_bytes: int | None = None, max_head: int = MAX_HEAD_BYTES, deadline: float | None = None) -> None:
    """Write a message. With a ``deadline`` (of ``time.monotonic``) the descriptor must not block.

    Raises InputError for an array of something else than numbers, TooLargeError before anything is written, ClosedError, TimeoutError.
    """
    import numpy as np

    arrays: list[np.ndarray] = []

    def placed(item: Any) -> dict[str, int]:
        array = np.asarray(item)
        if array.dtype.name not in _DTYPES:
            raise InputError(f"only arrays of numbers can be sent to and from a confined process, got {array.dtype}")
        arrays.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape))
        return {"array": len(arrays) - 1}

    body = json.dumps(value, default=placed)
    described = json.dumps([[array.dtype.name, array.shape] for array in arrays])
    head = f'{{"value": {body}, "arrays": {described}}}'.encode()
    total = len(head) + sum(array.nbytes for array in arrays)
    if len(head) > max_head or (max_bytes is not None and total > max_bytes):
        raise TooLargeError(total)
    whole = [memoryview(struct.pack("<Q", len(head)) + head), *(array.reshape(-1).view(np.uint8).data for array in arrays)]
    _write(fd, whole, deadline)


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

    (length,) = struct.unpack("<Q", _read(fd, 8, deadline))
    if length > min(max_head, max_bytes):
        raise TooLargeError(length)
    arrays: list[np.ndarray] = []
    try:
        whole = json.loads(_read(fd, length, deadline))
        value, specs = whole["value"], [_spec(*each) for each in whole["arrays"]]
        total = length + sum(size for _, _, size in specs)
        if total > max_bytes:
            raise TooLargeError(total)
        data, at = _read(fd, total - length, deadline), 0
        for dtype, shape, size in specs:
            flat = np.frombuffer(data, dtype, count=size // dtype.itemsize, offset=at)
            arrays.append(_aligned(flat).astype(dtype.newbyteorder("="), copy=False).reshape(shape))
            at += size
        return _filled(value, arrays)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise MessageError from error


def _spec(name: str, shape: Sequence[int]) -> tuple[np.dtype[Any], tuple[int, ...], int]:
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


def _read(fd: int, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    at = 0
    while at < size:
        _wait(fd, "POLLIN", deadline)
        try:
            if hasattr(os, "readv"):
                count = os.readv(fd, [memoryview(data)[at:]])
            else:
                part = os.read(fd, min(size - at, 2**20))
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
        _wait(fd, "POLLOUT", deadline)
        try:
            count = os.writev(fd, left[:_MAX_PARTS]) if hasattr(os, "writev") else os.write(fd, left[0])
        except BlockingIOError:
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
