"""Calls that share a run: which may, how their inputs are joined along the batch axis, and how the outputs are shared out."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxferry.runtime.engine.batches import BatchAxis, batch_axis
from onnxferry.runtime.engine.runner import Runner
from onnxferry.runtime.errors import InputError

Feeds = Mapping[str, Any]


class Merging:
    """For the calls of one engine.

    ``assume_batched``: for a file that does not name its axes: True states that the first axis of its inputs with an open first axis, and
    of all its outputs, is the batch. Raises InputError where calls cannot be joined, or would change or get each other's results.
    """

    def __init__(self, engine: Runner, assume_batched: bool = False) -> None:
        self.axis = _joinable(engine, assume_batched)

    def place(self, feeds: Any) -> tuple[Hashable, int]:
        """Equal for calls that may share a run, and how many rows of it the call fills. Raises InputError for what can be no call."""
        if type(feeds) is not dict and not isinstance(feeds, Mapping):  # asked first: a look at an abstract class takes a microsecond
            raise InputError(f"an item must be a dict of arrays by input name, got {type(feeds).__name__}")
        joined = self.axis.joined(feeds)
        if self.axis.inputs[0] not in joined or any(not _is_array(feeds[name]) for name in joined):
            return object(), 1  # by itself; where it cannot be run at all, the engine says why
        rows = self.axis.rows(feeds)
        if any(len(feeds[name]) != rows for name in joined):
            raise InputError(f"the first axis of {', '.join(joined)} is the batch and must be of one size, got {_shapes(feeds, joined)}")
        if rows == 0:
            raise InputError(f"an item must have at least one row, got {_shapes(feeds, joined)}")
        names = sorted(feeds, key=str) if len(feeds) > 1 else feeds
        return tuple([(name, *_alike(feeds[name], name in joined)) for name in names]), rows

    def joined(self, calls: Sequence[Feeds]) -> dict[str, Any]:
        """The feeds of one run for calls of the same place."""
        first = calls[0]
        return {**first, **{name: np.concatenate([call[name] for call in calls]) for name in self.axis.joined(first)}}

    def shared_out(self, outputs: Mapping[str, Any], calls: Sequence[Feeds]) -> list[dict[str, Any]]:
        """The outputs of each call. Raises InputError for an output that has not a row for each of the run's."""
        ends = list(itertools.accumulate(self.axis.rows(call) for call in calls))
        for name, array in outputs.items():
            if np.shape(array)[:1] != (ends[-1],):
                raise InputError(f"output {name!r} is {np.shape(array)} for {ends[-1]} rows, so it cannot be shared out")
        # Copies: a view of a few rows would keep all of the batch alive.
        parts = itertools.pairwise((0, *ends))
        return [{name: array[start:end].copy() for name, array in outputs.items()} for start, end in parts]


def _shapes(feeds: Feeds, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {feeds[name].shape}" for name in names)


def _joinable(engine: Runner, assume_batched: bool) -> BatchAxis:
    name = engine.path or "the model"
    if engine.per_row:
        raise InputError(
            f"{name} chooses the scale of its int8 activations by the whole batch, so that calls would change each other's results; "
            "use max_batch_size=1, or another variant of the model"
        )
    axis = batch_axis(engine.inputs, engine.optional_inputs)
    without = [spec.name for spec in engine.outputs if not spec.ranked or not spec.shape or isinstance(spec.shape[0], int)]
    if axis is None or without:
        which = f"output {without[0]!r}" if axis else "no input"
        raise InputError(f"{name} has no open batch axis ({which}), so calls cannot be merged; use max_batch_size=1")
    _refuse_other_axes(name, engine, axis, assume_batched)
    return axis


def _refuse_other_axes(name: object, engine: Runner, axis: BatchAxis, assume_batched: bool) -> None:
    """Raises InputError where a first axis has not the batch's own name: its rows may not be those of the calls."""
    fed = {spec.name: spec.shape[0] for spec in (*engine.inputs, *engine.optional_inputs) if spec.name in axis.inputs}
    batch = fed[axis.inputs[0]]
    firsts = [("input", input_name, size) for input_name, size in fed.items()]
    firsts += [("output", spec.name, spec.shape[0]) for spec in engine.outputs]
    for role, of, size in firsts:
        if size is None or batch is None:
            if not assume_batched:
                raise InputError(
                    f"{name} does not name the first axis of {role} {of!r}, so it may not be the batch and calls cannot be merged; "
                    "use max_batch_size=1, or assume_batched=True if it is"
                )
        elif size != batch:
            raise InputError(
                f"the first axis of {role} {of!r} of {name} is {str(size)[:60]!r} and not the batch ({str(batch)[:60]!r}), so calls "
                "cannot be merged; use max_batch_size=1"
            )


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim > 0


def _alike(value: Any, joined: bool) -> tuple[Hashable, ...]:
    """Equal for arrays that may stand in one run: those with a row an item but for the rows, the others to the last bit."""
    if not isinstance(value, np.ndarray | np.generic):
        return (id(value),)  # nothing that an engine takes: it runs alone, and says so
    if joined:
        return value.dtype.str, value.shape[1:]
    return value.dtype.str, value.shape, id(value) if value.dtype.hasobject else value.tobytes()
