"""Paths, folders and patterns of pictures."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.images.decode import decode_picture
from onnxferry.runtime.images.folders import list_pictures

STDIN = "-"


def picture_names(images: Sequence[str]) -> list[str]:
    """Folders become the pictures in them, and patterns that the shell left as they are (on Windows) what they match."""
    names: list[str] = []
    for image in images:
        if image != STDIN and Path(image).is_dir():
            names += map(str, list_pictures(image))
        elif glob.has_magic(image) and not Path(image).exists():
            names += sorted(glob.glob(image)) or [image]  # noqa: PTH207 (a pattern may be absolute, which Path.glob refuses)
        else:
            names.append(image)
    if names.count(STDIN) > 1:
        raise InputError("stdin holds one picture: give - once")
    return names


def read_pictures(
    names: Sequence[str], errors: list[tuple[str, InputError]], advance: Callable[[int], None]
) -> Iterator[tuple[int, np.ndarray]]:
    """Positions and pictures; those that cannot be read go to ``errors`` and advance the bar."""
    for i, name in enumerate(names):
        try:
            picture = decode_picture(sys.stdin.buffer.read(), "stdin") if name == STDIN else decode_picture(name)
        except InputError as error:
            errors.append((name, error))
            advance(1)
        else:
            yield i, picture
