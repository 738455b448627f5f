"""Errors that are the user's to mend. Anything else that is raised is a bug of ours.

    OnnxFerryError                    the root: ``except OnnxFerryError`` catches all of them
    ├── MissingExtraError             an optional dependency is not installed; the message has the install line
    ├── InputError                    a feed, an image, a prompt or an option has the wrong name, dtype, shape or value
    ├── DataError                     a data set is missing, empty, unreadable or not what its checksum says
    ├── CheckpointError               a checkpoint is unreadable, unsafe, or of another family
    ├── TrainingError                 training cannot go on (loss is not finite, nothing to resume, …)
    ├── ArtifactError                 an .onnx file or its contract is missing, broken, too new, or not what was asked for
    │   └── UntrustedModelError       an .onnx file holds something that is refused from a stranger
    ├── DeviceError                   the device or provider that was asked for cannot be used here
    ├── ExportError                   a model cannot be carried to ONNX
    │   └── ParityError               it was carried, and does not do the same; ``.report`` says where and by how much
    ├── CheckFailedError              a file's own golden samples do not come out as they should on this machine
    └── BusyError                     a batcher's queue is full: come back later

Every message says what was wrong, what was expected, and what to do, and its first line can stand alone.
"""

from __future__ import annotations


class OnnxFerryError(Exception):
    """Root of every error that the user can mend."""


class MissingExtraError(OnnxFerryError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str, note: str = "") -> None:
        line = f"{purpose} needs the package {package!r}, which is not installed: pip install 'onnxferry[{extra}]'"
        super().__init__(f"{line} ({note})" if note else line)
        self.package = package
        self.extra = extra


class InputError(OnnxFerryError):
    """A feed, image, prompt or option has the wrong name, dtype, shape or value."""


class DataError(OnnxFerryError):
    """A data set is missing, empty, unreadable or not what its checksum says."""


class CheckpointError(OnnxFerryError):
    """A checkpoint is unreadable, unsafe, or of another family."""


class TrainingError(OnnxFerryError):
    """Training cannot go on."""


class ArtifactError(OnnxFerryError):
    """An .onnx file or its contract is missing, broken, too new, or not what was asked for."""


class UntrustedModelError(ArtifactError):
    """An .onnx file holds something that is refused from a stranger."""


class DeviceError(OnnxFerryError):
    """The device or provider that was asked for cannot be used here."""


class ExportError(OnnxFerryError):
    """A model cannot be carried to ONNX."""


class ParityError(ExportError):
    """The exported model does not do what its source does.

    ``report`` is the export's parity report (:class:`onnxferry.export.parity.judge.ParityReport`).
    """

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class CheckFailedError(OnnxFerryError):
    """A file's own golden samples do not come out as they should on this machine."""


class BusyError(OnnxFerryError):
    """A batcher's queue is full."""


def first_line(error: BaseException, otherwise: str | None = None) -> str:
    """Of an error's message, for a message of ours that has one line; of one without a message its class's name, or ``otherwise``."""
    return (str(error).strip() or otherwise or type(error).__name__).splitlines()[0]
