"""Who is measured: our engine and the four that a user would pick instead, each at its best, behind one small interface.

Opened in a process of their own (bench_worker.py), so that neither threads, nor memory, nor imports of one disturb another.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from onnxferry.export.bench.workloads import BenchModel
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.machine.cpu import available_cpus
from onnxferry.runtime.timing import repeat_for, time_call

Feeds = Mapping[str, np.ndarray]


Call = Callable[[int], Any]
"""Runs the feed of that number once, all the way to arrays that can be read."""


TRIAL_S = 0.1
"""Seconds that each of several ways is tried for, to measure the fastest."""


class Contender(Protocol):
    precision: str  # of its arithmetic, as it says itself
    how: str  # settings that somebody would need to do the same

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        """Makes ready for feeds of this shape. What can be done once is done here, and is not timed."""

    def named(self, result: Any) -> dict[str, np.ndarray]:
        """A call's result as arrays of their own, by output name."""


class Ours:
    """``load``, as tuned for this machine: within the threads that are asked for, where some are."""

    def __init__(self, model: BenchModel, threads: int | None, tune: bool = True) -> None:
        from onnxferry.runtime import load

        self.model = load(model.load_name if tune else model.path, device="cpu", threads=threads, tune=tune)
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
                f"load(tune=True): {setting.variant or 'the file itself'}, {setting.threads} threads, "
                f"graph level {setting.graph_level}, {'a graph for these sizes, ' if setting.sizes else ''}{setting.binding}"
            )
        if self.outputs is None:
            return lambda i: self.model.run(feeds[i])
        return lambda i: engine.run(feeds[i], self.outputs)

    def named(self, result: Any) -> dict[str, np.ndarray]:
        # Of their own: outputs that were bound once may be written again by the next run.
        return {name: np.array(array) for name, array in result.items()}


class Untuned(Ours):
    def __init__(self, model: BenchModel, threads: int | None) -> None:
        super().__init__(model, threads, tune=False)


class BareOrt:
    """``onnxruntime.InferenceSession`` on the plain file, with its defaults; one thread where one is asked for."""

    precision = "float32"

    def __init__(self, model: BenchModel, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(os.fspath(model.path), options, providers=["CPUExecutionProvider"])
        self.outputs = ["bytes"] if model.writes else [output.name for output in self.session.get_outputs()]
        self.how = "session.run, default options"

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        return lambda i: self.session.run(self.outputs, feeds[i])

    def named(self, result: Any) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, result, strict=True))


class OpenVino:
    """A compiled model and one infer request that shares its memory with numpy, for the shape that runs or for any, whichever is faster."""

    def __init__(self, model: BenchModel, threads: int | None, precision: str = "") -> None:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # not importable: OpenVINO then sends nothing
        import openvino

        self.core = openvino.Core()
        self.path = os.fspath(model.path)
        self.settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or available_cpus()}
        if precision:
            self.settings["INFERENCE_PRECISION_HINT"] = precision
        self.any_shape, self.names = self._compiled(None)
        found = self.any_shape.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
        self.precision = str(found.get_type_name()) if hasattr(found, "get_type_name") else str(found)
        self.precision = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}.get(self.precision, self.precision)
        self.how = ""

    def _compiled(self, feeds: Feeds | None) -> tuple[Any, list[str]]:
        network = self.core.read_model(self.path)
        if feeds is not None:
            network.reshape({name: array.shape for name, array in feeds.items()})
        compiled = self.core.compile_model(network, "CPU", self.settings)
        return compiled.create_infer_request(), [output.any_name for output in compiled.outputs]

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        shared = [dict(feed) for feed in feeds]

        def call_of(request: Any) -> Call:
            return lambda i: request.infer(shared[i], share_inputs=True, share_outputs=True)

        fixed, self.names = self._compiled(feeds[0])
        ways = {"fixed shape": call_of(fixed), "any shape": call_of(self.any_shape)}
        best = fastest(ways, len(feeds))
        self.how = f"{best}, latency hint, shared memory"
        return ways[best]

    def named(self, result: Any) -> dict[str, np.ndarray]:
        return {name: np.array(result[name]) for name in self.names}


class OpenVinoFloat32(OpenVino):
    def __init__(self, model: BenchModel, threads: int | None) -> None:
        super().__init__(model, threads, "f32")


def fastest(ways: Mapping[str, Call], feeds: int) -> str:
    """The name of the way whose calls take the least time: each is warmed up and tried for TRIAL_S seconds."""
    medians = {}
    for name, call in ways.items():
        for i in range(3):
            call(i % feeds)
        medians[name] = statistics.median(time_call(call, i % feeds) for i in repeat_for(TRIAL_S))
    return min(medians, key=medians.__getitem__)


CONTENDERS: Mapping[str, tuple[str, str, str]] = {
    "onnxferry": ("onnxferry.export.bench.contenders.base:Ours", "onnxruntime", "this engine as tuned"),
    "onnxferry-untuned": ("onnxferry.export.bench.contenders.base:Untuned", "onnxruntime", "this engine on the plain file"),
    "onnxruntime": ("onnxferry.export.bench.contenders.base:BareOrt", "onnxruntime", "bare ONNX Runtime"),
    "openvino": ("onnxferry.export.bench.contenders.base:OpenVino", "openvino", "OpenVINO at its default precision"),
    "openvino-f32": ("onnxferry.export.bench.contenders.base:OpenVinoFloat32", "openvino", "OpenVINO at float32"),
    "torch": ("onnxferry.export.bench.contenders.pytorch:Eager", "torch", "PyTorch"),
    "torch-compile": ("onnxferry.export.bench.contenders.pytorch:Compiled", "torch", "PyTorch, torch.compile"),
    "one-step": (
        "onnxferry.export.bench.contenders.one_step:OneStep",
        "onnxruntime",
        "a text generator's layers and head alone, a step a run",
    ),
}
"""Name to "module:class", the package that it needs, and what it is."""


OURS = "onnxferry"


ONE_STEP = "one-step"


PEERS = tuple(name for name in CONTENDERS if not name.startswith(OURS) and name != ONE_STEP)
"""What a user would pick instead."""


def open_contender(name: str, model: BenchModel, threads: int | None) -> Contender:
    module, _, attribute = CONTENDERS[name][0].partition(":")
    made: Contender = getattr(import_module(module), attribute)(model, threads)
    return made


def installed(name: str) -> bool:
    return find_spec(CONTENDERS[name][1]) is not None


def version_of(name: str) -> str:
    """Of the package that runs it, with the wheel's name where several bring the same."""
    package = CONTENDERS[name][1]
    for wheel in (package, f"{package}-gpu"):
        try:
            return f"{wheel} {version(wheel)}"
        except PackageNotFoundError:
            continue
    raise InputError(f"the package {package!r} is not installed")
