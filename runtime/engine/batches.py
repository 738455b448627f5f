"""Which arrays of a model hold one row an item: what batches are joined, split, resized and counted by.

The batch is the first axis of the inputs, where the graph leaves its size open. Axes of one name are one axis; an axis named
``NAME_or_1`` beside a batch ``NAME`` takes a row for each item or one row for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxferry.runtime.onnx_file.values import TensorSpec


@dataclass(frozen=True)
class BatchAxis:
    """The inputs that have a row an item."""

    inputs: tuple[str, ...]  # that always do; the first of them is required, so it tells how many
    either: tuple[str, ...] = ()  # that have a row an item or one row for all

    def rows(self, feeds: Mapping[str, Any]) -> int:
        """Items in these feeds; 0 where they cannot be counted, because an engine will refuse them."""
        array = feeds.get(self.inputs[0])
        return len(array) if isinstance(array, np.ndarray) and array.ndim else 0

    def joined(self, feeds: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of those among the feeds whose first axis is the batch."""
        rows = self.rows(feeds)
        loose = [name for name in self.either if isinstance(feeds.get(name), np.ndarray) and feeds[name].shape[:1] == (rows,)]
        return (*(name for name in self.inputs if name in feeds), *loose)


def batch_axis(inputs: Sequence[TensorSpec], optional_inputs: Sequence[TensorSpec] = ()) -> BatchAxis | None:
    """None where no required input leaves its first axis open: such a model takes one size of batch, or none at all."""
    first = next((spec for spec in inputs if _is_open(spec)), None)
    if first is None:
        return None
    batch = first.shape[0]
    named = [first.name, *(spec.name for spec in inputs if spec is not first and _is_open(spec) and spec.shape[0] in (batch, None))]
    if batch is None:  # an optional input's axis may be anything: it is taken for the batch only where the graph says so
        return BatchAxis(tuple(named))
    named += [spec.name for spec in optional_inputs if _is_open(spec) and spec.shape[0] == batch]
    either = [spec.name for spec in (*inputs, *optional_inputs) if _is_open(spec) and spec.shape[0] == f"{batch}_or_1"]
    return BatchAxis(tuple(named), tuple(either))


def _is_open(spec: TensorSpec) -> bool:
    return "(" not in spec.dtype and spec.ranked and bool(spec.shape) and not isinstance(spec.shape[0], int)
