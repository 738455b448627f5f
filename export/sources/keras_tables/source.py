"""A .keras file whose inputs go through tables that only TensorFlow holds. Keras' own answers, from a child process, are the reference.

The tables become standard operators (:mod:`lookups`); the layers behind them are saved by the child process as a model of their own,
which opens with Keras' torch backend and is exported like any other.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxferry.export.graphs.nodes import all_nodes
from onnxferry.export.options import ExportOptions
from onnxferry.export.source import Candidate, Feeds, Plan, Strategy, numbered, unique
from onnxferry.export.sources.keras import KerasSource, keras_from_file, names_of
from onnxferry.export.sources.keras_tables.examples import examples_of, samples_of
from onnxferry.export.sources.keras_tables.lookups import looked_up
from onnxferry.export.sources.sklearn.converters.tensors import ML_DOMAIN, ML_OPSET, ONNX_TYPES, GraphBuilder, Tensor
from onnxferry.export.sources.tensorflow.process import ChildError, child_of
from onnxferry.export.sources.tensorflow.source import TensorflowSource
from onnxferry.runtime.errors import ExportError

LAYERS = frozenset({"StringLookup", "TextVectorization", "IntegerLookup", "Hashing", "HashedCrossing"})
"""Layers of Keras that run in TensorFlow, whatever the backend is."""

PREFIX = "keras_lookup"


def has_tables(path: Path) -> bool:
    """True for a .keras file with a layer of :data:`LAYERS`. Opens nothing but the description of the layers."""
    try:
        with zipfile.ZipFile(path) as archive:
            described = json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return False  # Keras says what is wrong with it
    return any(name in LAYERS for name in _class_names(described))


def _class_names(part: Any) -> list[str]:
    if isinstance(part, list):
        return [name for each in part for name in _class_names(each)]
    if not isinstance(part, dict):
        return []
    own = [part["class_name"]] if isinstance(part.get("class_name"), str) else []
    return own + [name for each in part.values() for name in _class_names(each)]


def plans(path: Path, example_inputs: Any, options: ExportOptions) -> Sequence[Plan]:
    source = KerasTablesSource(path, example_inputs, options)
    return [Plan(source, samples={**source.samples, **numbered(options.samples)}, goldens=options.chosen_goldens(None))]


class KerasTablesSource(TensorflowSource):
    """``examples``: an array, a tuple in the order of the model's inputs, a dict by their names; None to draw texts.

    Text is of numpy's strings, of the shape that the model declares. Raises ExportError for layers that ONNX cannot hold, by name.
    """

    def __init__(self, path: Path, examples: Any, options: ExportOptions) -> None:
        self._name = path.name
        self._child = child_of(options.python)
        try:
            self._versions = self._child.ask(do="versions", keras=True)
            opened = self._child.ask(do="open", path=str(path.resolve()), kind="keras", signature=None)
        except ChildError as error:
            raise ExportError(f"{self._child.python} cannot open {path.name} with Keras and TensorFlow: {error}") from error
        self._names = [each["name"] for each in opened["inputs"]]  # in Keras
        inputs = [{**each, "name": name} for each, name in zip(opened["inputs"], names_of(self._names, "input"), strict=True)]
        given = [str(each["name"]) for each in opened["outputs"]]
        named = names_of(given, "output") if len(given) > 1 else ("output",)
        taken = [each["name"] for each in inputs]
        shown = unique(f"{name}_out" if name in taken else name for name in named)
        self._tables = opened["tables"]
        self._declared = {each["name"]: each["shape"] for each in inputs}
        made = examples_of(inputs, self._tables, examples)
        self.samples = samples_of(inputs, self._tables, made)
        self._start(path, {**opened, "inputs": inputs}, made, options, tuple(str(place) for place in range(len(shown))), shown)

    def _in_keras(self, feeds: Feeds) -> Feeds:
        return {theirs: feeds[spec.name] for theirs, spec in zip(self._names, self.inputs, strict=True)}

    def _answers(self, feeds: Feeds, relative: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
        return self._named(self._child.run(self._id, self._in_keras(feeds), relative, seed))

    def strategies(self, opset: int) -> Sequence[Strategy]:
        cut, arrays = self._child.file(".keras"), self._child.file(".npz")
        given = self._child.file(".npz")
        np.savez(given, **self._in_keras(self.examples))  # type: ignore[arg-type]
        try:
            made = self._child.ask(do="cut", id=self._id, feeds=str(given), path=str(cut), out=str(arrays))
            with np.load(arrays, allow_pickle=False) as held:
                behind = [held[str(place)] for place in range(len(held.files))]
            if made["ends"] is not None:
                return (Strategy("tables", lambda: self._tables_alone(opset, made["ends"], behind)),)
            network = self._network(cut, behind)
        except ChildError as error:
            raise ExportError(f"Keras cannot cut {self._name} behind its tables: {error}") from error
        finally:
            for file in (cut, arrays, given):
                file.unlink(missing_ok=True)
        # Texts need operators of set 20, and both halves are of one set.
        version = self._front(opset)[0].opset
        return [Strategy(each.name, lambda each=each: self._joined(each.build(), network, opset)) for each in network.strategies(version)]  # type: ignore[misc]

    def _network(self, path: Path, behind: Sequence[np.ndarray]) -> KerasSource:
        model = keras_from_file(path)
        for tensor, array, table in zip(model.inputs, behind, self._tables, strict=False):
            if len(tensor.shape) != array.ndim:
                raise ExportError(
                    f"the {table['kind']} {table['layer']!r} gives {array.ndim} axes, and Keras declares {len(tensor.shape)}: "
                    "make its input with shape=()"
                )
        return KerasSource(model, list(behind))

    def _front(self, opset: int) -> tuple[GraphBuilder, list[Tensor]]:
        """The tables as a graph, and what each gives."""
        graph = GraphBuilder(opset, prefix=PREFIX)
        found = []
        for table in self._tables:
            spec = self.inputs[table["input"]]
            last = self._declared[spec.name][-1]
            found.append(looked_up(graph, table, Tensor(graph, spec.name, spec.dtype), len(spec.shape), last))
        return graph, found

    def _tables_alone(self, opset: int, ends: Sequence[int], behind: Sequence[np.ndarray]) -> Candidate:
        graph, found = self._front(opset)
        outputs = []
        for name, place in zip(self.output_names, ends, strict=True):
            value = found[place].cast(behind[place].dtype.name)
            graph.nodes.append(helper.make_node("Identity", [value.name], [name], name=f"{PREFIX}_output_{name}"))
            outputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[value.dtype], None))
        made = helper.make_graph(graph.nodes, "tables", self._graph_inputs(), outputs, graph.constants)
        return Candidate(helper.make_model(made, opset_imports=_opsets(graph.opset)))

    def _graph_inputs(self) -> list[onnx.ValueInfoProto]:
        types = [onnx.TensorProto.STRING if s.dtype == "str" else helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype)) for s in self.inputs]
        return [helper.make_tensor_value_info(s.name, t, list(s.shape)) for s, t in zip(self.inputs, types, strict=True)]

    def _joined(self, candidate: Candidate, network: KerasSource, opset: int) -> Candidate:
        """The tables in front of the network's graph."""
        model = onnx.ModelProto()
        model.CopyFrom(candidate.model)
        graph, found = self._front(opset)
        used = {table["input"] for table in self._tables}
        direct = [spec for place, spec in enumerate(self.inputs) if place not in used]
        own = [*found, *(Tensor(graph, spec.name, spec.dtype) for spec in direct)]
        ends = dict(zip(network.output_names, self.output_names, strict=True))
        renamed = {spec.name: f"{PREFIX}_given_{place}" for place, spec in enumerate(network.inputs)}
        renamed |= {name: f"{PREFIX}_answer_{place}" for place, name in enumerate(ends)}
        for node in all_nodes(model):
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        for value, spec in zip(own, network.inputs, strict=True):
            given = value.cast(spec.dtype) if spec.dtype in ONNX_TYPES else graph.op("Cast", [value], spec.dtype, to=_onnx_type(spec.dtype))
            graph.nodes.append(helper.make_node("Identity", [given.name], [renamed[spec.name]], name=f"{renamed[spec.name]}_input"))
        last = [helper.make_node("Identity", [renamed[old]], [new], name=f"{PREFIX}_output_{new}") for old, new in ends.items()]
        for value in model.graph.output:
            value.name = ends[value.name]
        nodes = [*graph.nodes, *model.graph.node, *last]
        del model.graph.node[:], model.graph.input[:]
        model.graph.node.extend(nodes)
        model.graph.input.extend(self._graph_inputs())
        model.graph.initializer.extend(graph.constants)
        domains = {each.domain for each in model.opset_import}
        model.opset_import.extend(each for each in _opsets(graph.opset) if each.domain not in domains)
        return Candidate(model, likely=candidate.likely, fixes=candidate.fixes)

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "framework": "keras"}


def _onnx_type(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _opsets(version: int) -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", version), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
