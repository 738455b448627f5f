"""A model on OpenVINO's own runtime, on the CPU: the same arguments, results and errors as :class:`Engine`.

    with OpenVINOEngine(describe("model.onnx")) as engine:
        outputs = engine.run({"x": x})

It computes in float32 unless another precision is asked for: OpenVINO's default is bfloat16 where the CPU has it, which is less precise
than the tolerances that artifacts are verified with. Source: https://docs.openvino.ai/ (InferRequest, inference_precision, reshape).
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from onnxferry.runtime import interruption
from onnxferry.runtime.arguments import given, whole_number
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.describe import Description, describe
from onnxferry.runtime.engine.async_pool import AsyncPool
from onnxferry.runtime.engine.inputs import ArgumentChecks, TensorCheck, never_empty, open_sizes, uneven_axis
from onnxferry.runtime.engine.threads import threads_for
from onnxferry.runtime.errors import ArtifactError, DeviceError, InputError, MissingExtraError
from onnxferry.runtime.machine import cpu
from onnxferry.runtime.onnx_file.values import TensorSpec

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


_POLL_MS = 50  # between looks at whether a run is to be stopped


_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, MemoryError)


# What OpenVINO's messages begin with: places in its own source.
_PLACE = re.compile(r"Exception from \S+:\d+:|Check '[^']*' failed at \S+:\d+:|FrontEnd API failed with \w+:|[\w/.-]+\.(?:cpp|hpp):\d+:?")


@functools.cache
def openvino() -> Any:
    """The openvino module, its telemetry off. Raises MissingExtraError where it is not installed, DeviceError for a broken one."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # not importable: OpenVINO then sends nothing
    try:
        module = importlib.import_module("openvino")
        module.Core  # noqa: B018 (half an installation has none)
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise DeviceError(f"OpenVINO is installed but cannot be imported ({error}); install it again") from error
        raise MissingExtraError("openvino", "openvino", "backend='openvino'") from error
    except (ImportError, OSError, AttributeError) as error:
        raise DeviceError(f"OpenVINO is installed but cannot be imported ({error}); install it again") from error
    return module


@functools.cache
def _core() -> Any:
    return openvino().Core()


class _Stop:
    """As ONNX Runtime's run options: set from another thread to stop a run."""

    terminate = False


