"""CNN."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch

from onnxferry.export.families.image_probes import image_probes
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.parity.tolerances import PROBABILITIES
from onnxferry.export.pipeline.export import export_module
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import ExportError
from onnxferry.runtime.kinds import CNN, RECOGNISER
from onnxferry.train.families.cnn import Cnn, Recogniser
from onnxferry.train.loop.checkpoint import Checkpoint


def export_recogniser(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    name: str,
    description: str,
    license: str,
    golden: bool | Sequence[Mapping[str, np.ndarray]],
    with_labels: bool,
    command: Sequence[str],
) -> ParityReport:
    network = checkpoint.model()
    if not isinstance(network, Cnn):
        raise ExportError(f"the checkpoint rebuilds a {type(network).__name__}, not a recogniser")
    config = network.config
    examples = checkpoint.example("image", torch.uint8, None, None, config.channels)
    contract = Contract(
        kind=RECOGNISER.name,
        name=name,
        family=CNN.name,
        description=description or f"Recognises {len(config.labels)} classes in images of any size",
        labels=config.labels,
        options={
            "channels": config.channels,
            "image_size": [config.size, config.size],
            "framing": config.framing,
            "features": network.head.in_features,
        },
        metrics=dict(checkpoint.metrics),
        provenance={"data": dict(checkpoint.data), "training": without_paths(checkpoint.provenance)},
        license=license,
    )
    goldens: Sequence[Mapping[str, np.ndarray]]
    if golden is True:
        side = max(config.size // 2 + 3, 5)
        # Two as they are, and one of them cut to another size, so that a replay crosses the resampling too.
        goldens = [{"image": examples[:2]}, {"image": np.ascontiguousarray(examples[-1:, :, -side:])}]
    else:
        goldens = () if golden is False else golden
    # Traced at a shape that no probe has, so that nothing passes by having been baked in.
    traced = np.random.default_rng(1).integers(0, 256, (2, 45, 37, config.channels), dtype=np.uint8)
    return export_module(
        Recogniser(network).eval(),
        {"image": torch.from_numpy(traced)},
        path,
        contract=contract,
        dynamic_shapes={"image": {0: "batch", 1: "height", 2: "width"}},
        output_names=["probabilities", "class_index", "features"],
        probes=image_probes(config.channels, examples),
        golden_inputs=goldens,
        tolerances={"probabilities": PROBABILITIES},
        decisions={"probabilities"},
        command=command,
        finish=(lambda model: add_label_output(model, config.labels)) if with_labels else None,
    )


def add_label_output(model: onnx.ModelProto, labels: Sequence[str]) -> None:
    """Add the output ``label``: string (batch,), the names gathered by ``class_index``."""
    names = onnx.TensorProto(name="label_names", data_type=onnx.TensorProto.STRING, dims=[len(labels)])
    names.string_data.extend(label.encode() for label in labels)
    model.graph.initializer.append(names)
    model.graph.node.append(onnx.helper.make_node("Gather", ["label_names", "class_index"], ["label"], name="label"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("label", onnx.TensorProto.STRING, ["batch"]))
