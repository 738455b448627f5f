"""The folders of caches and downloads, and files that are written as a whole or not at all."""

from __future__ import annotations

import os
import stat
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.errors import DataError, InputError, InputNotFoundError
from onnxferry.runtime.formats import json_text
from onnxferry.runtime.interruption import unfinished


def cache_folder() -> Path | None:
    """The folder for what can be computed again: ``ONNXFERRY_CACHE``, else the user's cache folder. ``~`` is expanded.

    None where the variable is set and empty, or this user has no home folder.
    """
    chosen = os.environ.get("ONNXFERRY_CACHE")
    if chosen is None:
        return _users_folder()
    return _expanded(chosen) if chosen else None


def downloads_folder() -> Path:
    """The folder for downloads and what is made of them: ``ONNXFERRY_HOME``, else the user's cache folder. It need not exist.

    Raises DataError for a user without a home folder.
    """
    chosen = os.environ.get("ONNXFERRY_HOME")
    folder = _expanded(chosen) if chosen else _users_folder()
    if folder is None:
        raise DataError("this user has no home folder to keep downloads in: set ONNXFERRY_HOME to a folder")
    return folder


def _expanded(path: str) -> Path | None:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~ of a user without a home folder
        return None


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
"""What ``read_npz`` may raise. The caller knows which file it is and what for, and says so in its own error."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; never unpickles. Raises one of UNREADABLE."""
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it holds one array without a name")
    with archive:
        return {name: archive[name] for name in archive.files}


def only_this_user_writes(status: os.stat_result) -> bool:
    """True if the file is a regular one, owned by this user and not writable by others. On Windows the folder's own rights decide."""
    if not stat.S_ISREG(status.st_mode):
        return False
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def check_place(path: Path) -> None:
    """Before the work whose result goes there. Raises InputError where ``path`` cannot be written, by the name that the user gave."""
    if not path.parent.is_dir():
        words = f"{path} cannot be written: the folder {path.parent} does not exist: make it, or give another place"
        raise InputNotFoundError(words, path.parent)
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder; give a file's name")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: the folder {path.parent} may not be written by this user; give another place")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder to write to; at the end it is renamed to ``path``, after an error it is removed.

    A process that is killed in between leaves the older file as it was, and two writers at once do not mix. The temporary name has
    the suffix of ``path``, since some libraries choose a format by it.
    """
    part = path.with_name(f".{path.stem}.{os.urandom(4).hex()}.tmp{path.suffix}")
    unfinished.add(os.fspath(part))
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) == part:
            error.filename, error.filename2 = str(path), None  # the name that the user gave, which a full disk's error lacks
        raise
    finally:
        part.unlink(missing_ok=True)
        unfinished.discard(os.fspath(part))


def write_text_whole(path: Path, text: str) -> None:
    """UTF-8, whole or not at all."""
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any, indent: int = 2) -> None:
    """A file of one JSON document, whole or not at all; NaN and infinities, which JSON lacks, as null."""
    write_text_whole(path, json_text(document, indent) + "\n")
