"""An .onnx file from elsewhere as a source: named axes, inputs that it accepts, and a reference that may be another one than itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxferry.export.graphs.reading import load_onnx
from onnxferry.export.source import Candidate, Feeds, Noise, RoundedSource, Source, Strategy, as_array
from onnxferry.export.sources.foreign.naming import Axes, examples_for, named_axes
from onnxferry.export.sources.foreign.other_runtime import OtherRuntime
from onnxferry.export.sources.onnx_file import OnnxSource
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.onnx_file.reader import file_sha256

Build = Callable[[], Sequence[Strategy]]


class ForeignFile(OnnxSource):
    """``examples`` and ``axes`` as :class:`OnnxSource` takes them; what is missing is found by running the file.

    ``other``: the ONNX Runtime of another environment, whose answers are the reference instead of this one's. ``strategies``: what
    graphs to make of it instead of the file's own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        examples: Feeds | None,
        axes: Mapping[str, Mapping[int, str]] | None = None,
        *,
        other: OtherRuntime | None = None,
        strategies: Build | None = None,
    ) -> None:
        names, feeds, notes = _found(path, examples or {}, axes or {})
        super().__init__(path, feeds, names)
        self.other = other
        self.build = strategies
        self.notes = [*self.notes, *notes]

    @property
    def optional(self) -> dict[str, tuple[str, int]]:
        """The file's optional inputs, as :class:`Plan` takes them."""
        return {spec.name: (spec.dtype, len(spec.shape)) for spec in self._engine.optional_inputs}

    def stored_samples(self) -> list[Feeds]:
        """The inputs of the golden samples that the file has already: what its optional inputs take is known by these alone."""
        return (
            [{name: as_array(array) for name, array in golden.inputs.items()} for golden in self.contract.goldens] if self.contract else []
        )

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return super().run(feeds) if self.other is None else self.other.run(feeds)

    def strategies(self, opset: int) -> Sequence[Strategy]:
        return super().strategies(opset) if self.build is None else self.build()

    def provenance(self) -> dict[str, Any]:
        known = super().provenance()
        return known if self.other is None else {**known, "reference": f"ONNX Runtime {self.other.version}"}


class Referred:
    """A file, and the model that it is said to be made from: the model's answers are the reference, the file is what is written."""

    def __init__(self, model: Source, path: Path) -> None:
        self.model = model
        self.path = path
        self.inputs = model.inputs
        self.output_names = model.output_names
        self.examples = model.examples
        self.notes: Sequence[str] = model.notes

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self.model.run(feeds)

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        return self.model.run_float64(feeds)

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray] | None:
        return self.model.run_nudged(feeds, seed)

    def run_rounded(self, feeds: Feeds, seed: int, noise: Noise) -> dict[str, np.ndarray] | None:
        return self.model.run_rounded(feeds, seed, noise) if isinstance(self.model, RoundedSource) else None

    def strategies(self, opset: int) -> Sequence[Strategy]:
        return (Strategy("the file as it is", lambda: Candidate(load_onnx(self.path), foreign=True)),)

    def provenance(self) -> dict[str, Any]:
        return {**self.model.provenance(), "file": self.path.name, "file_sha256": file_sha256(self.path)}


def _found(
    path: str | os.PathLike[str], examples: Feeds, given: Mapping[str, Mapping[int, str]]
) -> tuple[Mapping[str, Mapping[int, str]], Feeds, list[str]]:
    """Axis names and inputs with which the file runs at several sizes, and what was named; as given where none are found."""
    with Engine(path, device="cpu") as engine:
        stored = dict(engine.contract.goldens[0].inputs) if engine.contract and engine.contract.goldens else {}
        known = examples or {spec.name: stored[spec.name] for spec in engine.inputs if spec.name in stored}
        if all(spec.name in known for spec in engine.inputs):
            axes = next(named_axes(engine.inputs, given))
            return (axes, examples, _named(engine, axes, given)) if _agree(axes, known) else (given, examples, [])
        for axes in named_axes(engine.inputs, given):
            feeds = examples_for(engine.inputs, axes, engine.run, known)
            if feeds is not None:
                return axes, feeds, _named(engine, axes, given)
    return given, examples, []


def _agree(axes: Axes, feeds: Feeds) -> bool:
    """Whether axes of one name have one size in these inputs."""
    sizes: dict[str, int] = {}
    return all(
        sizes.setdefault(name, feeds[key].shape[place]) == feeds[key].shape[place] for key in axes for place, name in axes[key].items()
    )


def _named(engine: Engine, axes: Axes, given: Mapping[str, Mapping[int, str]]) -> list[str]:
    """A note for each input whose axes got names here."""
    notes = []
    for spec in engine.inputs:
        new = [
            f"{place}: {name!r}"
            for place, name in sorted(axes[spec.name].items())
            if spec.shape[place] != name and place not in given.get(spec.name, {})
        ]
        if new:
            notes.append(f"the axes of the input {spec.name!r} had no names: {', '.join(new)} (--input names them otherwise)")
    return notes
