"""Puts a trained text generator into the zoo: the artifact, its card with measured figures, and texts that it writes.

python tests/bench/ship_text.py RUN [--data FILE]
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from onnxferry.export import export_checkpoint
from onnxferry.export.model_export import shortened
from onnxferry.runtime import TextGenerator, load
from onnxferry.train.checkpoint import load_checkpoint

ZOO = Path(__file__).parents[2] / "runtime" / "zoo"
DESCRIPTION = "Writes Shakespeare-like plays byte by byte, and scores texts; learnt from Tiny Shakespeare"
PROMPTS = ("", "To be", "ROMEO:\nBut soft!")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    folder = ZOO / "shakespeare"
    folder.mkdir(exist_ok=True)
    model = folder / "shakespeare.onnx"
    report = export_checkpoint(
        arguments.run,
        model,
        name="shakespeare",
        description=DESCRIPTION,
        license="Apache-2.0",
        command=["onnxferry", "export", str(arguments.run), "-o", "shakespeare.onnx", "--name", "shakespeare"],
    )
    with load(model, device="cpu") as generator:
        if not isinstance(generator, TextGenerator):
            raise SystemExit("the run is not a text generator's")
        samples = [{"prompt": prompt, "seed": 0, "text": generator.generate(prompt, 300, temperature=0.8)} for prompt in PROMPTS]

    data = ["--data", str(arguments.data)] if arguments.data else []
    command = [sys.executable, str(Path(__file__).parent / "figures_text.py"), "--model", str(model), *data]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    checkpoint = load_checkpoint(arguments.run)
    card = {
        "name": "shakespeare",
        "description": DESCRIPTION,
        "family": "rnn",
        "data": f"{checkpoint.data['source']}: learnt from the first nine tenths, tested on the last",
        "data_sha256": checkpoint.data["sha256"],
        "command": shlex.join(shortened(shlex.split(checkpoint.provenance["command"]))),
        "epoch": checkpoint.metrics["epoch"],
        "validation": checkpoint.metrics["validation"],
        "figures": {name: value for name, value in figures.items() if name != "model"},
        "figures_command": "python tests/bench/figures_text.py",
        "parity": report.summary(),
        "samples": samples,
        "license": "Apache-2.0; the plays are in the public domain (NOTICE)",
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
