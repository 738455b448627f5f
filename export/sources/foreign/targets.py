"""Which operator sets and file formats an ONNX Runtime reads: ``"ort>=1.17"`` as limits that a file has to keep to.

Measured with every release named here: a file of operator set 99, of ``ai.onnx.ml`` 99 and of IR version 99 was opened, and the error
says the newest that is officially supported. Newer releases read what older ones do, down to operator set 7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxferry.runtime.errors import InputError

LEAST_OPSET = 7
"""ONNX Runtime promises nothing for older ones."""


@dataclass(frozen=True)
class Target:
    """What a runtime reads at most."""

    runtime: str  # for messages: "ONNX Runtime 1.17"
    opset: int  # of ONNX' own operators
    ml_opset: int  # of ai.onnx.ml
    ir_version: int


# Release -> newest operator set, newest of ai.onnx.ml, newest IR version.
_ORT: dict[tuple[int, int], tuple[int, int, int]] = {
    (1, 15): (19, 3, 9), (1, 16): (19, 3, 9), (1, 17): (20, 4, 9), (1, 18): (21, 5, 10), (1, 19): (21, 5, 10), (1, 20): (21, 5, 10),
    (1, 21): (22, 5, 10), (1, 22): (22, 5, 10), (1, 23): (23, 5, 11), (1, 24): (25, 5, 13), (1, 25): (26, 5, 13), (1, 26): (26, 5, 13),
    (1, 27): (26, 5, 13), (1, 28): (26, 5, 13), (1, 29): (26, 5, 13), (1, 30): (26, 5, 13), (1, 32): (28, 5, 14),
}  # fmt: skip


def parsed_target(text: str) -> Target:
    """``"ort>=1.17"`` or ``"onnxruntime>=1.17"``. Raises InputError for any other text and for releases that were not measured."""
    match = re.fullmatch(r"\s*(?:ort|onnxruntime)\s*>=\s*(\d{1,3})\.(\d{1,3})(?:\.\d{1,4})?\s*", text)
    if match is None:
        raise InputError(f'a target is ort>=VERSION, as "ort>=1.17", got {text!r}')
    asked = int(match[1]), int(match[2])
    known = [release for release in _ORT if release <= asked]
    if not known:
        oldest = min(_ORT)
        raise InputError(f"the oldest ONNX Runtime that can be a target is {oldest[0]}.{oldest[1]}, got {text!r}")
    opset, ml_opset, ir_version = _ORT[max(known)]  # a newer release reads at least what an older one does
    return Target(f"ONNX Runtime {asked[0]}.{asked[1]}", opset, ml_opset, ir_version)
