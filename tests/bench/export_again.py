"""Exports a shipped recogniser anew from the network that its own file holds: the same weights, the exporter of today.

    python tests/bench/export_again.py digits [-o FILE]

The graph is verified against PyTorch as in any export; golden samples are the old ones, with PyTorch's outputs of today; metrics and what
is known of its training stay. Batch normalization stays folded. Variants are then made by ``onnxferry optimize``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from onnxferry.export.families.framing import task_source
from onnxferry.export.families.image_probes import image_probes, traced_image
from onnxferry.export.options import ExportOptions
from onnxferry.export.parity.tolerances import PROBABILITIES
from onnxferry.export.pipeline.export import export_plans
from onnxferry.export.source import Plan
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.tasks.classifier import UNKNOWN
from onnxferry.train.families.cnn import Recogniser
from scoreboard.rebuilt import rebuild

ZOO = Path(__file__).parents[2] / "runtime" / "zoo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    path = ZOO / given.name / f"{given.name}.onnx"
    contract = describe(path).contract
    task = rebuild(path).module
    if contract is None or not isinstance(task, Recogniser):
        raise SystemExit(f"{path} is no recogniser")
    outputs = ["probabilities", "class_index", "features", *([] if task.network.unknown is None else [UNKNOWN])]
    channels = int(contract.options["channels"])
    with np.load(path.with_name("examples.npz")) as examples:
        shown = examples["image" if "image" in examples else "images"].reshape(-1, 28, 28, channels)[:16]
    plan = Plan(
        task_source(
            task.eval(),
            {"image": torch.from_numpy(traced_image(channels))},
            dynamic_shapes={"image": {0: "batch", 1: "height", 2: "width"}},
            output_names=outputs,
        ),
        contract.replace(goldens=(), tolerances={}),
        samples=image_probes(channels, shown),
        goldens=[dict(golden.inputs) for golden in contract.goldens],
        tolerances=dict.fromkeys([name for name in outputs if name in ("probabilities", UNKNOWN)], PROBABILITIES),
        decisions={"probabilities"},
    )
    report = export_plans([plan], given.out or path, ExportOptions())
    print(report.summary())


if __name__ == "__main__":
    main()
