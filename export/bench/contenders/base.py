"""Benchmark backends: onnxferry and four alternatives, each configured for its best speed, behind one small interface.

Each is opened in its own process (worker.py), so that threads, memory and imports of one do not affect another.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnxferry.export.bench.workloads import BenchModel
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.machine.cpu import available_cpus
from onnxferry.runtime.timing import repeat_for, time_call

Feeds = Mapping[str, np.ndarray]


Call = Callable[[int], Any]
"""Runs the inputs with that index once, up to arrays that can be read."""


TRIAL_S = 0.1
"""Seconds for which each of several variants is timed, to find the fastest."""


class Contender(Protocol):
    precision: str  # of its arithmetic, as it says itself
    how: str  # settings needed to reproduce it

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        """Prepares for inputs of this shape. Everything that is needed once is done here, and is not timed."""

    def named(self, result: Any) -> dict[str, np.ndarray]:
        """A call's result as copied arrays, by output name."""


class Ours:
    """``load(tune=True)``, within the given number of threads, if any."""

    def __init__(self, model: BenchModel, threads: int | None, tune: bool = True) -> None:
        from onnxferry.runtime import load
        from onnxferry.runtime.tuning.tuned_engine import TunedEngine

        self.model = load(model.load_name if tune else model.path, device="cpu", threads=threads, tune=tune)
        if isinstance(self.model.engine, TunedEngine):
            self.model.engine.stop_checks()  # they would run while others are timed
        self.precision = "float32"
        self.how = "load(tune=True)" if tune else "load()"
        self.outputs = ["bytes"] if model.writes else None

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        from onnxferry.runtime.tuning.tuned_engine import TunedEngine

        engine = self.model.engine
        if isinstance(engine, TunedEngine):
            setting = engine.setting(len(next(iter(feeds[0].values()))))
            self.precision = setting.variant or "float32"
            self.how = (
                f"load(tune=True): {setting.variant or 'the file itself'} on {setting.backend}, {setting.threads} threads, "
                f"graph level {setting.graph_level}, {'a graph for these sizes, ' if setting.sizes else ''}{setting.binding}"
            )
        if self.outputs is None:
            return lambda i: self.model.run(feeds[i])
        return lambda i: engine.run(feeds[i], self.outputs)

    def named(self, result: Any) -> dict[str, np.ndarray]:
        # Copied: the next run may overwrite outputs that are bound.
        return {name: np.array(array) for name, array in result.items()}


class Untuned(Ours):
    def __init__(self, model: BenchModel, threads: int | None) -> None:
        super().__init__(model, threads, tune=False)


def completed(path: Path, feeds: Sequence[Feeds]) -> list[dict[str, np.ndarray]]:
    """The feeds with the contract's defaults for the inputs that they leave out: other runtimes do not read contracts."""
    contract = describe(path).contract
    defaults = contract.defaults if contract is not None else {}
    return [{**defaults, **feed} for feed in feeds]


class BareOrt:
    """``onnxruntime.InferenceSession`` on the plain file with its defaults, and the given number of threads."""

    precision = "float32"

    def __init__(self, model: BenchModel, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self.path = model.path
        self.session = onnxruntime.InferenceSession(os.fspath(model.path), options, providers=["CPUExecutionProvider"])
        self.outputs = ["bytes"] if model.writes else [output.name for output in self.session.get_outputs()]
        self.how = "session.run, default options"

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        complete = completed(self.path, feeds)
        return lambda i: self.session.run(self.outputs, complete[i])

    def named(self, result: Any) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, result, strict=True))


