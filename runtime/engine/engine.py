"""An open model on ONNX Runtime: a dict of arrays in, a dict of arrays out, on the device that was asked for or an error.

    with Engine("model.onnx") as engine:
        outputs = engine.run({"x": x})

Works for any ONNX file. What it adds to ONNX Runtime: inputs are checked before the run, errors are readable, CUDA is used or refused
but never silently replaced by the CPU, and the number of threads is what the process may use.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from onnxferry.runtime import interruption
from onnxferry.runtime.arguments import given
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.describe import Description, describe
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.async_pool import AsyncPool
from onnxferry.runtime.engine.cuda.dlpack import DeviceArray, run_on_device, values_of
from onnxferry.runtime.engine.cuda.graphs import GraphRunner, refuse_control_flow
from onnxferry.runtime.engine.cuda.pinned import pinned_like
from onnxferry.runtime.engine.inputs import ArgumentChecks, TensorCheck, as_dict, never_empty, open_sizes, specs_of, uneven_axis
from onnxferry.runtime.engine.io_binding import Binding, Spares, bound_arrays, output_arrays
from onnxferry.runtime.engine.open import (
    SHARED_FROM,
    CudaChoices,
    Opened,
    copy_of,
    give_memory_back,
    open_captured,
    open_for_graphs,
    open_on,
    open_shared,
    runs_on,
)
from onnxferry.runtime.engine.placement import Placement, fallback_message, placements
from onnxferry.runtime.engine.placement import PlacementWarning as PlacementWarning
from onnxferry.runtime.engine.threads import threads_for
from onnxferry.runtime.errors import DeviceError, InputError, TimeLimitError
from onnxferry.runtime.machine import cpu
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.onnx_file.values import TensorSpec as TensorSpec

MAX_THREADS = 1024


_SHOWN_INPUTS = 12  # that an error describes


GPU_FAILED = ("CUDA", "CUDNN", "CUBLAS", "GPU memory", "Failed to allocate memory", "smaller than requested bytes")
"""Parts of ONNX Runtime's messages for errors of the GPU; the last two mean out of memory (core/framework/bfc_arena.cc)."""


