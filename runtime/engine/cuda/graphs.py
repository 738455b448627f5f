"""CUDA graphs: for each set of shapes, a run is captured once, on buffers at fixed addresses, and then replayed.

A replay writes to the addresses that were captured, so each set of shapes has buffers of its own, which are filled before the run and
read after it. Runs take turns. Source:
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview

If a graph computes with its own sizes, as for images of any size, those nodes run on the CPU and their results are copied to the GPU in
the middle of the run, which cannot be captured: ONNX Runtime refuses to open such a session. With fixed sizes these nodes are folded
when the session is opened, so each set of shapes then gets a session of its own.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.cuda import driver as cuda_driver
from onnxferry.runtime.engine.inputs import numpy_name
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.onnx_file.summary import ModelSummary

MAX_SHAPES = 8
"""Captured sets of shapes that are kept; the least recently used one is dropped first."""


_GRAPH_ID = "gpu_graph_id"


_NOT_CAPTURED = "-1"


_DO_NOT_WAIT = "disable_synchronize_execution_providers"


_CONTROL_FLOW = ("ai.onnx::If", "ai.onnx::Loop", "ai.onnx::Scan")


def refuse_control_flow(summary: ModelSummary, name: str) -> None:
    """Raises InputError for a graph with control flow, which cannot be captured."""
    found = [operator.removeprefix("ai.onnx::") for operator in _CONTROL_FLOW if operator in summary.operators]
    if found:
        raise InputError(
            f"{name} cannot be captured as a CUDA graph: it has {' and '.join(found)}, whose control flow is decided during the run; "
            "open it without cuda_graph=True"
        )


OpenFor = Callable[[Mapping[str, tuple[int, ...]]], Any]
"""Opens a session for inputs of these shapes only, by name."""


@dataclass(frozen=True)
class _Slot:
    """One set of shapes: its bound buffers on the device, and the number of its captured graph."""

    number: int
    session: Any
    inputs: Mapping[str, Any]  # OrtValues
    outputs: Sequence[Any]
    binding: Any


class GraphRunner:
    """Runs a session through fixed buffers on ``device`` (kind, number). :meth:`call` is a session's run.

    ``stream``: the caller's, which the session was opened on; None if the session has its own. ``open_for``: opens a session for fixed
    shapes, if ``session`` itself cannot be captured.
    """

    def __init__(
        self, session: Any, device: tuple[str, int], most: int = MAX_SHAPES, *, stream: int | None = None, open_for: OpenFor | None = None
    ) -> None:
        self._session = session
        self._device = device
        self._most = most
        self._stream = stream
        self._open_for = open_for
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._slots: dict[tuple[Any, ...], _Slot] = {}

    def call(self, names: Sequence[str], feeds: Mapping[str, Any], _options: Any) -> list[Any]:
        """Numpy arrays in and out. A run cannot be stopped: it is one launch."""
        with self._lock:
            if self._stream is not None:  # an earlier run may still read the buffers
                cuda_driver.wait_for(self._stream, self._device[1])
            key, slot = self._slot(names, feeds)
            # These copies and the run are synchronous.
            for name, value in slot.inputs.items():
                value.update_inplace(feeds[name])
            slot.session.run_with_iobinding(slot.binding, _run_options(str(slot.number)))
            self._slots[key] = slot  # the newest last; a slot whose run failed is not used again
            # Copies, because the next run writes to the buffers again.
            return [np.array(value.numpy()) for value in slot.outputs]

    def call_on_device(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """OrtValues in and out, on the device: copied into the buffers and out of them into new memory.

        On the caller's stream nothing waits; otherwise all work is done when this returns.
        """
        with self._lock:
            key, slot = self._slot(names, feeds)
            waits = self._stream is None
            if waits:  # wait for the producers of the inputs, whatever their stream
                slot.binding.synchronize_inputs()
            self._copy([(value, feeds[name]) for name, value in slot.inputs.items()])
            slot.session.run_with_iobinding(slot.binding, _run_options(str(slot.number), wait=waits))
            answers = [self._like(value) for value in slot.outputs]
            self._copy(list(zip(answers, slot.outputs, strict=True)))
            if waits:
                slot.binding.synchronize_outputs()
            self._slots[key] = slot
            return answers

    def _copy(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        """Copies (target, source) pairs on the device."""
        if self._stream is not None:
            copies = [(target.data_ptr(), source.data_ptr(), _bytes(source)) for target, source in pairs]
            cuda_driver.copy_on(self._stream, self._device[1], copies)
            return
        for target, source in pairs:
            target.update_inplace(source)

    def _slot(self, names: Sequence[str], feeds: Mapping[str, Any]) -> tuple[tuple[Any, ...], _Slot]:
        """Key and slot of these shapes, removed from the table. Its buffers hold the results until its next run."""
        key = (*names, *((name, _shape(feeds[name])) for name in sorted(feeds)))
        slot = self._slots.pop(key, None)
        if slot is None:
            while len(self._slots) >= self._most:
                self._forget(next(iter(self._slots)))
            slot = self._new_slot(names, feeds)
        return key, slot

    def _new_slot(self, names: Sequence[str], feeds: Mapping[str, Any]) -> _Slot:
        session = self._session
        if self._open_for is not None:
            session = self._open_for({name: _shape(value) for name, value in feeds.items()})
        inputs = {name: self._like(value) for name, value in feeds.items()}
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, *self._device)
        binding.synchronize_inputs()  # wait for the producers of the inputs, whatever their stream
        for name, value in inputs.items():
            value.update_inplace(feeds[name])
        # Once without capturing: it gives the outputs' shapes, and lets libraries choose their algorithms.
        session.run_with_iobinding(binding, _run_options(_NOT_CAPTURED))
        outputs = [self._like(value) for value in binding.get_outputs()]
        binding.clear_binding_outputs()
        for name, value in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        return _Slot(next(self._numbers), session, inputs, outputs, binding)

    def _like(self, value: Any) -> Any:
        """New memory on the device, of an array's or an OrtValue's shape and type."""
        return ort.onnxruntime().OrtValue.ortvalue_from_shape_and_type(_shape(value), _dtype(value).type, *self._device)

    def _forget(self, key: tuple[Any, ...]) -> None:
        if self._stream is not None:  # a graph that is still running needs its buffers
            cuda_driver.wait_for(self._stream, self._device[1])
        slot = self._slots.pop(key)
        if slot.session is self._session and hasattr(self._session, "release_captured_graph"):
            self._session.release_captured_graph(slot.number)  # older versions keep a graph as long as its session


def _dtype(value: Any) -> np.dtype[Any]:
    return value.dtype if isinstance(value, np.ndarray) else np.dtype(numpy_name(value.data_type()))


def _bytes(value: Any) -> int:
    return math.prod(_shape(value)) * _dtype(value).itemsize


def _shape(value: Any) -> tuple[int, ...]:
    return value.shape if isinstance(value, np.ndarray) else tuple(value.shape())


def _run_options(graph: str, wait: bool = True) -> Any:
    options = ort.onnxruntime().RunOptions()
    options.add_run_config_entry(_GRAPH_ID, graph)
    if not wait:
        options.add_run_config_entry(_DO_NOT_WAIT, "1")
    return options
