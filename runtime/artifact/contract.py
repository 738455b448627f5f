"""The contract of an artifact: what its file says about it, as validated dataclasses. metadata.py reads and writes it.

An artifact describes itself under ``onnxferry.*`` keys, each value JSON, and repeats the few plain keys
that other tools read (``task``, ``names``, ``imgsz``, ``description``, ``author``, ``license``, ``version``).
Values are read with a JSON parser, known keys only and size-capped, and are never evaluated: a model file is untrusted.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.tolerances import Tolerance as Tolerance
from onnxferry.runtime.errors import ArtifactError
from onnxferry.runtime.kinds import KINDS, MODEL, Kind

SCHEMA = 2
"""Newest contract schema this runtime reads. A newer file is refused, an older one always loads.

1: an input may have its default inside the graph, as an initializer. 2: defaults are in the contract, because ONNX Runtime's bindings
for JavaScript do not see inputs that have one in the graph."""


MAX_VALUE_BYTES = 2**20
"""Longest metadata value that is read, in bytes. Ours stay below GOLDEN_BYTES plus base64's third."""


MAX_GOLDENS = 4


GOLDEN_BYTES = 256 * 1024
"""Most bytes of golden samples in a file, inputs and outputs together."""


DEFAULT_BYTES = 256 * 1024
"""Most bytes of defaults in a file, all inputs together."""


# Control characters and surrogates: terminals interpret the first, UTF-8 cannot encode the second.
NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


TEXT = "str"
"""The dtype of text in a golden sample; its data is a list of strings instead of base64."""


GOLDEN_DTYPES = ("float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")


@dataclass(frozen=True, eq=False)
class Golden:
    """One input and the outputs that the source framework gave for it. Names as in the graph."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]

    def nbytes(self) -> int:
        return sum(_nbytes(a) for a in (*self.inputs.values(), *self.outputs.values()))


@dataclass(frozen=True, eq=False)
class Contract:
    """What an artifact does, how to call it, how it was made, and golden samples to verify it by."""

    kind: str  # a name of runtime/kinds.py's KINDS
    name: str  # short name of the model, e.g. "digits"
    family: str = ""  # a name of runtime/kinds.py's FAMILIES, or "" for a user's own model
    description: str = ""
    labels: tuple[str, ...] = ()  # class names in order; empty where there are no classes
    options: Mapping[str, Any] = field(default_factory=dict)  # kind's own facts: channels, image size, vocabulary, threshold …
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)  # by output name, for the golden samples
    goldens: tuple[Golden, ...] = ()
    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)  # by input: what is fed where the caller gives nothing
    provenance: Mapping[str, Any] = field(default_factory=dict)  # framework, versions, command, data, weights_sha256
    metrics: Mapping[str, Any] = field(default_factory=dict)  # measured by the trainer on held-out data
    parity: Mapping[str, Any] = field(default_factory=dict)  # summary of the export's parity report
    certificate: Mapping[str, Any] = field(default_factory=dict)  # of an optimised variant: data, score, budget
    author: str = ""
    license: str = ""
    version: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ArtifactError(f"unknown artifact kind {self.kind[:40]!r}; expected one of {', '.join(KINDS)}")
        for text in (self.name, self.family, *self.labels):
            if NOT_TEXT.search(text):
                raise ArtifactError(f"names and labels must be one line of text, got {text[:40]!r}")
        if len(self.goldens) > MAX_GOLDENS:
            raise ArtifactError(f"at most {MAX_GOLDENS} golden samples fit an artifact, got {len(self.goldens)}")
        size = sum(golden.nbytes() for golden in self.goldens)
        if size > GOLDEN_BYTES:
            raise ArtifactError(f"golden samples take {size} bytes, more than the {GOLDEN_BYTES} that a file may hold; give smaller ones")
        size = sum(map(_nbytes, self.defaults.values()))
        if size > DEFAULT_BYTES:
            raise ArtifactError(f"the inputs' defaults take {size} bytes, more than the {DEFAULT_BYTES} that a file may hold")

    def replace(self, **changes: Any) -> Contract:
        return dataclasses.replace(self, **changes)


def kind_of(contract: Contract | None) -> Kind:
    """The row of a contract's kind; ``MODEL`` for a file without a contract."""
    return MODEL if contract is None else KINDS[contract.kind]


def _nbytes(array: np.ndarray) -> int:
    return sum(len(str(text).encode("utf-8", "surrogatepass")) for text in array.flat) if array.dtype.kind in "UO" else array.nbytes