class Engine(ArgumentChecks):
    """An open model. Any number of threads can use one engine at a time. A process that was forked from one with an open engine must
    open its own: :meth:`arun` of an inherited one raises InputError, and closing it does nothing to the parent's.

    ``path``: a file, a file's bytes, or what :func:`~onnxferry.runtime.artifact.describe.describe` made of one, which is not read again
    (``limits`` are then those that it was read with).
    ``device``: ``"cuda"`` runs there or raises DeviceError, ``"auto"`` uses CUDA only where it works; ``device_reason`` says why it was
    chosen. ``threads``: None for :func:`threads.threads_for`: as many as the process may use, one for tiny recurrent models.
    ``providers``: instead of ``device``, ONNX Runtime's execution providers in order, short or full names, each alone or with
    its options: ``["openvino"]``, ``[("cuda", {"device_id": 1}), "cpu"]``; a provider that cannot be used raises DeviceError.

    ``limits``: how much a file may hold (None for the defaults of :class:`~onnxferry.runtime.onnx_file.summary.Limits`); every file is
    parsed and checked by :func:`~onnxferry.runtime.onnx_file.reader.read_model` before ONNX Runtime opens it.

    ``graph_level``: ONNX Runtime's graph optimizations: ``"off"``, ``"basic"``, ``"extended"`` or ``"all"``.

    ``sizes``: fixes dynamic axes by name (``{"batch": 1, "height": 28, "width": 28}``). What the graph computes from these sizes is then
    computed once, when the model is opened; inputs of other sizes are refused.

    On CUDA: ``tf32`` allows TensorFloat-32, which is less precise than the tolerances that artifacts are verified with; ``cuda_graph``
    captures a run for each set of shapes and replays it (for shapes that repeat; refused for graphs with control flow; the first run of
    a set in a thread captures, and no other thread may use the GPU meanwhile); ``cuda_stream`` is the address of the stream that
    everything runs on, for :meth:`run_dlpack` (torch: ``torch.cuda.current_stream().cuda_stream``). 0, torch's default stream, cannot
    be passed to ONNX Runtime: runs then synchronize, as they do without ``cuda_stream``. With ``device="cuda"``, a
    :class:`PlacementWarning` names the nodes that run on the CPU nevertheless. ``record_placement`` fills ``placement``: which node runs
    where. ``timeout``: seconds that ONNX Runtime may take to open the file.

    Raises ArtifactError for a file that cannot be loaded, UntrustedModelError for one that is refused, DeviceError for a device that
    cannot be used, InputError for invalid arguments, TimeLimitError where opening takes longer than ``timeout``, MissingExtraError if
    ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | bytes | Description,
        *,
        device: str = "auto",
        threads: int | None = None,
        providers: Sequence[ort.Provider] | None = None,
        limits: Limits | None = None,
        graph_level: str = "all",
        sizes: Mapping[str, int] | None = None,
        tf32: bool = False,
        cuda_graph: bool = False,
        cuda_stream: int | None = None,
        record_placement: bool = False,
        timeout: float | None = None,
    ) -> None:
        if not isinstance(graph_level, str) or graph_level not in ort.GRAPH_LEVELS:
            raise InputError(f"graph_level must be one of {', '.join(map(repr, ort.GRAPH_LEVELS))}, got {graph_level!r}")
        self.graph_level: str = graph_level
        wanted = None if threads is None else _thread_count(threads)
        model = path if isinstance(path, Description) else describe(path, limits)
        summary = model.summary
        self.path: Path | None = model.path
        self._name = model.name
        self.contract: Contract | None = model.contract
        self.metadata: dict[str, str] = dict(summary.metadata)
        self.per_row: bool = model.per_row
        self.best_batch: int | None = None
        self.threads: int = threads_for(summary) if wanted is None else wanted
        cuda = CudaChoices(bool(tf32), bool(cuda_graph), cuda_stream)
        cuda.check(device, providers)
        if cuda.graph:
            refuse_control_flow(summary, self._name)
        # With device='cuda', nodes that fall back to the CPU are reported.
        record = record_placement or device == "cuda"
        fixed = open_sizes(sizes or {}, summary.inputs)
        settings = ort.SessionSettings(self.threads, graph_level, fixed, record, interruption.checked_seconds(timeout))
        self._session: Any
        capturable = True
        copy = None if providers is not None or sizes or graph_level != "all" or device == "cuda" else copy_of(model)
        on_copy = copy is not None and runs_on(device, None) == "cpu"
        if on_copy:  # optimized already
            settings = dataclasses.replace(settings, graph_level="off", from_copy=True)

        def open_session() -> Opened:
            with model.opened() as source:
                return open_on(copy if on_copy and copy else source, self._name, settings, "cpu" if on_copy else device, providers, cuda)

        if cuda.graph:
            with model.opened() as source:
                opened, capturable = open_for_graphs(source, self._name, settings, device, cuda)
        elif providers is None and not cuda.tf32 and cuda.stream is None:
            opened = open_shared(model, device, settings, open_session)
        else:
            opened = open_session()
        self._opened: Opened | None = opened
        self._large = summary.weight_bytes >= SHARED_FROM
        self._session = opened.session
        self.device_reason: str = opened.reason
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.device: str = ort.device_of(self.providers)
        self._at = (self.device, ort.device_number(self._session) if self.device == "cuda" else 0)
        if self.device != "cuda" and (cuda.graph or cuda.stream is not None):
            raise DeviceError(f"cuda_graph and cuda_stream need CUDA, and {self._name} runs on {self.device}: {self.device_reason}")
        self._stream = cuda_stream or None
        self.placement: tuple[Placement, ...] = placements(self._session) if record_placement else ()
        if device == "cuda" and capturable:  # a captured graph runs on the GPU as a whole
            self._warn_of_fallback()
        # ONNX Runtime knows more shapes than the file (it infers them), but has () both for a scalar and for an unknown rank.
        unranked = {spec.name for spec in (*summary.inputs, *summary.optional_inputs, *summary.outputs) if not spec.ranked}
        declared = specs_of(self._session.get_inputs(), unranked)
        defaults = dict(self.contract.defaults) if self.contract is not None else {}
        self.inputs: tuple[TensorSpec, ...] = tuple(spec for spec in declared if spec.name not in defaults)
        self.optional_inputs: tuple[TensorSpec, ...] = (
            *(spec for spec in declared if spec.name in defaults),
            *specs_of(self._session.get_overridable_initializers(), unranked),
        )
        self.outputs: tuple[TensorSpec, ...] = specs_of(self._session.get_outputs(), unranked)
        # A graph made here that is not verified yet, or was just rewritten, has no contract.
        ours = self.contract is not None or summary.producer == "onnxferry"
        fed = (*self.inputs, *self.optional_inputs)
        checks = {spec.name: TensorCheck(spec, never_empty=never_empty(spec, summary.operators, ours)) for spec in fed}
        self._hold(checks, self.inputs, self.outputs, defaults, summary.never_zero)
        self._given_back = frozenset(self._output_names) & frozenset(self._input_checks)  # outputs that are inputs
        self._errors = ort.error_classes()
        self._graphs: GraphRunner | None = None
        if cuda.graph:
            open_for = None if capturable else partial(open_captured, model, self._name, settings, cuda, self.inputs)
            self._graphs = GraphRunner(self._session, self._at, stream=self._stream, open_for=open_for)
        self._call: ort.RunCall | None = self._graphs.call if self._graphs else ort.run_call(self._session)
        self._spares = Spares()
        self._async_pool = AsyncPool(max(2, cpu.available_cpus() // self.threads))
        self._device_defaults: dict[str, Any] | None = None  # made when first needed

    def run(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """Runs the graph once: arrays by input name in, arrays by output name out (``outputs`` asks for some of them only).

        Names, dtypes, ranks and fixed sizes are checked first. Arrays are not copied unless they are not C-contiguous. Output arrays are
        new and belong to the caller. Outputs that are not tensors are returned as ONNX Runtime gives them (lists, dicts). The GIL is
        released during the run, so threads run in parallel.

        ``timeout``: seconds. The run is stopped before its next operator; one that goes on for another second is left to a thread of its
        own, which holds its memory until it ends. Costs some 0.1 ms for that thread.

        Raises InputError for inputs that do not fit, DeviceError if the GPU fails, TimeLimitError after ``timeout``.
        """
        call = self._call
        if call is None:
            raise self._closed()
        names = self._output_names if outputs is None else self._chosen(outputs)
        ready = self._checked(feeds)
        try:
            if timeout is None and not interruption.watched:
                results = call(names, ready, None)
            else:
                results = ort.stoppable(call, (names, ready), self._limited(timeout), f"{self._name} was not run")
        except InputError:
            raise
        except self._errors as error:
            raise self._run_error(error, ready) from error
        return self._named(names, results)

    def run_into(self, feeds: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], *, timeout: float | None = None) -> None:
        """As :meth:`run`, into the caller's arrays: ``outputs`` by name, some or all, with the dtype and shape of the result.

        They must be C-contiguous and writable, and must not overlap one another or an input. Calling again with the very same arrays
        (their contents may differ) is the fastest way to run a small model. For that, each thread keeps its last two sets of arrays in
        memory until the engine is closed.

        Raises InputError for inputs and outputs that do not fit, DeviceError if the GPU fails, TimeLimitError after ``timeout``; the
        contents of the outputs are then undefined, and after a TimeLimitError they may change until the last operator has ended.
        """
        spares = self._spares  # read before the session, as close() clears them in the other order; a binding keeps its session alive
        session = self._session
        if session is None:
            raise self._closed()
        if type(feeds) is not dict:
            feeds = as_dict(feeds)
        if type(outputs) is not dict:
            outputs = as_dict(outputs, "outputs")
        if self._graphs is not None:  # it has buffers of its own
            output_arrays(outputs, self._output_checks, bound_arrays(self._input_checks, self._checked(feeds)))
            self._copy_into(outputs, self.run(feeds, list(outputs), timeout=timeout))
            return
        seconds = self._limited(timeout)
        for binding in spares.bindings:
            if binding.holds(feeds, outputs):
                break
        else:
            binding = self._bound(session, feeds, outputs)
            if binding.reusable:
                spares.add(binding)
        try:
            binding.run(seconds, f"{self._name} was not run")
        except TimeLimitError:
            spares.bindings = ()  # the arrays are still in use
            raise
        except self._errors as error:
            raise self._run_error(error, feeds, outputs) from error

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """An uninitialized array, in the memory that is copied fastest to the device and back.

        On CUDA this is page-locked memory, which the GPU reads and writes directly: meant for arrays that are used again, as with
        :meth:`run_into`. Elsewhere it is ``numpy.empty``. Raises DeviceError if there is no such memory left.
        """
        plain = np.empty(shape, dtype)  # its pages are never touched, so it costs nothing
        return pinned_like(plain, self._at[1]) if self.device == "cuda" else plain

    async def arun(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """As :meth:`run`, without blocking the event loop. Inputs are checked at once and must not change until the run is done.

        As many runs are in progress at a time as there are CPUs for them; the rest wait in order. Cancelling removes a waiting run, and
        stops a running one before its next operator. Closing the engine lets accepted runs finish.
        """
        call = self._call
        if call is None:
            raise self._closed()
        names = self._output_names if outputs is None else self._chosen(outputs)
        ready = self._checked(feeds)
        try:
            results = await self._async_pool.run(call, names, dict(ready), self._limited(timeout), f"{self._name} was not run")
        except InputError:
            raise
        except self._errors as error:
            raise self._run_error(error, ready) from error
        return self._named(names, results)

    def run_dlpack(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, DeviceArray]:
        """As :meth:`run`, on arrays that are on the model's device, without a copy: anything with ``__dlpack__``.

            outputs = engine.run_dlpack({"x": tensor})        # a torch tensor on the CPU, or on the GPU with device="cuda"
            y = torch.from_dlpack(outputs["y"])

        Outputs are new memory each time, freed with the last array that shares it. On CUDA the device is synchronized before and
        after the run, unless the engine was opened on the caller's own ``cuda_stream``: then nothing waits, and outputs are ready in
        that stream's order. An engine with ``cuda_graph`` copies on the device, into its graph's buffers and out of them.

        Raises InputError for arrays that do not fit, are on another device, are not contiguous, or that their framework does not share
        (torch: those that require gradients), and DeviceError if the GPU fails.
        """
        session = self._session
        if session is None:
            raise self._closed()
        names = self._output_names if outputs is None else self._chosen(outputs)
        ready = as_dict(feeds)
        self._check_names(ready)
        graphs = self._graphs
        try:
            if graphs is not None:
                values = {**self._defaults_on_device(), **values_of(ready, self._input_checks, self._at, self._stream)}
                answers = zip(names, graphs.call_on_device(names, values), strict=True)
                return {name: DeviceArray(value, self._stream) for name, value in answers}
            return run_on_device(session, ready, names, self._input_checks, self._at, self._stream, self._defaults_on_device())
        except InputError:
            raise
        except self._errors as error:
            raise self._run_error(error, ready) from error

    def close(self) -> None:
        """Frees the model's memory once the runs in progress have ended, and engines that share its session are closed. Closing twice is
        fine."""
        self._session = self._opened = None
        self._call = None
        self._graphs = None
        self._spares = Spares()
        self._async_pool.close()
        if self._large:
            give_memory_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InputError("an open engine cannot be pickled or copied: pass its path, and open it in each process with Engine(path)")

    def __repr__(self) -> str:
        state = "closed" if self._session is None else f"device={self.device!r}, threads={self.threads}"
        sides = [", ".join(map(str, specs)) for specs in (self.inputs, self.outputs)]
        return f"Engine({self._name}, {state}, inputs=[{sides[0]}], outputs=[{sides[1]}])"

    def _closed(self) -> InputError:
        return InputError(f"{self._name} is closed; open it again with Engine(...)")

    def _limited(self, timeout: float | None) -> float | None:
        if timeout is not None and self._graphs is not None:
            raise InputError("a captured CUDA graph cannot be stopped: leave timeout or cuda_graph=True out")
        return interruption.checked_seconds(timeout)

    def _named(self, names: Sequence[str], results: Sequence[Any]) -> dict[str, Any]:
        """Results by name. An output that is an input is copied: ONNX Runtime before 1.26 returns the caller's own memory for it."""
        # One for each name; a small model's run takes a few microseconds, and strict=True 0.2.
        named = {names[0]: results[0]} if len(names) == 1 else dict(zip(names, results))  # noqa: B905
        if self._given_back:  # asked first: most files have none, and a small model's run takes a few microseconds
            for name in self._given_back.intersection(named):
                named[name] = named[name].copy() if isinstance(named[name], np.ndarray) else named[name]
        return named

    def _defaults_on_device(self) -> dict[str, Any]:
        if self._device_defaults is None:
            value_of = ort.onnxruntime().OrtValue.ortvalue_from_numpy
            self._device_defaults = {name: value_of(array, *self._at) for name, array in self._defaults.items()}
        return self._device_defaults

    def _warn_of_fallback(self) -> None:
        try:
            words = fallback_message(placements(self._session), self._name)
        except DeviceError:  # this ONNX Runtime is too old to report it
            return
        if words is not None:
            warnings.warn(words, PlacementWarning, stacklevel=3)

    def _bound(self, session: Any, feeds: Mapping[str, Any], outputs: Mapping[str, Any]) -> Binding:
        self._checked(feeds)
        arrays = bound_arrays(self._input_checks, feeds)
        output_arrays(outputs, self._output_checks, arrays)
        left_out = {name: array for name, array in self._defaults.items() if name not in feeds}
        try:
            return Binding(session, arrays, outputs, left_out)
        except self._errors as error:
            raise self._run_error(error, feeds, outputs) from error

    def _run_error(self, error: Exception, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> InputError | DeviceError:
        text = ort.message_of(error)
        if self.device == "cuda" and any(mark in text for mark in GPU_FAILED):
            return DeviceError(f"the GPU failed while running {self._name}: {text}; try a smaller batch, or device='cpu'")
        ins, outs = (_given_words(side or {}) for side in (feeds, outputs))
        if "surrogates not allowed" in text:
            text = "a text holds half a character (a lone surrogate); give whole ones"
        uneven = uneven_axis((*self.inputs, *self.optional_inputs), feeds)
        return InputError(f"{self._name} cannot run on {ins or 'no inputs'}{outs and f' into {outs}'}: {uneven or text}")


def _given_words(arrays: Mapping[str, Any]) -> str:
    words = [f"{name} {given(value)}" for name, value in islice(arrays.items(), _SHOWN_INPUTS)]
    return ", ".join(words) + (f", … ({len(arrays)} in all)" if len(arrays) > _SHOWN_INPUTS else "")


def _thread_count(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads must be a whole number from 1 to {MAX_THREADS}, got {threads!r}")
    left = cpu.startable_threads()
    if left is not None and threads - 1 > left:
        raise InputError(f"threads={threads} needs {threads - 1} more threads, and this process can start {left} (a limit on processes)")
    return int(threads)
