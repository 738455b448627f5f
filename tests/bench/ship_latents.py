"""Puts a trained autoencoder of digits into the zoo: both artifacts, their card with measured figures, and held-out examples.

python tests/bench/ship_latents.py RUN [--data DIR] [--fashion DIR]
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
from onnxferry.train.checkpoint import load_checkpoint
from onnxferry.train.data import load_images

ZOO = Path(__file__).parents[2] / "runtime" / "zoo"
DESCRIPTION = "Handwritten digits to 32 numbers and back, and how strange a picture is among digits"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--fashion", type=Path)
    arguments = parser.parse_args()
    folder = ZOO / "digits-ae"
    folder.mkdir(exist_ok=True)
    model = folder / "digits-ae.onnx"
    report = export_checkpoint(
        arguments.run,
        model,
        name="digits-ae",
        description=DESCRIPTION,
        license="Apache-2.0",
        command=["onnxferry", "export", str(arguments.run), "-o", "digits-ae.onnx", "--name", "digits-ae"],
    )
    test = load_images("mnist", arguments.data).test
    chosen = np.concatenate([np.flatnonzero(test.labels == digit)[:2] for digit in range(10)])
    clothes = load_images("fashion-mnist", arguments.fashion).test.images[:10]
    np.savez_compressed(folder / "examples.npz", images=test.images[chosen], labels=test.labels[chosen], strange=clothes)

    places = [word for name in ("data", "fashion") if (value := getattr(arguments, name)) for word in (f"--{name}", str(value))]
    script = str(Path(__file__).parent / "figures_latents.py")
    command = [sys.executable, script, "--model", str(model), "--checkpoint", str(arguments.run), *places]
    figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    checkpoint = load_checkpoint(arguments.run)
    card = {
        "name": "digits-ae",
        "description": DESCRIPTION,
        "family": "ae",
        "data": f"{checkpoint.data['source']}: 55,000 training images, 5,000 to choose the epoch by; tested on the 10,000 test images",
        "data_sha256": checkpoint.data["sha256"],
        "command": shlex.join(shortened(shlex.split(checkpoint.provenance["command"]))),
        "figures": {name: value for name, value in figures.items() if name != "model"},
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.glob("*.onnx"))},
        "figures_command": "python tests/bench/figures_latents.py --checkpoint runs/digits-ae",
        "parity": report.summary(),
        "examples": "examples.npz: 20 held-out test images, and 10 of Fashion-MNIST, which are strange",
        "license": "Apache-2.0; the data sets' licences stand in NOTICE",
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
