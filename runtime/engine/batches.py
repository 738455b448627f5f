"""The batch axis of a model: which inputs have one row per item, and how rows run one by one where they must.

The batch axis is the first axis of the inputs, if the graph leaves its size open. Axes of the same name are the same axis; an axis
named ``NAME_or_1`` beside a batch axis ``NAME`` takes one row per item or one row for all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from onnxferry.runtime.artifact.contract import kind_of
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.onnx_file.values import TensorSpec


@dataclass(frozen=True)
class BatchAxis:
    """The inputs that have one row per item."""

    inputs: tuple[str, ...]  # always one row per item; the first is a required input, so it gives the number of items
    either: tuple[str, ...] = ()  # one row per item or one row for all

    def rows(self, feeds: Mapping[str, Any]) -> int:
        """Number of items; 0 if it cannot be counted, because the engine will refuse these feeds."""
        array = feeds.get(self.inputs[0])
        return len(array) if isinstance(array, np.ndarray) and array.ndim else 0

    def joined(self, feeds: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the feeds whose first axis is the batch."""
        if not self.either and len(self.inputs) == 1:  # most models
            return self.inputs if self.inputs[0] in feeds else ()
        rows = self.rows(feeds)
        loose = [name for name in self.either if isinstance(feeds.get(name), np.ndarray) and feeds[name].shape[:1] == (rows,)]
        return (*(name for name in self.inputs if name in feeds), *loose)


def batch_axis(inputs: Sequence[TensorSpec], optional_inputs: Sequence[TensorSpec] = ()) -> BatchAxis | None:
    """None if no required input leaves its first axis open: such a model has a fixed batch size, or no batch axis at all."""
    first = next((spec for spec in inputs if _is_open(spec)), None)
    if first is None:
        return None
    batch = first.shape[0]
    named = [first.name, *(spec.name for spec in inputs if spec is not first and _is_open(spec) and spec.shape[0] in (batch, None))]
    if batch is None:  # an optional input's first axis is the batch only if the graph names it so
        return BatchAxis(tuple(named))
    named += [spec.name for spec in optional_inputs if _is_open(spec) and spec.shape[0] == batch]
    either = [spec.name for spec in (*inputs, *optional_inputs) if _is_open(spec) and spec.shape[0] == f"{batch}_or_1"]
    return BatchAxis(tuple(named), tuple(either))


def _is_open(spec: TensorSpec) -> bool:
    return "(" not in spec.dtype and spec.ranked and bool(spec.shape) and not isinstance(spec.shape[0], int)


_BY_ROW = ("prompt", "uniforms", "prompt_length", "state")


class Runs(Protocol):
    """As :meth:`Runner.run`."""

    def __call__(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]: ...


def per_row_run(runner: Runner, timeout: float | None = None) -> Runs:
    """The runner's ``run``; for a text generator whose rows must run one by one, a run that does that. ``timeout``: of each run."""
    limited: Runs = runner.run if timeout is None else functools.partial(runner.run, timeout=timeout)
    if kind_of(runner.contract).returns != "text" or not runner.per_row:
        return limited
    if not all(spec.ranked and spec.shape for spec in runner.outputs):  # a graph that is not what its contract says
        return limited

    def run(feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        return _run_per_row(limited, feeds, outputs) if _rows(feeds) > 1 else limited(feeds, outputs)

    return run


def _rows(feeds: Mapping[str, np.ndarray]) -> int:
    """Number of texts if all feeds have the same batch size; 0 for feeds that the engine will refuse."""
    prompt, uniforms = feeds.get("prompt"), feeds.get("uniforms")
    if not all(isinstance(array, np.ndarray) and array.ndim == 2 for array in (prompt, uniforms)):
        return 0
    rows = len(prompt)  # type: ignore[arg-type]
    sides = [feeds[name] for name in ("uniforms", "prompt_length", "state") if name in feeds]
    return rows if all(np.ndim(side) and len(side) in (1, rows) for side in sides) and len(sides[0]) == rows else 0


def _run_per_row(run: Runs, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Runs each text by itself, without the padding that longer texts of the batch need; the outputs are those of one run."""
    prompt = feeds["prompt"]
    width = prompt.shape[1]
    parts = []
    for row in range(len(prompt)):
        own = {name: array[row : row + 1] if name in _BY_ROW and len(array) > 1 else array for name, array in feeds.items()}
        if "prompt_length" in own:
            length = int(own.pop("prompt_length")[0])
            own["prompt"] = own["prompt"][:, : width if length < 0 else length]
        made = run(own, outputs)
        if "log_probabilities" in made:
            read = made["log_probabilities"]
            made["log_probabilities"] = np.pad(read, ((0, 0), (0, width - read.shape[1])))
        parts.append(made)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