class OpenVINOEngine(ArgumentChecks):
    """An open model. Any number of threads can use one engine at a time.

    ``path``: a file, its bytes, or what :func:`describe` made of one. ``threads``: None for :func:`threads.threads_for`.
    ``sizes``: fixes dynamic axes by name; inputs of other sizes are refused. ``precision``: ``"float32"`` or ``"bfloat16"``.
    ``timeout``: seconds that opening may take.

    Inputs and outputs as of :class:`Engine`: arrays of numbers by name, with the graph's dtypes and shapes.

    Raises ArtifactError for a file that OpenVINO cannot run, DeviceError where it would compute in another precision,
    MissingExtraError where it is not installed, InputError for invalid arguments.
    """

    graph_level = "all"
    placement: tuple[Any, ...] = ()
    device = "cpu"
    device_reason = "OpenVINO's runtime, as asked for"
    providers = ("OpenVINO",)

    def __init__(
        self,
        path: str | os.PathLike[str] | bytes | Description,
        *,
        threads: int | None = None,
        sizes: Mapping[str, int] | None = None,
        precision: str = "float32",
        timeout: float | None = None,
    ) -> None:
        model = path if isinstance(path, Description) else describe(path)
        if precision not in _PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(map(repr, _PRECISIONS))}, got {precision!r}")
        summary = model.summary
        self.path: Path | None = model.path
        self._name = model.name
        self.contract: Contract | None = model.contract
        self.metadata: dict[str, str] = dict(summary.metadata)
        self.per_row: bool = model.per_row
        self.best_batch: int | None = None
        self.precision = precision
        self.threads: int = threads_for(summary) if threads is None else whole_number("threads", threads)
        defaults = dict(model.contract.defaults) if model.contract is not None else {}
        self.inputs: tuple[TensorSpec, ...] = summary.inputs
        self.optional_inputs: tuple[TensorSpec, ...] = tuple(spec for spec in summary.optional_inputs if spec.name in defaults)
        self.outputs: tuple[TensorSpec, ...] = summary.outputs
        fed = (*self.inputs, *self.optional_inputs)
        for spec in (*fed, *self.outputs):
            if TensorCheck(spec).dtype is None:
                raise ArtifactError(f"OpenVINO cannot run {model.name} here: {spec} is no array of numbers; use backend='onnxruntime'")
        ours = self.contract is not None or summary.producer == "onnxferry"
        checks = {spec.name: TensorCheck(spec, never_empty=never_empty(spec, summary.operators, ours)) for spec in fed}
        self._hold(checks, self.inputs, self.outputs, defaults, summary.never_zero)
        self._fixed = dict(open_sizes(sizes or {}, summary.inputs))
        seconds = interruption.checked_seconds(timeout)
        self._compiled: Any = interruption.within(
            lambda: self._opened(model), interruption.no_stop, seconds, f"{model.name} was not opened"
        )
        self._places = self._output_places()
        self._requests: list[Any] = [self._compiled.create_infer_request()]  # that no run uses now
        self._async_pool = AsyncPool(max(2, cpu.available_cpus() // self.threads))

    def run(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """Runs the graph once; new arrays by output name. Errors as of :meth:`Engine.run`."""
        names = self._output_names if outputs is None else self._chosen(outputs)
        ready = self._checked(feeds)
        if timeout is None and not interruption.watched:
            return dict(zip(names, self._call(names, ready, None), strict=True))
        stop = _Stop()

        def ask() -> None:
            stop.terminate = True

        seconds = interruption.checked_seconds(timeout)
        results = interruption.within(lambda: self._call(names, ready, stop), ask, seconds, f"{self._name} was not run")
        return dict(zip(names, results, strict=True))

    async def arun(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """As :meth:`run`, without blocking the event loop."""
        names = self._output_names if outputs is None else self._chosen(outputs)
        ready = dict(self._checked(feeds))
        seconds = interruption.checked_seconds(timeout)
        results = await self._async_pool.run(self._call, names, ready, seconds, f"{self._name} was not run")
        return dict(zip(names, results, strict=True))

    def run_into(self, feeds: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], *, timeout: float | None = None) -> None:
        """As :meth:`run`, copied into the caller's arrays. Raises InputError for arrays that do not fit."""
        for name, array in outputs.items():
            if name not in self._output_checks:
                self._chosen([name])
            self._output_checks[name].as_tensor(array)
            if not array.flags.writeable:
                raise InputError(f"output {name!r} must be writable")
        self._copy_into(outputs, self.run(feeds, list(outputs), timeout=timeout))

    def run_dlpack(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> NoReturn:
        """Raises InputError: of ONNX Runtime alone."""
        raise InputError("run_dlpack() is ONNX Runtime's alone; open the model without backend='openvino'")

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """``numpy.empty``."""
        return np.empty(shape, dtype)

    def close(self) -> None:
        """Frees the model's memory once the runs in progress have ended. Closing twice is fine."""
        self._compiled = None
        self._requests = []
        self._async_pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InputError("an open engine cannot be pickled or copied: pass its path, and open it in each process")

    def __repr__(self) -> str:
        state = "closed" if self._compiled is None else f"{self.precision}, threads={self.threads}"
        sides = [", ".join(map(str, specs)) for specs in (self.inputs, self.outputs)]
        return f"OpenVINOEngine({self._name}, {state}, inputs=[{sides[0]}], outputs=[{sides[1]}])"

    def _opened(self, model: Description) -> Any:
        try:
            with model.opened() as source:
                network = _core().read_model(*((source, b"") if isinstance(source, bytes) else (source,)))
                if self._fixed:
                    network.reshape({spec.name: [self._size(size) for size in spec.shape] for spec in self.inputs if spec.ranked})
                settings = {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": self.threads,
                    "INFERENCE_PRECISION_HINT": _PRECISIONS[self.precision],
                    # Pinned threads of two models, or of two processes, would share the same cores and leave others idle.
                    "ENABLE_CPU_PINNING": False,
                }
                compiled = _core().compile_model(network, "CPU", settings)
        except _ERRORS as error:
            raise ArtifactError(f"OpenVINO {version()} cannot run {self._name}: {_line(error)}") from error
        found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if found != _PRECISIONS[self.precision]:
            raise DeviceError(f"OpenVINO would run {self._name} in {found} and not in {self.precision}, which this CPU lacks")
        return compiled

    def _size(self, size: int | str | None) -> int:
        return size if isinstance(size, int) else self._fixed.get(size, -1) if size is not None else -1

    def _output_places(self) -> dict[str, int]:
        """By name; a tensor may have several. Raises ArtifactError where one is missing."""
        by_name = {name: place for place, output in enumerate(self._compiled.outputs) for name in output.get_names()}
        for name in self._output_names:
            if name not in by_name:
                raise ArtifactError(f"OpenVINO {version()} cannot run {self._name}: it lost the output {name!r}")
        return {name: by_name[name] for name in self._output_names}

    def _call(self, names: Sequence[str], feeds: Mapping[str, Any], options: Any) -> list[Any]:
        """Outputs in the order of ``names``. ``options.terminate`` stops the run."""
        compiled = self._compiled
        if compiled is None:
            raise InputError(f"{self._name} is closed; open it again")
        for name, array in feeds.items():
            if array.size == 0:
                what = f"input {name!r} {array.shape} has no elements"
                raise InputError(f"{what}, for which OpenVINO gives outputs of other shapes; use backend='onnxruntime'")
        self._check_sizes(feeds)
        tensor = openvino().Tensor
        try:
            try:
                request = self._requests.pop()
            except IndexError:
                request = compiled.create_infer_request()
            for name, array in feeds.items():
                # Shared memory has to be writable; nothing writes to it.
                request.set_tensor(name, tensor(array, shared_memory=array.flags.writeable and array.flags.aligned))
            request.start_async()
            if options is None:
                request.wait()
            else:
                while not request.wait_for(_POLL_MS):
                    if options.terminate:
                        request.cancel()
                        raise InputError(f"{self._name} was stopped")
            results = [self._result(request, name) for name in names]
        except _ERRORS as error:
            if isinstance(error, InputError):
                raise
            words = ", ".join(f"{name} {given(value)}" for name, value in list(feeds.items())[:12])
            uneven = uneven_axis((*self.inputs, *self.optional_inputs), feeds)
            raise InputError(f"{self._name} cannot run on {words} in OpenVINO: {uneven or _line(error)}") from error
        if self._compiled is not None:
            self._requests.append(request)
        return results

    def _result(self, request: Any, name: str) -> np.ndarray:
        array: np.ndarray = np.array(request.get_output_tensor(self._places[name]).data)
        dtype = self._output_checks[name].dtype
        return array if array.dtype == dtype else array.astype(dtype or array.dtype)

    def _check_sizes(self, feeds: Mapping[str, Any]) -> None:
        for axis, size in self._fixed.items():
            for spec in self.inputs:
                for place, name in enumerate(spec.shape):
                    if name == axis and feeds[spec.name].shape[place] != size:
                        raise InputError(f"input {spec.name!r} must have size {size} on axis {place}, got {feeds[spec.name].shape}")


def version() -> str:
    """As its wheel says: ``2026.4.1``."""
    return str(openvino().__version__).split("-", 1)[0]


def _line(error: BaseException) -> str:
    """OpenVINO's messages are of many lines, and begin with places in its source."""
    text = "".join(char if char.isprintable() else " " for char in str(error)[:4000])
    text = " ".join(_PLACE.sub(" ", text).split())
    return text[:300].rstrip(" .:") or type(error).__name__
