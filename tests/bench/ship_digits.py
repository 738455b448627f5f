"""Puts a trained recogniser of digits into the zoo: the artifact, its card with measured figures, and held-out examples.

python tests/bench/ship_digits.py RUN [--data DIR]
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from onnxferry.export import export_checkpoint
from onnxferry.export.model_export import shortened
from onnxferry.runtime import Classifier, load
from onnxferry.train.checkpoint import load_checkpoint
from onnxferry.train.data import load_images

ZOO = Path(__file__).parents[2] / "runtime" / "zoo"
DESCRIPTION = "Reads a handwritten digit: any size, dark on light or light on dark, anywhere in the picture"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    folder = ZOO / "digits"
    folder.mkdir(exist_ok=True)
    model = folder / "digits.onnx"
    report = export_checkpoint(
        arguments.run,
        model,
        name="digits",
        description=DESCRIPTION,
        license="Apache-2.0",
        command=["onnxferry", "export", str(arguments.run), "-o", "digits.onnx", "--name", "digits"],
    )

    test = load_images("mnist", arguments.data).test
    with load(model, device="cpu") as classifier:
        if not isinstance(classifier, Classifier):
            raise SystemExit("the run is not a recogniser's")
        indices = np.array([p.index for p in classifier.predict(list(test.images))])
    wrong = np.flatnonzero(indices != test.labels)
    chosen = np.concatenate([*(np.flatnonzero((test.labels == digit) & (indices == digit))[:6] for digit in range(10)), wrong])
    np.savez_compressed(folder / "examples.npz", images=test.images[chosen], labels=test.labels[chosen], predicted=indices[chosen])

    here = Path(__file__).parent
    data = ["--data", str(arguments.data)] if arguments.data else []
    command = [sys.executable, str(here / "figures_digits.py"), "--model", str(model), "--checkpoint", str(arguments.run), *data]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    checkpoint = load_checkpoint(arguments.run)
    card = {
        "name": "digits",
        "description": DESCRIPTION,
        "family": "cnn",
        "data": f"{checkpoint.data['source']}: 55,000 training images, 5,000 to choose the epoch by; tested on the 10,000 test images",
        "data_sha256": checkpoint.data["sha256"],
        "command": shlex.join(shortened(shlex.split(checkpoint.provenance["command"]))),
        "figures": {name: value for name, value in figures.items() if name != "model"},
        "figures_command": "python tests/bench/figures_digits.py --data mnist --checkpoint runs/digits",
        "parity": report.summary(),
        "examples": f"examples.npz: held-out test images, {len(chosen) - len(wrong)} read rightly and all {len(wrong)} mistakes",
        "license": "Apache-2.0; the data set's licence stands in NOTICE",
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
