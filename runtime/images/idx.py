"""IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from onnxferry.runtime.errors import DataError, DataNotFoundError


def idx_header(array: np.ndarray) -> bytes:
    """The header of a uint8 array in an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()


def idx_sha256(arrays: Sequence[np.ndarray]) -> str:
    """The SHA-256 of the uncompressed IDX files of these uint8 arrays, one after the other."""
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(idx_header(array))
        whole.update(array.data)
    return whole.hexdigest()


# IDX type codes, as in the format's only specification: http://yann.lecun.com/exdb/mnist/ ("THE IDX FILE FORMAT").
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


_MAX_IDX_BYTES = 4 * 2**30


_DEFLATE_MAX_RATIO = 1032  # the most that deflate can compress (https://zlib.net/zlib_tech.html)


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an IDX file, gzipped or not (by its bytes, not by its name), in native byte order and writable.

    Shape and dtype are the file's: MNIST's images are uint8 (n, height, width), its labels uint8 (n,).
    Raises DataError where the file does not exist, is not an IDX file, or does not hold exactly what its header claims.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            if raw.read(2) == b"\x1f\x8b":
                raw.seek(0)
                with gzip.open(raw) as stream:
                    return _read_idx(stream, path, size * _DEFLATE_MAX_RATIO)
            raw.seek(0)
            return _read_idx(raw, path, size)
    except FileNotFoundError:
        raise DataNotFoundError(f"no such IDX file: {path}", path) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as an IDX file ({error}); fetch it again") from error


def _read_idx(stream: BinaryIO | gzip.GzipFile, path: Path, at_most: int) -> np.ndarray:
    """``at_most``: bytes that the stream can hold, so that a false header causes no large allocation."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_DTYPES or not 1 <= magic[3] <= 8:
        raise DataError(f"{path}: not an IDX file (it starts with {magic.hex() or 'nothing'}, expected 0000, a type code and a rank)")
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{path}: truncated inside its header; fetch it again")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4"))
    dtype = np.dtype(_IDX_DTYPES[magic[2]])
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > min(at_most, _MAX_IDX_BYTES):
        raise DataError(f"{path}: claims shape {shape} of {dtype.name}, {claimed} bytes, which the file cannot hold; fetch it again")
    data = np.empty(claimed, np.uint8)
    filled = 0
    while filled < claimed:
        read = stream.readinto(data[filled:].data)  # type: ignore[union-attr]
        if not read:
            raise DataError(f"{path}: truncated: {filled} of {claimed} bytes are there; fetch it again")
        filled += read
    if stream.read(1):
        raise DataError(f"{path}: holds more bytes than its shape {shape} of {dtype.name} takes; fetch it again")
    try:
        return data.view(dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)
    except ValueError as error:  # no elements, and more of them along an axis than numpy counts
        raise DataError(f"{path}: claims the shape {shape}, which no array has; fetch it again") from error
