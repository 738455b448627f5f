"""An untrusted model, opened and run in its own process: a crash ends that process, not the demo.

    report = ask(Request(model=data, task="inspect"))
    answer = ask(Request(model=data, task="run", feeds={"x": x}, repeats=20))

The child and its limits are the runtime's (:mod:`onnxferry.runtime.sandbox.child`); this module has the demo's
requests and its limits for an uploaded file.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.demo.your_file.queue import line
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import InputError, OnnxFerryError, UntrustedModelError
from onnxferry.runtime.formats import human_bytes, json_safe
from onnxferry.runtime.machine.cpu import default_threads
from onnxferry.runtime.onnx_file.summary import Limits, ModelSummary
from onnxferry.runtime.onnx_file.values import TensorSpec
from onnxferry.runtime.sandbox import child as sandbox
from onnxferry.runtime.timing import clock, repeat_for, time_call

# Tighter than for a file on one's own disk: what is larger has another place than a demo.
# What a run would take is limited in the child itself.
_FILE_LIMITS = Limits(
    file_bytes=256 * 2**20, nodes=50_000, initializers=50_000, tensor_bytes=2 * 2**30, fields=2**22, made_elements=2**62, samples=2**62
)


_TIMING_SECONDS = 4.0  # of repeated runs, after which no other is begun


@dataclass(frozen=True)
class SandboxLimits(sandbox.SandboxLimits):
    """What the child may use, and what it is given."""

    memory_bytes: int = 6 * 2**30  # of address space; ONNX Runtime itself maps about a third of it
    answer_bytes: int = 256 * 2**20
    model_bytes: int = 256 * 2**20
    feed_bytes: int = 64 * 2**20  # of all inputs together


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of the child."""

    model: bytes
    task: str  # "inspect" (read, never run), "check" (replay the golden samples), "run"
    feeds: Mapping[str, np.ndarray] = field(default_factory=dict)  # by input name; of "run"
    repeats: int = 1  # runs that are timed, after one that is not
    beside: Mapping[str, bytes] = field(default_factory=dict)  # files that hold weights of the model, by name


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back."""

    report: Mapping[str, Any]  # JSON; its keys are the task's
    outputs: Mapping[str, np.ndarray]  # of "run"


def ask(
    request: Request,
    limits: SandboxLimits | None = None,
    tick: Callable[[float], None] | None = None,
    waits: Callable[[int], None] | None = None,
) -> Answer:
    """Runs one request in a child and gives its answer. No more children run at a time than there are CPUs.

    ``tick`` is called about ten times a second with the seconds that have passed; what it raises ends the child and goes on up, so
    a page that is left stops its work. So is ``waits`` before, with how many are before it in the line. Raises InputError and ArtifactError
    with what the runtime said in the child, UntrustedModelError where the child ran into a limit or died.
    """
    limits = limits or SandboxLimits()
    size = len(request.model) + sum(map(len, request.beside.values()))
    if size > limits.model_bytes:
        raise UntrustedModelError(f"the model has {human_bytes(size)}, and at most {human_bytes(limits.model_bytes)} are taken here")
    size = sum(array.nbytes for array in request.feeds.values())
    if size > limits.feed_bytes:
        raise InputError(
            f"the inputs hold {human_bytes(size)}, and at most {human_bytes(limits.feed_bytes)} are taken here; make them smaller"
        )
    function = _TASKS[request.task]
    with tempfile.TemporaryDirectory(prefix="onnxferry-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(request.model)
        for name, data in request.beside.items():
            if Path(name).name != name or name in ("", ".", "..", path.name):
                raise InputError(f"the file name {name!r} is no plain name; rename it")
            path.with_name(name).write_bytes(data)
        arguments: dict[str, Any] = {"path": str(path)}
        if function is _run:
            arguments |= {"names": list(request.feeds), "arrays": list(request.feeds.values()), "repeats": request.repeats}
        try:
            with line.place(waits):
                report = sandbox.call(function, arguments, limits, name="the model", model=path, file_limits=_FILE_LIMITS, tick=tick)
        except OnnxFerryError as error:
            if str(path) not in str(error):
                raise
            # Where the demo keeps the file says nothing to who gave it.
            raise type(error)(str(error).replace(str(path), "the model")) from error
    return _understood(report)


def _understood(report: Any) -> Answer:
    """The report and the arrays in it. The child may say anything."""
    try:
        outputs = dict(zip(map(str, report.pop("outputs", ())), report.pop("arrays", ()), strict=True))
        if all(isinstance(array, np.ndarray) for array in outputs.values()):
            return Answer(report, outputs)
    except (AttributeError, TypeError, ValueError):
        pass
    raise UntrustedModelError("the model is refused: the process that read it gave no answer that can be understood")


def _inspect(path: str) -> dict[str, Any]:
    """Reads the file, runs nothing."""
    file = describe(path, _FILE_LIMITS)
    return {"summary": _summary(file.summary), "contract": _contract(file.contract)}


def _check(path: str) -> dict[str, Any]:
    """Replays the golden samples."""
    with _open(path) as engine:
        report = replay(engine)
    rows = [
        {
            "sample": c.sample,
            "output": c.output,
            "passed": c.passed,
            "problem": c.problem,
            "max_abs": json_safe(c.max_abs),
            "rtol": c.tolerance.rtol,
            "atol": c.tolerance.atol,
            "rms_allowed": c.rms_allowed,
        }
        for c in report.comparisons
    ]
    return {"comparisons": rows}


def _run(path: str, names: Sequence[str], arrays: Sequence[np.ndarray], repeats: int) -> dict[str, Any]:
    """Runs once for the outputs, then again and again for the time."""
    feeds = dict(zip(names, arrays, strict=True))
    started = clock()
    with _open(path) as engine:
        opened = clock()
        outputs = engine.run(feeds)
        first = clock() - opened
        times = [time_call(engine.run, feeds) for _ in repeat_for(_TIMING_SECONDS, at_least=0, at_most=repeats)]
        device, threads = engine.device, engine.threads
    # Only numbers are sent back; of strings and of what is not a tensor (lists, maps), a description.
    kept = {name: value for name, value in outputs.items() if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"}
    return {
        "outputs": list(kept),
        "arrays": list(kept.values()),
        "others": [(name, _told(value)) for name, value in outputs.items() if name not in kept],
        "open_seconds": opened - started,
        "first_seconds": first,
        "median_seconds": statistics.median(times) if times else None,
        "slowest_seconds": max(times) if times else None,
        "runs": len(times),
        "device": device,
        "threads": threads,
    }


def _open(path: str) -> Engine:
    return Engine(path, device="cpu", threads=min(2, default_threads()), limits=_FILE_LIMITS)


def _told(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size:
        return f"{value.dtype.name} {value.shape}, the first: {str(value.flat[0])[:80]}"
    return type(value).__name__


def _summary(summary: ModelSummary) -> dict[str, Any]:
    def specs(of: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape) if spec.ranked else None} for spec in of]

    parameters: dict[str, int] = {}
    for initializer in summary.initializers:
        count = 1
        for size in initializer.shape:
            count *= size
        parameters[initializer.dtype] = parameters.get(initializer.dtype, 0) + count
    return {
        "bytes": summary.file_bytes,
        "ir_version": summary.ir_version,
        "opsets": list(summary.opsets.items()),
        "producer": summary.producer,
        "nodes": summary.nodes,
        "depth": summary.depth,
        "functions": summary.functions,
        "operators": dict(summary.operators),
        "parameters": parameters,
        "inputs": specs(summary.inputs),
        "optional_inputs": specs(summary.optional_inputs),
        "outputs": specs(summary.outputs),
    }


def _contract(contract: Contract | None) -> dict[str, Any] | None:
    if contract is None:
        return None
    kept = ("kind", "name", "family", "description", "labels", "license", "version")
    framework = contract.provenance.get("framework")
    return {
        **{name: getattr(contract, name) for name in kept},
        "goldens": len(contract.goldens),
        "framework": framework if isinstance(framework, str) else "",
    }


_TASKS: Mapping[str, Callable[..., dict[str, Any]]] = {"inspect": _inspect, "check": _check, "run": _run}
