"""Files written whole or not at all."""

from __future__ import annotations

import os
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import DataError


def cache_folder() -> Path | None:
    """Of what is found out again where it is lost: ``ONNXFERRY_CACHE``, else the user's cache folder.

    None where the variable is set and empty, or this user has no home folder.
    """
    chosen = os.environ.get("ONNXFERRY_CACHE")
    if chosen is not None:
        return Path(chosen) if chosen else None
    return _users_folder()


def downloads_folder() -> Path:
    """Of downloads and what is made of them: ``ONNXFERRY_HOME``, else the user's cache folder. It need not exist.

    Raises DataError for a user without a home folder.
    """
    if own := os.environ.get("ONNXFERRY_HOME"):
        return Path(own).expanduser()
    folder = _users_folder()
    if folder is None:
        raise DataError("this user has no home folder to keep downloads in: set ONNXFERRY_HOME to a folder")
    return folder


def _users_folder() -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:  # no home folder: a service's user, mostly
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "onnxferry"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "onnxferry"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path there is to be ignored: XDG Base Directory Specification, "Environment variables".
    return (xdg if xdg.is_absolute() else home / ".cache") / "onnxferry"


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


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a name beside ``path`` to write under; what is there at the end gets the name ``path``, after an error nothing does.

    A kill in between leaves the older file as it was, and two that write at once do not mix. The name ends as ``path`` does,
    since some libraries choose a format by it.
    """
    part = path.with_name(f".{path.stem}.{os.urandom(4).hex()}.tmp{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text_whole(path: Path, text: str) -> None:
    """UTF-8, whole or not at all."""
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")
