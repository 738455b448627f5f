"""Errors that the user can fix. Anything else that is raised is a bug of onnxferry.

    OnnxFerryError                    the root: ``except OnnxFerryError`` catches all of them
    ├── MissingExtraError             an optional dependency is not installed; the message has the install line (an ImportError too)
    ├── InputError                    an input, an image, a prompt or an option has the wrong name, dtype, shape or value (a ValueError too)
    │   └── InputNotFoundError        … or names a file that does not exist
    ├── DataError                     a data set is missing, empty, unreadable or does not have its checksum
    │   └── DataNotFoundError         its file or folder does not exist
    ├── CheckpointError               a checkpoint is unreadable, unsafe, or of another family
    │   └── CheckpointNotFoundError   its file does not exist
    ├── TrainingError                 training cannot go on (loss is not finite, nothing to resume, …)
    ├── ArtifactError                 an .onnx file or its contract is missing, broken, too new, or not what was asked for
    │   ├── ArtifactNotFoundError     the file does not exist
    │   └── UntrustedModelError       an untrusted .onnx file holds something that is refused
    ├── NotFoundError                 the root of the four …NotFoundErrors (a FileNotFoundError too)
    ├── DeviceError                   the device or provider that was asked for cannot be used here
    ├── ExportError                   a model cannot be exported to ONNX
    │   └── ParityError               it was exported, and does not do the same; ``.report`` says where and by how much
    ├── CheckFailedError              a file's own golden samples do not come out as they should on this machine
    ├── BusyError                     a batcher's queue is full, or no thread or process can be started: try again later
    └── TimeLimitError                opening or running a model took longer than ``timeout`` (a TimeoutError too)

Every message says what was wrong, what was expected, and what to do, and its first line can stand alone. Every class has a ``code``,
which does not change between releases; the command line prints it with the page that explains it (:func:`help_page`).
"""

from __future__ import annotations

import errno
import json
import os
import shlex
from typing import Any


class OnnxFerryError(Exception):
    """Root of every error that the user can fix. ``exit_code``: of the command that ends with it."""

    exit_code = 1
    code = "OF-ERROR"


class MissingExtraError(OnnxFerryError, ImportError):
    """An optional dependency is not installed. ``name`` and ``package``: which; ``extra``: what to install."""

    code = "OF-MISSING-EXTRA"

    def __init__(self, package: str, extra: str, purpose: str, note: str = "") -> None:
        line = f"{purpose} needs the package {package!r}, which is not installed: {install_command(extra)}"
        super().__init__(f"{line} ({note})" if note else line)
        self.name = package
        self.package = package
        self.extra = extra
        self._arguments = (package, extra, purpose, note)

    def __reduce__(self) -> tuple[Any, ...]:  # ImportError's own would give the message for all arguments
        return type(self), self._arguments


def install_command(extra: str) -> str:
    """What installs an extra into this environment: from where the package itself was installed, which need not be the package index.

    Source: https://packaging.python.org/en/latest/specifications/direct-url/.
    """
    from importlib import metadata  # only here: it takes longer to import than a prediction
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        found = json.loads(metadata.distribution("onnxferry").read_text("direct_url.json") or "{}")
        url = urlsplit(str(found.get("url", "")))
        place = url2pathname(url.path) if url.scheme == "file" else ""
        option = "-e " if found.get("dir_info", {}).get("editable") else ""
    except (metadata.PackageNotFoundError, ValueError, AttributeError):  # not installed at all: run from a clone's folder
        place, option = "", ""
    if place and os.path.exists(place):  # noqa: PTH110 (pathlib is not needed before an error)
        return f"pip install {option}{shlex.quote(f'{place}[{extra}]')}"
    return f"pip install 'onnxferry[{extra}]'"


class NotFoundError(OnnxFerryError, FileNotFoundError):
    """A file or folder does not exist. ``filename``: which, where that is known."""

    code = "OF-NOT-FOUND"

    def __init__(self, message: str, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(message)
        self.errno = errno.ENOENT
        self.filename = None if path is None else os.fspath(path)

    def __str__(self) -> str:  # OSError's own would begin with the number
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:  # OSError's own would leave the name out
        return type(self), (self.args[0], self.filename)


class InputError(OnnxFerryError, ValueError):
    """An input, image, prompt or option has the wrong name, dtype, shape or value."""

    code = "OF-INPUT"


class InputNotFoundError(InputError, NotFoundError):
    """An image or another file that was given as input does not exist."""

    code = "OF-INPUT-NOT-FOUND"


class DataError(OnnxFerryError):
    """A data set is missing, empty, unreadable or does not have its checksum."""

    code = "OF-DATA"


class DataNotFoundError(DataError, NotFoundError):
    """A data set's file or folder does not exist."""

    code = "OF-DATA-NOT-FOUND"


class CheckpointError(OnnxFerryError):
    """A checkpoint is unreadable, unsafe, or of another family."""

    code = "OF-CHECKPOINT"


class CheckpointNotFoundError(CheckpointError, NotFoundError):
    """A checkpoint's file does not exist."""

    code = "OF-CHECKPOINT-NOT-FOUND"


class TrainingError(OnnxFerryError):
    """Training cannot go on."""

    code = "OF-TRAINING"


class ArtifactError(OnnxFerryError):
    """An .onnx file or its contract is missing, broken, too new, or not what was asked for."""

    code = "OF-ARTIFACT"


class ArtifactNotFoundError(ArtifactError, NotFoundError):
    """An .onnx file does not exist."""

    code = "OF-ARTIFACT-NOT-FOUND"


class UntrustedModelError(ArtifactError):
    """An untrusted .onnx file holds something that is refused."""

    code = "OF-UNTRUSTED"


class DeviceError(OnnxFerryError):
    """The device or provider that was asked for cannot be used here."""

    code = "OF-DEVICE"


class ExportError(OnnxFerryError):
    """A model cannot be exported to ONNX."""

    code = "OF-EXPORT"


class ParityError(ExportError):
    """The exported model does not do what its source does.

    ``report`` is the export's parity report (:class:`onnxferry.export.parity.report.ParityReport`).
    """

    code = "OF-PARITY"

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class CheckFailedError(OnnxFerryError):
    """A file's own golden samples do not come out as they should on this machine."""

    code = "OF-CHECK-FAILED"


class BusyError(OnnxFerryError):
    """A batcher's queue is full, or the system starts no thread or process more."""

    code = "OF-BUSY"


def help_page(code: str) -> str:
    """Where the documentation explains an error's code: the file in the repository, and the heading in it."""
    return f"docs/en/reference/errors.md#{code.lower()}"


class TimeLimitError(OnnxFerryError, TimeoutError):
    """Opening or running a model took longer than its ``timeout``."""

    code = "OF-TIME-LIMIT"


def first_line(error: BaseException, otherwise: str | None = None) -> str:
    """The first line of an error's message; where it has none, ``otherwise``, or else the name of its class."""
    return (str(error).strip() or otherwise or type(error).__name__).splitlines()[0]
