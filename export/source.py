"""What a source framework provides. One file per framework, imported only when it is used; each provides a :class:`Source`.

A source knows three things about a model: its named inputs, how to run it on arrays, and one or more ways
(:class:`Strategy`) to turn it into an ONNX graph. What is done with the graph, and whether it is written, is decided
by the pipeline, the same for every framework. A :class:`Plan` is a source together with what is known beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from onnxferry.export.options import Feeds as Feeds
from onnxferry.runtime.arguments import is_text
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.tolerances import Tolerance
from onnxferry.runtime.errors import ExportError, InputError

if TYPE_CHECKING:
    import onnx


NUDGE = 1e-6
"""Relative change of weights and inputs that shows whether a decision is a tie: about ten float32 roundings."""


class FinalExportError(ExportError):
    """No other strategy can fix this, and one might hide it."""


class LikelyExportError(ExportError):
    """Another strategy may succeed. If its graph is refused, this error is the likelier reason."""


@dataclass(frozen=True)
class InputSpec:
    """One input of the graph, as the example showed it."""

    name: str
    dtype: str  # numpy name, ``str`` for text
    shape: tuple[int | str, ...]  # a name where the axis is dynamic, else its size
    traced: tuple[int, ...]  # the example's shape
    by_column: bool = False  # of a table: each column (last axis) has its own range of values
    begins: bool = False  # where the bags of a list begin: whole numbers from 0 on that never fall

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
    """A graph that one strategy made, not verified yet."""

    model: onnx.ModelProto
    # An existing .onnx file: its versions, its optional inputs and ONNX Runtime's own operators are kept.
    foreign: bool = False
    # The third-party library that made the graph, if the graph follows no capture that could be run step by step.
    converter: str = ""
    # The cause to name where the file differs, and what to try, if the converter knows a limit of its own.
    likely: tuple[str, str] | None = None
    # What was done beyond a plain conversion, one sentence each.
    fixes: tuple[str, ...] = ()
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
        """What the user should know about how the model was exported (it was in training mode, a number was fixed …)."""

    @property
    def examples(self) -> Feeds:
        """The inputs that the model is traced with."""

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The model's outputs. Raises whatever the framework raises."""

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        """The same, computed in float64: shows how much of a difference is float32 rounding. None if that is not possible."""

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray] | None:
        """The same with weights and float inputs changed by about NUDGE of themselves: a decision that this changes is a tie.

        None if that is not possible.
        """

    def strategies(self, opset: int) -> Sequence[Strategy]:
        """Ways to make the graph, the best first. The next one is tried if the comparison with the source fails."""

    def provenance(self) -> dict[str, Any]:
        """Framework, versions, the model's class and the SHA-256 of its weights."""


@dataclass(frozen=True)
class KernelError:
    """Absolute error of a kernel, beyond a few roundings of its result."""

    absolute: float = 0.0
    of_operand: float = 0.0  # times the size of the operand


@dataclass(frozen=True)
class Noise:
    """Errors that a correct library may make in one operator."""

    roundings: float  # of the dtype, in operands and result
    kernels: Mapping[str, KernelError]  # more, by the operator's name in PyTorch


@runtime_checkable
class RoundedSource(Protocol):
    """A source that can be run with the rounding errors that another correct library may make."""

    def run_rounded(self, feeds: Feeds, seed: int, noise: Noise) -> dict[str, np.ndarray] | None:
        """The model's outputs, with random errors up to ``noise`` in every operator that rounds. None if that is not possible."""


@runtime_checkable
class TableSource(Protocol):
    """A source that answers the rows of a table one by one: axis 0 of every input and output, whatever the other rows are."""

    def run_moved(self, feeds: Feeds, seed: int, roundings: float) -> dict[str, np.ndarray]:
        """The model's outputs, with inputs and parameters off by about ``roundings`` roundings of float64 each."""


