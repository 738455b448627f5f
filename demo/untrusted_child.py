"""The other side of ``untrusted.py``: reads ``request.json`` in a folder, limits itself, and writes ``answer.json``.

python -m onnxferry.demo.untrusted_child FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.demo.untrusted import save_arrays
from onnxferry.runtime.artifact import Contract, contract_from_metadata
from onnxferry.runtime.engine import Engine
from onnxferry.runtime.errors import OnnxFerryError, UntrustedModelError
from onnxferry.runtime.golden import replay_goldens
from onnxferry.runtime.hardware import default_threads
from onnxferry.runtime.onnx_file import Limits, ModelSummary, TensorSpec, read_model

# Tighter than for a file on one's own disk: what is larger has another place than a demo.
_FILE_LIMITS = Limits(file_bytes=256 * 2**20, nodes=50_000, initializers=50_000, tensor_bytes=2 * 2**30, fields=2**22)
_TIMING_SECONDS = 4.0  # of repeated runs, after which no other is begun


def main(folder: Path) -> int:
    """Answers the request that lies in ``folder``. 0 also where the answer is an error in words."""
    todo = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    limit_self(todo)
    answer: dict[str, Any]
    try:
        answer = _TASKS[todo["task"]](folder, todo)
    except OnnxFerryError as error:
        answer = {"kind": type(error).__name__, "error": str(error).replace(str(folder / "model.onnx"), "the model")}
    except MemoryError:
        answer = {"kind": UntrustedModelError.__name__, "error": "the model needs more memory than a stranger's gets here"}
    (folder / "answer.json").write_text(json.dumps(answer, allow_nan=False), encoding="utf-8")
    return 0


def limit_self(todo: dict[str, Any]) -> None:
    """Address space, processor time, size of a file, and no core dumps; where the system knows such limits."""
    if sys.platform == "win32":
        return
    import resource

    wanted = (
        (resource.RLIMIT_AS, todo["memory_bytes"]),
        (resource.RLIMIT_CPU, todo["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, todo["file_bytes"]),
        (resource.RLIMIT_CORE, 0),
    )
    for what, limit in wanted:
        _, most = resource.getrlimit(what)
        allowed = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(what, (allowed, allowed))


def _inspect(folder: Path, todo: dict[str, Any]) -> dict[str, Any]:
    """Reads the file, runs nothing."""
    summary = read_model(folder / "model.onnx", _FILE_LIMITS)
    return {"summary": _summary(summary), "contract": _contract(contract_from_metadata(summary.metadata))}


def _check(folder: Path, todo: dict[str, Any]) -> dict[str, Any]:
    """Replays the golden samples."""
    with _open(folder) as engine:
        if engine.contract is None or not engine.contract.goldens:
            return {"comparisons": []}
        report = replay_goldens(engine.run, engine.contract)
    rows = [
        {
            "sample": c.sample,
            "output": c.output,
            "passed": c.passed,
            "problem": c.problem,
            "max_abs": _finite(c.max_abs),
            "rtol": c.tolerance.rtol,
            "atol": c.tolerance.atol,
        }
        for c in report.comparisons
    ]
    return {"comparisons": rows}


def _run(folder: Path, todo: dict[str, Any]) -> dict[str, Any]:
    """Runs once for the outputs, then again and again for the time."""
    with np.load(folder / "feeds.npz", allow_pickle=False) as arrays:
        feeds = {name: arrays[str(i)] for i, name in enumerate(todo["names"])}
    started = time.perf_counter()
    with _open(folder) as engine:
        opened = time.perf_counter()
        outputs = engine.run(feeds)
        first = time.perf_counter() - opened
        times: list[float] = []
        while len(times) < todo["repeats"] and sum(times) < _TIMING_SECONDS:
            before = time.perf_counter()
            engine.run(feeds)
            times.append(time.perf_counter() - before)
        device, threads = engine.device, engine.threads
    # What is no tensor (lists, maps) and strings are told of by their kind; an archive without pickles holds only numbers.
    kept = {name: value for name, value in outputs.items() if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"}
    save_arrays(folder / "outputs.npz", kept.values())
    return {
        "outputs": list(kept),
        "others": {name: _told(value) for name, value in outputs.items() if name not in kept},
        "open_seconds": opened - started,
        "first_seconds": first,
        "median_seconds": statistics.median(times) if times else None,
        "slowest_seconds": max(times) if times else None,
        "runs": len(times),
        "device": device,
        "threads": threads,
    }


def _open(folder: Path) -> Engine:
    return Engine(folder / "model.onnx", device="cpu", threads=min(2, default_threads()), limits=_FILE_LIMITS)


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
        "opsets": dict(summary.opsets),
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
    told = {name: getattr(contract, name) for name in kept}
    tolerances = {name: dataclasses.asdict(tolerance) for name, tolerance in contract.tolerances.items()}
    # Through JSON and back with what is not a number as null, so that the answer can be written whatever the file says.
    metrics = json.loads(
        json.dumps({"metrics": contract.metrics, "provenance": contract.provenance}, default=str), parse_constant=lambda _: None
    )
    return {**told, "goldens": len(contract.goldens), "tolerances": tolerances, **metrics}


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


_TASKS = {"inspect": _inspect, "check": _check, "run": _run}

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
