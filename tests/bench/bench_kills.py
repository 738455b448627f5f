"""SIGKILL at random moments of export (weights inside and outside), optimize, tune and train: what is left opens and is whole.

    python tests/bench/bench_kills.py --count 200

After each kill every file in the folder is looked at: an .onnx opens and its golden samples pass, a checkpoint loads, the cache's JSON
parses. ``mixed`` counts files that open and do not do what they should; ``broken`` those that do not open. Unless both are 0, the exit
code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.train.loop.checkpoint import load_checkpoint, load_plain

TASKS = ("export", "export-outside", "optimize", "tune", "train")
LONGEST = 6.0  # seconds from the child's word that it begins to the kill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child[0], Path(asked.child[1]))
        return
    rng = random.Random(asked.seed)
    found: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="onnxferry-kills-") as base:
        for number in range(asked.count):
            task = asked.tasks[number % len(asked.tasks)]
            folder = Path(base) / task
            folder.mkdir(exist_ok=True)
            kill_one(task, folder, rng.uniform(0, LONGEST))
            for verdict in looked_at(folder):
                found[verdict] += 1
                if verdict in ("mixed", "broken"):
                    print(f"{number}: {task}: {verdict}", file=sys.stderr)
    figures = {"kills": asked.count, **found, "mixed": found["mixed"], "broken": found["broken"]}
    print(json.dumps({**figures, "seconds": round(time.monotonic() - started)}, indent=2))
    sys.exit(found["mixed"] + found["broken"] > 0)


def kill_one(task: str, folder: Path, seconds: float) -> None:
    environment = os.environ | {"ONNXFERRY_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", task, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    while (line := process.stdout.readline()) and line != "begins\n":
        pass
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def looked_at(folder: Path) -> list[str]:
    verdicts = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and not each.name.startswith(".")):
        try:
            if path.suffix == ".onnx":
                with Engine(path, device="cpu", threads=1) as engine:
                    report = replay(engine)
                verdicts.append("whole" if report.passed else "mixed")
            elif path.name == "best.pt":
                load_checkpoint(path)
                verdicts.append("whole")
            elif path.name == "last.pt":
                load_plain(path)
                verdicts.append("whole")
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
                verdicts.append("whole")
        except (OnnxFerryError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            verdicts.append("broken")
    return verdicts


def child(task: str, folder: Path) -> None:
    """Does one thing again and again, with other weights each time, into the same file."""
    import torch

    from onnxferry.export import export_model
    from onnxferry.export.graphs import writer
    from onnxferry.runtime.cli.main import main as command

    model = folder / "model.onnx"

    def export(seed: int, path: Path) -> None:
        torch.manual_seed(seed)
        network = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 64))
        export_model(network, (torch.zeros(2, 64),), path, dynamic_shapes={"input": {0: "batch"}})

    first = random.SystemRandom().randrange(10**6)
    if task == "export-outside":
        writer.EXTERNAL_DATA_BYTES = 0
    if task in ("optimize", "tune") and not model.exists():
        export(0, model)
    print("begins", flush=True)
    for turn in range(10**6):
        if task.startswith("export"):
            export(first + turn, model)
        elif task == "optimize":
            command(["optimize", str(model), "-o", str(folder / "variants"), "--seconds", "0.02", "--samples", "8"])
        elif task == "tune":
            command(["tune", str(model), "--seconds", "0.3"])
        else:
            out = folder / f"run{first + turn}"
            small = ["--limit", "300", "--batch", "20", "--width", "4", "--epochs", "40", "--validation", "200", "--save-seconds", "0"]
            command(["train", "cnn", *small, "--device", "cpu", "--out", str(out)])


if __name__ == "__main__":
    main()
