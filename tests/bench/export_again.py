"""Exports a shipped recogniser or translator anew from the network that its own file holds: the same weights, the exporter of today.

    python tests/bench/export_again.py digits [-o FILE]
    python tests/bench/export_again.py dates [-o FILE]

The graph is verified against PyTorch as in any export; golden samples are the old ones, with PyTorch's outputs of today; metrics and what
is known of its training stay. Batch normalization stays folded. Variants are then made by ``onnxferry optimize``.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from onnxferry.export.families.framing import task_source
from onnxferry.export.families.image_probes import image_probes, traced_image
from onnxferry.export.families.seq2seq.export import translator_plans
from onnxferry.export.options import ExportOptions
from onnxferry.export.parity.tolerances import PROBABILITIES
from onnxferry.export.pipeline.export import export_plans
from onnxferry.export.source import Plan
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.kinds import SEQ2SEQ, TRANSLATOR
from onnxferry.runtime.tasks.classifier import UNKNOWN
from onnxferry.train.families.cnn import Recogniser
from onnxferry.train.loop.checkpoint import Checkpoint
from scoreboard.rebuilt import rebuild, rebuild_translator

ZOO = Path(__file__).parents[2] / "runtime" / "zoo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    path = ZOO / given.name / f"{given.name}.onnx"
    contract = describe(path).contract
    if contract is None:
        raise SystemExit(f"{path} carries no contract")
    plan = (translator if contract.kind == TRANSLATOR.name else recogniser)(path, contract)
    report = export_plans([plan], given.out or path, ExportOptions())
    print(report.summary())


def translator(path: Path, contract: Contract) -> Plan:
    network = rebuild_translator(path)
    held_out = contract.goldens[0].inputs
    examples = {"text": torch.from_numpy(held_out["text"]), "lengths": torch.from_numpy(held_out["text_length"])}
    checkpoint = Checkpoint(SEQ2SEQ.name, dataclasses.asdict(network.config), dict(network.state_dict()), examples=examples)
    options = ExportOptions(golden=[dict(golden.inputs) for golden in contract.goldens])
    (plan,) = translator_plans(checkpoint, contract.name, options)
    return dataclasses.replace(plan, contract=contract.replace(goldens=(), tolerances={}))


def recogniser(path: Path, contract: Contract) -> Plan:
    task = rebuild(path).module
    if not isinstance(task, Recogniser):
        raise SystemExit(f"{path} is no recogniser or translator")
    outputs = ["probabilities", "class_index", "features", *([] if task.network.unknown is None else [UNKNOWN])]
    channels = int(contract.options["channels"])
    with np.load(path.with_name("examples.npz")) as examples:
        shown = examples["image" if "image" in examples else "images"].reshape(-1, 28, 28, channels)[:16]
    return Plan(
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


if __name__ == "__main__":
    main()
