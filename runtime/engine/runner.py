"""The protocol of an open model: what tasks, the batcher and the replay of golden samples need of whatever runs the graph.

:class:`~onnxferry.runtime.engine.engine.Engine` (ONNX Runtime) and
:class:`~onnxferry.runtime.tuning.tuned_engine.TunedEngine` satisfy it. Another back end is any class with these members; tasks need no
change for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.onnx_file.values import TensorSpec

if TYPE_CHECKING:
    from onnxferry.runtime.engine.cuda.dlpack import DeviceArray


@runtime_checkable
class Runner(Protocol):
    """An open model. Any number of threads may call :meth:`run` at a time."""

    @property
    def path(self) -> Path | None:
        """The model's file; None where it was not opened from one."""

    @property
    def contract(self) -> Contract | None:
        """None for a model that was not exported by onnxferry."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs that every run needs."""

    @property
    def optional_inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs with a default, in the contract or in the graph."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def device(self) -> str:
        """``"cpu"``, ``"cuda"``, or the back end's own name for where it runs."""

    @property
    def device_reason(self) -> str:
        """Why it runs there, in a few words."""

    @property
    def providers(self) -> tuple[str, ...]:
        """What executes the graph, in order of preference."""

    @property
    def threads(self) -> int:
        """CPU threads that share the work of one run."""

    @property
    def per_row(self) -> bool:
        """True if rows must run one by one, because the result for a row depends on the batch around it."""

    @property
    def best_batch(self) -> int | None:
        """The measured batch size with the least time per row; None where nothing was measured."""

    def run(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays by input name to new arrays by output name; ``outputs`` selects some. Raises InputError for inputs that do not fit,
        TimeLimitError where it takes longer than ``timeout`` seconds."""

    async def arun(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """As :meth:`run`, without blocking the event loop."""

    def close(self) -> None:
        """Frees the model's memory. A run afterwards raises InputError; closing twice does not."""


@runtime_checkable
class BufferRunner(Runner, Protocol):
    """A runner that also works on the caller's memory."""

    def run_into(self, feeds: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], *, timeout: float | None = None) -> None:
        """As :meth:`run`, into the given arrays."""

    def run_dlpack(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, DeviceArray]:
        """As :meth:`run`, on arrays on the model's own device."""

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """An uninitialized array in the memory that is copied fastest to the device and back."""
