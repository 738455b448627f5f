"""A source with an image in front and classes behind: the whole task, as one source that the pipeline exports and compares.

Its reference outputs come from the model itself, between the definitions in numpy and Pillow; the graph has nodes for the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxferry.export.graphs.nodes import STANDARD_DOMAINS, subgraphs
from onnxferry.export.source import Candidate, Feeds, InputSpec, Noise, RoundedSource, Source, Strategy, Trace
from onnxferry.export.tasks.classifier_head import ClassifierHead
from onnxferry.export.tasks.image_graph import LEAST_OPSET, image_nodes
from onnxferry.export.tasks.image_input import ImageInput, drawn_images
from onnxferry.runtime.errors import ExportError

IMAGE = "image"


TRACED = (2, 45, 37)
"""Batch, height and width of the example: of a size that no model takes, so that nothing passes because it was fixed in the graph."""


class TaskSource:
    """``inner``: the model. ``image``: what makes its only input of an image, and ``layout`` how it takes it. ``head``: its classes."""

    def __init__(
        self, inner: Source, image: ImageInput | None, layout: str, head: ClassifierHead | None, notes: Sequence[str] = ()
    ) -> None:
        self.inner = inner
        self.image = image
        self.layout = layout
        self.head = head
        self.inputs = inner.inputs
        self.examples = inner.examples
        if image is not None:
            batch = inner.inputs[0].shape[0]
            count = batch if isinstance(batch, int) else TRACED[0]
            shape = (count, *TRACED[1:], image.channels)
            first = batch if isinstance(batch, int) else "batch"
            self.inputs = (InputSpec(IMAGE, "uint8", (first, "height", "width", image.channels), shape),)
            self.examples = {IMAGE: drawn_images(*TRACED[1:], image.channels, count)}
        self.output_names = inner.output_names if head is None else ("probabilities", "class_index")
        self.notes: Sequence[str] = [*inner.notes, *notes]

    def inner_feeds(self, feeds: Feeds) -> Feeds:
        """The model's own inputs."""
        if self.image is None:
            return feeds
        spec = self.inner.inputs[0]
        return {spec.name: self.image.arranged(feeds[IMAGE], self.layout, spec.dtype)}

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        found = self._finished(self.inner.run(self.inner_feeds(feeds)))
        if found is None:
            raise ExportError("the model gave nothing")
        return found

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        return self._finished(self.inner.run_float64(self.inner_feeds(feeds)), "float64")

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray] | None:
        return self._finished(self.inner.run_nudged(self.inner_feeds(feeds), seed))

    def run_rounded(self, feeds: Feeds, seed: int, noise: Noise) -> dict[str, np.ndarray] | None:
        if not isinstance(self.inner, RoundedSource):
            return None
        return self._finished(self.inner.run_rounded(self.inner_feeds(feeds), seed, noise))

    def _finished(self, outputs: dict[str, np.ndarray] | None, dtype: str = "float32") -> dict[str, np.ndarray] | None:
        return outputs if outputs is None or self.head is None else self.head.answer(outputs, dtype)

    def strategies(self, opset: int) -> Sequence[Strategy]:
        return [Strategy(each.name, lambda each=each: self._around(each.build())) for each in self.inner.strategies(opset)]  # type: ignore[misc]

    def provenance(self) -> dict[str, Any]:
        return self.inner.provenance()

    def _around(self, candidate: Candidate) -> Candidate:
        model = onnx.ModelProto()
        model.CopyFrom(candidate.model)
        version = max((each.version for each in model.opset_import if each.domain in STANDARD_DOMAINS[:2]), default=0)
        if version < LEAST_OPSET:
            raise ExportError(
                f"the file has operator set {version}, and the nodes of images and classes need {LEAST_OPSET}: convert it first, with "
                "onnx.version_converter.convert_version(model, 18)"
            )
        names = {}
        for output in self.inner.output_names if self.head is not None else ():
            names[output] = f"onnxferry_model_{output}"
            rename_value(model.graph, output, names[output])
        graph = model.graph
        if self.image is not None:
            spec = self.inner.inputs[0]
            inside = f"onnxferry_model_{spec.name}"
            rename_value(graph, spec.name, inside)
            kept = [value for value in graph.input if value.name != inside]
            del graph.input[:]
            graph.input.extend(kept)
            graph.input.insert(0, onnx.helper.make_tensor_value_info(IMAGE, onnx.TensorProto.UINT8, list(self.inputs[0].shape)))
            nodes = [*image_nodes(self.image, IMAGE, inside, self.layout, spec.dtype), *graph.node]
            del graph.node[:]
            graph.node.extend(nodes)
        if self.head is not None:
            size = int(np.prod(np.shape(self.inner.run(self.inner.examples)[self.head.scores])[1:], dtype=int))
            graph.node.extend(self.head.nodes(names, size))
            del graph.output[:]
            graph.output.extend(
                [
                    onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, None),
                    onnx.helper.make_tensor_value_info("class_index", onnx.TensorProto.INT64, None),
                ]
            )
        return dataclasses.replace(candidate, model=model, ranges=self._ranges(candidate), trace=self._trace(candidate))

    def _ranges(self, candidate: Candidate) -> Mapping[str, tuple[int, int | None]]:
        if self.image is None:
            return candidate.ranges
        batch = self.inner.inputs[0].shape[0]
        return {"batch": candidate.ranges[batch]} if isinstance(batch, str) and batch in candidate.ranges else {}

    def _trace(self, candidate: Candidate) -> Any:
        inner = candidate.trace
        if inner is None:
            return None

        def trace(feeds: Feeds) -> Trace:
            found = inner(self.inner_feeds(feeds))
            return found if self.head is None else dataclasses.replace(found, outputs={})

        return trace


def rename_value(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Another name for a value, wherever it stands; a subgraph that has one of its own by that name keeps it."""
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                own = {value.name for value in inner.input} | {name for each in inner.node for name in each.output}
                if old not in own:
                    rename_value(inner, old, new)
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        if value.name == old:
            value.name = new
