"""Somebody's .npz, and what can go wrong when it, or an .npy, is read with numpy."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    ValueError,  # no .npz, objects in it, a shape that does not fit
    EOFError,
    KeyError,
    TypeError,
    SyntaxError,  # numpy reads an array's head as Python's literals
    tokenize.TokenError,
    RuntimeError,  # encrypted, or compressed in a way that zipfile does not know
    OverflowError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""To be told as "this is no file of arrays", by whoever knows which file and what for."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; never unpickles. Raises one of UNREADABLE."""
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it holds one array without a name")
    with archive:
        return {name: archive[name] for name in archive.files}
