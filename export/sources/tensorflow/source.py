"""A TensorFlow model as a source: a SavedModel, a tf.function or a .tflite file. It is run and converted in a child process.

tf2onnx makes the graph. It may log an error, exit with code 0 and write a file that no runtime loads, so nothing that it says counts:
the file is loaded and compared like any other.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxferry.export.options import ExportOptions
from onnxferry.export.source import NUDGE, Candidate, Feeds, InputSpec, Noise, Plan, Strategy, as_array, check_axes, dtype_name, numbered
from onnxferry.export.sources.moved_inputs import moved_inputs
from onnxferry.export.sources.tensorflow.choices import choose_instead_of_multiplying
from onnxferry.export.sources.tensorflow.process import Child, ChildError, child_of
from onnxferry.runtime.errors import ExportError, InputError
from onnxferry.runtime.onnx_file.made_inputs import SEED, open_axis, random_array

BATCH = "batch"

SIGMOIDS = frozenset({"SIGMOID", "LOGISTIC", "UNIDIRECTIONAL_SEQUENCE_LSTM", "WHILE"})
"""Operators of TensorFlow and TensorFlow Lite that are or may hold a sigmoid."""

UNSUPPORTED = re.compile(r"Tensorflow op \[[^\]:]*: (\w+)\] is not supported|unsupported ops: Counter\(\{'?(\w+)", re.IGNORECASE)


def plans(model: Any, example_inputs: Any, options: ExportOptions, target: Path) -> Sequence[Plan]:
    """``model``: the path of a SavedModel or .tflite file, or a tf.function, which is saved for the child process first."""
    with tempfile.TemporaryDirectory(prefix="onnxferry-tf-") as folder:
        if not isinstance(model, Path):
            from onnxferry.export.sources.tensorflow.function import saved_function

            model, name = saved_function(model, example_inputs, options, Path(folder) / "saved"), type(model).__name__
        else:
            name = model.name
        source = TensorflowSource(model, example_inputs, options, name)
    return [Plan(source, samples=numbered(options.samples), goldens=options.chosen_goldens(None))]


class TensorflowSource:
    """``examples``: a dict of arrays by the signature's names, or None to draw random ones.

    Inputs and outputs have the signature's names. Axes of size None are dynamic: the first is ``batch``, others are named by their input
    and place, or as ``dynamic_shapes`` says. Raises ExportError for what has no signature, and for text and resources.
    """

    def __init__(self, path: Path, examples: Any, options: ExportOptions, name: str) -> None:
        self._name = name
        self._child: Child = child_of(options.python)
        try:
            self._versions = self._child.ask(do="versions", keras=False)
        except ChildError as error:
            raise ExportError(f"{self._child.python} cannot import TensorFlow and tf2onnx: {error}") from error
        form = "lite" if path.is_file() else "saved"
        try:
            opened = self._child.ask(do="open", path=str(path.resolve()), kind=form, signature=options.signature)
        except ChildError as error:
            raise ExportError(f"TensorFlow {self._versions['tensorflow']} cannot load {name}: {error}") from error
        own = tuple(each["name"] for each in opened["outputs"])
        self._start(path, opened, _arrays(opened["inputs"], examples), options, own, own)

    def _start(
        self,
        path: Path,
        opened: Mapping[str, Any],
        examples: dict[str, np.ndarray],
        options: ExportOptions,
        own: tuple[str, ...],
        shown: tuple[str, ...],
    ) -> None:
        """``own``: the outputs' names in the child's answers; ``shown``: those that the user knows."""
        self._id = int(opened["id"])
        self._operators = frozenset(opened["operators"])
        self._sha256 = _sha256(path)
        self.examples = examples
        self.inputs = _specs(opened["inputs"], self.examples, options.dynamic_shapes)
        check_axes(self.inputs)
        self._own_names = own
        self.output_names = tuple(options.output_names or shown)
        if len(self.output_names) != len(own) or len(set(self.output_names)) != len(own):
            raise InputError(f"output_names must be {len(own)} different names, for {', '.join(shown)}; got {list(self.output_names)}")
        self.notes: list[str] = []
        try:
            self.run(self.examples)
        except ChildError as error:
            raise ExportError(f"the model itself fails on the example inputs ({error}); give inputs that it accepts") from error

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self._named(self._child.run(self._id, feeds))

    def _named(self, answer: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {new: answer[own] for own, new in zip(self._own_names, self.output_names, strict=True)}

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        return None

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray] | None:
        moved = moved_inputs(feeds, seed, Noise(NUDGE / float(np.finfo(np.float32).eps), {}))
        return self._named(self._child.run(self._id, moved, NUDGE, seed))

    def run_rounded(self, feeds: Feeds, seed: int, noise: Noise) -> dict[str, np.ndarray] | None:
        """Inputs and weights are off by so many roundings, and answers behind a sigmoid by its kernel's error in the file."""
        relative = noise.roundings * float(np.finfo(np.float32).eps)
        answer = self._named(self._child.run(self._id, moved_inputs(feeds, seed, noise), relative, seed))
        kernel = noise.kernels.get("sigmoid")
        if kernel is None or not SIGMOIDS & {each.upper() for each in self._operators}:
            return answer
        rng = np.random.default_rng(seed)
        return {
            name: (array + kernel.absolute * rng.uniform(-1, 1, array.shape)).astype(array.dtype) if array.dtype.kind == "f" else array
            for name, array in answer.items()
        }

    def strategies(self, opset: int) -> Sequence[Strategy]:
        return (Strategy("tf2onnx", lambda: self._build(opset)),)

    def _build(self, opset: int) -> Candidate:
        path = self._child.file(".onnx")
        try:
            made = self._child.ask(do="convert", id=self._id, opset=opset, out=str(path))
        except ChildError as error:
            raise ExportError(f"tf2onnx {self._versions['tf2onnx']} cannot convert {self._name}: {error}") from error
        lacking = sorted({found[1] or found[2] for line in made["errors"] if (found := UNSUPPORTED.search(line))})
        if lacking:
            raise ExportError(
                f"tf2onnx {self._versions['tf2onnx']} has no conversion for {', '.join(lacking)}: compute it before or after the file"
            )
        if not path.is_file():
            raise ExportError(f"tf2onnx {self._versions['tf2onnx']} wrote no file for {self._name}")
        try:
            model = onnx.load(path)
        except Exception as error:
            raise ExportError(f"tf2onnx {self._versions['tf2onnx']} wrote a file that is no ONNX model") from error
        finally:
            path.unlink(missing_ok=True)
        outputs = made["outputs"]
        if isinstance(outputs, Mapping):
            outputs = [outputs.get(value.name, value.name) for value in model.graph.output]
        new = dict(zip(self._own_names, self.output_names, strict=True))
        _rename(model, made["inputs"], [new[name] for name in outputs], [spec.name for spec in self.inputs])
        replaced = choose_instead_of_multiplying(model)
        fixes = (f"tf2onnx multiplies by masks for tf.where: {replaced} of them choose now",) if replaced else ()
        return Candidate(model, converter="tf2onnx", fixes=fixes)

    def provenance(self) -> dict[str, Any]:
        return {"framework": "tensorflow", "versions": dict(self._versions), "model": self._name, "weights_sha256": self._sha256}


