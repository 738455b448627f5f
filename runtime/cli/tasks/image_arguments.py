"""Paths, folders and patterns of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from rich.cells import cell_len

from onnxferry.runtime.cli.console import plain, read_stdin
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.images.decode import ImageInput
from onnxferry.runtime.images.folders import find_images

STDIN = "-"


STDIN_NAME = "stdin"
"""What it is called in messages."""


def image_names(images: Sequence[str]) -> list[str]:
    """The images meant: those in each folder, and those that match a pattern which the shell did not expand (on Windows)."""
    names: list[str] = []
    for image in images:
        names += [image] if image == STDIN else find_images(image)
    if names.count(STDIN) > 1:
        raise InputError("stdin holds one image: give - once")
    return names


def shown_names(names: Sequence[str], room: int | None) -> tuple[str, list[str]]:
    """For a table: the folder that all images are in, "" where there is none, and their names in it, cut in the middle where one takes more
    than ``room`` columns of a terminal; None: nothing is cut.
    """
    folders = {os.path.dirname(name) for name in names}  # noqa: PTH120 (text, also for names that no file can have)
    try:
        folder = os.path.commonpath(folders) if len(names) > 1 and all(folders) else ""
    except ValueError:  # one absolute, another not
        folder = ""
    inside = [plain(os.path.relpath(name, folder) if folder else key_of(name)) for name in names]
    return plain(folder), [_cut(name, room) for name in inside]


def _cut(name: str, room: int | None) -> str:
    if room is None or cell_len(name) <= room:
        return name
    start = name[: room // 3]
    while start and cell_len(start) > room // 3:
        start = start[:-1]
    end = name[len(start) :]
    while end and cell_len(end) > room - cell_len(start) - 1:
        end = end[1:]
    return f"{start}…{end}"


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
