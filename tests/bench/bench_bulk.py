"""`onnxferry predict FOLDER --out FILE` beside a plain loop over the same images: images a second, and their ratio.

    python tests/bench/bench_bulk.py --images 50000 --rounds 1
    python tests/bench/bench_bulk.py --images 2000 --rounds 3        # on a machine that does other things: the median of rounds in turns

The loop opens each file with Pillow and calls ``predict_one``, with ONNX Runtime's default threads and with one (the faster counts). The
images are PNG files of 28 x 28 in a folder of their own. Both have to give the same labels. Each time includes opening the model, and of
the command also the start of its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from onnxferry.runtime import load
from onnxferry.runtime.bulk.job import BulkOptions, predict_to_file
from onnxferry.runtime.machine.cpu import available_cpus, cpu_name


def write_images(folder: Path, count: int) -> list[str]:
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        path = folder / f"{number:06d}.png"
        strokes = rng.integers(0, 256, (7, 7), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(strokes).save(path)
        paths.append(str(path))
    return paths


def loop(paths: list[str], threads: int | None) -> tuple[float, list[str]]:
    """Images a second, and the labels."""
    begun = time.perf_counter()
    with load("digits", device="cpu", threads=threads) as model:
        labels = [model.predict_one(Image.open(path)).label for path in paths]
    return len(paths) / (time.perf_counter() - begun), labels


def bulk(paths: list[str], out: Path, processes: int) -> tuple[float, list[str]]:
    begun = time.perf_counter()
    predict_to_file(paths, out, BulkOptions("digits", processes=processes, device="cpu"))
    rate = len(paths) / (time.perf_counter() - begun)
    labels = [json.loads(line)["label"] for line in out.read_text().splitlines()]
    out.unlink()
    return rate, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=available_cpus())
    asked = parser.parse_args()
    rates: dict[str, list[float]] = {"bulk": [], "loop": [], "loop, one thread": []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        paths = write_images(Path(folder) / "images", asked.images)
        for _ in range(asked.rounds):
            found = {
                "bulk": bulk(paths, Path(folder) / "out.jsonl", asked.processes),
                "loop": loop(paths, None),
                "loop, one thread": loop(paths, 1),
            }
            if len({tuple(labels) for _, labels in found.values()}) != 1:
                raise SystemExit("the labels differ")
            for name, (rate, _) in found.items():
                rates[name].append(rate)
    ratios = [ours / max(each, other) for ours, each, other in zip(*rates.values(), strict=True)]
    figures = {"cpu": cpu_name(), "python": platform.python_version(), "images": asked.images, "processes": asked.processes}
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    print(
        json.dumps(
            {**figures, "images_a_second": medians, "ratio": round(statistics.median(ratios), 2), "load": os.getloadavg()[0]}, indent=1
        )
    )


if __name__ == "__main__":
    main()
