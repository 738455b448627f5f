"""An image classifier (CNN) to its file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch

from onnxferry.export.families.framing import task_source
from onnxferry.export.families.image_probes import image_probes, traced_image
from onnxferry.export.options import ExportOptions
from onnxferry.export.parity.tolerances import PROBABILITIES
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.export.source import Plan
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import ExportError
from onnxferry.runtime.kinds import CNN, RECOGNISER
from onnxferry.runtime.tasks.classifier import UNKNOWN, UNKNOWN_THRESHOLD
from onnxferry.train.families.cnn import Cnn, Recogniser
from onnxferry.train.loop.checkpoint import Checkpoint


def classifier_plans(checkpoint: Checkpoint, name: str, options: ExportOptions) -> Sequence[Plan]:
    """The whole-task graph: ``image`` uint8 (batch, height, width, channels) of any size → ``probabilities`` float32 (batch, classes),
    ``class_index`` int64 (batch,), ``features`` float32 (batch, n); and ``unknown`` float32 (batch,) of a network that has learnt what is
    of no class, with the option ``unknown_threshold``.
    """
    network = checkpoint.model()
    if not isinstance(network, Cnn):
        raise ExportError(f"the checkpoint rebuilds a {type(network).__name__}, not a recogniser")
    config = network.config
    examples = checkpoint.example("image", torch.uint8, None, None, config.channels)
    contract = Contract(
        kind=RECOGNISER.name,
        name=name,
        family=CNN.name,
        description=f"Recognises {len(config.labels)} classes in images of any size",
        labels=config.labels,
        options={
            "channels": config.channels,
            "image_size": [config.size, config.size],
            "framing": config.framing,
            "features": network.head.in_features,
            **({} if network.unknown is None else {UNKNOWN_THRESHOLD: config.unknown_threshold}),
        },
        metrics=dict(checkpoint.metrics),
        provenance={"data": dict(checkpoint.data), "training": without_paths(checkpoint.provenance)},
    )
    side = max(config.size // 2 + 3, 5)
    # Two as they are, and one of them cropped to another size, so that a replay covers the resampling too.
    goldens = [{"image": examples[:2]}, {"image": np.ascontiguousarray(examples[-1:, :, -side:])}]
    return [
        Plan(
            task_source(
                Recogniser(network).eval(),
                {"image": torch.from_numpy(traced_image(config.channels))},
                dynamic_shapes={"image": {0: "batch", 1: "height", 2: "width"}},
                output_names=["probabilities", "class_index", "features", *([] if network.unknown is None else [UNKNOWN])],
            ),
            contract,
            samples=image_probes(config.channels, examples),
            goldens=options.chosen_goldens(goldens),
            tolerances=dict.fromkeys(("probabilities", *([] if network.unknown is None else [UNKNOWN])), PROBABILITIES),
            decisions={"probabilities"},
            finish=(lambda model: add_label_output(model, config.labels)) if options.with_labels else None,
            added=("label",),
        )
    ]


def add_label_output(model: onnx.ModelProto, labels: Sequence[str]) -> None:
    """Add the output ``label``: string (batch,), the names gathered by ``class_index``."""
    names = onnx.TensorProto(name="label_names", data_type=onnx.TensorProto.STRING, dims=[len(labels)])
    names.string_data.extend(label.encode() for label in labels)
    model.graph.initializer.append(names)
    model.graph.node.append(onnx.helper.make_node("Gather", ["label_names", "class_index"], ["label"], name="label"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("label", onnx.TensorProto.STRING, ["batch"]))
