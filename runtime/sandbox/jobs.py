"""An untrusted file, without opening it in this process: describe it, replay its samples, run it.

    checked = check_file("untrusted.onnx")
    checked.report.passed
    run_file("untrusted.onnx", {"x": x})

Each call starts a child (:mod:`onnxferry.runtime.sandbox.child`), on the CPU with one thread, which takes about a second.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.runtime.artifact.comparison import Comparison
from onnxferry.runtime.artifact.contract import Tolerance
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import GoldenReport, replay
from onnxferry.runtime.errors import ArtifactError, UntrustedModelError
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.sandbox import child as sandbox
from onnxferry.runtime.sandbox.child import SandboxLimits
from onnxferry.runtime.sandbox.messages import named_arrays


@dataclass(frozen=True)
class CheckedFile:
    """What a child found out about a file."""

    kind: str | None  # what its contract says it does; None for a file that has none
    name: str
    samples: int  # golden samples in it
    report: GoldenReport
    inputs: tuple[str, ...]  # in words: "x: float32 (batch, 3)"
    outputs: tuple[str, ...]


def check_file(
    path: str | os.PathLike[str],
    limits: SandboxLimits | None = None,
    file_limits: Limits | None = None,
    *,
    allow_loose: bool = True,
) -> CheckedFile:
    """Open the file and replay its golden samples in a child. Raises as :class:`Engine` does, and UntrustedModelError where the
    child broke down or ran out of its limits. ``allow_loose``: as of :func:`~onnxferry.runtime.engine.replay.replay_goldens`.
    """
    arguments = {"path": _absolute(path), "limits": (file_limits or Limits()).to_json(), "allow_loose": allow_loose}
    answer = sandbox.call(_check, arguments, limits, name=str(path), model=path, file_limits=file_limits)
    try:
        return CheckedFile(
            kind=None if answer["kind"] is None else str(answer["kind"]),
            name=str(answer["name"]),
            samples=int(answer["samples"]),
            report=GoldenReport(tuple(_comparison(each) for each in answer["comparisons"])),
            inputs=tuple(map(str, answer["inputs"])),
            outputs=tuple(map(str, answer["outputs"])),
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, ArtifactError) as error:
        raise _not_understood(path) from error


def run_file(
    path: str | os.PathLike[str], feeds: Mapping[str, np.ndarray], limits: SandboxLimits | None = None, file_limits: Limits | None = None
) -> dict[str, np.ndarray]:
    """Run the file once in a child: arrays of numbers by input name in, by output name out."""
    arguments: dict[str, Any] = {"path": _absolute(path), "limits": (file_limits or Limits()).to_json()}
    arguments |= {"names": list(feeds), "arrays": list(feeds.values())}
    answer = sandbox.call(_run, arguments, limits, name=str(path), model=path, file_limits=file_limits)
    try:
        outputs = dict(zip(map(str, answer["names"]), answer["arrays"], strict=True))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise _not_understood(path) from error
    if not all(isinstance(array, np.ndarray) for array in outputs.values()):
        raise _not_understood(path)
    return outputs


def _check(path: str, limits: Mapping[str, Any], allow_loose: bool) -> dict[str, Any]:
    """In the child."""
    with Engine(path, device="cpu", threads=1, limits=Limits.from_json(limits)) as engine:
        contract = engine.contract
        report = replay(engine, allow_loose=allow_loose)
        return {
            "kind": contract.kind if contract else None,
            "name": contract.name if contract else "",
            "samples": len(contract.goldens) if contract else 0,
            "comparisons": [dataclasses.asdict(comparison) for comparison in report.comparisons],
            "inputs": [str(spec) for spec in (*engine.inputs, *engine.optional_inputs)],
            "outputs": [str(spec) for spec in engine.outputs],
        }


def _run(path: str, limits: Mapping[str, Any], names: Sequence[str], arrays: Sequence[np.ndarray]) -> dict[str, Any]:
    """In the child. A name out of the file is never a key of a message, where it could be mistaken for one of the protocol's."""
    with Engine(path, device="cpu", threads=1, limits=Limits.from_json(limits)) as engine:
        outputs = engine.run(dict(zip(names, arrays, strict=True)))
    return named_arrays(outputs)


def _comparison(fields: Mapping[str, Any]) -> Comparison:
    """What the child says, field by field: it may say anything."""

    def number(key: str) -> float | None:
        value = fields[key]
        return value if value is None or isinstance(value, int | float) else float(value)

    return Comparison(
        sample=int(fields["sample"]),
        output=str(fields["output"]),
        passed=fields["passed"] is True,
        problem=str(fields["problem"]),
        max_abs=number("max_abs"),
        tolerance=Tolerance(float(fields["tolerance"]["rtol"]), float(fields["tolerance"]["atol"])),
        worst=None if fields["worst"] is None else tuple(int(i) for i in fields["worst"]),
        actual=number("actual"),
        expected=number("expected"),
        rms=number("rms"),
        rms_allowed=number("rms_allowed"),
    )


def _absolute(path: str | os.PathLike[str]) -> str:
    return str(Path(path).absolute())


def _not_understood(path: str | os.PathLike[str]) -> UntrustedModelError:
    return UntrustedModelError(f"{path} is refused: the process that read it gave no answer that can be understood")
