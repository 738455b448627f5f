"""What can go wrong when somebody's .npz or .npy is read with numpy."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib

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
