"""SIGKILL at random moments of export (weights inside and outside), optimize, tune and train: what is left opens and is whole.

    python tests/bench/bench_kills.py --count 200

Every second kill waits until a file is being written. After each kill every file in the folder is looked at: an .onnx opens and its golden
samples pass, a checkpoint loads, the cache's JSON parses. ``mixed`` counts files that open and do not do what they should; ``broken`` those
that do not open; ``writing`` kills while a temporary file lay there; ``ended`` children that failed before the kill. Unless mixed, broken
and ended are 0, the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

from onnxferry.export import export_model
from onnxferry.export.graphs import writer
from onnxferry.runtime.cli.main import main as command
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.train.loop.checkpoint import load_checkpoint, load_plain

TASKS = ("export", "export-outside", "optimize", "tune", "train")
LONGEST = 6.0  # seconds from the child's word that it begins to the kill
WRITE_WAIT = 60.0  # the longest wait for a file that is being written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(asked.seed)
    found: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="onnxferry-kills-") as base:
        for number in range(asked.count):
            task = asked.tasks[number % len(asked.tasks)]
            folder = Path(base) / task
            folder.mkdir(exist_ok=True)
            found[kill_one(task, folder, rng.uniform(0, LONGEST), at_write=number // len(asked.tasks) % 2 == 1)] += 1
            for verdict in looked_at(folder):
                found[verdict] += 1
                if verdict in ("mixed", "broken"):
                    print(f"{number}: {task}: {verdict}", file=sys.stderr)
    figures = {"kills": asked.count, **found, "mixed": found["mixed"], "broken": found["broken"], "ended": found["ended"]}
    print(json.dumps({**figures, "seconds": round(time.monotonic() - started)}, indent=2))
    sys.exit(found["mixed"] + found["broken"] + found["ended"] > 0)


def kill_one(task: str, folder: Path, seconds: float, *, at_write: bool) -> str:
    """What the kill met: ``writing``, ``between`` two files, or ``ended``, a child that was no longer there."""
    old = _temporary(folder)  # left by the last kill
    reads, writes = os.pipe()
    with tempfile.TemporaryFile("w+") as words:
        process = os.fork()  # PyTorch is loaded once, in this process
        if process == 0:
            os.dup2(words.fileno(), 1)
            os.dup2(words.fileno(), 2)
            os.environ["ONNXFERRY_CACHE"] = str(folder / "cache")
            try:
                child(task, folder, writes)
            finally:
                traceback.print_exc()
                os._exit(1)
        os.close(writes)
        os.read(reads, 1)  # the child begins, or has ended
        os.close(reads)
        deadline = time.monotonic() + (WRITE_WAIT if at_write else seconds)
        while time.monotonic() < deadline and not (at_write and _temporary(folder) - old):
            time.sleep(0.0002 if at_write else 0.01)
        if at_write:
            time.sleep(seconds / LONGEST * 0.005)
        ended, _ = os.waitpid(process, os.WNOHANG)
        if ended:
            words.seek(0)
            print(f"{task}: ended before the kill: {words.read()[-2000:]}", file=sys.stderr)
            return "ended"
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return "writing" if _temporary(folder) - old else "between"


def _temporary(folder: Path) -> set[Path]:
    return {path for path in folder.rglob(".*") if path.is_file()}


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


def child(task: str, folder: Path, begins: int) -> None:
    """Does one thing again and again, with other weights each time, into the same file."""
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
    os.write(begins, b".")
    for turn in range(10**6):
        if task.startswith("export"):
            export(first + turn, model)
        elif task == "optimize":
            command(
                ["optimize", str(model), "-o", str(folder / "variants"), "--seconds", "0.02", "--goal", "smaller", "--budget", "rtol 1e-1"]
            )
        elif task == "tune":
            command(["tune", str(model), "--seconds", "0.3"])
        else:
            out = folder / f"run{first + turn}"
            small = ["--limit", "300", "--batch", "20", "--width", "4", "--epochs", "40", "--validation", "200", "--save-seconds", "0"]
            command(["train", "cnn", *small, "--device", "cpu", "--out", str(out)])


if __name__ == "__main__":
    main()
