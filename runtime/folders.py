"""Where files of ours lie on a user's machine: in the folder that the system keeps for caches, or where a variable says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
