"""What a model file says of itself, read once and passed on to whatever opens, tunes or compares it.

model = describe("digits.onnx")
model.summary.inputs, model.contract.kind, model.digest
Engine(model)                       # does not parse the file again
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path

from onnxferry.runtime.arguments import kind
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import contract_of
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.onnx_file.reader import file_sha256, read_model
from onnxferry.runtime.onnx_file.summary import Limits, ModelSummary

SHARED_SCALES = ("ai.onnx::DynamicQuantizeLinear", "com.microsoft::DynamicQuantizeLSTM", "com.microsoft::DynamicQuantizeMatMul")
"""Operators that compute one quantization scale for the whole batch, so that rows of a batch change each other's results."""


@dataclass(frozen=True)
class Description:
    """A model file, or the bytes of one, after it was parsed and checked. Made by :func:`describe`; equal if of the same file."""

    source: Path | bytes = field(repr=False)  # what ONNX Runtime opens
    summary: ModelSummary = field(repr=False, compare=False)
    contract: Contract | None = field(repr=False, compare=False)  # None for a file that was not written by onnxferry
    limits: Limits | None = field(repr=False, compare=False)  # that the file was checked against
    name: str  # stands for the file in messages
    stamp: tuple[int, ...] = field(repr=False)  # size, modification time and inode when it was read; () for bytes

    @property
    def path(self) -> Path | None:
        """None for a model that was given as bytes."""
        return self.source if isinstance(self.source, Path) else None

    @property
    def per_row(self) -> bool:
        """True if rows must run one by one, because the result for a row depends on the batch around it."""
        return runs_per_row(self.contract) or any(name in self.summary.operators for name in SHARED_SCALES)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file's bytes, in hex; computed on first use. Raises ArtifactError if the file has changed since it was read."""
        if isinstance(self.source, bytes):
            import hashlib  # loads OpenSSL, which takes longer than reading a small model

            return hashlib.sha256(self.source).hexdigest()
        self.check_unchanged()
        digest = file_sha256(self.source)
        self.check_unchanged()
        return digest

    def check_unchanged(self) -> None:
        """Raises ArtifactError if the file was replaced, changed or removed since it was read: what was checked would not be what runs."""
        if isinstance(self.source, Path) and _stamp(self.source) != self.stamp:
            raise ArtifactError(f"{self.name} has changed since it was read; load it again")


def describe(model: str | os.PathLike[str] | bytes, limits: Limits | None = None) -> Description:
    """Parses a file, or the bytes of one, and decodes its contract.

    ``limits``: how much the file may hold; None for the defaults of :class:`Limits`.
    Raises ArtifactError for a file that is missing, damaged or has a broken contract, UntrustedModelError for one that is refused,
    InputError if ``model`` is neither a path nor bytes.
    """
    if not isinstance(model, str | os.PathLike | bytes):
        raise InputError(f"a model is opened by its path or from bytes, got {kind(model)}")
    source = model if isinstance(model, bytes) else Path(model)
    name = "the model" if isinstance(source, bytes) else str(source)
    stamp = _stamp(source) if isinstance(source, Path) else ()
    summary = read_model(source, limits)
    return Description(source, summary, contract_of(summary.metadata, name), limits, name, stamp)


def runs_per_row(contract: Contract | None) -> bool:
    """True if the contract says that rows must run one by one, as an int8 LSTM's, whose activations share one scale per batch."""
    return contract is not None and True in (contract.certificate.get("rows_alone"), contract.options.get("rows_alone"))


def _stamp(path: Path) -> tuple[int, ...]:
    """() where there is no file: reading it then says what is wrong."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL within the path
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ino
