"""Fixed shapes on a GPU: inputs and outputs at addresses that stay, and the run recorded once and replayed (CUDA graphs).

A replay writes to the very addresses that were recorded, so each set of shapes has buffers of its own, which are filled before and
read after. Runs take turns. Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.runtime import ort
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.feeds import numpy_name
from onnxferry.runtime.onnx_file import ModelSummary

MOST_SHAPES = 8
"""Sets of shapes that are kept recorded; the one used longest ago goes first."""

_GRAPH_ID = "gpu_graph_id"
_NOT_RECORDED = "-1"
_CONTROL_FLOW = ("ai.onnx::If", "ai.onnx::Loop", "ai.onnx::Scan")


def refuse_control_flow(summary: ModelSummary, name: str) -> None:
    """Raises InputError for a graph that cannot be recorded."""
    found = [operator.removeprefix("ai.onnx::") for operator in _CONTROL_FLOW if operator in summary.operators]
    if found:
        raise InputError(
            f"{name} cannot be recorded as a CUDA graph: it has {' and '.join(found)}, whose course is decided while it runs; "
            "open it without cuda_graph=True"
        )


@dataclass(frozen=True)
class _Slot:
    """One set of shapes: its buffers on the device, bound, and the number of its graph."""

    number: int
    inputs: Mapping[str, Any]  # OrtValues
    outputs: Sequence[Any]
    binding: Any
    options: Any


class GraphRunner:
    """Runs a session through fixed buffers on ``device`` (kind, number). :meth:`call` is a session's run."""

    def __init__(self, session: Any, device: tuple[str, int], most: int = MOST_SHAPES) -> None:
        self._session = session
        self._device = device
        self._most = most
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._slots: dict[tuple[Any, ...], _Slot] = {}

    def call(self, names: Sequence[str], feeds: Mapping[str, Any], _options: Any) -> list[Any]:
        """Numpy arrays in and out. A run cannot be stopped half-way: it is one launch."""
        with self._lock:
            # All of them are copies: the buffers are the next run's.
            return [np.array(value.numpy()) for value in self._run(names, feeds).outputs]

    def call_on_device(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """OrtValues in and out, on the device: copied there into the buffers and out of them into new memory."""
        with self._lock:
            slot = self._run(names, feeds)
            answers = [self._like(value) for value in slot.outputs]
            for answer, value in zip(answers, slot.outputs, strict=True):
                answer.update_inplace(value)
            slot.binding.synchronize_outputs()  # the copies are on no stream that the caller could wait for
            return answers

    def _run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> _Slot:
        """The slot whose buffers hold the answers until its next run."""
        key = (*names, *((name, _shape(feeds[name])) for name in sorted(feeds)))
        slot = self._slots.pop(key, None)
        if slot is None:
            while len(self._slots) >= self._most:
                self._forget(next(iter(self._slots)))
            slot = self._new_slot(names, feeds)
        self._fill(slot.binding, slot.inputs, feeds)
        self._session.run_with_iobinding(slot.binding, slot.options)
        self._slots[key] = slot  # the newest last
        return slot

    def _fill(self, binding: Any, inputs: Mapping[str, Any], feeds: Mapping[str, Any]) -> None:
        # What makes the feeds, the copies, and the run are on three streams.
        binding.synchronize_inputs()
        for name, value in inputs.items():
            value.update_inplace(feeds[name])
        binding.synchronize_inputs()

    def _new_slot(self, names: Sequence[str], feeds: Mapping[str, Any]) -> _Slot:
        inputs = {name: self._like(value) for name, value in feeds.items()}
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, *self._device)
        self._fill(binding, inputs, feeds)
        # Once without recording: it tells the outputs' shapes, and lets libraries make their plans.
        self._session.run_with_iobinding(binding, _run_options(_NOT_RECORDED))
        outputs = [self._like(value) for value in binding.get_outputs()]
        binding.clear_binding_outputs()
        for name, value in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        number = next(self._numbers)
        return _Slot(number, inputs, outputs, binding, _run_options(str(number)))

    def _like(self, value: Any) -> Any:
        """New memory on the device, of an array's or an OrtValue's shape and type."""
        dtype = value.dtype if isinstance(value, np.ndarray) else np.dtype(numpy_name(value.data_type()))
        return ort.onnxruntime().OrtValue.ortvalue_from_shape_and_type(_shape(value), dtype.type, *self._device)

    def _forget(self, key: tuple[Any, ...]) -> None:
        slot = self._slots.pop(key)
        if hasattr(self._session, "release_captured_graph"):  # before, a graph lived as long as its session
            self._session.release_captured_graph(slot.number)


def _shape(value: Any) -> tuple[int, ...]:
    return value.shape if isinstance(value, np.ndarray) else tuple(value.shape())


def _run_options(graph: str) -> Any:
    options = ort.onnxruntime().RunOptions()
    options.add_run_config_entry(_GRAPH_ID, graph)
    return options
