"""Records what PyTorch answers to the drawings of the demo's first page: run it again after the model ``digits`` changes.

    python tests/bench/record_crossing.py [--out demo/assets/crossing.npz]

The network is rebuilt from the shipped file's weights and verified by the file's golden samples (scoreboard/rebuilt.py). Recorded are the
probabilities of ten drawn digits and of some held-out ones, the milliseconds of one answer (median of 200; the CPU's
time of the one thread, which does not depend on what else the machine does), and what it was run with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from drawn_styles import STYLES

from onnxferry.demo.images.strokes import SIDE, Stroke, painted, write_strokes
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.files import read_npz
from onnxferry.runtime.machine.cpu import cpu_name
from scoreboard.rebuilt import rebuild

ROOT = Path(__file__).parents[2]
DRAWN = ("oval", "a short flag", "swan", "round", "closed", "one line", "a curl", "crossed", "two rings", "a curved leg")
"""A style of each digit."""
MISTAKES = 4
PEN = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "demo" / "assets" / "crossing.npz")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    path = zoo_model("digits").path
    network = rebuild(path).module.eval()
    drawings = [
        [Stroke(PEN, SIDE * np.array(points)) for points in next(s for d, name, s in STYLES if (d, name) == (str(digit), DRAWN[digit]))]
        for digit in range(10)
    ]
    drawn = np.stack([painted(each) for each in drawings])
    examples = read_npz(path.with_name("examples.npz"))
    wrong = examples["predicted"] != examples["labels"]
    first = [np.flatnonzero(~wrong & (examples["labels"] == digit))[0] for digit in range(10)]
    chosen = np.concatenate([first, np.flatnonzero(wrong)[:MISTAKES]])
    held_out = examples["images"][chosen].reshape(-1, 28, 28, 1)
    with torch.inference_mode():
        answers = {name: network(torch.from_numpy(images))[0].numpy() for name, images in (("drawn", drawn), ("held_out", held_out))}
        one, times = torch.from_numpy(drawn[:1]), []
        for _ in range(220):
            begun = time.thread_time()
            network(one)
            times.append(1000 * (time.thread_time() - begun))
    record = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "torch": torch.__version__.split("+")[0],
        "milliseconds": round(statistics.median(times[20:]), 2),
        "threads": 1,
        "processor": cpu_name(),
        "bytes": sum(each.numel() * each.element_size() for each in network.state_dict().values()),
        "command": "python tests/bench/record_crossing.py",
    }
    np.savez_compressed(
        out,
        drawn=drawn,
        strokes=np.array([write_strokes(each) for each in drawings]),
        held_out=held_out,
        labels=examples["labels"][chosen],
        drawn_probabilities=answers["drawn"],
        held_out_probabilities=answers["held_out"],
        record=np.array(json.dumps(record)),
    )
    print(json.dumps({**record, "file": out.stat().st_size, "read": answers["drawn"].argmax(axis=1).tolist()}, indent=2))


if __name__ == "__main__":
    main()
