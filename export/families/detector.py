"""A detector to its file: the whole task as one graph, non-maximum suppression included."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.families.candidates import replace_candidates
from onnxferry.export.families.canvas import LEAST_OPSET, replace_canvas
from onnxferry.export.options import ExportOptions
from onnxferry.export.parity.tolerances import BOXES, PROBABILITIES
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.export.source import Candidate, Feeds, InputSpec, Plan, Strategy, Trace
from onnxferry.export.sources.pytorch.module import TorchSource
from onnxferry.export.tasks.image_graph import Nodes
from onnxferry.export.tasks.source import rename_value
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import CheckpointError, ExportError, InputError
from onnxferry.runtime.kinds import DETECTOR, DETECTOR_FAMILY
from onnxferry.runtime.tasks.detector import OPTIONAL
from onnxferry.train.families.detector import MAX_BOXES, SCORE_THRESHOLD, Candidates, DetectorConfig, Network, suppressed
from onnxferry.train.loop.checkpoint import Checkpoint

OUTPUTS = ("boxes", "scores", "class_index", "image_index")


_INNER = ("candidate_boxes", "candidate_scores", "candidate_classes")


def defaults_of(config: DetectorConfig) -> Feeds:
    """What is fed where the caller gives nothing."""
    return {"score_threshold": np.array(SCORE_THRESHOLD, np.float32), "iou_threshold": np.array(config.iou_threshold, np.float32)}


def detector_plans(checkpoint: Checkpoint, name: str, options: ExportOptions) -> Sequence[Plan]:
    """The whole-task graph: ``image`` uint8 (batch, height, width, channels) of any size, and optionally ``score_threshold`` and
    ``iou_threshold`` float32 () → of all objects, image after image, the likeliest first: ``boxes`` float32 (objects, 4), left, top, right,
    bottom in pixels of the image; ``scores`` float32 (objects,); ``class_index`` int64 (objects,); ``image_index`` int64 (objects,).
    """
    if options.with_labels:
        raise InputError("with_labels (--with-labels) is for classifiers: a detector's labels are in its contract; leave it out")
    network = checkpoint.model()
    if not isinstance(network, Network):
        raise ExportError(f"the checkpoint rebuilds a {type(network).__name__}, not a detector")
    config = network.config
    examples = _examples(checkpoint, config.channels)
    contract = Contract(
        kind=DETECTOR.name,
        name=name,
        family=DETECTOR_FAMILY.name,
        description=f"Finds objects of {len(config.labels)} classes in images of any size",
        labels=config.labels,
        options={"channels": config.channels, "image_size": config.size, "framing": config.framing, "max_boxes": MAX_BOXES},
        metrics=dict(checkpoint.metrics),
        provenance={"data": dict(checkpoint.data), "training": without_paths(checkpoint.provenance)},
    )
    traced = np.random.default_rng(1).integers(0, 256, (2, 45, 37, config.channels), dtype=np.uint8)
    inner = TorchSource(
        Candidates(network).eval(),
        {"image": torch.from_numpy(traced)},
        dynamic_shapes={"image": {0: "batch", 1: "height", 2: "width"}},
        output_names=_INNER,
    )
    smallest = sorted(examples, key=lambda image: image.size)[:3]
    return [
        Plan(
            DetectorSource(inner, config),
            contract,
            samples=probes(examples, config.size),
            goldens=options.chosen_goldens([{"image": image} for image in smallest]),
            tolerances={"boxes": BOXES, "scores": PROBABILITIES},
            optional=OPTIONAL,
        )
    ]


def _examples(checkpoint: Checkpoint, channels: int) -> list[np.ndarray]:
    """Held-out images, each uint8 (1, height, width, channels)."""
    names = sorted(name for name in checkpoint.examples if name.startswith("image"))
    if not names:
        raise CheckpointError("the checkpoint has no example images; give the best.pt of a run of onnxferry train detector")
    return [checkpoint.example(name, torch.uint8, None, None, channels) for name in names]


def probes(examples: Sequence[np.ndarray], size: int) -> dict[str, Feeds]:
    """Inputs to compare on, by name: real images at their own sizes, in batches, mirrored in brightness, larger than the network sees,
    with other thresholds; images without an object; and one of a single pixel.
    """
    first = examples[0]
    channels = first.shape[3]
    large = first.repeat(1 + 2 * size // first.shape[1], axis=1).repeat(1 + size // first.shape[2], axis=2)
    low, high = ({"score_threshold": np.array(level, np.float32)} for level in (0.1, 0.999))
    found: dict[str, Feeds] = {f"image {number}": {"image": image} for number, image in enumerate(examples)}
    found["a batch"] = {"image": np.concatenate([first, 255 - first, np.zeros_like(first), first[:, ::-1].copy()])}
    found["larger than the network sees"] = {"image": large}
    found["a low threshold"] = {"image": first, **low}
    found["a high threshold"] = {"image": first, **high}
    found["no overlap allowed"] = {"image": first, **low, "iou_threshold": np.array(0.01, np.float32)}
    found["all overlaps allowed"] = {"image": first, "iou_threshold": np.array(1.0, np.float32)}
    found["nothing there"] = {"image": np.full((2, 50, 70, channels), 200, np.uint8)}
    found["one pixel"] = {"image": np.zeros((1, 1, 1, channels), np.uint8)}
    found["a strip"] = {"image": np.ascontiguousarray(first[:, : max(1, first.shape[1] // 3)])}
    return found


class DetectorSource:
    """``inner``: gives the candidates of each image; the objects among them are chosen here, in PyTorch and as ONNX nodes."""

    def __init__(self, inner: TorchSource, config: DetectorConfig) -> None:
        self.inner = inner
        self.config = config
        self.inputs: tuple[InputSpec, ...] = inner.inputs
        self.examples = inner.examples
        self.output_names = OUTPUTS
        self.notes: Sequence[str] = inner.notes

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self._chosen(self.inner.run(_inner_feeds(feeds)), feeds)

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        found = self.inner.run_float64(_inner_feeds(feeds))
        return None if found is None else self._chosen(found, feeds)

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray] | None:
        found = self.inner.run_nudged(_inner_feeds(feeds), seed)
        return None if found is None else self._chosen(found, feeds)

    def strategies(self, opset: int) -> Sequence[Strategy]:
        def whole(strategy: Strategy) -> Strategy:
            def build() -> Candidate:
                candidate = strategy.build()
                if opset >= LEAST_OPSET:
                    replace_canvas(candidate.model, self.config.framing, self.config.channels, self.config.size)
                    replace_candidates(candidate.model, self.config, *_INNER)
                return _with_suppression(candidate, defaults_of(self.config))

            return dataclasses.replace(strategy, build=build)

        return [whole(strategy) for strategy in self.inner.strategies(opset)]

    def provenance(self) -> dict[str, Any]:
        return self.inner.provenance()

    def _chosen(self, candidates: Mapping[str, np.ndarray], feeds: Feeds) -> dict[str, np.ndarray]:
        """The definition: PyTorch's."""
        thresholds = [float(feeds.get(name, default)) for name, default in defaults_of(self.config).items()]
        boxes, scores, index = (torch.from_numpy(np.ascontiguousarray(candidates[name])) for name in _INNER)
        return {name: found.numpy() for name, found in zip(OUTPUTS, suppressed(boxes, scores, index, *thresholds), strict=True)}


