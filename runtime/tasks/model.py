"""The base class of all models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import numpy as np

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.images.batches import BATCH
from onnxferry.runtime.kinds import MODEL
from onnxferry.runtime.onnx_file.values import shape_words
from onnxferry.runtime.tables.feeds import FeedsThatFit, as_feeds

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner
    from onnxferry.runtime.onnx_file.values import TensorSpec


class Model:
    """An open model: any ONNX file, dict of arrays in, dict of arrays out. Task classes add to it."""

    noun: ClassVar[str] = MODEL.noun

    def __init__(self, engine: Runner) -> None:
        self.engine = engine

    @classmethod
    def from_engine(cls, engine: Runner, open_engine: Callable[[Path], Runner]) -> Self:
        """The model on an open engine. ``open_engine`` opens another file, in the same way, for a model of several files."""
        return cls(engine)

    @property
    def contract(self) -> Contract | None:
        """The file's onnxferry contract; None where it has none."""
        return self.engine.contract

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in order; empty where there are no classes."""
        return self.contract.labels if self.contract else ()

    @property
    def good_batch(self) -> int:
        """The default batch size: what tuning found best for a tuned model, else 64."""
        return self.engine.best_batch or BATCH

    def run(self, feeds: Any, *, timeout: float | None = None) -> dict[str, np.ndarray]:
        """Inputs to arrays by output name.

            model.run({"x": array})
            model.run({"age": [34, 51], "city": "Bonn"})    # lists; a single value is repeated for all rows
            model.run(frame)                                # a pandas or polars DataFrame: a column for each input
            model.run(array)                                # of a model with one input

        ``feeds``: as :func:`~onnxferry.runtime.tables.feeds.as_feeds`. An array that fits is passed on as it is; one of another dtype is
        converted where no value changes (int32 to int64, whole float64 to int64), and refused where one would.
        Raises InputError for inputs that do not fit, with the names that were found and wanted; TimeLimitError where it takes longer
        than ``timeout`` seconds.
        """
        ready = feeds if type(feeds) is dict and self._fits(feeds) else as_feeds(feeds, self.engine.inputs, self.engine.optional_inputs)
        return self.engine.run(ready) if timeout is None else self.engine.run(ready, timeout=timeout)

    @functools.cached_property
    def _fits(self) -> FeedsThatFit:
        return FeedsThatFit(self.engine.inputs, self.engine.optional_inputs)

    def close(self) -> None:
        """Frees the session. Running the model afterwards raises InputError."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "an open model cannot be pickled or copied: pass its path, and call load(path) in each process "
            "(ProcessPoolExecutor(initializer=...), or a global that is loaded on first use)"
        )

    def __repr__(self) -> str:
        name = self.contract.name if self.contract else ""
        classes = f", {len(self.labels)} classes" if self.labels else ""
        return f"{type(self).__name__}({name or str(self.engine.path)!r}, device={self.engine.device!r}{classes})"


MOST_NUMBERS = 2**16
"""Of one axis that a task makes inputs or room for: noise, latents, the side of an image. A file may declare any number."""


def promised(engine: Runner, outputs: Mapping[str, Any], name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The named output of a run, which the graph declared but did not have to keep to. ``shape``: None for an axis of any size.

    Raises ArtifactError for anything but an array of that dtype and shape.
    """
    array = outputs.get(name)
    if isinstance(array, np.ndarray) and array.dtype == dtype and _fits(array.shape, shape):
        return array
    found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
    raise ArtifactError(f"{engine.path or 'the model'} gives {name} {found}, expected {dtype} {shape_words(shape)}; export the model again")


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(want in (None, size) for size, want in zip(shape, wanted, strict=True))


def not_as_promised(engine: Runner, noun: str, expected: str, specs: Sequence[TensorSpec] | None = None) -> ArtifactError:
    """The error for a graph that is not the ``noun`` its contract says. ``specs``: what it has instead of ``expected``; None for all."""
    found = (*engine.inputs, *engine.optional_inputs, *engine.outputs) if specs is None else specs
    got = ", ".join(f"{spec.name} {spec.dtype} {spec.shape}" for spec in found) or "none"
    return ArtifactError(f"{engine.path or 'the model'} says that it is {noun}, which has {expected}; it has {got}; export it again")
