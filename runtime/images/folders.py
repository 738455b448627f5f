"""Folders of images."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError
from onnxferry.runtime.images.decode import IMAGE_SUFFIXES


def folder_sha256(folder: Path, digests: Mapping[Path, str]) -> str:
    """The SHA-256 of what ``sha256sum`` prints for these files: their digests and paths in the folder, sorted."""
    import hashlib  # loads OpenSSL, which a prediction does not need

    listing = sorted((path.relative_to(folder).as_posix(), digest) for path, digest in digests.items())
    lines = "".join(f"{digest}  {path}\n" for path, digest in listing)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The images in a folder, by suffix and sorted by name. Hidden files and sub-folders are skipped.

    Raises DataError where there is no such folder, or no image in it.
    """
    folder = Path(folder)
    entries = _entries(folder)
    images = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not images:
        folders = [path.name for path in entries if path.is_dir()]
        inside = f"; it has sub-folders ({', '.join(folders[:5])}{', …' if len(folders) > 5 else ''}): name one of them" if folders else ""
        raise DataError(f"{folder}: no image lies in this folder, looked for {' '.join(IMAGE_SUFFIXES)}{inside}")
    return images


def find_images(name: str, deep: bool = False) -> list[str]:
    """What a file's name, a folder or a pattern (``photos/**/*.jpg``) on a command line stands for, sorted.

    Of a folder the images in it, with ``deep`` in its sub-folders too. Hidden files are skipped, and so are folders that a pattern matches.
    A name that is neither a folder nor matched by anything is returned as it is: decoding it says what is wrong. Raises InputError for an
    empty name, DataError for a folder without images.
    """
    if not name:
        raise InputError("an image's name is empty; is a variable of the command line not set?")
    if _is(Path.is_dir, name):
        if not deep:
            return list(map(str, list_images(name)))
        inside = sorted(path for path in Path(name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        shown = [str(path) for path in inside if not any(part.startswith(".") for part in path.relative_to(name).parts)]
        return shown or list(map(str, list_images(name)))  # which says what is there
    if glob.has_magic(name) and not _is(Path.exists, name):
        matched = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (a pattern may be absolute, which Path.glob refuses)
        return [each for each in matched if not Path(each).is_dir()] or [name]
    return [name]


def _is(question: Callable[[Path], bool], name: str) -> bool:
    """False also for a name that no file can have."""
    try:
        return question(Path(name))
    except (OSError, ValueError):
        return False


def list_labelled_images(folder: str | os.PathLike[str]) -> dict[str, list[Path]]:
    """Label to images, for a folder with one sub-folder for each label. Labels and images are sorted.

    Raises DataError where there is no such folder, it has no sub-folders, or one of them has no image.
    """
    folder = Path(folder)
    labels = [path for path in _entries(folder) if path.is_dir()]
    if not labels:
        raise DataError(f"{folder}: expected one sub-folder of images for each label, named by the label, found no sub-folder")
    return {path.name: list_images(path) for path in labels}


def passed_over(folder: str | os.PathLike[str], images: Iterable[Path]) -> dict[str, int]:
    """How many files in a folder and below are not among ``images``, by suffix, the most first. Hidden ones do not count."""
    used = set(images)
    found: Counter[str] = Counter()
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        rest = (Path(here, name) for name in files if not name.startswith("."))
        found.update(path.suffix.lower() or "without a suffix" for path in rest if path not in used)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def passed_over_words(found: Mapping[str, int]) -> str:
    """``5 files were passed over (4 .heic, 1 .txt)``; "" for none."""
    count = sum(found.values())
    if not count:
        return ""
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in list(found.items())[:5])
    return f"{count} file{'s were' if count > 1 else ' was'} passed over ({kinds}{', …' if len(found) > 5 else ''})"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        raise DataNotFoundError(f"no such folder: {folder}", folder) from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as a folder ({error.strerror})") from error
