"""Runs on persistent bound buffers: inputs are copied in and outputs copied out.

For a small model, copying a few kilobytes costs less than passing new arrays to ONNX Runtime each time. On CUDA the buffers are
page-locked, so the GPU reads and writes them directly. Each thread has its own, for the last shapes it used.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxferry.runtime.onnx_file.values import TensorSpec

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import BufferRunner, Runner


KEPT = 2
"""Sets of shapes that each thread keeps buffers for."""


_Key = tuple[Any, ...]


_Buffers = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


class BoundRun:
    """A ``run`` that goes through the engine's ``run_into``: the same arguments, results and errors."""

    def __init__(self, engine: BufferRunner) -> None:
        self.engine = engine
        self._own = _Own()

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        try:
            shapes = [(name, array.shape, array.dtype) for name, array in feeds.items()]
        except AttributeError:  # not a dict of arrays: the engine reports it
            return self.engine.run(feeds, outputs)
        key: _Key = (*shapes, None if outputs is None else tuple(outputs))
        buffers = self._own.buffers.get(key)
        if buffers is None:
            made = self.engine.run(feeds, outputs)  # checks everything, and gives the outputs' shapes
            own = self._own.buffers
            own[key] = (self._like(feeds), self._like(made))
            if len(own) > KEPT:
                own.pop(next(iter(own)))
            return made
        ins, outs = buffers
        for name, array in feeds.items():
            np.copyto(ins[name], array)
        self.engine.run_into(ins, outs)
        return {name: array.copy() for name, array in outs.items()}

    def _like(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: self.engine.empty(array.shape, array.dtype) for name, array in arrays.items()}


class _Own(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[_Key, _Buffers] = {}


def can_be_bound(engine: Runner) -> bool:
    """True if the inputs' shapes determine the outputs' and all of them are arrays of numbers, so that buffers can be reused."""
    specs: tuple[TensorSpec, ...] = (*engine.inputs, *engine.outputs)
    if engine.device not in ("cpu", "cuda") or not all(spec.ranked and _is_number(spec.dtype) for spec in specs):
        return False
    known = {size for spec in engine.inputs for size in spec.shape if isinstance(size, str)}
    return all(isinstance(size, int) or size in known for spec in engine.outputs for size in spec.shape)


def _is_number(name: str) -> bool:
    try:
        return np.dtype(name).kind in "biuf"
    except TypeError:
        return False
