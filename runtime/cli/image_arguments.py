"""Paths, folders and patterns of images."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.images.decode import decode_image
from onnxferry.runtime.images.folders import list_images

STDIN = "-"


def image_names(images: Sequence[str]) -> list[str]:
    """Folders become the images in them, and patterns that the shell left as they are (on Windows) what they match."""
    names: list[str] = []
    for image in images:
        if image != STDIN and Path(image).is_dir():
            names += map(str, list_images(image))
        elif glob.has_magic(image) and not Path(image).exists():
            names += sorted(glob.glob(image)) or [image]  # noqa: PTH207 (a pattern may be absolute, which Path.glob refuses)
        else:
            names.append(image)
    if names.count(STDIN) > 1:
        raise InputError("stdin holds one image: give - once")
    return names


def read_images(
    names: Sequence[str], errors: list[tuple[str, InputError]], advance: Callable[[int], None]
) -> Iterator[tuple[int, np.ndarray]]:
    """Positions and images; those that cannot be read go to ``errors`` and advance the bar."""
    for i, name in enumerate(names):
        try:
            image = decode_image(sys.stdin.buffer.read(), "stdin") if name == STDIN else decode_image(name)
        except InputError as error:
            errors.append((name, error))
            advance(1)
        else:
            yield i, image
