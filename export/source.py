"""Where models come from. One file a framework, imported only when used; each gives a :class:`Source`.

A source knows three things of a model: its named inputs, how to run it on arrays, and one or more ways
(:class:`Strategy`) to turn it into an ONNX graph. What is done with the graph, and whether it may be kept, is
decided elsewhere, the same for every framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnxferry.runtime.arguments import is_text
from onnxferry.runtime.errors import ExportError

if TYPE_CHECKING:
    import onnx


Feeds = Mapping[str, np.ndarray]


NUDGE = 1e-6
"""Relative change of weights and inputs that shows whether a decision is a tie: about ten float32 roundings."""


class FinalExportError(ExportError):
    """No other strategy can mend this, and one might hide it."""


class LikelyExportError(ExportError):
    """Another strategy may manage. Where the graph that it makes is refused, this is the likelier reason."""


@dataclass(frozen=True)
class InputSpec:
    """One input of the graph, as the example showed it."""

    name: str
    dtype: str  # numpy name, ``str`` for text
    shape: tuple[int | str, ...]  # a name where the axis is dynamic, else its size
    traced: tuple[int, ...]  # the example's shape
    by_column: bool = False  # a table's: each place along the last axis has a range of its own

    def shape_at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with the given sizes of the dynamic axes; the traced size where none is given."""
        return tuple(sizes.get(axis, size) if isinstance(axis, str) else axis for axis, size in zip(self.shape, self.traced, strict=True))


@dataclass(frozen=True, eq=False)
class Trace:
    """What the framework's own capture computes on one input, step by step."""

    values: Mapping[str, np.ndarray]  # by the graph's value names, in the order of computation
    outputs: Mapping[str, np.ndarray]  # by output name
    lines: Mapping[str, str]  # value name -> "model.py, line 12: x = self.norm(x)", where it is known


@dataclass(frozen=True, eq=False)
class Candidate:
    """A graph that one strategy made, not judged yet."""

    model: onnx.ModelProto
    # A file that somebody made: its versions, its optional inputs and ONNX Runtime's own operators are kept.
    foreign: bool = False
    # The library that made it, where that is another's and its graph follows no capture that could be run.
    converter: str = ""
    # What was done beyond a plain conversion, in words.
    mends: tuple[str, ...] = ()
    # Axis name -> (smallest, largest or None): the sizes for which the framework says its capture holds.
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    # Runs the framework's own capture, where it can be run.
    trace: Callable[[Feeds], Trace] | None = None


@dataclass(frozen=True, eq=False)
class Strategy:
    """A way to turn the source into a graph. ``build`` raises ExportError where it cannot."""

    name: str
    build: Callable[[], Candidate]


class Source(Protocol):
    """A model of some framework, seen as named arrays in, named arrays out."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]: ...

    @property
    def output_names(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know of how the model was taken (it was in training mode, a number was baked in …)."""

    @property
    def examples(self) -> Feeds:
        """The inputs that the capture is traced with."""

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The model's outputs. Raises whatever the framework raises."""

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        """The same, computed in float64: shows how much of a difference is float32's own. None where that is not possible."""

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray] | None:
        """The same with weights and real inputs changed by about NUDGE of themselves: a decision that this changes is a tie.

        None where that is not possible.
        """

    def strategies(self, opset: int) -> Sequence[Strategy]:
        """Ways to make the graph, the best first. The next is tried where the judge refuses one."""

    def provenance(self) -> dict[str, Any]:
        """Framework, versions, the model's class and its weights' SHA-256."""


def is_sklearn(model: Any) -> bool:
    """Whether it is of scikit-learn, or derived from what is. Imports nothing."""
    return _is_of("sklearn", model)


def is_keras(model: Any) -> bool:
    """Whether it is of Keras, or derived from what is. Imports nothing."""
    return _is_of("keras", model)


def _is_of(package: str, model: Any) -> bool:
    kind = model if isinstance(model, type) else type(model)
    return any(base.__module__.partition(".")[0] == package for base in kind.__mro__)


def as_array(value: Any) -> np.ndarray:
    """With text as numpy's own strings, as objects of which pandas keeps it."""
    array = np.asarray(value)
    return array.astype(str) if is_text(array) else array


def dtype_name(array: np.ndarray) -> str:
    """As in an :class:`InputSpec`: ``str`` for text of whatever length."""
    return "str" if array.dtype.kind == "U" else array.dtype.name


def dynamic_axes(inputs: Sequence[InputSpec]) -> dict[str, int]:
    """Name -> traced size of every dynamic axis, in order of first use."""
    sizes: dict[str, int] = {}
    for spec in inputs:
        for axis, size in zip(spec.shape, spec.traced, strict=True):
            if isinstance(axis, str):
                sizes.setdefault(axis, size)
    return sizes