def _arrays(inputs: Sequence[Mapping[str, Any]], examples: Any) -> dict[str, np.ndarray]:
    names = [each["name"] for each in inputs]
    if examples is not None and not isinstance(examples, Mapping):
        given = list(examples) if isinstance(examples, list | tuple) else [examples]
        if len(given) != len(names):
            raise InputError(f"the signature takes {len(names)} inputs ({', '.join(names)}), the example has {len(given)}")
        examples = dict(zip(names, given, strict=True))
    known = dict(examples or {})
    unknown = sorted(set(known) - set(names))
    if unknown:
        raise InputError(f"the examples hold {unknown[0]!r}, and the signature takes {', '.join(names)}")
    rng = np.random.default_rng(SEED)
    made = {}
    for each in inputs:
        name, dtype = each["name"], each["dtype"]
        if name in known:
            array = as_array(known[name])
            if array.dtype.name != dtype:
                raise InputError(f"the example of {name!r} is {array.dtype}, and the signature takes {dtype}")
            fits = array.ndim == len(each["shape"]) and all(w in (None, n) for w, n in zip(each["shape"], array.shape, strict=True))
            if not fits:
                raise InputError(f"the example of {name!r} has shape {array.shape}, and the signature takes {each['shape']}")
            made[name] = array
            continue
        shape = tuple(
            open_axis("batch" if place == 0 else f"{name}{place}", place, {}) if size is None else size
            for place, size in enumerate(each["shape"])
        )
        made[name] = random_array(dtype, shape, rng)
    return made


