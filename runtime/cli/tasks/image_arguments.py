"""Paths, folders and patterns of images."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from onnxferry.runtime.cli.console import read_stdin
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.images.decode import ImageInput
from onnxferry.runtime.images.folders import list_images

STDIN = "-"


STDIN_NAME = "stdin"
"""What it is called in messages."""


def image_names(images: Sequence[str]) -> list[str]:
    """The images meant: those in each folder, and those that match a pattern which the shell did not expand (on Windows)."""
    names: list[str] = []
    for image in images:
        if not image:
            raise InputError("an image's name is empty; is a variable of the command line not set?")
        if image != STDIN and _is(Path.is_dir, image):
            names += map(str, list_images(image))
        elif glob.has_magic(image) and not _is(Path.exists, image):
            names += sorted(glob.glob(image)) or [image]  # noqa: PTH207 (a pattern may be absolute, which Path.glob refuses)
        else:
            names.append(image)
    if names.count(STDIN) > 1:
        raise InputError("stdin holds one image: give - once")
    return names


def _is(question: Callable[[Path], bool], name: str) -> bool:
    """False also for a name that no file can have; decoding it then says what is wrong, and the other images are still read."""
    try:
        return question(Path(name))
    except (OSError, ValueError):
        return False


def opened_images(names: Sequence[str]) -> Iterator[tuple[str, ImageInput]]:
    """Each name once, with what is there to be decoded: keys and images for ``predict_each``."""
    for name in dict.fromkeys(names):
        yield (STDIN_NAME, read_stdin("an image")) if name == STDIN else (name, name)


def key_of(name: str) -> str:
    """The key that ``opened_images`` gives an image of this name."""
    return STDIN_NAME if name == STDIN else name


class Unreadable:
    """The images that could not be read, as ``on_error`` of ``predict_each``; each also advances the progress bar."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance
        self.errors: list[tuple[str, InputError]] = []

    def __call__(self, name: str, error: InputError) -> None:
        self.errors.append((STDIN if name == STDIN_NAME else name, error))
        self.advance(1)
