"""What a model file says of itself, read once and passed on to whatever opens, tunes or compares it.

model = describe("digits.onnx")
model.summary.inputs, model.contract.kind, model.digest
Engine(model)                       # does not parse the file again
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxferry.runtime.arguments import is_text, kind
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import contract_of
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.onnx_file.reader import file_sha256, read_file, read_model
from onnxferry.runtime.onnx_file.summary import Limits, ModelSummary
from onnxferry.runtime.onnx_file.values import TensorSpec

SHARED_SCALES = ("ai.onnx::DynamicQuantizeLinear", "com.microsoft::DynamicQuantizeLSTM", "com.microsoft::DynamicQuantizeMatMul")
"""Operators that compute one quantization scale for the whole batch, so that rows of a batch change each other's results."""


@dataclass(frozen=True)
class Description:
    """A model file, or the bytes of one, after it was parsed and checked. Made by :func:`describe`; equal if of the same file."""

    source: Path | bytes = field(repr=False)
    summary: ModelSummary = field(repr=False, compare=False)
    contract: Contract | None = field(repr=False, compare=False)  # None for a file that was not written by onnxferry
    limits: Limits | None = field(repr=False, compare=False)  # that the file was checked against
    name: str  # stands for the file in messages
    stamp: tuple[int, ...] = field(repr=False)  # size, times of modification and change, and inode when it was read; () for bytes
    content: bytes | None = field(default=None, repr=False, compare=False)  # the file's bytes, where all weights are inside
    weights: Mapping[Path, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)  # stamps of the files of weights

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
        self.check_unchanged()
        content = self.source if isinstance(self.source, bytes) else self.content
        if content is not None:
            import hashlib  # loads OpenSSL, which takes longer than reading a small model

            return hashlib.sha256(content).hexdigest()
        digest = file_sha256(Path(self.name))
        self.check_unchanged()
        return digest

    def check_unchanged(self) -> None:
        """Raises ArtifactError if the file was replaced, changed or removed since it was read: what was checked would not be what runs."""
        if isinstance(self.source, Path) and _stamp(self.source) != self.stamp:
            raise self._changed(self.name)
        for path, stamp in self.weights.items():
            if _stamp(path) != stamp:
                raise self._changed(str(path))

    @contextmanager
    def opened(self) -> Iterator[str | bytes]:
        """What ONNX Runtime is to open, so that it reads what was checked: the bytes, a descriptor of the same file, or its path.

        The path is given where weights lie in other files, which ONNX Runtime looks for beside it, and where the system has no
        /proc/self/fd; files are then compared before and after. Raises ArtifactError if one has changed.
        """
        self.check_unchanged()
        content = self.source if isinstance(self.source, bytes) else self.content
        if isinstance(self.source, bytes) or content is not None:
            yield content or b""
            return
        if self.weights or not Path("/proc/self/fd").is_dir():
            yield os.fspath(self.source)
        else:
            with self.source.open("rb") as file:
                if _stamp_of(os.fstat(file.fileno())) != self.stamp:
                    raise self._changed(self.name)
                yield f"/proc/self/fd/{file.fileno()}"
        self.check_unchanged()

    def _changed(self, name: str) -> ArtifactError:
        return ArtifactError(f"{name} has changed since it was read; load it again")


def describe(model: str | os.PathLike[str] | bytes | bytearray | memoryview, limits: Limits | None = None) -> Description:
    """Parses a file, or the bytes of one, and decodes its contract.

    ``limits``: how much the file may hold; None for the defaults of :class:`Limits`.
    Raises ArtifactError for a file that is missing, damaged or has a broken contract, UntrustedModelError for one that is refused,
    InputError if ``model`` is neither a path nor bytes.
    """
    if isinstance(model, bytearray | memoryview):
        model = bytes(model)
    if not isinstance(model, str | os.PathLike | bytes):
        raise InputError(f"a model is opened by its path or from bytes, got {kind(model)}")
    if isinstance(model, bytes):
        summary = read_model(model, limits)
        contract = contract_of(summary.metadata, "the model")
        return Description(model, with_defaults(summary, contract, "the model"), contract, limits, "the model", ())
    path = Path(model)
    read = read_file(path, limits or Limits())
    contract = contract_of(read.summary.metadata, str(path))
    summary = with_defaults(read.summary, contract, str(path))
    weights = {file: _stamp(file) for file in summary.weight_files(path)}
    content = None if weights else read.content
    return Description(path, summary, contract, limits, str(path), _stamp_of(read.status), content, weights)


def with_defaults(summary: ModelSummary, contract: Contract | None, file: str) -> ModelSummary:
    """The summary with the inputs that have a default in the contract among the optional ones.

    Raises ArtifactError for a default that does not fit the graph.
    """
    defaults = contract.defaults if contract is not None else {}
    if not defaults:
        return summary
    required = {spec.name: spec for spec in summary.inputs}
    for name, array in defaults.items():
        spec = required.get(name)
        if spec is None:
            raise ArtifactError(
                f"{file}: the contract has a default for {name[:40]!r}, which is not a required input of the graph; export the model again"
            )
        if not _fits(array, spec):
            got = f"{array.dtype} {array.shape}"
            raise ArtifactError(f"{file}: the contract's default does not fit the input {spec}, got {got}; export the model again")
    optional = tuple(spec for spec in summary.inputs if spec.name in defaults)
    needed = tuple(spec for spec in summary.inputs if spec.name not in defaults)
    return dataclasses.replace(summary, inputs=needed, optional_inputs=(*optional, *summary.optional_inputs))


def _fits(array: np.ndarray, spec: TensorSpec) -> bool:
    dtype = "str" if is_text(array) else array.dtype.name
    if dtype != spec.dtype or (spec.ranked and array.ndim != len(spec.shape)):
        return False
    return not spec.ranked or all(not isinstance(size, int) or size == n for size, n in zip(spec.shape, array.shape, strict=True))


def runs_per_row(contract: Contract | None) -> bool:
    """True if the contract says that rows must run one by one, as an int8 LSTM's, whose activations share one scale per batch."""
    return contract is not None and True in (contract.certificate.get("rows_alone"), contract.options.get("rows_alone"))


def _stamp(path: Path) -> tuple[int, ...]:
    """() where there is no file."""
    try:
        return _stamp_of(path.stat())
    except (OSError, ValueError):  # ValueError: a NUL within the path
        return ()


def _stamp_of(status: os.stat_result) -> tuple[int, ...]:
    # The time of change, too, where it is one (on Windows it is that of creation): a file that was moved away and back has another.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