def _specs(inputs: Sequence[Mapping[str, Any]], examples: Feeds, named: Any) -> tuple[InputSpec, ...]:
    given = named or {}
    if not isinstance(given, Mapping):
        raise InputError("dynamic_shapes of a TensorFlow model names axes by input: {'x': {0: 'batch'}}")
    specs = []
    for each in inputs:
        name = each["name"]
        axes = dict(given.get(name) or {})
        fixed = [place for place in axes if place >= len(each["shape"]) or each["shape"][place] is not None]
        if fixed:
            raise InputError(f"axis {fixed[0]} of {name!r} has a fixed size in the signature: save the model with an open one")
        shape = tuple(
            size if size is not None else str(axes.get(place) or (BATCH if place == 0 else f"{name}_dim{place}"))
            for place, size in enumerate(each["shape"])
        )
        specs.append(InputSpec(name, dtype_name(examples[name]), shape, examples[name].shape))
    return tuple(specs)


def _rename(model: onnx.ModelProto, inputs: Mapping[str, str], outputs: Sequence[str], order: Sequence[str]) -> None:
    """The signature's names at both ends, by nodes that pass values on: cleaning removes them."""
    graph = model.graph
    if len(graph.output) != len(outputs):
        raise ExportError(f"tf2onnx gave {len(graph.output)} outputs, and the signature has {len(outputs)}: {', '.join(outputs)}")
    first, last = [], []
    for value in graph.input:
        name = inputs.get(value.name, inputs.get(value.name.split(":")[0], ""))
        if not name:
            raise ExportError(f"tf2onnx gave the input {value.name!r}, which the signature does not have")
        first.append(helper.make_node("Identity", [name], [f"own_{value.name}"], name=f"input_{name}"))
        for node in _all_nodes(graph):
            for place, used in enumerate(node.input):
                if used == value.name:
                    node.input[place] = f"own_{value.name}"
        for output in graph.output:
            if output.name == value.name:
                output.name = f"own_{value.name}"
        value.name = name
    for value, name in zip(graph.output, outputs, strict=True):
        last.append(helper.make_node("Identity", [value.name], [f"answer_{name}"], name=f"output_{name}"))
        value.name = f"answer_{name}"
    nodes = [*first, *graph.node, *last]
    for value, name in zip(graph.output, outputs, strict=True):
        value.name = name
    for node, name in zip(last, outputs, strict=True):
        node.output[0] = name
    del graph.node[:]
    graph.node.extend(nodes)
    lacking = [name for name in order if name not in {value.name for value in graph.input}]
    if lacking:
        raise ExportError(f"the model does not use its input {lacking[0]!r}: save it without")


def _all_nodes(graph: onnx.GraphProto) -> Sequence[onnx.NodeProto]:
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found += _all_nodes(inner)
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
