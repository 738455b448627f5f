from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from onnxferry.runtime.errors import DataError
from onnxferry.runtime.images.idx import read_idx


def idx(code: int, shape: tuple[int, ...], data: bytes) -> bytes:
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("code", "dtype"), [(0x08, "uint8"), (0x09, "int8"), (0x0B, "int16"), (0x0C, "int32"), (0x0D, "float32"), (0x0E, "float64")]
)
def test_reads_every_type_of_the_format(tmp_path: Path, pack, code: int, dtype: str) -> None:
    expected = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "file-without-a-telling-name"
    path.write_bytes(pack(idx(code, expected.shape, expected.astype(expected.dtype.newbyteorder(">")).tobytes())))
    array = read_idx(path)
    assert array.dtype == np.dtype(dtype)
    assert array.dtype.isnative
    assert array.flags.writeable
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG\r\n\x1a\n", "not an IDX file"),
        (idx(0x07, (1,), b"a"), "not an IDX file"),
        (bytes([0, 0, 8, 3]) + b"\0\0\0\2", "truncated inside its header"),
        (idx(0x08, (3, 2), b"abcde"), "cannot hold|truncated"),
        (idx(0x08, (3, 2), b"abcdefg"), "more bytes"),
        (idx(0x08, (2**32 - 1,) * 3, b"abc"), "cannot hold"),
        (idx(0x0E, (2**31, 1), b"abc"), "cannot hold"),
        (idx(0x08, (0, 2**32 - 1, 2**32 - 1), b""), "which no array has"),
    ],
)
def test_lies_about_sizes_are_data_errors(tmp_path: Path, pack, content: bytes, says: str) -> None:
    path = tmp_path / "lie.idx"
    path.write_bytes(pack(content))
    with pytest.raises(DataError, match=says) as caught:
        read_idx(path)
    assert "lie.idx" in str(caught.value)


def test_missing_and_broken_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such IDX file"):
        read_idx(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)
    packed = gzip.compress(idx(0x08, (40,), bytes(range(40))))
    for broken in (packed[:-12], packed[:12], packed[:20] + b"\xff\xff\xff\xff" + packed[24:]):
        (tmp_path / "cut.gz").write_bytes(broken)
        with pytest.raises(DataError):
            read_idx(tmp_path / "cut.gz")
