"""An existing .onnx file as a source: verified, cleaned, and given a contract and golden samples.

The reference outputs are those of the file as it came.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxferry.export.graphs.reading import load_onnx
from onnxferry.export.options import ExportOptions
from onnxferry.export.source import Candidate, Feeds, InputSpec, Noise, Plan, Strategy, as_array, numbered
from onnxferry.export.sources.moved_inputs import moved_inputs
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ExportError, InputError
from onnxferry.runtime.onnx_file.made_inputs import example_inputs
from onnxferry.runtime.onnx_file.reader import file_sha256


def plans(path: Path, example_inputs: Feeds | None, options: ExportOptions, target: Path) -> Sequence[Plan]:
    """``example_inputs``: a dict of arrays by input name, or None. ``dynamic_shapes`` names dynamic axes that have no name in the file.

    A contract that the file has already is kept; its golden samples and tolerances are made anew.
    """
    source = OnnxSource(path, example_inputs or {}, options.dynamic_shapes)
    contract = dataclasses.replace(source.contract, goldens=(), tolerances={}, parity={}) if source.contract else None
    return [Plan(source, contract, samples=numbered(options.samples), goldens=options.chosen_goldens(None))]


class OnnxSource:
    """A file, opened with ONNX Runtime on the CPU.

    ``examples``: an array for every input; for one that is missing, random values are drawn as the file declares it.
    """

    def __init__(self, path: str | os.PathLike[str], examples: Feeds, axes: Mapping[str, Mapping[int, str]] | None = None) -> None:
        self._path = Path(path)
        # The engine validates the file before onnx or ONNX Runtime parse it: it may be untrusted.
        self._engine = Engine(path, device="cpu")
        unknown = [name for name in examples if name not in {spec.name for spec in (*self._engine.inputs, *self._engine.optional_inputs)}]
        if unknown:
            wanted = ", ".join(spec.name for spec in self._engine.inputs)
            raise InputError(f"the examples hold {', '.join(examples)}, and the inputs of {self._path.name} are {wanted}")
        self.examples = example_inputs(self._engine.inputs, {**self._text(), **examples})
        self.output_names = tuple(spec.name for spec in self._engine.outputs)
        self.inputs = tuple(self._input(spec, (axes or {}).get(spec.name)) for spec in self._engine.inputs)
        self.notes: Sequence[str] = [f"the optional input {spec.name!r} keeps its default" for spec in self._engine.optional_inputs]
        for output in self._engine.outputs:
            if not output.of_numbers:
                raise ExportError(f"output {output.name!r} is {output.dtype}: only tensors of numbers can be compared and stored")

    @property
    def contract(self) -> Contract | None:
        """The file's contract, if it is an artifact already."""
        return self._engine.contract

    def _text(self) -> dict[str, np.ndarray]:
        """A golden sample's inputs if one is text, which cannot be drawn; all of them, so that their rows match."""
        goldens = self.contract.goldens if self.contract else ()
        has_text = any(spec.dtype == "str" for spec in self._engine.inputs)
        return {name: as_array(array) for name, array in goldens[0].inputs.items()} if goldens and has_text else {}

    def _input(self, spec: Any, named: Mapping[int, str] | None) -> InputSpec:
        array = self.examples[spec.name]
        if not spec.ranked:
            raise ExportError(f"input {spec.name!r} is declared without a rank, which other programs cannot call: declare its axes")
        shape = tuple(
            (named or {}).get(axis) or (size if isinstance(size, int | str) and size else f"{spec.name}_dim{axis}")
            for axis, size in enumerate(spec.shape)
        )
        if array.ndim != len(shape):
            raise InputError(f"the example of {spec.name!r} has shape {array.shape}, the file takes {spec}")
        return InputSpec(spec.name, spec.dtype, shape, tuple(array.shape))

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self._engine.run(feeds)

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        return None

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray] | None:
        return None

    def run_rounded(self, feeds: Feeds, seed: int, noise: Noise) -> dict[str, np.ndarray] | None:
        """The float inputs are off by so many roundings: ONNX Runtime does not let its operators round otherwise."""
        return self.run(moved_inputs(feeds, seed, noise))

    def strategies(self, opset: int) -> Sequence[Strategy]:
        return (Strategy("the file as it is", lambda: Candidate(load_onnx(self._path), foreign=True)),)

    def provenance(self) -> dict[str, Any]:
        digest = file_sha256(self._path)
        return {"framework": "onnx", "versions": {"onnx": str(onnx.__version__)}, "model": self._path.name, "file_sha256": digest}
