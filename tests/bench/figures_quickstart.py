"""The quickstart's accuracy on its own 1,000 held-out digits: mean over five seeds, each with a split of its own.

python tests/bench/figures_quickstart.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEEDS = range(5)


def main() -> None:
    accuracies, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            begun = time.perf_counter()
            command = [
                sys.executable,
                "-m",
                "onnxferry.runtime",
                "quickstart",
                "--seed",
                str(seed),
                "--out",
                str(Path(folder, str(seed))),
                "--json",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds.append(time.perf_counter() - begun)
            accuracies.append(json.loads(done.stdout.splitlines()[-1])["accuracy"])
            print(f"seed {seed}: {100 * accuracies[-1]:.1f} % in {seconds[-1]:.0f} s", file=sys.stderr, flush=True)
    print(
        json.dumps({"accuracy": accuracies, "mean": statistics.mean(accuracies), "seconds, median": round(statistics.median(seconds), 1)})
    )


if __name__ == "__main__":
    main()