class OpenVino:
    """A compiled model and an infer request that shares memory with numpy, for a fixed or a dynamic shape, whichever is faster."""

    def __init__(self, model: BenchModel, threads: int | None, precision: str = "") -> None:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # not importable: OpenVINO then sends nothing
        import openvino

        self.core = openvino.Core()
        self.path = model.path
        self.settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or available_cpus()}
        if precision:
            self.settings["INFERENCE_PRECISION_HINT"] = precision
        self.any_shape = self._compiled(None)
        # In the file's order. A tensor has several names in OpenVINO, of which any_name is any.
        self.names = [spec.name for spec in describe(self.path).summary.outputs]
        found = self.any_shape.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
        self.precision = str(found.get_type_name()) if hasattr(found, "get_type_name") else str(found)
        self.precision = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}.get(self.precision, self.precision)
        self.how = ""

    def _compiled(self, feeds: Feeds | None) -> Any:
        network = self.core.read_model(os.fspath(self.path))
        if feeds is not None:
            network.reshape({name: array.shape for name, array in feeds.items()})
        compiled = self.core.compile_model(network, "CPU", self.settings)
        return compiled.create_infer_request()

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        shared = completed(self.path, feeds)

        def call_of(request: Any) -> Call:
            return lambda i: request.infer(shared[i], share_inputs=True, share_outputs=True)

        fixed = self._compiled(shared[0])
        ways = {"fixed shape": call_of(fixed), "any shape": call_of(self.any_shape)}
        best = fastest(ways, len(feeds))
        self.how = f"{best}, latency hint, shared memory"
        return ways[best]

    def named(self, result: Any) -> dict[str, np.ndarray]:
        return {name: np.array(result[i]) for i, name in enumerate(self.names)}


class OpenVinoFloat32(OpenVino):
    def __init__(self, model: BenchModel, threads: int | None) -> None:
        super().__init__(model, threads, "f32")


def fastest(ways: Mapping[str, Call], feeds: int) -> str:
    """The name of the variant with the smallest median time: each is warmed up and timed for TRIAL_S seconds."""
    medians = {}
    for name, call in ways.items():
        for i in range(3):
            call(i % feeds)
        medians[name] = statistics.median(time_call(call, i % feeds) for i in repeat_for(TRIAL_S))
    return min(medians, key=medians.__getitem__)


@dataclass(frozen=True)
class ContenderSpec:
    """How to open a contender."""

    target: str  # "module:class", called with the model and the number of threads
    package: str  # that it needs
    what: str  # it is


_HERE = "onnxferry.export.bench.contenders"


CONTENDERS: Mapping[str, ContenderSpec] = {
    "onnxferry": ContenderSpec(f"{_HERE}.base:Ours", "onnxruntime", "this engine as tuned"),
    "onnxferry-untuned": ContenderSpec(f"{_HERE}.base:Untuned", "onnxruntime", "this engine on the plain file"),
    "onnxruntime": ContenderSpec(f"{_HERE}.base:BareOrt", "onnxruntime", "bare ONNX Runtime"),
    "openvino": ContenderSpec(f"{_HERE}.base:OpenVino", "openvino", "OpenVINO at its default precision"),
    "openvino-f32": ContenderSpec(f"{_HERE}.base:OpenVinoFloat32", "openvino", "OpenVINO at float32"),
    "torch": ContenderSpec(f"{_HERE}.pytorch:Eager", "torch", "PyTorch"),
    "torch-compile": ContenderSpec(f"{_HERE}.pytorch:Compiled", "torch", "PyTorch, torch.compile"),
}


OURS = "onnxferry"


PEERS = tuple(name for name in CONTENDERS if not name.startswith(OURS))
"""The alternatives."""


NEEDS_NETWORK = ("torch", "torch-compile")
"""Peers that run the network itself, not the file: a user names it."""


def open_contender(spec: ContenderSpec, model: BenchModel, threads: int | None) -> Contender:
    module, _, attribute = spec.target.partition(":")
    made: Contender = getattr(import_module(module), attribute)(model, threads)
    return made


def installed(spec: ContenderSpec) -> bool:
    return find_spec(spec.package) is not None


def version_of(spec: ContenderSpec) -> str:
    """Of the package that runs it, with the wheel's name where several bring the same."""
    for wheel in (spec.package, f"{spec.package}-gpu"):
        try:
            return f"{wheel} {version(wheel)}"
        except PackageNotFoundError:
            continue
    raise InputError(f"the package {spec.package!r} is not installed")