@dataclass(frozen=True, eq=False)
class Plan:
    """One file to write: a source, and what its framework or family knows about it beyond the source itself."""

    source: Source
    # What the file declares. None: a plain model's contract, with ``labels``. An empty name becomes the file's name.
    contract: Contract | None = None
    labels: tuple[str, ...] = ()
    # More inputs to compare on, by a name for the report.
    samples: Mapping[str, Feeds] = field(default_factory=dict)
    # Inputs to store as golden samples; None: the example and one of another size, where they fit.
    goldens: Sequence[Feeds] | None = None
    # By output name; outputs without one are held to the default of their dtype.
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    # Outputs whose argmax along the last axis must not change.
    decisions: Collection[str] = ()
    # Inputs that samples and golden samples may have besides the source's: dtype and number of axes by name.
    optional: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    # Changes a generated input (name of the case, feeds) so that it can be compared: draws that are a tie are drawn again.
    adjust_probe: Callable[[str, Feeds], Feeds] | None = None
    # Adds to the verified graph what the source has no output for, such as class names as strings.
    finish: Callable[[onnx.ModelProto], None] | None = None
    # The outputs that it adds.
    added: tuple[str, ...] = ()
    # Files that go beside it: name -> content, such as a tokenizer.
    beside: Mapping[str, bytes] = field(default_factory=dict)
    # Where the file goes, given the path that the user named: a model in two files has one that goes beside it.
    place: Callable[[Path], Path] = lambda path: path


IN_TRAINING_MODE = "the model was in training mode: it was exported in evaluation mode, and has its mode back"
"""A note for those who hold the model object; it does not apply to a model that a name makes."""


def numbered(samples: Sequence[Feeds], what: str = "sample") -> dict[str, Feeds]:
    """``{"sample 0": feeds, …}``, as :class:`Plan` takes samples."""
    return {f"{what} {number}": feeds for number, feeds in enumerate(samples)}


def as_array(value: Any) -> np.ndarray:
    """As an array; text stored as objects, as pandas does, becomes numpy's own strings."""
    array = np.asarray(value)
    return array.astype(str) if is_text(array) else array


def dtype_name(array: np.ndarray) -> str:
    """The dtype as in an :class:`InputSpec`: ``str`` for text of any length."""
    return "str" if array.dtype.kind == "U" else array.dtype.name


def dynamic_axes(inputs: Sequence[InputSpec]) -> dict[str, int]:
    """Name -> traced size of every dynamic axis, in order of first use."""
    sizes: dict[str, int] = {}
    for spec in inputs:
        for axis, size in zip(spec.shape, spec.traced, strict=True):
            if isinstance(axis, str):
                sizes.setdefault(axis, size)
    return sizes


def check_axes(inputs: Sequence[InputSpec]) -> None:
    """Raises InputError where one axis name has two sizes in the example."""
    seen: dict[str, tuple[str, int]] = {}
    for spec in inputs:
        for axis, size in zip(spec.shape, spec.traced, strict=True):
            if isinstance(axis, str):
                first, known = seen.setdefault(axis, (spec.name, size))
                if known != size:
                    raise InputError(
                        f"the axis {axis!r} has size {known} in input {first!r} and {size} in input {spec.name!r}: "
                        "give both the same size, or two names"
                    )


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """The names, with a number behind those that were there before."""
    taken: list[str] = []
    for name in names:
        candidate, n = name, 1
        while candidate in taken:
            n += 1
            candidate = f"{name}_{n}"
        taken.append(candidate)
    return tuple(taken)


def nested(parts: Mapping[str, Any]) -> Any:
    """``{"0": a, "1_deep": b}`` as ``(a, {"deep": b})``: names of nested inputs, as the export makes them, read back."""
    if not all(key.partition("_")[0].isdecimal() for key in parts):
        return dict(parts)
    places: dict[int, dict[str, Any]] = {}
    for key, value in parts.items():
        place, _, rest = key.partition("_")
        places.setdefault(int(place), {})[rest] = value
    return tuple(inner[""] if set(inner) == {""} else nested(inner) for _, inner in sorted(places.items()))
