"""What a file is that is no .onnx file, by its first bytes, and what to do about it."""

from __future__ import annotations

import re

_NOT_ONNX: tuple[tuple[bytes | tuple[bytes, ...], str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the model itself; run `git lfs pull`"),
    (b"PK\x03\x04", "is a zip archive (a PyTorch checkpoint, perhaps), not ONNX; export the model to ONNX first"),
    (b"\x89HDF\r\n", "is an HDF5 file (Keras, perhaps), not ONNX; export the model to ONNX first"),
    ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), "is a Python pickle, not ONNX; export the model to ONNX first"),
)


_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]+")


def other_format(start: bytes) -> str:
    """The rest of a sentence about the file that starts so; "" where it may be ONNX."""
    for magic, verdict in _NOT_ONNX:
        if start.startswith(magic):
            return verdict
    if _TEXT.fullmatch(start):  # an ONNX file starts with control characters
        return "is text (a web page, perhaps), not ONNX; download the file itself"
    if start[4:8] == b"ORTM":
        return "is in ONNX Runtime's own .ort format; expected the .onnx file it was made from"
    return ""
