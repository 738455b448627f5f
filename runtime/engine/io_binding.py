"""Arrays bound to a session by their address, kept for as long as a thread calls with the same arrays.

Passing arrays to ONNX Runtime costs more than running a small graph: each call looks up names, wraps every array and allocates
every output. A binding does that once, for one set of arrays in one thread: the second call with the same arrays is a look-up and
the run itself.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxferry.runtime import interruption
from onnxferry.runtime.arguments import given, instead, listed
from onnxferry.runtime.engine import ort
from onnxferry.runtime.engine.inputs import TensorCheck
from onnxferry.runtime.errors import InputError

KEPT = 2
"""Bindings per thread: a state that alternates between two buffers needs two. Their arrays stay in memory."""


class Binding:
    """One set of bound arrays. Keeps references to them, so that their addresses stay valid."""

    __slots__ = ("_call", "_copies", "_inputs", "_native", "_outputs", "_values", "reusable")

    def __init__(
        self,
        session: Any,
        inputs: Mapping[str, tuple[np.ndarray, np.ndarray]],
        outputs: Mapping[str, np.ndarray],
        defaults: Mapping[str, np.ndarray],
    ) -> None:
        """``inputs``: the caller's array and the one that is bound, which is a copy if the caller's cannot be bound.
        ``defaults``: of the inputs that the caller leaves out.
        """
        self.reusable = all(own is bound for own, bound in inputs.values())
        self._inputs = [(name, bound, bound.shape, bound.dtype) for name, (_, bound) in inputs.items()]
        self._outputs = [(name, array, array.shape, array.dtype) for name, array in outputs.items()]
        # An input that the graph returns unchanged: ONNX Runtime would not write the bound output.
        self._copies = [(inputs[name][1], array) for name, array in outputs.items() if name in inputs]
        written = {name: array for name, array in outputs.items() if name not in inputs}
        self._values, self._native, self._call = ort.bind(
            session, {**defaults, **{name: bound for name, (_, bound) in inputs.items()}}, written
        )

    def holds(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any]) -> bool:
        """True if these are the same arrays with the same layout: numpy lets shape, dtype and flags be set in place."""
        if len(feeds) != len(self._inputs) or len(outputs) != len(self._outputs):
            return False
        for name, array, shape, dtype in self._inputs:
            if feeds.get(name) is not array or array.shape != shape or array.dtype is not dtype or not array.flags.c_contiguous:
                return False
        for name, array, shape, dtype in self._outputs:
            if outputs.get(name) is not array or array.shape != shape or array.dtype is not dtype or not array.flags.carray:
                return False
        return True

    def run(self, seconds: float | None = None, what: str = "") -> None:
        """Reads the inputs as they are now and writes the outputs. ``seconds``, ``what``: as of :func:`ort.stoppable`."""
        if self._call is not None:
            if seconds is None and not interruption.watched:
                self._call(self._native, None)
            else:
                ort.stoppable(self._call, (self._native,), seconds, what)
        if self._copies:
            for source, target in self._copies:
                np.copyto(target, source)


class Spares(threading.local):
    """Each thread's own bindings, the newest first."""

    bindings: tuple[Binding, ...] = ()

    def add(self, binding: Binding) -> None:
        self.bindings = (binding, *self.bindings[: KEPT - 1])


def bound_arrays(feeds: Mapping[str, TensorCheck], ready: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Checks inputs for binding. Raises InputError for arrays that do not fit, or have no memory to bind (text, sequences)."""
    return {name: (array, feeds[name].as_tensor(array)) for name, array in ready.items()}


def output_arrays(
    outputs: Mapping[str, np.ndarray], known: Mapping[str, TensorCheck], inputs: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """Raises InputError for an array that an output cannot be written into. Dynamic sizes are only known after the run."""
    if not outputs:
        raise InputError(f"outputs must hold an array for at least one of {listed(known)}")
    seen = {f"input {name!r}": bound for name, (_, bound) in inputs.items()}
    for name, array in outputs.items():
        feed = known.get(name)
        if feed is None:
            raise InputError(f"the model has no output {name!r}{instead(name, list(known))}")
        if feed.as_tensor(array) is not array or not array.flags.carray:
            raise InputError(
                f"output {name!r} must be C-contiguous, aligned and writable memory; use numpy.empty(shape, {feed.spec.dtype!r})"
            )
        if name in inputs and array.shape != inputs[name][1].shape:
            raise InputError(f"output {name!r} is the input of that name, {given(inputs[name][1])}; got {given(array)}")
        for other, taken in seen.items():
            if np.may_share_memory(array, taken):
                raise InputError(f"output {name!r} lies in the memory of {other}; give it an array of its own")
        seen[f"output {name!r}"] = array