def _inner_feeds(feeds: Feeds) -> Feeds:
    return {"image": feeds["image"]}


def _with_suppression(candidate: Candidate, defaults: Feeds) -> Candidate:
    """The graph of the candidates, with non-maximum suppression behind it and the thresholds as inputs that have a default."""
    model = onnx.ModelProto()
    model.CopyFrom(candidate.model)
    graph = model.graph
    inner = {name: f"onnxferry_{name}" for name in _INNER}
    for name, inside in inner.items():
        rename_value(graph, name, inside)
    for name, default in defaults.items():
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
        graph.initializer.append(numpy_helper.from_array(default, name))
    boxes, scores, classes = inner.values()
    g = Nodes("onnxferry_boxes_")
    together = g.op("Unsqueeze", scores, g.constant([1], "int64"))  # (batch, 1, cells): one class, so that a place has one object
    most = g.constant(MAX_BOXES, "int64")
    kept = g.op("NonMaxSuppression", boxes, together, most, "iou_threshold", "score_threshold")  # int64 (objects, 3): image, 0, cell
    image = g.op("Gather", kept, g.constant(0, "int64"), out="image_index", axis=1)
    cell = g.op("Gather", kept, g.constant(2, "int64"), axis=1)
    ones = g.constant([1], "int64")
    places = g.op("Concat", g.op("Unsqueeze", image, ones), g.op("Unsqueeze", cell, ones), axis=1)  # int64 (objects, 2)
    for value, name in ((boxes, "boxes"), (scores, "scores"), (classes, "class_index")):
        g.op("GatherND", value, places, out=name)
    graph.node.extend(g.made)
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["objects", 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["objects"]),
            helper.make_tensor_value_info("class_index", TensorProto.INT64, ["objects"]),
            helper.make_tensor_value_info("image_index", TensorProto.INT64, ["objects"]),
        ]
    )
    return dataclasses.replace(candidate, model=model, trace=_trace(candidate))


def _trace(candidate: Candidate) -> Any:
    inner = candidate.trace
    if inner is None:
        return None

    def trace(feeds: Feeds) -> Trace:
        return dataclasses.replace(inner(_inner_feeds(feeds)), outputs={})

    return trace
